"""A step forward and back on the published architectures with random weights: shapes and memory, not pictures."""

import json
from fnmatch import fnmatchcase

import comfy.model_base
import comfy.model_patcher
import pytest
import torch
from concept_loom.benchmarks.full_size import UNETS, checkpoint, family_in
from concept_loom.nodes.pictures import EXAMPLE_PICTURES
from concept_loom.personalization.comfyui.backbone import Backbone
from concept_loom.personalization.comfyui.gradient_checkpoint import checkpointed
from concept_loom.personalization.comfyui.lesson import teach
from concept_loom.personalization.composition import PlacedConcept, as_recommended
from concept_loom.personalization.concept import Concept, ConceptInfo
from concept_loom.personalization.dataset import dataset_of
from concept_loom.personalization.denoiser import Context, Slots
from concept_loom.personalization.exchange.families import known_bases
from concept_loom.personalization.methods.layerwise import chosen_sites
from concept_loom.personalization.parts import ContextRows
from concept_loom.personalization.pictures import read_pictures
from concept_loom.personalization.recipe import SITES, recipe_for
from concept_loom.personalization.wish import Wish
from safetensors.torch import save_file

from tools import host

from .test_prompt_to_picture import Canvas, differ, encode, sample

FAMILIES = [
    ("SD 1.5", *UNETS["SD 1.5"], comfy.model_base.BaseModel, 16),
    ("SD 2", *UNETS["SD 2"], comfy.model_base.BaseModel, 16),
    ("SDXL", *UNETS["SDXL"], comfy.model_base.SDXL, 70),
]


def backbone(kind, model_class, unet):
    config = kind(unet | {"dtype": torch.bfloat16})
    config.manual_cast_dtype = None
    model = model_class(config, comfy.model_base.ModelType.EPS, device=torch.device("cpu"))
    noise = 0.02 * torch.randn(1 << 20, generator=torch.Generator().manual_seed(0))
    for parameter in model.parameters():  # repeated: drawing billions of numbers takes minutes
        flat = parameter.data.view(-1)
        flat.copy_(noise.repeat(-(-flat.numel() // len(noise)))[: flat.numel()])
    return model, Backbone(comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu")))


@pytest.mark.parametrize("family", UNETS)
def test_a_checkpoints_family_is_told_from_the_shapes_in_its_header(family, tmp_path):
    kind, unet = UNETS[family]
    config = kind({**unet})
    network = config.get_model({}, "", device=torch.device("meta")).diffusion_model
    save_header(config.process_unet_state_dict_for_saving(network.state_dict()), tmp_path / "mine.safetensors")
    assert family_in(tmp_path / "mine.safetensors") == family


def test_a_file_without_a_model_of_ours_is_refused_by_name(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "mine.safetensors")
    with pytest.raises(ValueError, match=r"mine\.safetensors.*SD 1\.5"):
        family_in(tmp_path / "mine.safetensors")


def save_header(state, path):
    """A file with the shapes of `state` whose data is a hole on the disk."""
    end, entries = 0, {}
    for name, tensor in state.items():
        entries[name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": [end, end + 2 * tensor.numel()]}
        end += 2 * tensor.numel()
    header = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)


@pytest.mark.parametrize(("method", "family", "role"), [one for one in SITES if one[1] in UNETS])
def test_a_roles_sites_are_blocks_of_the_published_model(method, family, role):
    base = next(one for one in known_bases() if one.family == family)
    recipe = recipe_for(method, family, role)
    keys = {site.key for site in chosen_sites(base, recipe.sites)}
    assert all(any(fnmatchcase(key, pattern) for key in keys) for pattern in recipe.sites)
    assert len(keys) == {"SDXL": 10 if role == "style" else 20}.get(family, 10)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "kind", "unet", "model_class", "sites"), FAMILIES, ids=[f[0] for f in FAMILIES])
def test_a_training_step_reaches_every_site(family, kind, unet, model_class, sites):
    model, denoiser = backbone(kind, model_class, unet)
    base = denoiser.base
    assert (base.family, len(base.sites)) == (family, sites)
    rows = {shape.site: torch.randn(1, base.context_width).requires_grad_() for shape in base.sites}
    info = ConceptInfo("mug", "mug", "[V] mug", "mug", "subject", base)
    composition = (PlacedConcept(Concept(info, {}, (ContextRows(rows),))),)
    slots = Slots("mug", "", {key: (1,) for key in base.encoders}, (1.0,))
    context = Context(torch.randn(1, 77, base.context_width), (slots,), torch.randn(1, 1280))
    x0, sigma = torch.randn(1, 4, 16, 16), torch.tensor([1.0])
    with checkpointed(model.diffusion_model):
        denoised = denoiser.predict(x0 + torch.randn_like(x0), sigma, [context], composition)
        (denoised - x0).pow(2).mean().backward()
    assert all(row.grad is not None and torch.isfinite(row.grad).all() for row in rows.values())


@pytest.mark.slow
@pytest.mark.parametrize("family", UNETS)
def test_a_checkpoint_is_loaded_learned_on_and_drawn_with(family, tmp_path):
    """As in a graph, with what `auto` takes; three small pictures, since none is enlarged."""
    with torch.inference_mode():
        loaded = host.canvas(checkpoint(family, tmp_path))
        pictures = dataset_of(*read_pictures(EXAMPLE_PICTURES)[:1], 1)
        lesson = teach(
            loaded, pictures, Wish("mug", "mug", "subject", steps=3), [tmp_path], lambda event, picture: None
        )
    assert lesson.concept.info.method == "staged fast" and lesson.concept.info.base.family == family
    assert lesson.picture is not None and torch.isfinite(lesson.picture).all()
    canvas = Canvas(as_recommended(lesson.concept), family=family, model=loaded.model, clip=loaded.clip)
    plain, drawn = (sample(canvas.model, encode(canvas.clip, text), encode(canvas.clip, "")) for text in WORDS)
    assert canvas.report().acted == canvas.report().sites > 0
    assert torch.isfinite(drawn).all() and differ(drawn, plain) > 1e-4


WORDS = ("a mug", "a <mug>")
