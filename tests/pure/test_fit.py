from dataclasses import replace

import pytest
from concept_loom.personalization.fit import fits

from .concepts import BASE, SITES, concept


def test_a_concept_fits_the_model_it_was_learned_on_without_a_note():
    assert fits(concept(), BASE) == ""


def test_another_checkpoint_of_the_family_works_with_a_note():
    assert "toy.safetensors" in fits(concept(), replace(BASE, fingerprint="other"))


def test_another_family_is_refused_with_the_reason_and_what_to_do():
    xl = replace(BASE, family="SDXL", context_width=2048, encoders={"l": 768, "g": 1280})
    with pytest.raises(ValueError, match=r"learned for SDXL \(context 2048\); the model is SD 1.5 \(6\). Load an SDXL"):
        fits(concept(base=xl), BASE)


def test_a_model_without_the_concepts_sites_is_refused():
    with pytest.raises(ValueError, match="middle.0.0"):
        fits(concept(), replace(BASE, sites=SITES[:1]))
