"""Whether a concept can act in a model: the same family and widths must be, the same checkpoint need not."""

from __future__ import annotations

from .concept import Base, Concept


def fits(concept: Concept, base: Base) -> str:
    """A note for people, empty when the concept was learned on these very weights; ValueError when it cannot act."""
    own, name = concept.info.base, concept.info.name
    if (own.family, own.context_width, dict(own.encoders)) != (base.family, base.context_width, dict(base.encoders)):
        raise ValueError(
            f"The concept '{name}' was learned for {own.family} (context {own.context_width}); "
            f"the model is {base.family} ({base.context_width}). {_way_out(own.family)}"
        )
    missing = _lacking(concept, base)
    if missing:
        raise ValueError(
            f"The concept '{name}' acts at {', '.join(missing[:3])}{' ...' if missing[3:] else ''} of {_a(own.family)} "
            "model; this one has no such sites. A model of the same architecture is needed. "
            f"Load {own.name or 'the checkpoint that it was learned on'}."
        )
    return _note(own, base)


def _lacking(concept: Concept, base: Base) -> list[str]:
    here, there = set(base.sites), {shape.site: shape for shape in concept.info.base.sites}
    sites = {site for part in concept.parts for site in part.sites}
    return sorted(site.key for site in sites if there.get(site) not in here)


def _note(own: Base, base: Base) -> str:
    if own.prediction and own.prediction != base.prediction:  # files of others do not say
        return (
            f"Learned on {own.name or 'a model'}, which predicts {own.prediction}; this model predicts "
            f"{base.prediction}, so it may look wrong here. A checkpoint that predicts {own.prediction} suits it."
        )
    if own.fingerprint and base.fingerprint and own.fingerprint != base.fingerprint:
        return f"Learned on {own.name or f'another {own.family} checkpoint'}; it may act less exactly here."
    return ""


def _way_out(family: str) -> str:
    return "Take Load Playground Model." if family == "Playground" else f"Load {_a(family)} checkpoint."


def _a(family: str) -> str:
    return f"an {family}" if family.startswith("SD") else f"a {family}"
