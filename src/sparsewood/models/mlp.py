"""Fully connected networks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import nn

from sparsewood.models.initial import drawn_from, require_choice, require_counts

__all__ = ["lenet_300_100", "mlp"]

ACTIVATIONS: dict[str, Callable[[], nn.Module] | None] = {"linear": None, "tanh": nn.Tanh, "relu": nn.ReLU}


def mlp(
    depth: int = 7,
    width: int = 100,
    *,
    activation: Literal["linear", "tanh", "relu"] = "linear",
    inputs: int = 784,
    classes: int = 10,
    generator: torch.Generator | None = None,
) -> nn.Sequential:
    """A fully connected network of `depth` layers, all but the last of equal width: mlp-7-linear is 784-100x6-10.

    `activation` follows every layer but the last; "linear" means none. Maps float[N, ...] with `inputs` numbers for
    each example to logits float[N, classes]. Raises `SparsewoodError` for counts below 1 and another activation.

    Source: the networks of Lee, Ajanthan, Gould, Torr: A Signal Propagation Perspective for Pruning Neural Networks at
    Initialization, https://arxiv.org/abs/1906.06307.

    >>> [tuple(layer.weight.shape) for layer in mlp(3, 100) if isinstance(layer, nn.Linear)]
    [(100, 784), (100, 100), (10, 100)]
    """
    require_counts("mlp", depth=depth, width=width, inputs=inputs, classes=classes)
    require_choice("mlp", "activation", activation, tuple(ACTIVATIONS))
    with drawn_from(generator):
        return _perceptron((inputs, *[width] * (depth - 1), classes), activation)


def lenet_300_100(inputs: int = 784, classes: int = 10, *, generator: torch.Generator | None = None) -> nn.Sequential:
    """LeNet-300-100: two hidden layers of 300 and 100 units with ReLU; 266,610 parameters on MNIST.

    Maps float[N, ...] with `inputs` numbers for each example to logits float[N, classes]. Raises `SparsewoodError` for
    counts below 1.

    Source: LeCun, Bottou, Bengio, Haffner: Gradient-Based Learning Applied to Document Recognition, 1998,
    https://doi.org/10.1109/5.726791 (there with a sigmoid; ReLU is the habit of the pruning literature).

    >>> sum(parameter.numel() for parameter in lenet_300_100().parameters())
    266610
    """
    require_counts("lenet_300_100", inputs=inputs, classes=classes)
    with drawn_from(generator):
        return _perceptron((inputs, 300, 100, classes), "relu")


def _perceptron(sizes: Sequence[int], activation: str) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    function = ACTIVATIONS[activation]
    for number, (inputs, outputs) in enumerate(pairwise(sizes), start=1):
        layers[f"fc{number}"] = nn.Linear(inputs, outputs)
        if function is not None and number < len(sizes) - 1:
            layers[f"{activation}{number}"] = function()
    return nn.Sequential(layers)
