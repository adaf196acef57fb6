"""Stage 3: the text encoder. It reads captions, and a reader must tell from its contexts what the picture shows.

The denoiser sees nothing of a caption but these contexts. CLIP's own loss shapes the end token alone and left "mug"
and "bottle" nearly the same; here every fact of a scene, and which of two objects it belongs to, has to be in them. The
end token alone has to tell the facts too: it is all that the vision encoder will be matched with.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import comfy.ops
import torch
import torch.nn.functional as F
from comfy.clip_model import CLIPLayer, CLIPTextModel
from safetensors.torch import save_file
from torch import Tensor, nn

from ...personalization.comfyui.small_attention import explicit_attention
from ..model import TEXT, WIDTH, PlaygroundTokenizer, initialise, packed, unseen_tokens
from ..world import Figure, Scene
from .state import Run, report, warm_then_decay

BATCH = 192
LONGEST = 48  # tokens of a caption with start and end; the encoder is causal, so what follows changes nothing
HEADS = 4
END = 0.5  # weight of what the end token tells


class Facts(NamedTuple):
    """What `n` scenes show: `answers` (n, fields) numbers into each field's `choices`."""

    answers: Tensor
    choices: list[list[str]]


def facts(scenes: Iterable[Scene]) -> Facts:
    told = [_told(scene) for scene in scenes]
    choices = [sorted(set(column)) for column in zip(*told, strict=True)]
    numbers = [{name: number for number, name in enumerate(names)} for names in choices]
    return Facts(torch.tensor([[n[name] for n, name in zip(numbers, row, strict=True)] for row in told]), choices)


def _told(scene: Scene) -> tuple[str, ...]:
    figures = [word for figure in (scene.subject, scene.second) for word in _words(figure)]
    companion = scene.companion.name if scene.companion else "none"
    return (*figures, scene.background, scene.position, companion, scene.style_name)


def _words(figure: Figure | None) -> tuple[str, ...]:
    if figure is None:
        return ("none",) * 5
    one = figure.instance
    return one.class_name, one.primary.name, one.secondary.name, one.pattern, one.ornament


class Reading(nn.Module):
    """The text encoder and, per field, a query that looks over its contexts and answers."""

    def __init__(self, choices: Sequence[Sequence[str]]) -> None:
        super().__init__()
        self.text = CLIPTextModel(dict(TEXT), torch.float32, "cpu", comfy.ops.disable_weight_init)
        self.queries = nn.Parameter(torch.empty(len(choices), WIDTH))
        self.keys, self.values = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)
        self.answers = nn.ModuleList(nn.Linear(WIDTH, len(names)) for names in choices)
        self.end_answers = nn.ModuleList(nn.Linear(WIDTH, len(names)) for names in choices)

    def loss(self, ids: Tensor, answers: Tensor) -> Tensor:
        """Mean cross-entropy over the fields, from all tokens and from the end; ids (n, tokens), answers (n, k)."""
        contexts = read_captions(self.text, ids)
        queries = self.queries.expand(len(ids), -1, -1)
        looked = explicit_attention(queries, self.keys(contexts), self.values(contexts), HEADS, None)
        end = ends(contexts, ids)
        fields = zip(self.answers, self.end_answers, looked.unbind(1), answers.unbind(1), strict=True)
        losses = [
            F.cross_entropy(answer(row).float(), right) + END * F.cross_entropy(at_end(end).float(), right)
            for answer, at_end, row, right in fields
        ]
        return torch.stack(losses).mean()


def read_captions(text: CLIPTextModel, ids: Tensor) -> Tensor:
    """The host's own forward (b, tokens) -> (b, tokens, width) for captions shorter than 77, attention written out."""
    model, length = text.text_model, ids.shape[1]
    x = model.embeddings.token_embedding(ids) + model.embeddings.position_embedding.weight[:length]
    causal = torch.full((length, length), float("-inf")).triu(1)
    return model.final_layer_norm(through(model.encoder.layers, x, causal))


def through(layers: nn.ModuleList, x: Tensor, mask: Tensor | None) -> Tensor:
    """CLIPLayer by CLIPLayer, out of place: the host's own adds in place, which autograd refuses."""

    def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, *_: object, **__: object) -> Tensor:
        return explicit_attention(q, k, v, heads, mask)

    for layer in cast(Iterable[CLIPLayer], layers):
        x = x + layer.self_attn(layer.layer_norm1(x), None, attention)
        x = x + layer.mlp(layer.layer_norm2(x))
    return x


def ends(hidden: Tensor, ids: Tensor) -> Tensor:
    """The row at each caption's end token."""
    return hidden[torch.arange(len(ids)), (ids == TEXT["eos_token_id"]).int().argmax(-1)]


def token_ids(captions: Sequence[Sequence[str]]) -> Tensor:
    """CLIP's BPE ids (n, captions each, 77), int32."""
    tokenizer = PlaygroundTokenizer().clip_l.tokenizer
    flat = tokenizer([text for row in captions for text in row], padding="max_length", max_length=77, truncation=True)
    ids = torch.tensor(flat["input_ids"], dtype=torch.int32).view(len(captions), -1, 77)
    ended = (ids == TEXT["eos_token_id"]).int().cumsum(-1) > 0
    return ids.masked_fill(ended, TEXT["eos_token_id"])  # CLIP pads with its end token


def train(known: Facts, ids: Tensor, steps: int, cache: Path, weights: Path) -> None:
    generator = torch.Generator().manual_seed(12)
    reading = Reading(known.choices)
    initialise(reading, generator)
    reading.queries.data.normal_(0.0, 1.0, generator=generator)
    table = reading.text.get_input_embeddings().weight
    table.data.copy_(unseen_tokens())
    optimiser = torch.optim.AdamW(reading.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=1e-2, fused=True)
    run = Run(cache / "text.pt", reading, optimiser, generator, decay=0.995)

    def loss(step: int) -> Tensor:
        picked = torch.randint(len(ids), (BATCH,), generator=generator)
        spoken = torch.randint(ids.shape[1], (BATCH,), generator=generator)
        with torch.autocast("cpu", torch.bfloat16):
            return reading.loss(ids[picked, spoken, :LONGEST].long(), known.answers[picked])

    report("text", run.steps(steps, warm_then_decay(1e-3, steps), loss))
    reading.load_state_dict(run.weights())
    save(reading.text, sorted(set(ids.unique().tolist())), weights)


def save(text: CLIPTextModel, tokens: list[int], weights: Path) -> None:
    state = {f"transformer.{name}": value.half().contiguous() for name, value in text.state_dict().items()}
    save_file(packed(state, tokens), weights / "text.safetensors")
