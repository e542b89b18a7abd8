"""A small convolutional network for small images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError

__all__ = ["SmallConv", "small_conv"]


class SmallConv(nn.Module):
    """3x3 convolutions with ReLU, a 2x2 maximum after every second one, one hidden layer, a classifier."""

    def __init__(self, features: nn.Sequential, hidden: nn.Linear, classifier: nn.Linear) -> None:
        super().__init__()
        self.features = features
        self.hidden = hidden
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        """Logits [n, classes] of images [n, in_channels, size, size]."""
        return self.classifier(self.hidden(self.features(images).flatten(1)).relu())


def small_conv(
    channels: Sequence[int] = (16, 32),
    *,
    hidden: int = 128,
    classes: int = 10,
    in_channels: int = 1,
    size: int = 8,
    batch_norm: bool = False,
    generator: torch.Generator | None = None,
) -> SmallConv:
    """A small convolutional network for square images of `size` pixels: convolutions, one hidden layer, a classifier.

    Initial weights come from `generator` if one is given; the global random state is then left as it was.
    Raises `SparsewoodError` if the image is too small for the number of layers.

    >>> model = small_conv((4, 8), hidden=16)
    >>> model(torch.zeros(2, 1, 8, 8)).shape, sum(p.numel() for p in model.parameters())
    (torch.Size([2, 10]), 2570)
    """
    edge = size >> (len(channels) // 2)
    if not channels or edge < 1:
        raise SparsewoodError(
            f"small_conv needs at least one layer and an image that can be halved once for every second one. "
            f"Got channels={tuple(channels)} and size={size}."
        )
    with torch.random.fork_rng(devices=[], enabled=generator is not None):
        if generator is not None:
            torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        features = _features(in_channels, channels, batch_norm)
        return SmallConv(features, nn.Linear(channels[-1] * edge**2, hidden), nn.Linear(hidden, classes))


def _features(in_channels: int, channels: Sequence[int], batch_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number, (inputs, outputs) in enumerate(zip((in_channels, *channels), channels, strict=False), start=1):
        layers.append(nn.Conv2d(inputs, outputs, 3, padding=1, bias=not batch_norm))
        if batch_norm:
            layers.append(nn.BatchNorm2d(outputs))
        layers.append(nn.ReLU())
        if number % 2 == 0:
            layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)
