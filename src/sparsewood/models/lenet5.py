"""LeNet-5 as the pruning literature uses it."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from sparsewood.errors import SparsewoodError
from sparsewood.models.initial import drawn_from, require_counts

__all__ = ["lenet5_caffe"]


def lenet5_caffe(
    classes: int = 10, *, channels: int = 1, size: int = 28, generator: torch.Generator | None = None
) -> nn.Sequential:
    """LeNet-5 of the Caffe examples: convolutions of 20 and 50 channels, 500 hidden units; 431,080 parameters on MNIST.

    Both convolutions are 5 x 5 without padding and followed by a maximum over 2 x 2; ReLU stands after the hidden layer
    only. Maps float[N, channels, size, size] to logits float[N, classes]. Raises `SparsewoodError` for an image of
    less than 16 pixels.

    Source: `examples/mnist/lenet.prototxt` of https://github.com/BVLC/caffe, after LeCun et al. 1998.

    >>> sum(parameter.numel() for parameter in lenet5_caffe().parameters())
    431080
    """
    require_counts("lenet5_caffe", classes=classes, channels=channels, size=size)
    edge = ((size - 4) // 2 - 4) // 2
    if edge < 1:
        raise SparsewoodError(f"The 'size' of lenet5_caffe must be at least 16 pixels. Got {size} instead.")
    with drawn_from(generator):
        return nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(channels, 20, 5),
                pool1=nn.MaxPool2d(2),
                conv2=nn.Conv2d(20, 50, 5),
                pool2=nn.MaxPool2d(2),
                flatten=nn.Flatten(),
                fc1=nn.Linear(50 * edge**2, 500),
                relu1=nn.ReLU(),
                fc2=nn.Linear(500, classes),
            )
        )
