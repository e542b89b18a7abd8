"""Residual networks for images of 32 x 32 pixels (He et al. 2015, section 4.2)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsewood.errors import SparsewoodError
from sparsewood.models.initial import drawn_from, he_normal, require_choice, require_counts

__all__ = ["ResNetCifar", "resnet20", "resnet_cifar"]

WIDTHS = (16, 32, 64)


def resnet_cifar(
    depth: int = 20,
    classes: int = 10,
    *,
    channels: int = 3,
    shortcut: Literal["A", "B"] = "A",
    generator: torch.Generator | None = None,
) -> ResNetCifar:
    """The residual network of 6n + 2 layers: 20, 32, 44, 56, 110, 1202, or any other n >= 1.

    Shortcut "A" has no parameters: where a stage halves the resolution and doubles the width, every second pixel is
    taken and zero channels are added. "B" has a 1 x 1 convolution with BatchNorm there. With "A" and 10 classes, depths
    20 / 32 / 44 / 56 / 110 / 1202 have 0.27 / 0.46 / 0.66 / 0.85 / 1.7 / 19.4 million parameters.

    Maps float[N, channels, H, W] (H = W = 32 in the paper) to logits float[N, classes]. Raises
    `SparsewoodError` for another depth or shortcut.

    Source: He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, https://arxiv.org/abs/1512.03385.

    >>> sum(parameter.numel() for parameter in resnet_cifar(20).parameters())
    269722
    """
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 8 or (depth - 2) % 6:
        raise SparsewoodError(
            f"The 'depth' of resnet_cifar must be 6n + 2 with n >= 1, as 20, 32, 44, 56, 110. Got {depth!r} instead."
        )
    require_counts("resnet_cifar", classes=classes, channels=channels)
    require_choice("resnet_cifar", "shortcut", shortcut, ("A", "B"))
    with drawn_from(generator):
        model = ResNetCifar((depth - 2) // 6, classes, channels, ZeroPadded if shortcut == "A" else Projected)
        he_normal(model)
        return model


def resnet20(classes: int = 10, *, channels: int = 3, generator: torch.Generator | None = None) -> ResNetCifar:
    """The residual network of 20 layers with parameter-free shortcuts: `resnet_cifar(20, classes)`.

    >>> len(resnet20().layer1)
    3
    """
    return resnet_cifar(20, classes, channels=channels, generator=generator)


class ZeroPadded(nn.Module):
    """Shortcut A: every second pixel, zero channels in equal numbers before and after."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.before = (outputs - inputs) // 2
        self.after = outputs - inputs - self.before

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


class Projected(nn.Sequential):
    """Shortcut B: a 1 x 1 convolution of stride 2 and its BatchNorm."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(nn.Conv2d(inputs, outputs, 1, stride=2, bias=False), nn.BatchNorm2d(outputs))


class Block(nn.Module):
    """Two 3 x 3 convolutions around which the input is led."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = shortcut
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(inner)) + self.shortcut(x))


class ResNetCifar(nn.Module):
    """A 3 x 3 convolution, three stages of `blocks` residual blocks with 16, 32, 64 channels, a linear classifier."""

    def __init__(self, blocks: int, classes: int, channels: int, shortcut: type[ZeroPadded] | type[Projected]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.relu = nn.ReLU()
        self.layer1 = nn.Sequential(*(_same(WIDTHS[0]) for _ in range(blocks)))
        self.layer2 = self._halving(WIDTHS[0], WIDTHS[1], blocks, shortcut)
        self.layer3 = self._halving(WIDTHS[1], WIDTHS[2], blocks, shortcut)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(WIDTHS[2], classes)

    @staticmethod
    def _halving(inputs: int, outputs: int, blocks: int, shortcut: type[ZeroPadded] | type[Projected]) -> nn.Sequential:
        first = Block(inputs, outputs, 2, shortcut(inputs, outputs))
        return nn.Sequential(first, *(_same(outputs) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.flatten(self.pool(x)))


def _same(width: int) -> Block:
    return Block(width, width, 1, nn.Identity())
