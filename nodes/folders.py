"""Where concept files lie: models/concepts, output/concepts, and what extra_model_paths.yaml adds."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import folder_paths

KIND = "concepts"
SUFFIX = ".safetensors"


def register() -> None:
    """Tell ComfyUI of the folders; those of extra_model_paths.yaml are there already."""
    folder_paths.add_model_folder_path(KIND, str(Path(folder_paths.models_dir) / KIND))
    folder_paths.add_model_folder_path(KIND, str(written_to()))
    folder_paths.folder_names_and_paths[KIND][1].add(SUFFIX)


def written_to() -> Path:
    return Path(folder_paths.get_output_directory()) / KIND


def all_folders() -> list[Path]:
    """The one that is written to comes last."""
    others = [Path(folder) for folder in folder_paths.get_folder_paths(KIND)]
    return [*(folder for folder in others if folder != written_to()), written_to()]


def known_files() -> list[str]:
    """Names relative to their folders, with / on every system, so that a shared workflow finds them."""
    return [name.replace("\\", "/") for name in folder_paths.get_filename_list(KIND)]


def path_of(file: str) -> Path | None:
    """The file of a name with either separator, None when it is not there."""
    found = folder_paths.get_full_path(KIND, str(PurePosixPath(file.replace("\\", "/"))))
    return Path(found) if found else None


def name_of(path: Path) -> str:
    """A file's name as the list has it, else its last component."""
    inside = [folder for folder in all_folders() if path.is_relative_to(folder)]
    return path.relative_to(inside[0]).as_posix() if inside else path.name
