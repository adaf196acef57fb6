"""Low rank: what a concept changes in the layers of the transformer block at a site.

LoRA (Hu et al., arXiv 2106.09685, section 4.1), where AttnDreamBooth (arXiv 2406.05000) trains the weights themselves:

    merged:      W' = W + strength (alpha / r) B A
    activation:  W x + u (alpha / r) B A x          u = strength x prompt weight, 0 in samples without the word

B starts at zero. A concept acts only where its word is: that is the activation form, and how it is used by default. A
subject's then changes attn2's keys and values in the rows of its own phrase only, so that the prompt's other words stay
what they are; a style's changes every row, and so does whatever is being learned. Merged costs nothing, as any LoRA,
but is then in every conditioning, with or without the word, and no prompt weight reaches it. Guidance then pushes
less towards the subject, since the negative prompt has it too. Whoever asks for it (`PlacedConcept.sparing` off, no
region, no window) gets it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import Tensor
from torch.nn.functional import linear
from typing_extensions import Self

from ..sites import Site, SiteShape

ALPHA = 8.0  # of every file of format 1, so that another rank learns as fast


class Pair(NamedTuple):
    """One layer's change: A (r, in) and B (out, r), fp32."""

    a: Tensor
    b: Tensor


@dataclass(frozen=True)
class LowRank:
    """`layers[site]["attn2.to_k"]` is the pair of that layer; layers are named as the host names them in a block."""

    kind: ClassVar[str] = "low_rank"
    layers: Mapping[Site, Mapping[str, Pair]]

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(self.layers)

    def tensors(self) -> dict[str, Tensor]:
        return {
            f"{self.kind}.{site.key}.{layer}.{name}": tensor
            for site, pairs in self.layers.items()
            for layer, pair in pairs.items()
            for name, tensor in pair._asdict().items()
        }

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Self:
        return type(self)(_layers({name: tensors[name] for name in self.tensors()}, self.sites))

    @classmethod
    def expected(cls, shapes: Sequence[SiteShape], slots: int) -> dict[str, tuple[int | None, ...]]:
        layers = [(shape.site, layer, widths) for shape in shapes for layer, widths in layer_widths(shape).items()]
        named = {f"{cls.kind}.{site.key}.{layer}": widths for site, layer, widths in layers}
        a = {f"{name}.a": (None, width) for name, (width, _) in named.items()}
        return a | {f"{name}.b": (width, None) for name, (_, width) in named.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], shapes: Sequence[SiteShape]) -> Self:
        """ValueError where a layer lacks its A or B, or they are of different ranks."""
        return cls(_layers(tensors, [shape.site for shape in shapes]))


def _layers(tensors: Mapping[str, Tensor], sites: Iterable[Site]) -> dict[Site, dict[str, Pair]]:
    """In the order of `sites`."""
    found: dict[Site, dict[str, dict[str, Tensor]]] = {}
    for name, tensor in tensors.items():
        layer, _, which = name.rpartition(".")
        _, block, number, index, layer = layer.split(".", 4)
        found.setdefault(Site.parse(f"{block}.{number}.{index}"), {}).setdefault(layer, {})[which] = tensor
    return {
        site: {layer: _pair(ab, f"{site.key}.{layer}") for layer, ab in found[site].items()}
        for site in sites
        if site in found
    }


def layer_widths(shape: SiteShape) -> dict[str, tuple[int, int]]:
    """(in, out) of every layer of a block. The feed-forward is 4 times as wide inside, twice that before its gate."""
    width = shape.width
    return {
        **_attention("attn1", width, width),
        **_attention("attn2", width, shape.context),
        "ff.net.0.proj": (width, 8 * width),
        "ff.net.2": (4 * width, width),
    }


def low_rank_change(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """(alpha / r) B A x for x (..., in): (..., out)."""
    return linear(linear(x, a), b) * (ALPHA / a.shape[0])


def _attention(name: str, width: int, context: int) -> dict[str, tuple[int, int]]:
    keys = {f"{name}.{layer}": (context, width) for layer in ("to_k", "to_v")}
    return {f"{name}.to_q": (width, width), **keys, f"{name}.to_out.0": (width, width)}


def _pair(ab: Mapping[str, Tensor], layer: str) -> Pair:
    if set(ab) != {"a", "b"} or ab["a"].shape[0] != ab["b"].shape[1]:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in sorted(ab.items()))
        raise ValueError(f"the layer '{layer}' has {shapes}, where an a (r, in) and a b (out, r) belong")
    return Pair(**ab)
