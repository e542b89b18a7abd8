"""Densely connected networks for images of 32 x 32 pixels."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError
from sparsewood.models.initial import drawn_from, he_normal, require_counts, require_rate

__all__ = ["DenseLayer", "densenet_cifar"]


def densenet_cifar(
    depth: int = 40,
    growth: int = 12,
    *,
    bottleneck: bool = False,
    dropout: float = 0.0,
    classes: int = 10,
    channels: int = 3,
    generator: torch.Generator | None = None,
) -> nn.Sequential:
    """DenseNet of `depth` layers: each of three blocks' layers sees all earlier ones and adds `growth` channels.

    `bottleneck` makes it DenseNet-BC: a 1 x 1 convolution to 4 * `growth` channels before each 3 x 3 one, transitions
    that halve the channels, and a stem of 2 * `growth` instead of 16. DenseNet-40-12 and -100-12 have 1.0 and 7.0
    million parameters, DenseNet-BC-100-12 0.8 (10 classes). Depth is 3n + 4, with bottlenecks 6n + 4.

    Maps float[N, channels, H, W] (H = W = 32 in the paper) to logits float[N, classes]. Raises `SparsewoodError` for
    another depth.

    Source: Huang, Liu, van der Maaten, Weinberger: Densely Connected Convolutional Networks,
    https://arxiv.org/abs/1608.06993.

    >>> [len(block) for name, block in densenet_cifar(40).named_children() if name.startswith("block")]
    [12, 12, 12]
    """
    require_counts("densenet_cifar", depth=depth, growth=growth, classes=classes, channels=channels)
    require_rate("densenet_cifar", "dropout", dropout)
    step = 6 if bottleneck else 3
    if depth < 4 + step or (depth - 4) % step:
        kind = "with bottleneck" if bottleneck else "without bottleneck"
        raise SparsewoodError(
            f"The 'depth' of densenet_cifar {kind} must be {step}n + 4 with n >= 1, as 40, 100. Got {depth} instead."
        )
    inner = 4 * growth if bottleneck else None
    with drawn_from(generator):
        model = nn.Sequential(_layers((depth - 4) // step, growth, inner, dropout, (channels, classes)))
        he_normal(model)
        return model


class DenseLayer(nn.Module):
    """BatchNorm, ReLU, 3 x 3 convolution, whose output is put behind the input's channels.

    With `inner`, BatchNorm, ReLU and a 1 x 1 convolution to so many channels stand before.
    """

    def __init__(self, inputs: int, growth: int, inner: int | None, dropout: float) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if inner is not None:
            layers |= {"bn1": nn.BatchNorm2d(inputs), "relu1": nn.ReLU()}
            layers |= {"conv1": nn.Conv2d(inputs, inner, 1, bias=False)}
        width = inputs if inner is None else inner
        layers |= {"bn2": nn.BatchNorm2d(width), "relu2": nn.ReLU()}
        layers |= {"conv2": nn.Conv2d(width, growth, 3, padding=1, bias=False), "dropout": nn.Dropout(dropout)}
        self.branch = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.branch(x)), 1)


def _layers(
    count: int, growth: int, inner: int | None, dropout: float, ends: tuple[int, int]
) -> OrderedDict[str, nn.Module]:
    channels, classes = ends
    width = 16 if inner is None else 2 * growth
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv=nn.Conv2d(channels, width, 3, padding=1, bias=False))
    for number in (1, 2, 3):
        inputs = [width + growth * earlier for earlier in range(count)]
        layers[f"block{number}"] = nn.Sequential(*(DenseLayer(n, growth, inner, dropout) for n in inputs))
        width += growth * count
        if number < 3:
            outputs = width if inner is None else width // 2
            layers[f"transition{number}"] = _transition(width, outputs)
            width = outputs
    layers |= {"bn": nn.BatchNorm2d(width), "relu": nn.ReLU(), "pool": nn.AdaptiveAvgPool2d(1)}
    layers |= {"flatten": nn.Flatten(), "fc": nn.Linear(width, classes)}
    return layers


def _transition(inputs: int, outputs: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 1, bias=False)
    return nn.Sequential(OrderedDict(bn=nn.BatchNorm2d(inputs), relu=nn.ReLU(), conv=conv, pool=nn.AvgPool2d(2)))
