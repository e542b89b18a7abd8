"""Residual networks with BatchNorm and ReLU before each convolution: ResNet-164 and wide residual networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError
from sparsewood.models.initial import drawn_from, he_normal, require_counts, require_rate

__all__ = ["BasicUnit", "BottleneckUnit", "PreactivatedResNet", "preact_resnet", "wide_resnet"]


def preact_resnet(
    depth: int = 164, *, classes: int = 10, channels: int = 3, generator: torch.Generator | None = None
) -> PreactivatedResNet:
    """The pre-activation residual network of 9n + 2 layers with bottleneck units: 110, 164, 1001.

    Depth 164 has 1.7 million parameters (10 classes). Where the width changes, the shortcut is a 1 x 1 convolution of
    the input after its BatchNorm and ReLU. Maps float[N, channels, H, W] (H = W = 32 in the paper) to logits
    float[N, classes]. Raises `SparsewoodError` for another depth.

    Source: He, Zhang, Ren, Sun: Identity Mappings in Deep Residual Networks, https://arxiv.org/abs/1603.05027.

    >>> model = preact_resnet(11)
    >>> len([layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]) - 3  # three shortcuts
    11
    """
    require_counts("preact_resnet", depth=depth, classes=classes, channels=channels)
    if depth < 11 or (depth - 2) % 9:
        raise SparsewoodError(
            f"The 'depth' of preact_resnet must be 9n + 2 with n >= 1, as 11, 110, 164, 1001. Got {depth} instead."
        )
    with drawn_from(generator):
        model = PreactivatedResNet((64, 128, 256), (depth - 2) // 9, BottleneckUnit, classes, channels)
        he_normal(model)
        return model


def wide_resnet(
    depth: int = 28,
    width: int = 10,
    *,
    dropout: float = 0.0,
    classes: int = 10,
    channels: int = 3,
    generator: torch.Generator | None = None,
) -> PreactivatedResNet:
    """The wide residual network WRN-depth-width of 6n + 4 layers, `width` times as wide as the plain one.

    Three stages of n units with two 3 x 3 convolutions each, of 16, 32, 64 times `width` channels, dropout between the
    two. WRN-16-8 and WRN-28-10 have 11.0 and 36.5 million parameters (10 classes). Maps float[N, channels, H, W]
    (H = W = 32 in the paper) to logits float[N, classes]. Raises `SparsewoodError` for another depth.

    Source: Zagoruyko, Komodakis: Wide Residual Networks, https://arxiv.org/abs/1605.07146.

    >>> model = wide_resnet(16, 6)
    >>> [len(stage) for stage in (model.stage1, model.stage2, model.stage3)], model.fc.in_features
    ([2, 2, 2], 384)
    """
    require_counts("wide_resnet", depth=depth, width=width, classes=classes, channels=channels)
    require_rate("wide_resnet", "dropout", dropout)
    if depth < 10 or (depth - 4) % 6:
        raise SparsewoodError(
            f"The 'depth' of wide_resnet must be 6n + 4 with n >= 1, as 10, 16, 28, 40. Got {depth} instead."
        )

    def unit(inputs: int, outputs: int, stride: int) -> BasicUnit:
        return BasicUnit(inputs, outputs, stride, dropout)

    with drawn_from(generator):
        model = PreactivatedResNet((16 * width, 32 * width, 64 * width), (depth - 4) // 6, unit, classes, channels)
        he_normal(model)
        return model


class BasicUnit(nn.Module):
    """BatchNorm, ReLU, 3 x 3 convolution, twice; where the width changes the shortcut is a convolution."""

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu1(self.bn1(x))
        inner = self.relu2(self.bn2(self.conv1(active)))
        return self.conv2(self.dropout(inner)) + (x if self.shortcut is None else self.shortcut(active))


class BottleneckUnit(nn.Module):
    """BatchNorm, ReLU, convolution three times: 1 x 1 to a quarter of the width, 3 x 3, 1 x 1 back."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        width = outputs // 4
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.relu3 = nn.ReLU()
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.shortcut = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu1(self.bn1(x))
        inner = self.conv2(self.relu2(self.bn2(self.conv1(active))))
        return self.conv3(self.relu3(self.bn3(inner))) + (x if self.shortcut is None else self.shortcut(active))


class PreactivatedResNet(nn.Module):
    """A 3 x 3 convolution of 16 channels, three stages of `units` units, BatchNorm, ReLU, a linear classifier."""

    def __init__(
        self,
        widths: Sequence[int],
        units: int,
        unit: Callable[[int, int, int], nn.Module],
        classes: int,
        channels: int,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.stage1 = _stage(16, widths[0], 1, units, unit)
        self.stage2 = _stage(widths[0], widths[1], 2, units, unit)
        self.stage3 = _stage(widths[1], widths[2], 2, units, unit)
        self.bn = nn.BatchNorm2d(widths[2])
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(widths[2], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits float[N, classes] of images float[N, channels, H, W]."""
        x = self.stage3(self.stage2(self.stage1(self.conv1(x))))
        return self.fc(self.flatten(self.pool(self.relu(self.bn(x)))))


def _stage(
    inputs: int, outputs: int, stride: int, units: int, unit: Callable[[int, int, int], nn.Module]
) -> nn.Sequential:
    rest = (unit(outputs, outputs, 1) for _ in range(units - 1))
    return nn.Sequential(unit(inputs, outputs, stride), *rest)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Conv2d | None:
    return None if inputs == outputs and stride == 1 else nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
