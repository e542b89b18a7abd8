"""What a model stores: parameters, non-zeros and bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsewood.parameters import entries, is_weight

__all__ = ["Count", "count", "count_nonzero"]

_SIGNED = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
"""Dtypes without a kernel that counts, and those of the same width that have one; 0 has the same bits in both."""


@dataclass(frozen=True)
class Count:
    """Sizes of a model's state.

    `params` and `nonzero` are over all parameters, `prunable` and `prunable_nonzero` over the weights that are pruned
    by default, tied parameters once. `bytes` is the state in memory: parameters and persistent buffers.
    """

    params: int
    nonzero: int
    prunable: int
    prunable_nonzero: int
    bytes: int


def count(model: nn.Module) -> Count:
    """Parameters, non-zero parameters and bytes of `model`; nothing is run.

    What is counted are stored values: a mask that is applied in `forward` does not show in `nonzero`. NaN is not zero.

    >>> layer = nn.Linear(3, 2)
    >>> _ = nn.init.ones_(layer.weight), nn.init.zeros_(layer.bias)
    >>> count(layer)
    Count(params=8, nonzero=6, prunable=6, prunable_nonzero=6, bytes=32)
    """
    found = [(entry.parameter.numel(), count_nonzero(entry.parameter), is_weight(entry)) for entry in entries(model)]
    return Count(
        params=sum(size for size, _, _ in found),
        nonzero=sum(nonzero for _, nonzero, _ in found),
        prunable=sum(size for size, _, weight in found if weight),
        prunable_nonzero=sum(nonzero for _, nonzero, weight in found if weight),
        bytes=_state_bytes(model),
    )


def count_nonzero(tensor: Tensor) -> int:
    """Elements that are not zero; on the meta device, where there are no values, all of them.

    >>> count_nonzero(torch.tensor([0.0, -0.0, 2.0, float("nan")]))
    2
    """
    tensor = tensor.detach()
    if tensor.is_meta:
        return tensor.numel()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    elif tensor.layout is torch.sparse_coo:
        tensor = tensor.coalesce().values()
    elif tensor.layout is not torch.strided:
        tensor = tensor.values()
    if tensor.is_floating_point() and tensor.element_size() == 1:  # float8 has no comparison kernels
        tensor = tensor.float()
    elif tensor.dtype in _SIGNED:
        tensor = tensor.view(_SIGNED[tensor.dtype])
    return int(tensor.count_nonzero())


def _state_bytes(model: nn.Module) -> int:
    sizes: dict[tuple[int, int], int] = {}
    for tensor in _state(model):
        for part in _dense_parts(tensor):
            # The same place in the same storage is one tensor under two names, also where the objects differ.
            place = (part.untyped_storage()._cdata, int(part.storage_offset()) * part.element_size())
            sizes[place] = max(sizes.get(place, 0), part.numel() * part.element_size())
    return sum(sizes.values())


def _state(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                yield buffer


def _dense_parts(tensor: Tensor) -> tuple[Tensor, ...]:
    if tensor.layout is torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if tensor.layout is torch.sparse_csr:
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    return (tensor,)
