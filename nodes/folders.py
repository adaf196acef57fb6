"""Where our files lie: in models/ and output/, concepts, towers and nested encoders each in a folder of their own.

extra_model_paths.yaml may add folders to each kind. What others made, or will use, lies where ComfyUI has it:
models/loras, output/loras, models/embeddings; output/embeddings is added, as ComfyUI does it for LoRAs.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import folder_paths

CONCEPTS, TOWERS, ENCODERS = "concepts", "concept_towers", "concept_encoders"
FOREIGN = ("embeddings", "loras")
SUFFIX = ".safetensors"
OF_THE_PLAYGROUND = Path(__file__).parent.parent / "playground" / "weights" / "encoders"


def register() -> None:
    """Tell ComfyUI of the folders; those of extra_model_paths.yaml are there already."""
    for kind in (CONCEPTS, TOWERS, ENCODERS):
        folder_paths.add_model_folder_path(kind, str(Path(folder_paths.models_dir) / kind))
        folder_paths.add_model_folder_path(kind, str(written_to(kind)))
        folder_paths.folder_names_and_paths[kind][1].add(SUFFIX)
    folder_paths.add_model_folder_path(ENCODERS, str(OF_THE_PLAYGROUND))
    for kind in FOREIGN:
        folder_paths.add_model_folder_path(kind, str(written_to(kind)))


def written_to(kind: str = CONCEPTS) -> Path:
    return Path(folder_paths.get_output_directory()) / kind


def all_folders(kind: str = CONCEPTS) -> list[Path]:
    """The one that is written to comes last."""
    others = [Path(folder) for folder in folder_paths.get_folder_paths(kind)]
    return [*(folder for folder in others if folder != written_to(kind)), written_to(kind)]


def known_files(kind: str = CONCEPTS) -> list[str]:
    """Names relative to their folders, with / on every system, so that a shared workflow finds them."""
    return [name.replace("\\", "/") for name in folder_paths.get_filename_list(kind)]


def foreign_files() -> list[str]:
    """Embeddings and LoRAs, each under its kind: `loras/brand/mug.safetensors`."""
    return [f"{kind}/{name}" for kind in FOREIGN for name in known_files(kind)]


def path_of(file: str, kind: str = CONCEPTS) -> Path | None:
    """The file of a name with either separator, None when it is not there."""
    found = folder_paths.get_full_path(kind, str(PurePosixPath(file.replace("\\", "/"))))
    return Path(found) if found else None


def name_of(path: Path, kind: str = CONCEPTS) -> str:
    """A file's name as the list has it, else its last component."""
    inside = [folder for folder in all_folders(kind) if path.is_relative_to(folder)]
    return path.relative_to(inside[0]).as_posix() if inside else path.name
