"""What is known of a tensor while a model is traced: the labels of its axes. It hangs on the tensor itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sparsewood.structure.labels import Row

__all__ = ["Axes", "axes_of", "meta_like", "next_pass", "set_axes", "tensors_in", "value_of", "without_memory"]


_passes = [0]
"""How many passes there were: what an earlier one noted on a tensor that a cache has kept means nothing now."""


def next_pass() -> None:
    """What is noted from here on belongs to another pass."""
    _passes[0] += 1


@dataclass(slots=True)
class Axes:
    """What the tracer knows of a tensor.

    `rows`: the labels of each axis. `zero`: for each axis, whether the entries at a masked position are 0 (a mask sets
    every parameter entry of a unit to 0; `sigmoid` makes 0.5 of that). `weight`: computed from parameters alone.
    `step`: the number of the operation that made the tensor, -1 for parameters. `unread`: rows that must stay if
    anything reads the tensor, with the reason (positions of a maximum, which mean nothing once others are gone).
    """

    rows: tuple[Row, ...]
    zero: tuple[bool, ...]
    weight: bool = False
    step: int = -1
    unread: tuple[tuple[Row, str], ...] = ()
    number: int = field(default_factory=lambda: _passes[0])

    @property
    def labelled(self) -> bool:
        """Whether any position has a label."""
        return any(row is not None for row in self.rows)


def tensors_in(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among `values` and in the lists and tuples among them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(value)
        elif isinstance(value, dict):
            yield from tensors_in(value.values())


def axes_of(tensor: Tensor) -> Axes | None:
    """What is known of a tensor; `None` for constants and for what the tracer has not met."""
    axes: Axes | None = getattr(tensor, "_sparsewood_axes", None)
    return axes if axes is not None and axes.number == _passes[0] else None


def set_axes(tensor: Tensor, axes: Axes) -> None:
    """Note what is known of a tensor."""
    tensor._sparsewood_axes = axes  # pyright: ignore[reportAttributeAccessIssue]


def meta_like(tensor: Tensor) -> Tensor:
    """A tensor of the same shape, strides and dtype, without values."""
    if tensor.layout is not torch.strided:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def value_of(tensor: Tensor) -> Tensor | None:
    """The values of a tensor, where they are known."""
    return getattr(tensor, "_sparsewood_real", None) if tensor.is_meta else tensor


def without_memory(value: Any) -> Any:
    """Real tensors as meta tensors that remember their values."""
    if isinstance(value, Tensor):
        if value.is_meta:
            return value
        meta = meta_like(value)
        meta._sparsewood_real = value  # pyright: ignore[reportAttributeAccessIssue]
        axes = axes_of(value)
        if axes is not None:
            set_axes(meta, axes)
        return meta
    if isinstance(value, list | tuple) and any(isinstance(item, Tensor) for item in value):
        return type(value)(map(without_memory, value))
    return value
