"""The networks on which mean replacement pruning was tried, by name.

Widths, kernels and strides are those of `model_defs.py` in https://github.com/google-research/deadunits (Evci et al.
2018, Mean Replacement Pruning). Each is a spec of `convnet`, which has more parameters: `convnet("morcos_conv",
dropout=0.5)`. The `small_conv` of that file is `convnet("small_conv")`; `sparsewood.models.small_conv` is another.
"""

from __future__ import annotations

import torch

from sparsewood.models.convnet import ConvNet, convnet

__all__ = ["alexnet_cifar10", "alexnet_imagenet", "medium_conv", "morcos_conv", "morcos_convfc"]


def medium_conv(
    classes: int = 10,
    *,
    channels: int = 3,
    size: int = 32,
    batch_norm: bool = False,
    generator: torch.Generator | None = None,
) -> ConvNet:
    """Three convolutions without padding (64 of 5 x 5, 128 and 256 of 3 x 3), then 1024 and 256 units.

    Each convolution is followed by a maximum over 2 x 2.
    Maps float[N, channels, size, size] to logits float[N, classes]. Raises `SparsewoodError` for an image that is too
    small for the layers.

    >>> medium_conv().dense_1.weight.shape
    torch.Size([1024, 1024])
    """
    return convnet(
        "medium_conv", classes=classes, channels=channels, size=size, batch_norm=batch_norm, generator=generator
    )


def morcos_conv(
    classes: int = 10,
    *,
    channels: int = 3,
    size: int = 32,
    batch_norm: bool = False,
    generator: torch.Generator | None = None,
) -> ConvNet:
    """Eleven padded 3 x 3 convolutions of 64 to 512 channels, three of stride 2, and a linear classifier.

    The convolutional network of Morcos et al. 2018, https://arxiv.org/abs/1803.06959.
    Maps float[N, channels, size, size] to logits float[N, classes]. Raises `SparsewoodError` for an image that is too
    small for the layers.

    >>> morcos_conv().output_1.weight.shape
    torch.Size([10, 8192])
    """
    return convnet(
        "morcos_conv", classes=classes, channels=channels, size=size, batch_norm=batch_norm, generator=generator
    )


def morcos_convfc(
    classes: int = 10,
    *,
    channels: int = 3,
    size: int = 32,
    batch_norm: bool = False,
    generator: torch.Generator | None = None,
) -> ConvNet:
    """Seven padded 3 x 3 convolutions of 64 to 512 channels, three of stride 2, then 1024 and 128 units.

    `morcos_conv` with fewer convolutions and more fully connected layers.
    Maps float[N, channels, size, size] to logits float[N, classes]. Raises `SparsewoodError` for an image that is too
    small for the layers.

    >>> morcos_convfc().dense_1.weight.shape
    torch.Size([1024, 8192])
    """
    return convnet(
        "morcos_convfc", classes=classes, channels=channels, size=size, batch_norm=batch_norm, generator=generator
    )


def alexnet_cifar10(
    classes: int = 10,
    *,
    channels: int = 3,
    size: int = 32,
    batch_norm: bool = False,
    generator: torch.Generator | None = None,
) -> ConvNet:
    """AlexNet for images of 32 x 32: padded convolutions of 96, 256, 384, 384, 256 channels, then 256 units.

    The first convolution is 5 x 5 of stride 2; a maximum over 2 x 2 follows it and the second.
    Maps float[N, channels, size, size] to logits float[N, classes]. Raises `SparsewoodError` for an image that is too
    small for the layers.

    >>> alexnet_cifar10().dense_1.weight.shape
    torch.Size([256, 4096])
    """
    return convnet(
        "alexnet_cifar10", classes=classes, channels=channels, size=size, batch_norm=batch_norm, generator=generator
    )


def alexnet_imagenet(
    classes: int = 10,
    *,
    channels: int = 3,
    size: int = 224,
    batch_norm: bool = False,
    generator: torch.Generator | None = None,
) -> ConvNet:
    """AlexNet without padding: convolutions of 96, 256, 384, 384, 256 channels, then twice 4096 units.

    The first convolution is 11 x 11 of stride 4; a maximum over 3 x 3 follows it and the second. No local response
    normalisation and no groups, unlike Krizhevsky et al. 2012.
    Maps float[N, channels, size, size] to logits float[N, classes]. Raises `SparsewoodError` for an image that is too
    small for the layers.

    >>> with torch.device("meta"):
    ...     alexnet_imagenet(1000).dense_1.weight.shape
    torch.Size([4096, 4096])
    """
    return convnet(
        "alexnet_imagenet", classes=classes, channels=channels, size=size, batch_norm=batch_norm, generator=generator
    )
