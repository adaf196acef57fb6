"""Files of others through ComfyUI's own loaders, and theirs as concepts."""

import json
from dataclasses import replace
from pathlib import Path

import comfy.lora
import comfy.ops
import comfy.utils
import folder_paths
import pytest
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from concept_loom.benchmarks import full_size
from concept_loom.nodes import folders
from concept_loom.nodes.exchange import ExportConcept, ImportConcept
from concept_loom.nodes.files import LoadConcept, SaveConcept
from concept_loom.personalization.comfyui.concept_clip import weave_clip
from concept_loom.personalization.comfyui.family import base_of, sites_of
from concept_loom.personalization.composition import PlacedConcept
from concept_loom.personalization.exchange.exported import DIFFUSERS, EMBEDDING, KOHYA
from concept_loom.personalization.exchange.families import known_bases
from concept_loom.personalization.exchange.imported import Told, imported
from concept_loom.personalization.exchange.names import diffusers_name, period_of
from concept_loom.playground.model import load as load_playground
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import nodes

from . import tiny
from .test_prompt_to_picture import Canvas, differ, picture

FAMILIES = pytest.mark.parametrize("family", ["SD 1.5", "SD 2", "SDXL"])
UNETS = {family: unet | kind.unet_extra_config for family, (kind, unet) in full_size.UNETS.items()}


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    for kind in ("concepts", *folders.FOREIGN):
        written = [str(tmp_path / "models" / kind), str(tmp_path / "output" / kind)]
        kinds = {".safetensors", ".pt", ".bin"}
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, (written, kinds))


def layered(family):
    return tiny.low_rank(tiny.concept("mug", "mug", family))


def loaded(family, file):
    return nodes.LoraLoader().load_lora(tiny.model(family), tiny.clip(family), file, 1.0, 1.0)


@pytest.mark.parametrize("family", UNETS)
def test_the_sites_of_a_family_are_those_of_its_real_unet(family: str) -> None:
    config = UNETS[family] | {"dtype": torch.float32}
    unet = UNetModel(**config, device="meta", operations=comfy.ops.disable_weight_init)
    known = next(base for base in known_bases() if base.family == family)
    assert known.sites == tuple(shape for shape, _ in sites_of(unet))


def test_the_playgrounds_sites_are_known_too() -> None:
    base = base_of(load_playground().model)
    known = next(one for one in known_bases() if one.family == base.family)
    assert (known.sites, known.context_width, dict(known.encoders)) == (
        base.sites,
        base.context_width,
        dict(base.encoders),
    )


@FAMILIES
def test_names_in_diffusers_are_those_of_comfyuis_own_map(family: str) -> None:
    for config, shapes in (
        (UNETS[family], next(base for base in known_bases() if base.family == family).sites),
        (tiny.model(family).model.model_config.unet_config, tiny.concept(family=family).info.base.sites),
    ):
        host, period = comfy.utils.unet_to_diffusers(config), period_of(shapes)
        for shape in shapes:
            ours = host[f"{diffusers_name(shape.site, period)}.attn2.to_k.weight"]
            block = "middle_block" if shape.site.block == "middle" else f"{shape.site.block}_blocks.{shape.site.number}"
            assert ours == f"{block}.1.transformer_blocks.{shape.site.index}.attn2.to_k.weight"


@FAMILIES
@pytest.mark.parametrize("to", [KOHYA, DIFFUSERS])
def test_comfyuis_lora_loader_draws_what_our_merged_layers_draw(family: str, to: str) -> None:
    concept = replace(layered(family), embeddings={})
    told = ExportConcept.execute(PlacedConcept(concept), to, "set/mug").ui["text"][0]
    assert told.startswith("Saved as output/loras/set/mug.safetensors.")
    model, clip = loaded(family, "set/mug.safetensors")
    ours = Canvas(PlacedConcept(concept, sparing=False), family=family)
    assert model is not None and set(model.patches) == set(ours.model.patches)
    theirs = picture(model, clip, "a photo of a mug")
    plain = picture(tiny.model(family), tiny.clip(family), "a photo of a mug")
    drawn = picture(ours.model, ours.clip, "a photo of a mug")
    assert differ(theirs, drawn) < 1e-4 < 0.1 < differ(theirs, plain)


