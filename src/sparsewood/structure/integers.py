"""Where the integers come from that a forward uses as sizes.

While a model is traced, the integers that its modules hold, and the sizes of tensors with labels, are `Tracked`. A
plain integer that is the size of an axis with labels keeps them (see `asked`).
"""

from __future__ import annotations

import dataclasses
import enum
import types
from collections import OrderedDict
from collections.abc import Iterator, MutableMapping, MutableSequence, Sequence
from contextlib import contextmanager
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from sparsewood.structure.axes import axes_of
from sparsewood.structure.expressions import Attribute, Size, leaves
from sparsewood.structure.labels import Row
from sparsewood.structure.sizes import Comparison, SizeUse
from sparsewood.structure.tracer import Tracer
from sparsewood.structure.tracked import Number, Tracked

__all__ = ["attributes_tracked", "length_of", "number_of_elements", "shape_of", "size_of", "stride_of", "tracked_shape"]

SCALED = "scaled by the number of units"

_NOT_SETTINGS = (
    nn.Module,
    Tensor,
    type,
    enum.Enum,
    types.ModuleType,
    types.FunctionType,
    types.MethodType,
)
_NO_SIZES = frozenset([bool, float, str, bytes, type(None), dict, OrderedDict, set, frozenset, Tensor, nn.Parameter])
"""Types of most attributes, which hold no integers that can be replaced."""
_NOT_FROM = ("torch", "builtins", "logging", "threading", "weakref", "functools")

_PARAMETER_AXES: dict[type[nn.Module], dict[str, int]] = {
    nn.Linear: {"out_features": 0, "in_features": 1},
    nn.modules.conv._ConvNd: {"out_channels": 0, "in_channels": 1},
    nn.Embedding: {"num_embeddings": 0, "embedding_dim": 1},
    nn.modules.batchnorm._NormBase: {"num_features": 0},
    nn.GroupNorm: {"num_channels": 0},
}


# ---------------------------------------------------------------- shapes


def row_of(trace: Tracer, tensor: Tensor) -> tuple[Row, ...] | None:
    """The rows of a tensor of the forward, parameters included; `None` if nobody owns any of its axes."""
    axes = axes_of(tensor)
    if axes is None:
        registered = trace._rows.get(id(tensor))
        return None if registered is None else registered[1]
    return axes.rows if axes.labelled else None


def tracked_shape(trace: Tracer, tensor: Tensor) -> Sequence[int]:
    """The shape of a tensor, its labelled sizes tracked."""
    shape = tensor.shape
    rows = row_of(trace, tensor)
    return shape if rows is None or len(rows) != len(shape) else torch.Size(_sizes(trace, shape, rows))


def _sizes(trace: Tracer, shape: Sequence[int], rows: Sequence[Row]) -> list[int]:
    return [
        size if row is None else Tracked.of(size, Size(row), trace.sizes) for size, row in zip(shape, rows, strict=True)
    ]


