"""One training pass: what a stage of a recipe asks of the model's prediction for a batch, and the gradients of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Generator, Tensor

from .attractor import KIND, Contrast, mask_split
from .batch import Batch, Prompts
from .calibration import Calibration
from .composition import Composition, PlacedConcept
from .denoiser import Context, Denoiser, observers
from .indices import moved
from .objectives import denoising_loss, min_snr, self_regularisation, soft_mask
from .parts import ImageTokens
from .prior import Prior
from .recipe import Recipe, Stage
from .sites import Site

PRIOR_SHARE = 40  # pictures of the batch per picture of the class, for which prior preservation runs the model twice


class Asked(NamedTuple):
    """Of one pass: the batch's mean loss, and the objective; of the attractors another, where the loss is split."""

    loss: Tensor
    objective: Tensor
    scenery: Tensor | None = None


@dataclass(frozen=True)
class TrainingPass:
    """`composition` holds what is learned, then its attractors; `parameters` are the tensors of all of them by name."""

    denoiser: Denoiser
    recipe: Recipe
    stage: Stage
    composition: Composition
    prompts: Prompts
    parameters: Mapping[str, Tensor]
    prior: Prior | None = None  # for the recipe's dpp
    means: Mapping[Site, Tensor] = field(default_factory=dict)  # E_subject, for its casr

    @property
    def learned(self) -> PlacedConcept:
        return self.composition[0]

    @property
    def attracts(self) -> bool:
        return len(self.composition) > 1

    def backward(self, batch: Batch, step: int, generator: Generator) -> Tensor:
        """The batch's mean loss, the gradients of the whole objective left in the trained tensors."""
        loss, objective, scenery = self.forward(batch)
        if scenery is None:
            objective.backward()
        else:
            self._separately(objective, scenery)
        for term in self._terms(step, generator):
            term.backward()
        return loss.detach()

    def forward(self, batch: Batch) -> Asked:
        """ValueError where the concept acts nowhere, so that there is nothing to learn."""
        recipe, denoiser = self.recipe, self.denoiser
        x0, noise, mask = (moved(one, denoiser.device) for one in (batch.x0, batch.noise, batch.mask))
        sigma = moved(denoiser.sigma_at(batch.percent), denoiser.device).to(x0)  # (b,)
        noised = denoiser.add_noise(x0, sigma, noise.to(x0))
        contexts = self.prompts.contexts(batch.texts)
        contrast = Contrast(self.learned.word, contexts, x0.device) if self.attracts and recipe.contrast else None
        calibration = self._calibration(contexts)
        observer = observers(one.observer for one in (contrast, calibration) if one)
        denoised = denoiser.predict(noised, sigma, contexts, self.composition, observer)
        if not denoised.requires_grad:
            raise ValueError(
                f"The concept acts at no site of the model in '{batch.texts[0]}'; one at least is needed to learn. "
                "Check that MODEL and CLIP belong together and that every training caption holds {}."
            )
        weight = min_snr(denoiser.loss_weight(sigma), recipe.min_snr)
        mask = mask.to(x0)
        loss = denoising_loss(denoised, x0, weight, soft_mask(mask, recipe.outside_mask)).mean()
        beside = calibration.loss(self.stage.w_mean, self.stage.w_var) if calibration else 0.0
        apart = recipe.contrast * contrast.loss() if contrast else 0.0
        if not (self.attracts and recipe.mask_split):
            return Asked(loss, loss + beside + apart)
        inside, outside = mask_split(denoised, x0, weight, mask)
        return Asked(loss, inside.mean() + beside + apart, outside.mean() + apart)

    def _separately(self, subject: Tensor, scenery: Tensor) -> None:
        """Gradients of `subject` in the concept's tensors, of `scenery` in the attractors."""
        trained = {name: one for name, one in self.parameters.items() if one.requires_grad}
        scenery.backward(retain_graph=True, inputs=[one for name, one in trained.items() if name.startswith(KIND)])
        subject.backward(inputs=[one for name, one in trained.items() if not name.startswith(KIND)])

    def _calibration(self, contexts: Sequence[Context]) -> Calibration | None:
        """Where the stage weighs it, what watches the attention of one pass."""
        if not (self.stage.w_mean or self.stage.w_var):
            return None
        return Calibration(contexts, self.learned.word, self.learned.concept.info.slots, self.denoiser.device)

    def _terms(self, step: int, generator: Generator) -> Iterator[Tensor]:
        """What the recipe adds to the denoising loss, one graph at a time."""
        recipe, concept = self.recipe, self.learned.concept
        every = max(1, PRIOR_SHARE // recipe.batch_size)  # a batch too small for a share of it takes turns instead
        if recipe.dpp and self.prior and step % every == 0:
            samples = max(1, recipe.batch_size // PRIOR_SHARE)
            yield every * recipe.dpp * self.prior.loss(concept, samples, generator)
        tokens = next((part.rows for part in concept.parts if isinstance(part, ImageTokens)), {})
        if recipe.casr and tokens:
            yield recipe.casr * self_regularisation(tokens, self.means, recipe.casr_squared)
