"""A CLIP that knows placeholders: `<mug>` works in every node that tokenises with it, and stays marked afterwards.

Identity mask (arXiv 2508.07341): special slots of one concept never see another's, all else sees both. They only meet
inside the text encoder. So with two or more concepts in a prompt the prompt is encoded once with every embedding in,
and once per concept with only its own in (the others hold their class words' embeddings); each concept's phrase rows
are taken from its own encoding. One concept is one encoding: ordinary textual inversion.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import comfy.sd
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import PatcherInjection
from torch import Tensor
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakTensorKeyDictionary

from ..composition import Composition, woven
from ..concept import Concept
from ..denoiser import Slots
from ..prompt import Aside, Mark, is_ordinary, phrase_rows, slots_of
from .encoders import encoders_of, spans_of
from .host_types import Conditioning
from .spoken import MEMORY, phrases_in
from .tokens import (
    Tokens,
    as_class_word,
    asides_in,
    has_embedding,
    marks_in,
    placeholder_tokenizer,
    spoken_in,
    with_only,
)

KEY = "concept_loom"  # the conditioning's extra key, and everything else of ours on the host's objects

# cond tensor -> what it holds, for packs that build the conditioning's dictionary themselves
ENCODED = WeakTensorKeyDictionary()


@dataclass(frozen=True)
class Encoded:
    """What a woven CLIP says about a conditioning: the words it knows, and where they stand in `tensor`."""

    tensor: Tensor | None  # the conditioning as it was made: a later node may have changed the copy that arrives
    slots: tuple[Slots, ...]
    known: Mapping[str, str]  # placeholder -> the concept's content hash
    aside: Aside


class ConceptCLIP(comfy.sd.CLIP):
    """A CLIP with a composition woven in; made by `weave_clip`, never built directly."""

    composition: Composition
    plain_tokenizer: object

    def clone(self, disable_dynamic: bool = False) -> ConceptCLIP:
        return _dressed(super().clone(disable_dynamic=disable_dynamic), self.plain_tokenizer, self.composition)

    def encode_from_tokens(self, tokens: Tokens, return_pooled: bool | str = False, return_dict: bool = False) -> Any:
        """As in the host: a tensor, a pair with the pooled output, or a dictionary."""
        encode = cast(Callable[..., Any], super().encode_from_tokens)
        out = encode(tokens, return_pooled=return_pooled, return_dict=True)
        alone = {word: encode(part, return_pooled=return_pooled) for word, part in self._each_alone(tokens)}
        alone = {word: one[0] if isinstance(one, tuple) else one for word, one in alone.items()}
        out["cond"] = self._spliced(out["cond"], alone, tokens)
        self._record(out["cond"], tokens)
        if return_dict:
            return out
        return (out["cond"], out["pooled_output"]) if return_pooled else out["cond"]

    def encode_from_tokens_scheduled(
        self,
        tokens: Tokens,
        unprojected: bool = False,
        add_dict: dict[str, object] | None = None,
        show_pbar: bool = True,
    ):
        def encode(part: Tokens) -> Conditioning:
            made = super(ConceptCLIP, self).encode_from_tokens_scheduled(part, unprojected, add_dict or {}, show_pbar)
            return cast(Conditioning, made)

        scheduled = encode(tokens)
        if self.patcher.forced_hooks is not None and self.use_clip_schedule:  # that path skips encode_from_tokens
            alone = {word: encode(part) for word, part in self._each_alone(tokens)}
            for number, entry in enumerate(scheduled):
                entry[0] = self._spliced(entry[0], {word: made[number][0] for word, made in alone.items()}, tokens)
        for cond, extra in scheduled:
            extra[KEY] = self._record(cond, tokens)
        return scheduled

    def _each_alone(self, tokens: Tokens) -> list[tuple[str, Tokens]]:
        """Per concept the tokens in which only its embedding is in; none while there is nothing to keep apart."""
        words = sorted(word for word in _words(marks_in(tokens)) if has_embedding(self.composition, word))
        return [(word, with_only(tokens, word)) for word in words] if len(words) > 1 else []

    def _spliced(self, cond: Tensor, alone: Mapping[str, Tensor], tokens: Tokens) -> Tensor:
        marked, length = marks_in(tokens), _length(cond, tokens)
        cond = cond.clone() if alone else cond
        for key, span in spans_of(self).items():
            for word, own in alone.items():
                rows = phrase_rows(marked.get(key, ()), word, length)
                for into, of in zip(_by_token(cond, length), _by_token(own, length), strict=True):
                    into[:, rows, span] = of[:, rows, span]
        return cond

    def _record(self, cond: Tensor, tokens: Tokens) -> Encoded:
        known = {placed.word: content_hash(placed.concept) for placed in self.composition}
        marked, said = marks_in(tokens), asides_in(tokens)
        slots = slots_of(marked, _length(cond, tokens), known)
        ENCODED[cond] = Encoded(None, slots, known, said)  # a value that held its own key would keep it alive
        MEMORY.note({one.word for one in slots})
        return Encoded(cond, slots, known, said)


def weave_clip(clip: comfy.sd.CLIP, composition: Composition) -> ConceptCLIP:
    """`clip` that also knows the composition's placeholders; a word it knows already is replaced."""
    plain = getattr(clip, "plain_tokenizer", clip.tokenizer)
    for placed in composition:
        _fits(placed.concept, clip)
    return _dressed(clip.clone(), plain, woven(getattr(clip, "composition", ()), composition))


