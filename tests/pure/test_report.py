"""What is said about a concept after a sampling; every cause of its silence has its sentence."""

from dataclasses import replace

import pytest
from concept_loom.personalization.prompt import Aside
from concept_loom.personalization.report import Run, reports

from .concepts import placed

MUG = placed()
SITES = frozenset(site for part in MUG.concept.parts for site in part.sites)
HERE = {"known": {"mug"}, "written": {"mug"}, "reached": {"mug"}}


def report(placed=MUG, **run):
    (one,) = reports((placed,), Run(**run), SITES)
    return one


@pytest.mark.parametrize(
    ("cause", "run"),
    [
        ("", {**HERE, "acted": {"mug": set(SITES)}}),
        ("clip", {}),
        ("clip", {"known": {"hat"}}),
        ("versions", {"strangers": {"mug"}}),
        ("word", {"known": {"mug"}}),
        ("rows", {"known": {"mug"}, "lost": {"mug"}}),
        ("rows", {"spoken": frozenset({"mug"})}),
        ("unused", {"known": {"mug"}, "written": {"mug"}}),
        ("unused", {"known": {"mug"}, "written": {"mug"}, "steps_inside": {"mug": 0}}),
        ("guidance", {"left_out": {"mug"}}),
        ("guidance", {"known": {"mug"}, "spoken": frozenset({"mug"}), "left_out": {"mug"}}),
        ("strength", {"known": {"mug"}, "aside": Aside(silent=frozenset({"mug"}))}),
        ("window", {**HERE, "steps_inside": {"mug": 0}}),
        ("window", {**HERE, "steps_inside": {"mug": 0}, "acted": {"mug": set(SITES)}}),
        ("batch", {**HERE, "jumbled": {"mug"}}),
        ("site", {**HERE, "placeless": {"mug": set(SITES)}}),
        ("model", {"unwired": "KSampler (14)", "known": {"mug"}, "spoken": frozenset({"mug"})}),
        ("steps", {"idle": "KSampler (14)", "known": {"mug"}, "spoken": frozenset({"mug"})}),
        ("word", {"unwired": "KSampler (14)", "known": {"mug"}}),
    ],
)
def test_every_cause_is_told_apart(cause, run):
    said = report(**run)
    assert said.cause == cause and "<mug>" in said.sentence and "{" not in said.sentence
    assert (said.acted == 0) == bool(cause) == ("did not act" in said.sentence)


@pytest.mark.parametrize("run", [{}, HERE, {"unwired": "KSampler (14)", "spoken": frozenset({"mug"})}])
def test_strength_0_is_the_cause_whatever_else_is_wrong_and_warns_of_nothing(run):
    said = report(replace(MUG, strength=0.0), **run)
    assert said.cause == "strength" and not said.warns


def test_the_node_that_may_have_changed_the_rows_is_named():
    said = report(known={"mug"}, lost={"mug"}, changers=("Average (20)",))
    assert "Average (20) has mixed" in said.sentence


def test_a_near_miss_is_named_whether_the_word_acted_or_not():
    near = Aside({"<mugg>": "<mug>", "<hatt>": "<hat>"})
    assert "<mugg> does" in report(known={"mug"}, aside=near).sentence
    acted = report(**HERE, acted={"mug": set(SITES)}, aside=near)
    assert acted.cause == "" and "<mugg>" in acted.sentence and "<hatt>" not in acted.sentence


def test_merged_layers_count_also_where_the_word_was_not_spoken():
    merged = {"merged": {"mug": set(SITES)}}
    spoken, silent, off = report(**HERE, **merged), report(known={"mug"}, **merged), report(replace(MUG, strength=0.0))
    assert (spoken.cause, spoken.acted) == ("", len(SITES)) and "acted at 2 of 2 sites" in spoken.sentence
    assert (silent.cause, silent.acted) == ("word", len(SITES)) and silent.warns
    assert "acted only through its merged layers, at 2 of 2 sites and in every prompt" in silent.sentence
    assert off.acted == 0 and "did not act" in off.sentence


def test_a_concept_without_parts_acts_wherever_its_prompt_is_used():
    alone = replace(MUG, concept=replace(MUG.concept, parts=()))
    for run in (HERE, {**HERE, "steps_inside": {"mug": 0}}, {**HERE, "jumbled": {"mug"}}):
        assert report(alone, **run).cause == ""
    assert report(alone, written={"mug"}).cause == "unused"
