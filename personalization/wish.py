"""What a designer asks for, and the recipe that it comes to."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .methods import AUTO, chosen
from .recipe import Recipe, recipe_for
from .settings import with_settings

BUDGETS = {"fast": 1.0, "balanced": 2.0, "thorough": 4.0}  # of the recipe's steps


@dataclass(frozen=True)
class Wish:
    """What a designer asks for. 0 in `steps`, `learning_rate` and `batch_size` leaves them to the recipe.

    The rate is that of the first stage which is learned; the others keep their ratio to it.
    Three switch a term off that the method has: the paper's DPP, CASR, and L_reg.
    """

    placeholder: str
    class_word: str
    role: str
    method: str = AUTO
    budget: str = "fast"
    seed: int = 0
    steps: int = 0
    learning_rate: float = 0.0
    batch_size: int = 0
    attractor: bool = False  # not for styles
    soft_masks: bool = False  # not for styles
    prior_preservation: bool = True
    self_regularisation: bool = True
    attention_regulariser: bool = True  # not for styles
    settings: str = ""  # the method's own (settings.py)


def recipe_of(wish: Wish, family: str, pictures: int, masked: bool = False, captioned: bool = False) -> Recipe:
    """The method's own recipe, stretched by the budget and changed where the wish says so.

    `masked`: pictures have masks of their own. These, or soft ones, let attractors be asked for all that is outside.
    `captioned`: every picture has a caption. Stages that were named are kept all the same.
    """
    recipe = recipe_for(chosen(wish.method, wish.role, pictures), family, wish.role)
    recipe = replace(recipe, steps=wish.steps or round(BUDGETS[wish.budget] * recipe.steps))
    subject, rate = wish.role != "style", wish.learning_rate
    reach = 0 if rate else recipe.reach  # who gives a rate gets that rate
    recipe = with_settings(replace(recipe, attractor=wish.attractor and subject, reach=reach), wish.settings)
    if rate:
        scale = rate / recipe.stages[0].learning_rate
        stages = tuple(replace(stage, learning_rate=scale * stage.learning_rate) for stage in recipe.stages)
        recipe = replace(recipe, stages=stages)
    if captioned and recipe.captions and subject and "stages=" not in wish.settings:
        recipe = recipe.captioned()
    if not wish.attention_regulariser:
        recipe = recipe.unregulated()
    return replace(
        recipe,
        batch_size=wish.batch_size or recipe.batch_size,
        mask_split=recipe.attractor and (masked or wish.soft_masks),
        soft_masks=wish.soft_masks and subject,
        dpp=recipe.dpp if wish.prior_preservation else 0.0,
        casr=recipe.casr if wish.self_regularisation else 0.0,
    )
