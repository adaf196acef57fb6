"""python -m personalization learn and evaluate, on the playground that comes with the pack."""

import json
import shutil
import subprocess
import sys
import time

import pytest
from concept_loom.nodes.pictures import EXAMPLE_PICTURES
from concept_loom.personalization.checkpoint import load
from concept_loom.personalization.comfyui.catalogue import dataset_in, folders_in
from concept_loom.personalization.comfyui.trial import is_learned_from
from concept_loom.personalization.composition import PlacedConcept
from concept_loom.personalization.unfinished import FOLDER

from tools.places import ROOT

LONG = 200  # steps, past the first snapshot on any machine


def command(*arguments):
    return [sys.executable, "-m", "personalization", *map(str, arguments)]


def run(*arguments):
    return subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def started(*arguments):
    return subprocess.Popen(command(*arguments), cwd=ROOT, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def catalogue(tmp_path_factory):
    """Two sound folders, the second with a class word of its own, and between them one without pictures."""
    folder = tmp_path_factory.mktemp("catalogue") / "all"
    for name in ("a red mug", "c_bag"):
        (folder / name).mkdir(parents=True)
        for picture in sorted(EXAMPLE_PICTURES.glob("*.png"))[:3]:
            shutil.copy(picture, folder / name)
    (folder / "c_bag" / "class_word.txt").write_text("bag\n", encoding="utf-16")  # as editors of Windows may
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


def test_two_processes_share_the_folders(catalogue, tmp_path):
    done = run(
        *("learn", catalogue, "--class-word", "mug", "--method", "quick", "--steps", 3, "--devices", 2),
        *("--output", tmp_path),
    )
    assert done.returncode == 1 and done.stderr.count("Not learned: ") == 1  # the folder without pictures
    assert sorted(file.name for file in tmp_path.glob("*.safetensors")) == [
        "a_red_mug.safetensors",
        "c_bag.safetensors",
    ]
    assert done.stdout.count("a_red_mug.safetensors") == done.stdout.count("c_bag.safetensors") == 1


def test_a_killed_run_goes_on_where_it_was(catalogue, tmp_path):
    how = ("--class-word", "bag", "--method", "quick", "--steps", LONG, "--output", tmp_path)
    with started("learn", catalogue / "c_bag", *how) as process:
        while not list((tmp_path / FOLDER).glob("*.snapshot")):
            assert process.poll() is None, "it ended before its first snapshot"
            time.sleep(0.1)
        process.kill()
    assert not list(tmp_path.glob("*.safetensors"))
    done = run("learn", catalogue / "c_bag", *how)
    assert done.returncode == 0 and "Went on from step" in done.stdout
    assert load(tmp_path / "c_bag.safetensors").info.steps == LONG


def test_a_concept_is_evaluated_against_a_folder_and_what_could_not_be_read_is_told(catalogue, learned):
    scores = catalogue.parent / "scores.json"
    concept = catalogue.parent / "out" / "a_red_mug.safetensors"
    shutil.copytree(catalogue / "a red mug", catalogue.parent / "real")
    (catalogue.parent / "real" / "half.png").write_bytes(b"no picture")
    done = run("evaluate", concept, catalogue.parent / "real", "--seeds", 1, "--steps", 2, "--json", scores)
    assert done.returncode == 0 and "identity" in done.stdout and "half.png is called a picture" in done.stdout
    assert json.loads(scores.read_text())


def test_bare_pictures_are_captioned_by_the_model_where_asked_and_known_again_without(catalogue):
    how = ("--class-word", "mug", "--method", "quick", "--steps", 2, "--output", catalogue.parent / "captioned")
    done = run("learn", catalogue / "a red mug", "--caption", *how)
    assert done.returncode == 0 and done.stdout.count(".png: a photo of {}") == 3
    (file,) = (catalogue.parent / "captioned").glob("*.safetensors")
    assert is_learned_from(PlacedConcept(load(file)), dataset_in(catalogue / "a red mug"))
    again = run("learn", catalogue / "a red mug", *how)
    assert "nothing was trained" not in again.stdout and ".png: a photo of {}" not in again.stdout


def test_a_folder_of_pictures_is_one_concept_and_an_empty_one_is_refused(catalogue, tmp_path):
    out = tmp_path / "out"
    assert folders_in(catalogue / "c_bag", out) == [catalogue / "c_bag"]
    assert [one.name for one in folders_in(catalogue, out)] == ["a red mug", "broken", "c_bag"]
    with pytest.raises(ValueError, match="holds no pictures, and none of its folders does"):
        folders_in(tmp_path, out)
    with pytest.raises(ValueError, match="There is no folder"):
        folders_in(tmp_path / "none", out)


def with_pictures(*folders):
    """Two files that are called pictures in each; `folders_in` opens none."""
    for folder in folders:
        folder.mkdir(parents=True)
        for name in ("1.png", "2.png"):
            (folder / name).touch()


def test_folders_without_pictures_and_those_of_the_system_are_no_concepts(tmp_path, caplog):
    with_pictures(tmp_path / "set", tmp_path / "set" / ".trash", tmp_path / "set" / "__MACOSX")
    (tmp_path / "set" / "@eaDir" / "1.png").mkdir(parents=True)
    (tmp_path / "set" / "notes").mkdir()
    assert folders_in(tmp_path / "set", tmp_path) == [tmp_path / "set"] and not caplog.text
    with_pictures(tmp_path / "all" / "mug")
    (tmp_path / "all" / "bag").mkdir()
    assert folders_in(tmp_path / "all", tmp_path) == [tmp_path / "all" / "mug"]
    assert "hold no pictures: bag" in caplog.text


def test_pictures_beside_folders_with_pictures_are_refused_and_not_passed_over(tmp_path):
    with_pictures(tmp_path / "set", tmp_path / "set" / "originals")
    with pytest.raises(ValueError, match=r"pictures and folders with pictures \(originals\)\. One folder .*Move"):
        folders_in(tmp_path / "set", tmp_path)


def test_what_lies_beside_the_concepts_is_not_learned_from(tmp_path):
    with_pictures(tmp_path / "set", tmp_path / "set" / "out")
    assert folders_in(tmp_path / "set", tmp_path / "set" / "out") == [tmp_path / "set"]