def content_hash(concept: Concept) -> str:
    """Empty while the concept is being trained: its content changes with every step."""
    return "" if any(tensor.requires_grad for tensor in concept.tensors().values()) else concept.hash


def _length(cond: Tensor, tokens: Tokens) -> int:
    """How many tokens a conditioning holds: CLIP NegPip makes two rows of each, one for keys and one for values."""
    written = min(sum(map(len, batches)) for batches in tokens.values())
    return cond.shape[1] // max(1, cond.shape[1] // written)


def _by_token(cond: Tensor, length: int) -> list[Tensor]:
    """Views of a conditioning with one row per token."""
    times = cond.shape[1] // length
    return [cond[:, number::times] for number in range(times)]


def _listening(attributes: Mapping[str, str]) -> PatcherInjection:
    """Remembers every phrase as its text encoder reads it, for packs ask the encoders past the CLIP.

    The host injects it where the weights are loaded, and ejects it with them.
    """
    handles: list[RemovableHandle] = []

    def inject(patcher: ModelPatcher) -> None:
        for key, name in attributes.items():
            encoder = getattr(patcher.model, name)
            handles.append(encoder.register_forward_hook(lambda _, given, out, key=key: _keep(key, given[0], out[0])))

    def eject(patcher: ModelPatcher) -> None:
        while handles:
            handles.pop().remove()

    return PatcherInjection(inject, eject)


def _keep(key: str, batches: list[list[object]], out: Tensor) -> None:
    """What one encoder made of its tokens: `out` (batches, tokens, d)."""
    tokens = {key: [[(token,) for token in batch] for batch in batches]}
    spoken = spoken_in(tokens)
    if spoken:
        MEMORY.note(spoken)
        hashes = {word: content_hash(concept) for word, concept in spoken.items()}
        rows, span = out.flatten(0, 1)[None], {key: slice(None)}
        for phrase in phrases_in(rows, marks_in(tokens), span, hashes, _plain(spoken, tokens)):
            MEMORY.keep(phrase)


def _plain(spoken: Mapping[str, Concept], tokens: Tokens) -> set[str]:
    """Words whose phrases are encoded as an ordinary prompt is that says the same."""
    infos = {word: spoken[word].info for word in as_class_word(tokens) & spoken.keys()}
    return {word for word, info in infos.items() if is_ordinary(info.phrase, info.class_word)}


def _words(marked: Mapping[str, list[tuple[int, Mark]]]) -> set[str]:
    return {mark.word for tokens in marked.values() for _, mark in tokens}


def _fits(concept: Concept, clip: comfy.sd.CLIP) -> None:
    widths = {key: encoder.width for key, encoder in encoders_of(clip).items()}
    own = dict(concept.info.base.encoders)
    if own != widths:
        raise ValueError(
            f"The concept '{concept.info.name}' was learned for {concept.info.base.family} (text encoders {own}); "
            f"this CLIP has {widths}. Connect the CLIP of a {concept.info.base.family} checkpoint."
        )


def _dressed(clip: comfy.sd.CLIP, plain: object, composition: Composition) -> ConceptCLIP:
    clip.__class__ = ConceptCLIP
    dressed = cast(ConceptCLIP, clip)
    dressed.plain_tokenizer, dressed.composition = plain, composition
    dressed.tokenizer = copy.copy(plain)
    encoders = encoders_of(dressed)
    dressed.patcher.set_injections(KEY, [_listening({name: one.attribute for name, one in encoders.items()})])
    for name, encoder in encoders.items():
        setattr(dressed.tokenizer, encoder.attribute, placeholder_tokenizer(name, encoder, composition))
    return dressed
