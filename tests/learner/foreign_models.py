"""torch modules as people write them, one or more for each preset, and files made of them.

`python -m tests.learner.foreign_models` writes the files in tests/learner/files again: torch's newer ONNX exporter
needs the package onnxscript, which nothing else here does.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
import torch.nn.functional as f
from torch import Tensor, nn

FILES: Final = Path(__file__).parent / "files"
TOKENS, NUMBERS, WIDTH, HEADS, CLASSES = 6, 5, 8, 2, 5


class Fused(nn.Module):
    """Attention by torch's own operation."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = (part.view(batch, tokens, HEADS, -1).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        heads = f.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        out: Tensor = self.out(heads.transpose(1, 2).reshape(batch, tokens, width))
        return out


class ByHand(Fused):
    """Attention in parts, with the mask as a constant."""

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, HEADS, width // HEADS).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-2, -1)) * (1 / math.sqrt(width // HEADS))
        if self.causal:
            scores = scores.masked_fill(torch.ones(tokens, tokens, dtype=torch.bool).tril().logical_not(), -math.inf)
        out: Tensor = self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        return out


class Interleaved(Fused):
    """Attention whose heads have their queries, keys and values side by side, and are put together number by number."""

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, HEADS, 3, width // HEADS).transpose(1, 2).unbind(3)
        heads = f.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        out: Tensor = self.out(heads.permute(0, 2, 3, 1).reshape(batch, tokens, width))
        return out


class Packed(nn.Module):
    """Attention by torch's own module, which also hands out its weights."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.attention(x, x, x)[0]
        return out


class Block(nn.Module):
    """Pre-norm, as learner.presets has it."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.first, self.attention, self.second = nn.LayerNorm(WIDTH), attention, nn.LayerNorm(WIDTH)
        self.network = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(approximate="tanh"), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.first(x))
        return x + self.network(self.second(x))


class Transformer(nn.Module):
    """Over rows of numbers, or over words."""

    def __init__(self, attention: nn.Module, words: int = 0) -> None:
        super().__init__()
        self.words = words
        self.first: nn.Module = nn.Embedding(words, WIDTH) if words else nn.Linear(NUMBERS, WIDTH)
        self.position = nn.Embedding(TOKENS, WIDTH) if words else nn.Parameter(torch.randn(TOKENS, WIDTH))
        self.block, self.norm = Block(attention), nn.LayerNorm(WIDTH)
        self.last = nn.Linear(TOKENS * WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        place = self.position(torch.arange(x.shape[1])) if self.words else self.position
        out: Tensor = self.last(self.norm(self.block(self.first(x) + place)).flatten(1))
        return out


class ResidualNet(nn.Module):
    """Convolutions around which the input goes, and a global average."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.Conv2d(4, 4, 3, padding=1)
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = f.relu(self.first(x.view(-1, 1, 8, 8)))
        x = f.relu(x + self.second(x))
        out: Tensor = self.last(f.adaptive_avg_pool2d(x, 1).flatten(1))
        return out


def _cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(6, 12), nn.ReLU(), nn.Dropout(), nn.Linear(12, CLASSES),
    )  # fmt: skip


def _encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 16, batch_first=True, norm_first=True, activation="gelu")
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(TOKENS * WIDTH, 3))


@dataclass(frozen=True)
class Example:
    """How to make a module and a batch of samples, and the layers that it is."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    kinds: str
    words: int = 0

    def module(self) -> nn.Module:
        torch.manual_seed(1)
        return self.make().eval()

    def samples(self, batch: int = 4) -> Tensor:
        torch.manual_seed(2)
        shape = (batch, *self.shape)
        return torch.randint(0, self.words, shape) if self.words else torch.randn(shape)


_ROWS = (TOKENS, NUMBERS)
_TRANSFORMER = (
    "linear position residual layer_norm attention residual layer_norm linear gelu linear layer_norm flatten linear"
)
EXAMPLES: Final[Mapping[str, Example]] = {
    "linear regression": Example(lambda: nn.Linear(20, 1), (20,), "linear"),
    "logistic regression": Example(lambda: nn.Linear(20, 5, bias=False), (20,), "linear"),
    "mlp": Example(
        lambda: nn.Sequential(nn.Linear(20, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 5)),
        (20,), "linear relu linear relu linear",
    ),
    "cnn": Example(
        _cnn, (2, 9, 8), "conv2d relu max_pool conv2d relu average_pool flatten linear relu linear"
    ),
    "transformer": Example(lambda: Transformer(Fused(True)), _ROWS, _TRANSFORMER),
    "attention by hand": Example(lambda: Transformer(ByHand(True)), _ROWS, _TRANSFORMER),
    "attention in another order": Example(lambda: Transformer(Interleaved(False)), _ROWS, _TRANSFORMER),
    "attention that hands out its weights": Example(lambda: Transformer(Packed(False)), _ROWS, _TRANSFORMER),
    "words": Example(
        lambda: Transformer(Fused(False), 17), (TOKENS,), _TRANSFORMER.replace("linear", "embedding", 1), 17
    ),
    "a residual network": Example(
        ResidualNet, (64,), "conv2d relu residual conv2d relu average_pool flatten linear"
    ),
    "torch's encoder layer": Example(
        _encoder, (TOKENS, WIDTH),
        "residual layer_norm attention residual layer_norm linear gelu linear flatten linear",
    ),
}  # fmt: skip


def save_pt2(example: Example, path: Path, fixed: bool = False) -> None:
    """By torch.export, its batch dimension left open unless `fixed`."""
    shapes = None if fixed else ({0: torch.export.Dim("samples")},)
    with torch.enable_grad():
        program = torch.export.export(example.module(), (example.samples(),), dynamic_shapes=shapes)
    torch.export.save(program, path)


def save_onnx(example: Example, path: Path, fixed: bool = False) -> None:
    """By torch's older exporter, which needs no other package."""
    axes = None if fixed else {"samples": {0: "count"}}
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch means to drop it, and users have its files
        torch.onnx.export(
            example.module(), (example.samples(),), str(path), input_names=["samples"], dynamic_axes=axes, dynamo=False
        )


def _forget_sources(path: Path) -> None:
    """Take out what the exporter tells about the lines of Python that it read."""
    import onnx

    model = onnx.load_model(str(path), load_external_data=False)
    model.ClearField("metadata_props")
    model.graph.ClearField("metadata_props")
    for each in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        each.ClearField("metadata_props")
        each.ClearField("doc_string")
    path.write_bytes(model.SerializeToString())


def main() -> None:
    """See the module."""
    for name in ("cnn", "transformer"):
        example = EXAMPLES[name]
        shapes = ({0: torch.export.Dim("samples")},)
        torch.onnx.export(
            example.module(), (example.samples(),), str(FILES / f"{name}.onnx"), dynamo=True, dynamic_shapes=shapes,
            external_data=name == "cnn",
        )  # fmt: skip
        _forget_sources(FILES / f"{name}.onnx")
        with torch.no_grad():
            outputs = example.module()(example.samples())
        np.savez(FILES / f"{name}.npz", samples=example.samples().numpy(), outputs=outputs.numpy())


if __name__ == "__main__":
    main()
