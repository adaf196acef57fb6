"""What a workflow remembers of a concept file."""

import json

import pytest
from concept_loom.personalization.checkpoint import load, save
from concept_loom.personalization.library import same_tensors
from concept_loom.personalization.refusal import ConceptFileError
from concept_loom.personalization.remembered import recalled, remembered

from . import concepts


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "one" / "mug.safetensors"
    path.parent.mkdir()
    save(concepts.concept(), path)
    return path


def test_what_is_remembered_is_recalled_from_its_text(file):
    kept = remembered(file, "mug.safetensors")
    assert recalled(kept.text()) == kept and kept.hash == load(file).hash


def test_the_same_tensors_are_found_under_any_name_and_others_are_not(file, tmp_path):
    kept = remembered(file, "mug.safetensors")
    (tmp_path / "two" / "deep").mkdir(parents=True)
    (tmp_path / "two" / "a.safetensors").write_bytes(b"no concept")
    save(concepts.concept("stone", "stone"), tmp_path / "two" / "b.safetensors")
    moved = file.rename(tmp_path / "two" / "deep" / "c.safetensors")
    assert same_tensors(kept.hash, [tmp_path / "one", tmp_path / "two"]) == moved
    assert same_tensors("0" * 64, [tmp_path]) is None


def test_a_file_that_is_no_concept_is_not_remembered(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"no concept")
    with pytest.raises(ConceptFileError):
        remembered(tmp_path / "a.safetensors", "a.safetensors")


@pytest.mark.parametrize("changes", [{"word": "two words"}, {"size": "big"}, {"hash": None}])
def test_a_note_with_a_wrong_value_counts_as_none(file, changes):
    kept = json.loads(remembered(file, "mug.safetensors").text())
    assert recalled(json.dumps({**kept, **changes})) is None
