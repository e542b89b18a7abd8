"""A small convolutional network for small images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError
from sparsewood.models.initial import drawn_from, require_counts

__all__ = ["SmallConv", "small_conv"]


class SmallConv(nn.Module):
    """3x3 convolutions with ReLU, a 2x2 maximum after every second one, one hidden layer, a classifier."""

    def __init__(self, features: nn.Sequential, hidden: nn.Linear, classifier: nn.Linear) -> None:
        super().__init__()
        self.features = features
        self.hidden = hidden
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        """Logits float[N, classes] of images float[N, channels, size, size]."""
        return self.classifier(self.hidden(self.features(images).flatten(1)).relu())


def small_conv(
    widths: Sequence[int] = (16, 32),
    *,
    hidden: int = 128,
    classes: int = 10,
    channels: int = 1,
    size: int = 8,
    batch_norm: bool = False,
    generator: torch.Generator | None = None,
) -> SmallConv:
    """A small convolutional network for square images of `size` pixels: convolutions, one hidden layer, a classifier.

    `widths` are the convolutions' output channels. Maps float[N, channels, size, size] to logits float[N, classes].
    Initial weights come from `generator` if one is given; the global random state is then left as it was.
    Raises `SparsewoodError` if the image is too small for the number of layers.

    >>> model = small_conv((4, 8), hidden=16)
    >>> model(torch.zeros(2, 1, 8, 8)).shape, sum(p.numel() for p in model.parameters())
    (torch.Size([2, 10]), 2570)
    """
    require_counts("small_conv", hidden=hidden, classes=classes, channels=channels, size=size)
    edge = size >> (len(widths) // 2)
    if not widths or edge < 1:
        raise SparsewoodError(
            f"small_conv needs at least one layer and an image that can be halved once for every second one. "
            f"Got widths={tuple(widths)} and size={size}."
        )
    for width in widths:
        require_counts("small_conv", widths=width)
    with drawn_from(generator):
        features = _features(channels, widths, batch_norm)
        return SmallConv(features, nn.Linear(widths[-1] * edge**2, hidden), nn.Linear(hidden, classes))


def _features(channels: int, widths: Sequence[int], batch_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number, (inputs, outputs) in enumerate(zip((channels, *widths), widths, strict=False), start=1):
        layers.append(nn.Conv2d(inputs, outputs, 3, padding=1, bias=not batch_norm))
        if batch_norm:
            layers.append(nn.BatchNorm2d(outputs))
        layers.append(nn.ReLU())
        if number % 2 == 0:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)
