"""Running a network again and again in the same way, and comparing what it returns."""

from __future__ import annotations

import copy
import math
import random
import types
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsewood.recovery.passes import attention_called_in_parts
from sparsewood.snapshot import write_back

__all__ = ["OPAQUE", "always_alike", "attributes_of", "difference", "finite", "others", "shuffled", "tensors_in"]

OPAQUE = (type, types.ModuleType, types.FunctionType, types.MethodType, types.BuiltinFunctionType)
"""What holds no values of a model."""


@contextmanager
def always_alike(model: nn.Module, seed: int) -> Iterator[None]:
    """Inside, the model runs with these random numbers, as it is written; behind, it has forgotten what it did."""
    with (
        _random_state(seed),
        torch.no_grad(),
        torch.compiler.set_stance("force_eager"),
        attention_called_in_parts(),
        _without_memory(model),
    ):
        yield


def others(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Other values of the same kind: normal ones as large as these, whole numbers in another order, coin tosses."""
    if tensor.dtype is torch.bool:
        return (torch.rand(tensor.shape, generator=generator) < 0.5).to(tensor.device)
    if not tensor.is_floating_point():
        return shuffled(tensor, generator)
    scale = float(tensor.detach().double().abs().mean()) if tensor.numel() else 0.0
    values = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
    return (values * (scale if math.isfinite(scale) and scale > 0 else 1.0)).to(tensor)


def shuffled(tensor: Tensor, generator: torch.Generator) -> Tensor:
    order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
    return tensor.reshape(-1)[order].reshape(tensor.shape)


@contextmanager
def _random_state(seed: int) -> Iterator[None]:
    """The same random numbers every time, of PyTorch, Python and NumPy."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  (the state that models may draw from)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def _without_memory(model: nn.Module) -> Iterator[None]:
    """What a forward keeps in tensors or attributes of modules, such as a cache, is forgotten behind the block.

    So is what it does to weights, as an embedding with `max_norm` does.
    """
    attributes = [(module, dict(vars(module))) for module in model.modules()]
    registered: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (tensors, dict(tensors)) for module in model.modules() for tensors in (module._parameters, module._buffers)
    ]
    values_of = [(tensor, tensor.detach(), tensor.detach().clone()) for tensor in _written(model)]
    containers = [
        (value, copy.copy(value))
        for _, values in attributes
        for name, value in values.items()
        if type(value) in (dict, list, deque) and not name.startswith("_")
    ]
    try:
        yield
    finally:
        for module, values in attributes:
            vars(module).clear()
            vars(module).update(values)
        for now, before in registered:
            now.clear()
            now.update(before)
        with torch.no_grad():
            for tensor, memory, before in values_of:
                _put_back(tensor, memory, before)
        for value, before in containers:
            value.clear()
            if isinstance(value, dict):
                value.update(before)
            else:
                value.extend(before)


def _written(model: nn.Module) -> Iterator[Tensor]:
    """What a forward may write to; parameters that are no plain memory (quantised, sparse, shards) are left alone."""
    plain = (one for one in model.parameters() if type(one) is nn.Parameter and one.layout is torch.strided)
    yield from (one for one in plain if not one.is_meta)
    yield from model.buffers()


def _put_back(tensor: Tensor, memory: Tensor, before: Tensor) -> None:
    """Give a tensor its values; a parameter its memory, too, if another's was put there (`weight.data = ...`)."""
    if type(tensor) is nn.Parameter and not (tensor.dtype is memory.dtype and tensor.is_set_to(memory)):
        tensor.data = memory
    write_back(tensor, before)


def tensors_in(value: Any, inside: set[int]) -> Iterator[Tensor]:
    """The tensors in containers and objects of any class; modules are no outputs."""
    if isinstance(value, Tensor):
        yield value
    elif not isinstance(value, nn.Module | str | bytes | np.ndarray) and id(value) not in inside:
        inside.add(id(value))
        if isinstance(value, Mapping):
            items: list[Any] = list(value.values())
        elif isinstance(value, list | tuple | set | frozenset | deque):
            items = list(value)
        else:
            items = list(attributes_of(value).values())
        for item in items:
            yield from tensors_in(item, inside)


def finite(outputs: Sequence[Tensor]) -> bool:
    return all(bool(torch.isfinite(x).all()) for x in outputs)


def difference(first: Sequence[Tensor], second: Sequence[Tensor], *, floor: float = 1e-6) -> float:
    """The largest difference, relative to the largest output of its tensor, or to `floor` if that is more."""
    largest = 0.0
    for one, other in zip(first, second, strict=True):
        if one.numel():
            a, b = (x.to(torch.complex128 if x.is_complex() else torch.float64) for x in (one, other))
            scale = max(floor, float(a.abs().max()))
            found = float((a - b).abs().max()) / scale
            largest = max(largest, float("inf") if math.isnan(found) else found)
    return largest


def attributes_of(value: object) -> dict[str, Any]:
    """What an object of an unknown class holds, in its dict and its slots."""
    if isinstance(value, OPAQUE):
        return {}
    found: dict[str, Any] = {}
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                found[name] = getattr(value, name)
    return {**found, **getattr(value, "__dict__", {})}
