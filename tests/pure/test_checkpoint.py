import json
import os
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from concept_loom.personalization import tensor_file
from concept_loom.personalization.checkpoint import load, read_info, save
from concept_loom.personalization.parts import LatentInstruction
from concept_loom.personalization.refusal import ConceptFileError

from .concepts import BASE, concept

GOLDEN = Path(__file__).parents[1] / "data" / "golden_v1.safetensors"


def header_of(path):
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def write(path, header, content):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content)


def with_loom(path, **changes):
    header, content = header_of(path)
    loom = {**json.loads(header["__metadata__"]["concept_loom"]), **changes}
    header["__metadata__"]["concept_loom"] = json.dumps(loom)
    write(path, header, content)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "mug.safetensors"
    save(replace(concept(), thumbnail=b"\xff\xd8jpeg"), path)
    return path


def test_what_was_saved_is_loaded(saved):
    made, loaded = concept(), load(saved)
    assert loaded.hash == made.hash
    assert loaded.info == replace(made.info)
    assert loaded.thumbnail == b"\xff\xd8jpeg"
    assert list(loaded.tensors()) == list(made.tensors())


def instructed(tokens):
    own = LatentInstruction.at((shape.site for shape in BASE.sites), tokens)
    return replace(concept(), embeddings={}, parts=(own,))


def test_what_all_sites_share_is_written_once_and_acts_at_each_of_them(tmp_path):
    save(instructed(torch.ones(4, BASE.context_width)), tmp_path / "shared")
    (part,) = load(tmp_path / "shared").parts
    assert part.sites == tuple(shape.site for shape in BASE.sites)
    assert part.tokens.shape == (4, BASE.context_width)
    assert [name for name in header_of(tmp_path / "shared")[0] if name != "__metadata__"] == [LatentInstruction.name]


@pytest.mark.parametrize("tokens", [torch.ones(4, 5), torch.ones(0, 6), torch.ones(6), torch.full((4, 6), torch.nan)])
def test_shared_tokens_of_another_width_none_or_not_finite_are_refused(tmp_path, tokens):
    save(instructed(tokens), tmp_path / "shared")
    with pytest.raises(ConceptFileError, match="damaged"):
        load(tmp_path / "shared")


def test_the_header_is_read_without_the_tensors(saved):
    header, _ = header_of(saved)
    write(saved, header, b"")
    assert read_info(saved).placeholder == "mug"


def test_every_released_format_loads_forever():
    golden = load(GOLDEN)
    assert golden.info.placeholder == "golden" and golden.info.base.family == "SD 1.5"
    assert golden.hash == "6918325dc54a3edd9ee77ba2d453cb538a3145c9f27ce8c8bd0bb39867af0a83"


def test_every_released_part_loads_forever():
    golden = load(GOLDEN.with_name("golden_parts_v1.safetensors"))
    kinds = ["context_rows", "image_tokens", "nested_values", "low_rank", "latent_instruction"]
    assert [part.kind for part in golden.parts] == kinds and golden.info.value_norm == 2.0
    assert golden.hash == "49142a69f83682d1bb4f21969d136173c1b1fc788fbc0641695eda201b48f314"


def test_a_header_says_only_what_is_not_at_its_default(saved, tmp_path):
    """So that a version without nested values' norm still reads files that do not use it."""
    loom = json.loads(header_of(saved)[0]["__metadata__"]["concept_loom"])
    assert "value_norm" not in loom and "strength" not in loom
    normed = concept()
    save(replace(normed, info=replace(normed.info, value_norm=2.0)), tmp_path / "normed")
    assert load(tmp_path / "normed").info.value_norm == 2.0


def test_other_tools_find_the_word_the_title_and_the_picture(saved):
    shown = header_of(saved)[0]["__metadata__"]
    assert json.loads(shown["trained_words"]) == ["<mug>"]
    assert shown["modelspec.trigger_phrase"] == "<mug>" and shown["modelspec.title"] == "mug"
    assert len(json.loads(shown["ssmd_cover_images"])) == 1


