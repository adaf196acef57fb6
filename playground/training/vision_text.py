"""Stage 3: the text encoder and the vision encoder, trained together on captions and pictures (CLIP's own loss)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

import comfy.ops
import torch
import torch.nn.functional as F
from comfy.clip_model import CLIPLayer, CLIPTextModel, CLIPVisionModelProjection
from safetensors.torch import save_file
from torch import Tensor, nn

from ...personalization.comfyui.small_attention import explicit_attention
from ..model import TEXT, VISION, PlaygroundTokenizer, initialise, packed, unseen_tokens
from .pictures import Pictures
from .state import Run, report, warm_then_decay

BATCH = 192
LONGEST = 48  # tokens of a caption with start and end; the encoder is causal, so what follows changes nothing
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)


class Pair(nn.Module):
    """Both encoders and CLIP's temperature."""

    def __init__(self) -> None:
        super().__init__()
        operations = comfy.ops.disable_weight_init
        self.text = CLIPTextModel(dict(TEXT), torch.float32, "cpu", operations)
        self.vision = CLIPVisionModelProjection(dict(VISION), torch.float32, "cpu", operations)
        self.scale = nn.Parameter(torch.tensor(2.66))

    def loss(self, images: Tensor, ids: Tensor) -> Tensor:
        """Symmetric InfoNCE (Radford et al. 2021, figure 3) over a batch of (n, 3, h, w) and ids (n, tokens)."""
        seen = F.normalize(look(self.vision, images).float(), dim=-1)
        read = F.normalize(self.text.text_projection(ends(read_captions(self.text, ids), ids)).float(), dim=-1)
        logits = self.scale.clamp(max=4.6).exp() * seen @ read.T
        target = torch.arange(len(ids))
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def read_captions(text: CLIPTextModel, ids: Tensor) -> Tensor:
    """The host's own forward (b, tokens) -> (b, tokens, width) for captions shorter than 77, attention written out."""
    model, length = text.text_model, ids.shape[1]
    x = model.embeddings.token_embedding(ids) + model.embeddings.position_embedding.weight[:length]
    causal = torch.full((length, length), float("-inf")).triu(1)
    return model.final_layer_norm(through(model.encoder.layers, x, causal))


def look(vision: CLIPVisionModelProjection, images: Tensor) -> Tensor:
    model = vision.vision_model
    x = through(model.encoder.layers, model.pre_layrnorm(model.embeddings(images)), None)
    return vision.visual_projection(model.post_layernorm(x[:, 0]))


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


def train(data: Pictures, ids: Tensor, steps: int, cache: Path, weights: Path) -> None:
    generator = torch.Generator().manual_seed(12)
    pair = Pair()
    initialise(pair, generator)
    pair.scale.data.fill_(2.66)
    table = pair.text.get_input_embeddings().weight
    table.data.copy_(unseen_tokens())
    optimiser = torch.optim.AdamW(pair.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=1e-2)
    run = Run(cache / "text.pt", pair, optimiser, generator, decay=0.995)

    def loss(step: int) -> Tensor:
        picked = torch.randint(len(ids), (BATCH,), generator=generator)
        spoken = torch.randint(ids.shape[1], (BATCH,), generator=generator)
        with torch.autocast("cpu", torch.bfloat16):
            return pair.loss(prepared(data.images[picked]), ids[picked, spoken, :LONGEST].long())

    report("text", run.steps(steps, warm_then_decay(1e-3, steps), loss))
    pair.load_state_dict(run.weights())
    save(pair, sorted(set(ids.unique().tolist())), weights)


def prepared(images: Tensor) -> Tensor:
    """uint8 (n, h, w, 3) -> what ComfyUI's clip_preprocess makes of a picture of the encoder's own size."""
    return (images.permute(0, 3, 1, 2).float().contiguous() / 255 - MEAN) / STD


def save(pair: Pair, tokens: list[int], weights: Path) -> None:
    text = {f"transformer.{name}": value.half().contiguous() for name, value in pair.text.state_dict().items()}
    save_file(packed(text, tokens), weights / "text.safetensors")
    vision = {name: value.half().contiguous() for name, value in pair.vision.state_dict().items()}
    save_file(vision, weights / "vision.safetensors")
