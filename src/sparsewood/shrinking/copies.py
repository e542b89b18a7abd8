"""Copies of a network in which what shared memory still shares it, in float64 or in the network's own dtypes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Coarsest", "duplicate"]

_PLAIN = (Tensor, nn.Parameter, nn.Buffer)


def duplicate(model: nn.Module, *, double: bool) -> nn.Module:
    """A copy of the model; parameters and buffers that are views of the same memory are so in the copy, too.

    Attributes that are results of computations, as those that old-style weight normalisation keeps, are copied as
    plain values.

    >>> first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    >>> second.weight.data = first.weight.data
    >>> copied = duplicate(nn.Sequential(first, second), double=True)
    >>> copied[0].weight.data_ptr() == copied[1].weight.data_ptr() != first.weight.data_ptr(), copied[0].weight.dtype
    (True, torch.float64)
    """
    memo: dict[int, Any] = {}
    storages: dict[tuple[int, torch.dtype], Tensor] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        if type(tensor) in _PLAIN and tensor.layout is torch.strided and not tensor.is_meta:
            values = _view(tensor, storages, double=double)
            memo[id(tensor)] = values if type(tensor) is Tensor else _wrapped(tensor, values)
        elif type(tensor) is Tensor and tensor.layout is not torch.strided:
            memo[id(tensor)] = tensor.detach().clone()  # copy.deepcopy knows COO only
    for module in model.modules():
        for tensor in _held(vars(module), set()):
            if not tensor.is_leaf and id(tensor) not in memo:
                memo[id(tensor)] = _converted(tensor.detach().clone(), double=double)
    copied = copy.deepcopy(model, memo)
    return copied.double() if double else copied


def _view(tensor: Tensor, storages: dict[tuple[int, torch.dtype], Tensor], *, double: bool) -> Tensor:
    storage = tensor.untyped_storage()
    key = (storage._cdata, tensor.dtype)
    if key not in storages:
        whole = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        size = storage.nbytes() // tensor.element_size()
        storages[key] = _converted(whole.set_(storage, 0, (size,), (1,)).clone(), double=double)
    view = storages[key].as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
    view = view.conj() if tensor.is_conj() else view  # or the copy would read the bytes as other values
    return view._neg_view() if tensor.is_neg() else view


def _wrapped(tensor: Tensor, values: Tensor) -> Tensor:
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(values, requires_grad=tensor.requires_grad)
    return nn.Buffer(values)


def _converted(tensor: Tensor, *, double: bool) -> Tensor:
    return tensor.double() if double and tensor.is_floating_point() else tensor


def _held(value: Any, seen: set[int]) -> Iterator[Tensor]:
    """Tensors in attributes and in their containers."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | list | tuple) and id(value) not in seen:
        seen.add(id(value))
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _held(item, seen)


class Coarsest(TorchDispatchMode):
    """Inside: the coarsest dtype in which something is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.eps = torch.finfo(torch.float64).eps

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in _held(result if isinstance(result, list | tuple) else [result], set()):
            if tensor.is_floating_point() or tensor.is_complex():
                self.eps = max(self.eps, torch.finfo(tensor.dtype).eps)
        return result