def test_the_same_concept_saved_twice_has_the_same_tensors_and_hash(tmp_path):
    for name in ("a", "b"):
        save(concept(), tmp_path / name)
    (one, first), (two, second) = header_of(tmp_path / "a"), header_of(tmp_path / "b")
    assert first == second
    assert one["__metadata__"]["concept_loom"] == two["__metadata__"]["concept_loom"]


def test_a_note_that_no_reader_would_take_is_refused_before_anything_is_written(tmp_path):
    one = concept()
    with pytest.raises(ValueError, match="note has 70,000 characters.*at most 65,536.*Shorten it"):
        save(replace(one, info=replace(one.info, note="a" * 70_000)), tmp_path / "long.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_failed_save_leaves_the_old_file_and_nothing_else(saved, monkeypatch):
    before = saved.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        save(concept("other"), saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


@pytest.mark.parametrize("keep", [0, 4, 8, 60, -1])
def test_a_truncated_file_is_refused_by_name(saved, keep):
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(ConceptFileError, match=r"mug\.safetensors"):
        load(saved)


@pytest.mark.parametrize("content", [b"", b"garbage" * 99, b"\xff" * 64, struct.pack("<Q", 4) + b"[[[]", b"PK\x03\x04"])
def test_a_file_that_is_none_of_ours_is_refused_by_name(tmp_path, content):
    path = tmp_path / "odd.safetensors"
    path.write_bytes(content)
    with pytest.raises(ConceptFileError, match=r"odd\.safetensors"):
        load(path)


def test_a_safetensors_file_of_another_tool_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"lora_up.weight": torch.ones(2, 2)}, tmp_path / "lora.safetensors", {"ss_tag": "x"})
    with pytest.raises(ConceptFileError, match="not written by Concept Loom"):
        load(tmp_path / "lora.safetensors")


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(ConceptFileError, match="gone"):
        load(tmp_path / "gone.safetensors")


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"format": "1"},
        {"role": "hero"},
        {"placeholder": "a b"},
        {"placeholder": ""},
        {"phrase": "mug"},
        {"class_word": " "},
        {"phrase": "[V]" * 1000},
        {"name": 3},
        {"strength": "loud"},
        {"strength": float("nan")},
        {"strength": 10**400},
        {"scores": {"identity": "high"}},
        {"base": {}},
        {"base": None},
        {"tensor_hash": "0" * 64},
        {"younger": 1},
    ],
)
def test_a_header_that_is_not_sane_is_refused(saved, changes):
    with_loom(saved, **changes)
    with pytest.raises(ConceptFileError, match=r"mug\.safetensors"):
        load(saved)


def rename(header):
    header["context_rows.input.9.0"] = header.pop("context_rows.input.1.0")


def reshape(header):
    header["embedding.l"]["shape"] = [2, 3]


def retype(header):
    header["embedding.l"]["dtype"] = "I32"


def stretch(header):
    header["embedding.l"]["shape"] = [1 << 63, 0]
    header["embedding.l"]["data_offsets"] = [0, 0]


def escape(header):
    header["embedding.l"]["data_offsets"] = [0, 1 << 40]


@pytest.mark.parametrize("damage", [rename, reshape, retype, stretch, escape])
def test_tensors_of_other_names_shapes_and_types_are_refused(saved, damage):
    header, content = header_of(saved)
    damage(header)
    write(saved, header, content)
    with pytest.raises(ConceptFileError, match=r"mug\.safetensors"):
        load(saved)


def test_values_that_are_not_finite_are_refused(tmp_path):
    broken = concept()
    broken.embeddings["l"][0, 0] = float("inf")
    save(broken, tmp_path / "inf.safetensors")
    with pytest.raises(ConceptFileError, match="not finite"):
        load(tmp_path / "inf.safetensors")


def test_a_flipped_bit_in_a_tensor_is_refused(saved):
    data = bytearray(saved.read_bytes())
    data[-3] ^= 1
    saved.write_bytes(bytes(data))
    with pytest.raises(ConceptFileError, match="not the ones that were saved"):
        load(saved)


def test_a_file_that_is_too_large_is_not_read(saved, monkeypatch):
    monkeypatch.setattr(tensor_file, "FILE_LIMIT", 10)
    with pytest.raises(ConceptFileError, match="larger"):
        load(saved)
