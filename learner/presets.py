"""Models that most jobs start from, by name; each is a plain list of layers (learner.architecture)."""

from __future__ import annotations

from collections.abc import Sequence

from learner.architecture import (
    Attention,
    Conv2d,
    Flatten,
    Gelu,
    Layer,
    LayerNorm,
    Linear,
    MaxPool,
    MeanSquaredError,
    Model,
    Position,
    Relu,
    Residual,
)


def linear_regression(features: int, levels: int, scale: int = 0) -> Model:
    """One number from the features, near label * 2**scale; labels are 0 to levels - 1."""
    return Model((features,), (Linear(1),), MeanSquaredError(levels, scale))


def logistic_regression(features: int, classes: int) -> Model:
    """Cross-entropy of one linear layer."""
    return mlp((features, classes))


def mlp(sizes: Sequence[int]) -> Model:
    """Linear layers with ReLU between them; `sizes` runs from the features of a sample to the number of classes."""
    layers: list[Layer] = [layer for outputs in sizes[1:-1] for layer in (Linear(outputs), Relu())]
    return Model(tuple(sizes[:1]), (*layers, *(Linear(size) for size in sizes[1:][-1:])))


def cnn(image: Sequence[int], classes: int, channels: Sequence[int] = (16, 32), hidden: int = 64) -> Model:
    """3x3 convolutions, each with ReLU and halved by max pooling, then two linear layers.

    Args:
        image: channels, height, width.
    """
    blocks = [layer for width in channels for layer in (Conv2d(width, 3, 1, 1), Relu(), MaxPool(2, 2))]
    return Model(tuple(image), (*blocks, Flatten(), Linear(hidden), Relu(), Linear(classes)))


def transformer(
    tokens: Sequence[int], classes: int, width: int = 32, heads: int = 2, blocks: int = 2, causal: bool = False
) -> Model:
    """Pre-norm blocks of attention and a GELU network four times as wide, over rows of numbers.

    Args:
        tokens: how many tokens, and the numbers in each, for example the rows and columns of an image.
    """
    body: list[Layer] = []
    for _ in range(blocks):
        body.append(Residual((LayerNorm(), Attention(heads, causal))))
        body.append(Residual((LayerNorm(), Linear(4 * width), Gelu(), Linear(width))))
    return Model(
        tuple(tokens), (Linear(width), Position(), *body, LayerNorm(), Flatten(), Linear(classes))
    )  # fmt: skip


def sizes_of(model: Model) -> tuple[int, ...] | None:
    """The sizes from which `mlp` makes this model; None if it makes another."""
    sizes = (model.features, *(layer.outputs for layer in model.layers if isinstance(layer, Linear)))
    return sizes if len(sizes) > 1 and mlp(sizes) == model else None
