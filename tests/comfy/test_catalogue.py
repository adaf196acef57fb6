"""python -m personalization learn and evaluate, on the playground that comes with the pack."""

import json
import shutil
import subprocess
import sys

import pytest
from concept_loom.nodes.pictures import EXAMPLE_PICTURES
from concept_loom.personalization.checkpoint import load
from concept_loom.personalization.comfyui.catalogue import folders_in

from tools.places import ROOT


def run(*arguments):
    command = [sys.executable, "-m", "personalization", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    """Two sound folders, the second with a class word of its own, and between them one without pictures."""
    folder = tmp_path_factory.mktemp("catalogue") / "all"
    for name in ("a red mug", "c_bag"):
        (folder / name).mkdir(parents=True)
        for picture in sorted(EXAMPLE_PICTURES.glob("*.png"))[:3]:
            shutil.copy(picture, folder / name)
    (folder / "c_bag" / "class_word.txt").write_text("bag\n")
    (folder / "broken").mkdir()
    (folder / "broken" / "picture.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def learned(catalogue):
    how = ("--class-word", "mug", "--method", "quick", "--steps", 3, "--output", catalogue.parent / "out")
    return [run("learn", catalogue, *how) for _ in range(2)]


def test_a_folder_of_folders_is_learned_and_a_bad_one_does_not_stop_the_rest(catalogue, learned):
    first, _ = learned
    assert first.returncode == 1 and "Not learned: " in first.stderr.splitlines()[-1]
    assert "broken" in first.stderr.splitlines()[-1] and "No picture could be read" in first.stderr
    found = {file.name: load(file).info for file in (catalogue.parent / "out").glob("*.safetensors")}
    assert sorted(found) == ["a_red_mug.safetensors", "c_bag.safetensors"]
    words = [(one.placeholder, one.class_word, one.steps) for _, one in sorted(found.items())]
    assert words == [("a_red_mug", "mug", 3), ("c_bag", "bag", 3)]


def test_the_same_command_again_learns_nothing_twice(catalogue, learned):
    _, second = learned
    assert second.stdout.count("nothing was trained") == 2
    assert len(list((catalogue.parent / "out").glob("*.safetensors"))) == 2


def test_a_concept_is_evaluated_against_its_folder(catalogue, learned):
    scores = catalogue.parent / "scores.json"
    concept = catalogue.parent / "out" / "a_red_mug.safetensors"
    done = run("evaluate", concept, catalogue / "a red mug", "--seeds", 1, "--steps", 2, "--json", scores)
    assert done.returncode == 0 and "identity" in done.stdout
    assert json.loads(scores.read_text())


def test_a_folder_of_pictures_is_one_concept_and_an_empty_one_is_refused(catalogue, tmp_path):
    assert folders_in(catalogue / "c_bag") == [catalogue / "c_bag"]
    assert [one.name for one in folders_in(catalogue)] == ["a red mug", "broken", "c_bag"]
    with pytest.raises(ValueError, match="holds no pictures and no folders"):
        folders_in(tmp_path)
    with pytest.raises(ValueError, match="There is no folder"):
        folders_in(tmp_path / "none")
