"""Residual networks of 18, 34 and 50 layers, for large images or, with another stem, for small ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from sparsewood.models.initial import drawn_from, he_normal, require_choice, require_counts

__all__ = ["Basic", "Bottleneck", "ResNet", "resnet18", "resnet34", "resnet50"]

Stem = Literal["imagenet", "cifar"]


def resnet18(
    classes: int = 10, *, channels: int = 3, stem: Stem = "imagenet", generator: torch.Generator | None = None
) -> ResNet:
    """ResNet-18: stages of 2, 2, 2, 2 basic blocks; 11,689,512 parameters with 1000 classes.

    Everything else is as in `resnet34`.

    >>> sum(parameter.numel() for parameter in resnet18(1000).parameters())
    11689512
    """
    return _build("resnet18", (2, 2, 2, 2), Basic, (classes, channels, stem, generator))


def resnet34(
    classes: int = 10, *, channels: int = 3, stem: Stem = "imagenet", generator: torch.Generator | None = None
) -> ResNet:
    """ResNet-34: stages of 3, 4, 6, 3 basic blocks; 21,797,672 parameters with 1000 classes.

    Stem "imagenet" is a 7 x 7 convolution of stride 2 and a maximum of stride 2; "cifar" a 3 x 3 convolution of stride
    1 without maximum. With the first, names in the `state_dict` are torchvision's, so that its weights can be loaded.

    Maps float[N, channels, H, W] to logits float[N, classes]. Raises `SparsewoodError` for another stem.

    Source: He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition, https://arxiv.org/abs/1512.03385.

    >>> with torch.device("meta"):
    ...     sum(parameter.numel() for parameter in resnet34(1000).parameters())
    21797672
    """
    return _build("resnet34", (3, 4, 6, 3), Basic, (classes, channels, stem, generator))


def resnet50(
    classes: int = 10, *, channels: int = 3, stem: Stem = "imagenet", generator: torch.Generator | None = None
) -> ResNet:
    """ResNet-50: stages of 3, 4, 6, 3 bottleneck blocks; 25,557,032 parameters with 1000 classes.

    A block that halves the resolution does so in its 3 x 3 convolution, as torchvision's do. Everything else is as in
    `resnet34`.

    >>> with torch.device("meta"):
    ...     sum(parameter.numel() for parameter in resnet50(1000).parameters())
    25557032
    """
    return _build("resnet50", (3, 4, 6, 3), Bottleneck, (classes, channels, stem, generator))


class Basic(nn.Module):
    """Two 3 x 3 convolutions around which the input is led."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(inputs, width, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.relu1(self.bn1(self.conv1(x)))
        return self.relu2(self.bn2(self.conv2(inner)) + self.downsample(x))


class Bottleneck(nn.Module):
    """A 1 x 1, a 3 x 3 and a widening 1 x 1 convolution around which the input is led."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = _shortcut(inputs, outputs, stride)
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        inner = self.relu1(self.bn1(self.conv1(x)))
        inner = self.relu2(self.bn2(self.conv2(inner)))
        return self.relu3(self.bn3(self.conv3(inner)) + self.downsample(x))


class ResNet(nn.Module):
    """A stem, four stages of blocks with 64, 128, 256, 512 channels inside, the mean over all pixels, a classifier."""

    def __init__(
        self, block: type[Basic] | type[Bottleneck], blocks: Sequence[int], classes: int, channels: int, stem: Stem
    ) -> None:
        super().__init__()
        large = stem == "imagenet"
        self.conv1 = nn.Conv2d(channels, 64, 7 if large else 3, 2 if large else 1, 3 if large else 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if large else nn.Identity()
        self.layer1 = _stage(block, 64, 64, 1, blocks[0])
        self.layer2 = _stage(block, 64 * block.expansion, 128, 2, blocks[1])
        self.layer3 = _stage(block, 128 * block.expansion, 256, 2, blocks[2])
        self.layer4 = _stage(block, 256 * block.expansion, 512, 2, blocks[3])
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(512 * block.expansion, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits float[N, classes] of images float[N, channels, H, W]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.flatten(self.avgpool(x)))


def _build(
    name: str,
    blocks: Sequence[int],
    block: type[Basic] | type[Bottleneck],
    rest: tuple[int, int, Stem, torch.Generator | None],
) -> ResNet:
    classes, channels, stem, generator = rest
    require_counts(name, classes=classes, channels=channels)
    require_choice(name, "stem", stem, ("imagenet", "cifar"))
    with drawn_from(generator):
        model = ResNet(block, blocks, classes, channels, stem)
        he_normal(model)
        return model


def _stage(block: type[Basic] | type[Bottleneck], inputs: int, width: int, stride: int, blocks: int) -> nn.Sequential:
    rest = (block(width * block.expansion, width, 1) for _ in range(blocks - 1))
    return nn.Sequential(block(inputs, width, stride), *rest)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if inputs == outputs and stride == 1:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))