def shape_of(trace: Tracer, _func: Any, args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Any:
    """The answer to `tensor.shape`."""
    return tracked_shape(trace, args[0])


def size_of(trace: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The answer to `tensor.size()` and `tensor.size(dim)`."""
    dim = args[1] if args[1:] else kwargs.get("dim")
    if isinstance(dim, str):
        return func(*args, **kwargs)
    shape: Any = tracked_shape(trace, args[0])
    return shape if dim is None else shape[dim]


def number_of_elements(trace: Tracer, _func: Any, args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Any:
    """The answer to `tensor.numel()`."""
    return reduce(lambda a, b: a * b, tracked_shape(trace, args[0]), 1)


def length_of(trace: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The answer to `len(tensor)`, which Python makes a plain number."""
    _note_numbers(trace, args[0], slice(0, 1))
    return func(*args, **kwargs)


def stride_of(trace: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The answer to `tensor.stride()`, products of sizes."""
    _note_numbers(trace, args[0], slice(1, None))
    return func(*args, **kwargs)


def _note_numbers(trace: Tracer, tensor: Tensor, axes: slice) -> None:
    trace.sizes += [Number(Size(row)) for row in (row_of(trace, tensor) or ())[axes] if row is not None]


# ---------------------------------------------------------------- attributes


_Slot = tuple[MutableMapping[Any, Any] | MutableSequence[Any], Any, Any, Any]
"""Where an integer was replaced: the container, its key, what was there, and what is there now."""


@contextmanager
def attributes_tracked(model: nn.Module, trace: Tracer) -> Iterator[None]:
    """While a model runs: the integers that its modules hold remember where they came from."""
    first = len(trace.sizes)
    slots: list[_Slot] = []
    try:
        _replace(model, trace.sizes, slots)
        yield
    finally:
        for container, key, before, now in reversed(slots):
            _restore(container, key, before, now)
        _note_scaled(trace)
        _note_parameters(model, trace, first)


def _replace(model: nn.Module, uses: list[Any], slots: list[_Slot]) -> None:
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        for name, value in list(vars(module).items()):
            if type(value) in _NO_SIZES:
                continue
            _replace_value(_Place(vars(module), name, prefix, name, ()), value, uses, slots, seen)
            if _is_plain_object(value) and id(value) not in seen:
                seen.add(id(value))
                for key, inner in list(vars(value).items()):
                    _replace_value(_Place(vars(value), key, prefix, name, (key,)), inner, uses, slots, seen)


@dataclasses.dataclass(frozen=True, slots=True)
class _Place:
    """An integer or a sequence in a container, and the way to it from a module."""

    container: MutableMapping[Any, Any] | MutableSequence[Any]
    key: Any
    module: str
    name: str
    path: tuple[int | str, ...]


def _replace_value(place: _Place, value: Any, uses: list[Any], slots: list[_Slot], seen: set[int]) -> None:
    if type(value) is int:
        _put(place, value, _attribute(place, place.path, value, uses), slots)
    elif type(value) is tuple and any(type(item) is int for item in value):
        items = tuple(_attribute(place, (*place.path, i), item, uses) for i, item in enumerate(value))
        _put(place, value, items, slots)
    elif type(value) is list and id(value) not in seen:
        seen.add(id(value))
        for i, item in enumerate(value):
            if type(item) is int:
                inner = _Place(value, i, place.module, place.name, (*place.path, i))
                _put(inner, item, _attribute(place, inner.path, item, uses), slots)


def _attribute(place: _Place, path: tuple[int | str, ...], value: Any, uses: list[Any]) -> Any:
    """0, 1 and negative numbers are not the sizes of axes that can shrink."""
    if type(value) is not int or value < 2:
        return value
    return Tracked.of(value, Attribute(place.module, place.name, path, value), uses)


def _put(place: _Place, before: Any, now: Any, slots: list[_Slot]) -> None:
    if now is not before:
        place.container[place.key] = now
        slots.append((place.container, place.key, before, now))


def _restore(container: Any, key: Any, before: Any, now: Any) -> None:
    """Put back what was there, unless the forward has put something else there."""
    try:
        found = container[key]
    except (KeyError, IndexError):
        return
    if found is now:
        container[key] = before
    elif type(found) is Tracked:
        container[key] = found.plain


def _is_plain_object(value: Any) -> bool:
    """An object that holds settings: not a module, a tensor, a class, a function or anything of PyTorch's."""
    if isinstance(value, _NOT_SETTINGS) or type(value).__module__.partition(".")[0] in _NOT_FROM:
        return False
    return isinstance(getattr(value, "__dict__", None), dict)


# ---------------------------------------------------------------- what follows once the forward has run


def _note_scaled(trace: Tracer) -> None:
    """What was scaled by a size differs from what a mask leaves of it: the size is that of a row, or an attribute."""
    numbers = [use for use in trace.sizes if isinstance(use, Number)]
    trace.sizes[:] = [use for use in trace.sizes if not isinstance(use, Number)]
    served: dict[Attribute, list[Row]] = {}
    for use in trace.sizes:
        if isinstance(use, SizeUse) and isinstance(use.expression, Attribute):
            served.setdefault(use.expression, []).append(use.row)
    for leaf in dict.fromkeys(leaf for number in numbers for leaf in leaves(number.expression)):
        for row in (
            [leaf.row] if isinstance(leaf, Size) else served.get(leaf, []) if isinstance(leaf, Attribute) else []
        ):
            trace.inexact(row, SCALED)


def _note_parameters(model: nn.Module, trace: Tracer, first: int) -> None:
    """An attribute such as `in_features`, where the forward used it, is the size of an axis of its module's weight."""
    expressions = [
        expression
        for use in trace.sizes[first:]
        for expression in ((use.left, use.right) if isinstance(use, Comparison) else (use.expression,))
    ]
    for leaf in dict.fromkeys(leaf for expression in expressions for leaf in leaves(expression)):
        if isinstance(leaf, Attribute) and not leaf.path:
            row = _parameter_row(model.get_submodule(leaf.module), leaf.name, trace)
            if row is not None:
                trace.sizes.append(SizeUse(-1, leaf.module, "a parameter", row, leaf.value, leaf))


def _parameter_row(module: nn.Module, name: str, trace: Tracer) -> Row:
    for kind, names in _PARAMETER_AXES.items():
        if isinstance(module, kind) and name in names:
            axis = names[name]
            if isinstance(module, nn.modules.conv._ConvTransposeNd):
                axis = 1 - axis
            registered = trace._rows.get(id(getattr(module, "weight", None)))
            row = None if registered is None or axis >= len(registered[1]) else registered[1][axis]
            return row if row is not None and len(row) == getattr(module, name) else None
    return None
