"""What a learning key is made of must outlive versions: else everybody learns everything again."""

import json
from dataclasses import replace

import pytest
from concept_loom.personalization.recipe import FAMILIES, Recipe, Stage, recipe_for, sourced

DEFAULTS = """{"steps": 0, "seconds": 0.0, "batch_size": 4, "schedule": "constant", "warmup": 0.0, "weight_decay": 0.0,
"min_snr": 0.0, "outside_mask": 0.1, "sigma_range": [0.001, 0.999], "slots": 1, "captioned_slots": 0,
"sites": [], "captions": true,
"checks": 20, "image_tokens": 0, "bank": 0, "value_norm": 0.0, "dpp": 0.0, "class_pictures": 8, "casr": 0.0,
"casr_squared": false, "attractor": false, "contrast": 0.05, "mask_split": false, "soft_masks": false, "rank": 0,
"optimizer": "adamw", "reach": 0, "strength": 1.0, "keeps_best": true, "patience": 0}"""


def test_only_what_is_not_at_its_default_stands_in_a_key() -> None:
    assert sourced("quick", "SDXL").ours.decisive() == {
        "method": "quick",
        "stages": [{"trains": ["context_rows."], "learning_rate": 0.01}],
        "steps": 400,
        "schedule": "cosine",
        "warmup": 0.03,
        "slots": 4,
    }


def test_every_field_that_is_changed_stands_in_a_key() -> None:
    plain = Recipe("quick", (Stage(("context_rows.",), 0.1),))
    assert replace(plain, batch_size=5).decisive() == {**plain.decisive(), "batch_size": 5}
    assert replace(plain, stages=(replace(plain.stages[0], w_mean=1.0),)).decisive() != plain.decisive()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("role", ["subject", "style"])
def test_held_out_pictures_stop_no_method_that_learns_layers(family: str, role: str) -> None:
    """They are nearest to it long before it knows the subject: benchmarks/trials.md."""
    kept = {method: recipe_for(method, family, role).keeps_best for method in ("quick", "staged", "staged fast")}
    assert kept == {"quick": True, "staged": False, "staged fast": False}


def test_no_default_has_changed() -> None:
    """A new field joins here; one that differs would give other tensors under old keys."""
    header = Recipe("quick", ()).as_header()
    left = {name: header[name] for name in header if name not in ("method", "stages", "templates")}
    assert json.loads(json.dumps(left)) == json.loads(DEFAULTS)
    assert Stage((), 1.0) == Stage((), 1.0, share=1.0, w_mean=0.0, w_var=0.0)