@FAMILIES
def test_diffusers_own_conversion_finds_every_layer_where_it_stands(family: str) -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
    from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft

    assert diffusers
    concept = replace(layered(family), embeddings={})
    ExportConcept.execute(PlacedConcept(concept), DIFFUSERS, "mug")
    file = load_file(folders.written_to("loras") / "mug.safetensors")
    converted = convert_unet_state_dict_to_peft({name.removeprefix("unet."): one for name, one in file.items()})
    host = comfy.utils.unet_to_diffusers(tiny.model(family).model.model_config.unet_config)
    modules = {name.removesuffix(".weight") for name in host if name.endswith(".weight")}
    found = {name.removesuffix(end) for name in converted for end in (".lora_A.weight", ".lora_B.weight")}
    assert {name for name in found if "lora" not in name} <= modules
    assert len(converted) == 2 * len([name for name in found if "lora" not in name])


@FAMILIES
def test_an_exported_embedding_encodes_as_the_concepts_word(family: str) -> None:
    concept = tiny.without_parts(tiny.concept("mug", "mug", family))
    ExportConcept.execute(PlacedConcept(concept), EMBEDDING, "toy")
    plain = tiny.clip(family).clone()
    woven = weave_clip(plain, (PlacedConcept(concept),))
    for encoder in ("clip_l", "clip_g", "clip_h"):
        if hasattr(plain.tokenizer, encoder):
            getattr(plain.tokenizer, encoder).embedding_directory = folder_paths.get_folder_paths("embeddings")
    ours, theirs = (
        clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)
        for clip, text in ((woven, "a photo of <mug>, at dawn"), (plain, "a photo of embedding:toy mug, at dawn"))
    )
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def imported_into(family, file, **told):
    words = {"placeholder": "", "class_word": "mug", "role": "subject", **told}
    return ImportConcept.execute(file, **words)


@pytest.mark.parametrize("region", [None, torch.ones(64, 64)])
def test_a_lora_that_was_imported_acts_as_a_concept_of_the_same_layers(tmp_path: Path, region) -> None:
    concept = replace(layered("SD 1.5"), embeddings={})
    ExportConcept.execute(PlacedConcept(concept), KOHYA, "mug")
    own = (base_of(tiny.model()),)  # the tiny model has other sites than a real one
    path = folders.written_to("loras") / "mug.safetensors"
    back = imported(path, Told("mug", "mug", "subject"), own).concept
    concept = replace(concept, info=replace(concept.info, phrase=back.info.phrase))
    ours, theirs = (Canvas(PlacedConcept(one, region=region)) for one in (concept, back))
    drawn = picture(theirs.model, theirs.clip, "a photo of <mug>")
    assert differ(drawn, picture(ours.model, ours.clip, "a photo of <mug>")) < 1e-4
    assert theirs.report().acted == 7
    assert differ(drawn, picture(tiny.model(), tiny.clip(), "a photo of mug")) > 0.1


def test_an_imported_embedding_is_saved_loaded_and_used(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "embeddings"
    folder.mkdir(parents=True)
    save_file({"emb_params": 0.1 * torch.randn(2, 768)}, folder / "red toy.safetensors")
    assert folders.foreign_files() == ["embeddings/red toy.safetensors"]
    out = imported_into("SD 1.5", "embeddings/red toy.safetensors", role="style", class_word="")
    assert out.ui["text"][0].startswith("<red_toy>: An embedding of 2 vectors for SD 1.5")
    SaveConcept.execute(out.result[0], "toy")
    again = LoadConcept.execute("toy.safetensors")
    assert "from embedding file on SD 1.5" in again.ui["text"][0]
    canvas = Canvas(again.result[0])
    drawn = picture(canvas.model, canvas.clip, "a photo in <red_toy>")
    assert differ(drawn, picture(tiny.model(), tiny.clip(), "a photo in style")) > 1e-3
    assert canvas.report("red_toy").cause == ""


def test_a_file_that_is_not_there_and_one_outside_are_refused() -> None:
    for file in ("loras/none.safetensors", "checkpoints/some.safetensors", "loras/../../secret.safetensors"):
        with pytest.raises(ValueError, match="not in models/embeddings or models/loras"):
            imported_into("SD 1.5", file)


def test_what_a_format_cannot_hold_leaves_no_file() -> None:
    with pytest.raises(ValueError, match="acts through context rows"):
        ExportConcept.execute(PlacedConcept(tiny.concept()), KOHYA, "mug")
    assert not list(folders.written_to("loras").rglob("*.safetensors"))


def test_an_exported_file_shows_what_it_is() -> None:
    ExportConcept.execute(PlacedConcept(replace(layered("SDXL"), embeddings={}), placeholder="cup"), KOHYA, "")
    with safe_open(folders.written_to("loras") / "cup.safetensors", "pt") as file:
        shown = file.metadata()
    assert shown["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    assert json.loads(shown["trained_words"]) == ["<cup>"]
