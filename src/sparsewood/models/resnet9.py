"""A residual network of eight convolutions for images of 32 x 32 pixels."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError
from sparsewood.models.initial import drawn_from, he_normal, require_counts

__all__ = ["ResNet9", "resnet9"]

WIDTHS = (32, 64, 64, 64, 128, 256, 256, 256)


def resnet9(
    classes: int = 10, *, channels: int = 3, size: int = 32, generator: torch.Generator | None = None
) -> ResNet9:
    """ResNet-9: eight 3 x 3 convolutions of 32, 64, 64, 64, 128, 256, 256, 256 channels and a linear classifier.

    The widths are those of the UnitMem paper. What it leaves open is taken from the ResNet-9 of the DAWNBench
    entries: BatchNorm and ReLU after every convolution; a maximum over 2 x 2 after the 2nd, 5th and 6th; the outputs of
    the 2nd and the 6th (after the maximum) added to those of the 4th and the 8th; a maximum over all pixels at the end.

    Maps float[N, channels, size, size] to logits float[N, classes]. Raises `SparsewoodError` for images of less than 8
    pixels.

    Source: Wang, Dziedzic, Backes, Boenisch: Localizing Memorization in SSL Vision Encoders,
    https://arxiv.org/abs/2409.19069.

    >>> [unit.conv.out_channels for unit in resnet9().units()]
    [32, 64, 64, 64, 128, 256, 256, 256]
    """
    require_counts("resnet9", classes=classes, channels=channels, size=size)
    if size < 8:
        raise SparsewoodError(f"The 'size' of resnet9 must be at least 8 pixels. Got {size} instead.")
    with drawn_from(generator):
        model = ResNet9(classes, channels)
        he_normal(model)
        return model


class Unit(nn.Sequential):
    """A 3 x 3 convolution with BatchNorm and ReLU."""

    conv: nn.Conv2d

    def __init__(self, inputs: int, outputs: int) -> None:
        conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        super().__init__(OrderedDict(conv=conv, bn=nn.BatchNorm2d(outputs), relu=nn.ReLU()))


class ResNet9(nn.Module):
    """`conv1` to `conv8` are convolutions with BatchNorm and ReLU; `fc` is the classifier."""

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        for number, (inputs, outputs) in enumerate(zip((channels, *WIDTHS), WIDTHS, strict=False), start=1):
            self.add_module(f"conv{number}", Unit(inputs, outputs))
        self.pool1, self.pool2, self.pool3 = (nn.MaxPool2d(2) for _ in range(3))
        self.pool4 = nn.AdaptiveMaxPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(WIDTHS[-1], classes)

    def units(self) -> list[Unit]:
        """The eight convolutions with their BatchNorm and ReLU, in order."""
        return [module for module in self.children() if isinstance(module, Unit)]

    def forward(self, x: Tensor) -> Tensor:
        """Logits float[N, classes] of images float[N, channels, size, size]."""
        conv1, conv2, conv3, conv4, conv5, conv6, conv7, conv8 = self.units()
        x = self.pool1(conv2(conv1(x)))
        x = x + conv4(conv3(x))
        x = self.pool3(conv6(self.pool2(conv5(x))))
        x = x + conv8(conv7(x))
        return self.fc(self.flatten(self.pool4(x)))
