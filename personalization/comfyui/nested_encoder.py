"""Nested encoders on the canvas: trained on its MODEL, CLIP and VAE, and asked for a concept with its CLIP_VISION."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import comfy.model_patcher
import comfy.ops
import comfy.sd
import torch
from torch import Tensor

from ..concept import Base, Concept
from ..nested_encoder.file import ENCODERS, EncoderFile
from ..nested_encoder.network import NestedEncoder
from ..nested_encoder.recipe import RECIPES, EncoderRecipe
from ..nested_encoder.spoken import METHOD, spoken
from ..nested_encoder.subjects import Sizes, views_of
from ..nested_encoder.training import EncoderTask, train
from ..parts import NestedValues
from ..sites import Site
from ..thumbnail import jpeg_of, small
from .canvas import checkpoint_name, refuse_other_clip
from .family import base_of
from .network_course import NetworkCourse, OnStep, Taught, Training, hash_of, loaded, refuse_others, trained_in
from .prompt_encoder import ClipPromptEncoder
from .session import Session
from .vision import Vision


@dataclass(frozen=True)
class EncoderCourse(NetworkCourse):
    """`data` are Subjects."""

    kind, recipes = ENCODERS, RECIPES
    class_word: str = ""

    @property
    def recipe(self) -> EncoderRecipe:
        return replace(super().recipe, class_word=self.class_word)

    def prepared(self) -> Training:
        recipe, seed, subjects = self.recipe, self.wish.seed, self.data.subjects
        views = views_of(subjects, Sizes(*self.sides), recipe.views, seed, self.encoders)

        def training(session: Session, interrupts: tuple[type[BaseException], ...], on_step: OnStep) -> Taught:
            made = train(EncoderTask(*session, views, recipe, seed, interrupts), on_step)
            told = trained_in(len(made.losses), len(views.latents), f"{len(subjects)} subjects", made.finished)
            return Taught(made.network, made.losses, made.finished, (told,))

        return training


def encoded_concept(
    model: comfy.model_patcher.ModelPatcher,
    clip: comfy.sd.CLIP,
    vision: Vision,
    file: EncoderFile,
    pictures: Sequence[Tensor],
    words: tuple[str, str],
) -> Concept:
    """The concept of `pictures`, each (h, w, 3) in 0..1 and of one subject; `words` are its placeholder and class word.

    An empty class word is the one that the encoder was trained with. The tokens of several pictures stand side by side
    (Nested Attention, arXiv 2501.01407). ValueError where file, MODEL, CLIP and CLIP_VISION do not belong together.
    """
    placeholder, class_word = words
    class_word = class_word or str(file.info.recipe.get("class_word", ""))
    base = base_of(model, checkpoint_name(model))
    refuse_other_clip(clip, base)
    refuse_others(ENCODERS, file, base, vision)
    sites = _sites(file, base)
    with torch.inference_mode(False), torch.no_grad():
        clip.load_model()
        said = spoken(ClipPromptEncoder(clip), base, class_word, placeholder)
        banks = _asked(file, torch.cat([vision.tokens(one[None]) for one in pictures]), said.row)
    own = NestedValues({site: banks[number].clone() for number, site in sites.items()})
    recipe = {"encoder": file.hash, "vision": file.info.vision, "pictures": len(pictures)}
    info = replace(
        said.concept.info,
        method=METHOD,
        recipe=recipe,
        data_hash=hash_of(pictures),
        seed=file.info.seed,
        steps=file.info.steps,
    )
    return replace(said.concept, info=info, parts=(own,), thumbnail=jpeg_of(small(pictures[0][None].cpu())))


def _sites(file: EncoderFile, base: Base) -> dict[int, Site]:
    """Which of the encoder's sites the model has, by their numbers; a smaller model of its family lacks some."""
    known = {shape.site.key: shape.site for shape in base.sites}
    found = {number: known[key] for number, key in enumerate(file.info.shape.sites) if key in known}
    if not found:
        raise ValueError(
            f"This encoder file acts at {', '.join(file.info.shape.sites[:3])} ... of a {file.info.family} model; this "
            f"one has none of these sites. Load {file.info.base or 'the checkpoint that it was trained on'}."
        )
    return found


def _asked(file: EncoderFile, seen: Tensor, row: Tensor) -> Tensor:
    """(sites, pictures x m, context), fp32."""
    network, device = loaded(NestedEncoder(file.info.shape, comfy.ops.manual_cast), file.state)
    banks = network(seen.to(device), row.to(device).expand(len(seen), -1))  # (pictures, sites, m, context)
    return banks.transpose(0, 1).flatten(1, 2).float().cpu()
