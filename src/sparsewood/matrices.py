"""Weights of linear layers and convolutions as matrices: what an output, or an input, is multiplied with."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from sparsewood.errors import SparsewoodError
from sparsewood.parameters import Entry, entries, is_weight

__all__ = ["as_matrices", "as_weight", "matrix_layers"]


def matrix_layers(model: nn.Module) -> list[Entry]:
    """The weights of all linear layers and convolutions, in registration order, tied ones once.

    Weights that are computed from other parameters (a parametrisation, `torch.nn.utils.prune`) are left out. Raises
    `SparsewoodError` if there are none.

    >>> [entry.name for entry in matrix_layers(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2)))]
    ['0.weight', '2.weight']
    """
    found = [e for e in entries(model) if e.leaf == "weight" and isinstance(e.module, nn.Linear | _ConvNd)]
    found = [entry for entry in found if is_weight(entry)]
    if not found:
        raise SparsewoodError(
            f"{type(model).__name__} has no weight of a linear layer or convolution. Those that are computed from "
            "other parameters do not count: remove the parametrisation first."
        )
    return found


def as_matrices(entry: Entry, weight: Tensor) -> Tensor:
    """`weight`, shaped like the entry's parameter, as [groups, outputs of one group, inputs of one output * kernel].

    >>> layer = nn.Conv2d(4, 6, 3, groups=2)
    >>> as_matrices(entries(layer)[0], layer.weight).shape
    torch.Size([2, 3, 18])
    """
    matrices = weight.reshape(entry.groups, len(weight) // entry.groups, *weight.shape[1:])
    return (matrices.transpose(1, 2) if entry.inputs_first else matrices).flatten(2)


def as_weight(entry: Entry, matrices: Tensor) -> Tensor:
    """What `as_matrices` was made of.

    >>> layer = nn.ConvTranspose1d(4, 6, 3, groups=2)
    >>> bool((as_weight(entries(layer)[0], as_matrices(entries(layer)[0], layer.weight)) == layer.weight).all())
    True
    """
    shape = entry.parameter.shape
    if not entry.inputs_first:
        return matrices.reshape(shape)
    groups, outputs, _ = matrices.shape
    return matrices.reshape(groups, outputs, shape[0] // groups, *shape[2:]).transpose(1, 2).reshape(shape)
