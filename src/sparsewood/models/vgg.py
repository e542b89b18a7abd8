"""The networks of Simonyan and Zisserman, with several ends."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from sparsewood.errors import SparsewoodError
from sparsewood.models.initial import drawn_from, he_normal, require_choice, require_counts

__all__ = ["vgg"]

WIDTHS = (64, 128, 256, 512, 512)
STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
ENDS = ("cifar", "imagenet", "conv", "gap")


def vgg(
    depth: Literal[11, 13, 16, 19] = 16,
    *,
    classifier: Literal["cifar", "imagenet", "conv", "gap"] = "cifar",
    batch_norm: bool = True,
    pointwise: bool = False,
    classes: int = 10,
    channels: int = 3,
    size: int = 32,
    generator: torch.Generator | None = None,
) -> nn.Sequential:
    """VGG-11, -13, -16 or -19: five stages of 3 x 3 convolutions with ReLU, each ending with a maximum over 2 x 2.

    What follows (f features are left of `size` pixels: f = 512 at 32, 25,088 at 224):

    * "cifar": f-512-512-classes with ReLU, and with BatchNorm in place of dropout if `batch_norm`.
    * "imagenet": f-4096-4096-classes with ReLU and dropout of 0.5, as in the paper.
    * "conv": the same as convolutions: one over all pixels that are left, one of 1 x 1; then the linear classifier.
    * "gap": the mean over all pixels, then the linear classifier.

    `pointwise` makes the last convolution of stages 3 to 5 of VGG-16 one of 1 x 1 (the paper's configuration C). At
    size 224 with 1000 classes, "imagenet" and no BatchNorm, depth 16 has 138,357,544 parameters.

    Maps float[N, channels, size, size] to logits float[N, classes]. Raises `SparsewoodError` for another depth or
    classifier, images of less than 32 pixels, and `pointwise` at another depth than 16.

    Source: Simonyan, Zisserman: Very Deep Convolutional Networks for Large-Scale Image Recognition,
    https://arxiv.org/abs/1409.1556.

    >>> model = vgg(16)
    >>> [layer.out_features for layer in model.classifier if isinstance(layer, nn.Linear)]
    [512, 512, 10]
    """
    require_counts("vgg", classes=classes, channels=channels, size=size)
    require_choice("vgg", "depth", depth, tuple(STAGES))
    require_choice("vgg", "classifier", classifier, ENDS)
    if size < 32:
        raise SparsewoodError(f"The 'size' of vgg must be at least 32 pixels: it is halved five times. Got {size}.")
    if pointwise and depth != 16:
        raise SparsewoodError(f"'pointwise' is a variant of vgg of depth 16. Got depth={depth}.")
    with drawn_from(generator):
        features = nn.Sequential(*_features(STAGES[depth], channels, batch_norm, pointwise))
        end = _classifier(classifier, size // 32, classes, batch_norm)
        model = nn.Sequential(OrderedDict(features=features, classifier=end))
        he_normal(model)
        return model


def _features(stages: Sequence[int], channels: int, batch_norm: bool, pointwise: bool) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for width, count in zip(WIDTHS, stages, strict=True):
        for position in range(count):
            kernel = 1 if pointwise and position == 2 else 3
            layers.append(nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=not batch_norm))
            layers += [nn.BatchNorm2d(width), nn.ReLU()] if batch_norm else [nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return layers


def _classifier(kind: str, edge: int, classes: int, batch_norm: bool) -> nn.Sequential:
    if kind == "gap":
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))
    if kind == "conv":
        over_all = (nn.Conv2d(512, 4096, edge), nn.ReLU(), nn.Dropout())
        pointwise = (nn.Conv2d(4096, 4096, 1), nn.ReLU(), nn.Dropout())
        return nn.Sequential(*over_all, *pointwise, nn.Flatten(), nn.Linear(4096, classes))
    width = 512 if kind == "cifar" else 4096
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs in (512 * edge**2, width):
        layers.append(nn.Linear(inputs, width))
        if kind == "cifar" and batch_norm:
            layers.append(nn.BatchNorm1d(width))
        layers.append(nn.ReLU())
        if kind == "imagenet":
            layers.append(nn.Dropout())
    return nn.Sequential(*layers, nn.Linear(width, classes))
