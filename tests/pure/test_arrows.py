"""Who may import whom."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PERSONALIZATION = ROOT / "personalization"
HOST = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "nodes", "server", "execution"}
LOWEST = {"sites", "concept", "parts", "tensor_hash"}


def imports(path):
    """Dotted names as written; relative ones resolved below the repository: `personalization.parts`."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            yield ".".join((*base, *(node.module or "").split("."))).strip(".")
            if not node.module:
                yield from (".".join((*base, alias.name)) for alias in node.names)


def files(folder):
    return sorted(folder.rglob("*.py"))


def own(path):
    return path.relative_to(PERSONALIZATION).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", files(PERSONALIZATION), ids=lambda path: str(path.relative_to(PERSONALIZATION)))
def test_arrows_point_down(path):
    found = set(imports(path))
    assert not {name for name in found if name.startswith("nodes") or name.startswith("playground")}
    if own(path) == "comfyui":
        return
    assert not {name for name in found if name.split(".")[0] in HOST}
    assert not {name for name in found if name.startswith("personalization.comfyui")}


@pytest.mark.parametrize("name", sorted(LOWEST))
def test_the_nouns_know_nothing_above_them(name):
    paths = files(PERSONALIZATION / name) or [PERSONALIZATION / f"{name}.py"]
    inner = {one for path in paths for one in imports(path) if one.startswith("personalization.")}
    assert {one.split(".")[1] for one in inner} <= LOWEST
