"""Prompts that a concept is asked for, and what they say without it."""

from dataclasses import replace

import pytest
from concept_loom.personalization.asked import SUBJECT, WORD, asked
from concept_loom.personalization.composition import PlacedConcept, as_recommended

from .concepts import concept

CUP = replace(as_recommended(concept()), placeholder="cup")


def test_the_word_and_its_stand_in_are_both_understood_and_the_class_word_takes_their_place() -> None:
    lines = "a photo of <word> on the beach\n\n  (<Cup>:1.2), red \n"
    class_word = CUP.concept.info.class_word
    assert asked(lines, CUP) == (
        ("a photo of <cup> on the beach", f"a photo of {class_word} on the beach"),
        ("(<Cup>:1.2), red", f"({class_word}:1.2), red"),
    )


def test_no_prompts_are_a_set_of_the_role() -> None:
    assert [one.text for one in asked(" \n", CUP)] == [one.replace(WORD, "<cup>") for one in SUBJECT]
    style = asked("", replace(CUP, role="style"))
    assert all(", in <cup>" in one.text for one in style)


def test_a_line_without_the_word_is_refused_with_what_to_do() -> None:
    with pytest.raises(ValueError, match="'a red bag' does not hold.*needs <cup>.*Write"):
        asked("a photo of <cup>\na red bag", CUP)


def test_a_concept_is_used_at_the_strength_that_its_file_recommends() -> None:
    info = replace(concept().info, strength=0.6)
    placed = as_recommended(replace(concept(), info=info), "cup")
    assert placed == PlacedConcept(placed.concept, 0.6, placeholder="cup")
