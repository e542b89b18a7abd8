"""What is removed as one: the shape of a unit inside one parameter tensor.

Every granularity but N:M and `Coupled` is a tiling: `tile(shape)` gives the size of a unit along each axis, and the
units form a grid of shape `shape / tile`. Two functions are all that is needed: `to_units` (elements -> units) and
`to_elements` (units -> elements).

Axis 0 means outputs, axis 1 the inputs of one output, further axes space. The weights of transposed convolutions, which
are stored otherwise, are brought into this order before a granularity sees their shape.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from sparsewood.errors import SparsewoodError

__all__ = ["NM", "Block", "Channel", "Column", "Coupled", "Element", "Filter", "Kernel", "Row", "Units", "Vector"]

Reduction = Literal["sum", "amax", "first"]
Shape = Sequence[int]


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class Granularity(ABC):
    """The shape of one unit."""

    @abstractmethod
    def tile(self, shape: Shape) -> tuple[int, ...]:
        """Size of a unit along each axis of a parameter of `shape`; raises `SparsewoodError` if it does not fit."""


@dataclass(frozen=True)
class Element(Granularity):
    """Single weights: unstructured pruning.

    >>> Element().tile((4, 3))
    (1, 1)
    """

    def tile(self, shape: Shape) -> tuple[int, ...]:
        return (1,) * len(shape)


@dataclass(frozen=True)
class NM(Granularity):
    """N:M sparsity: of every `m` consecutive weights along `axis` the best `n` stay (axis 1 = inputs).

    The removed share is fixed at 1 - n/m. Source: Mishra et al. 2021, https://arxiv.org/abs/2104.08378.

    >>> NM(2, 4)
    NM(n=2, m=4, axis=1)
    """

    n: int
    m: int
    axis: int = 1

    def __post_init__(self) -> None:
        if not all(map(_is_whole, (self.n, self.m, self.axis))) or not 0 <= self.n <= self.m or self.m < 1:
            raise SparsewoodError(
                f"N:M needs whole numbers 0 <= n <= m, m >= 1, and an axis. Got {self.n}:{self.m}, axis {self.axis!r}."
            )

    def tile(self, shape: Shape) -> tuple[int, ...]:
        if not -len(shape) <= self.axis < len(shape):
            raise SparsewoodError(f"{self.n}:{self.m} along axis {self.axis} does not exist in shape {tuple(shape)}.")
        if shape[self.axis] % self.m:
            raise SparsewoodError(
                f"{self.n}:{self.m} needs axis {self.axis} divisible by {self.m}. Got {shape[self.axis]} "
                f"in shape {tuple(shape)}."
            )
        return (1,) * len(shape)


@dataclass(frozen=True)
class Block(Granularity):
    """Dense blocks, `sizes` long along the leading axes; missing axes are taken whole.

    >>> Block((2, 2)).tile((4, 6)), Block((8, 4)).tile((16, 8, 3, 3))
    ((2, 2), (8, 4, 3, 3))
    """

    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", _as_tuple(self.sizes))
        if not self.sizes or not all(_is_whole(size) and size >= 1 for size in self.sizes):
            raise SparsewoodError(f"Block sizes must be whole numbers >= 1. Got {self.sizes}.")

    def tile(self, shape: Shape) -> tuple[int, ...]:
        if len(self.sizes) > len(shape):
            raise SparsewoodError(f"Block {self.sizes} has more axes than shape {tuple(shape)}.")
        for axis, size in enumerate(self.sizes):
            if shape[axis] % size:
                raise SparsewoodError(
                    f"Block {self.sizes} needs axis {axis} divisible by {size}. "
                    f"Got {shape[axis]} in shape {tuple(shape)}."
                )
        return self.sizes + tuple(shape[len(self.sizes) :])


@dataclass(frozen=True)
class Units(Granularity):
    """One unit for each index along `axes`; the other axes are taken whole.

    >>> Units((0,)).tile((8, 4, 3, 3)), Units((0, 2)).tile((8, 4, 3, 3))
    ((1, 4, 3, 3), (1, 4, 1, 3))
    """

    axes: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "axes", _as_tuple(self.axes))
        if not self.axes or not all(_is_whole(axis) and axis >= 0 for axis in self.axes):
            raise SparsewoodError(f"{type(self).__name__} needs axes, whole numbers >= 0. Got {self.axes}.")

    def tile(self, shape: Shape) -> tuple[int, ...]:
        if max(self.axes) >= len(shape):
            raise SparsewoodError(
                f"{type(self).__name__} needs axis {max(self.axes)}. Shape {tuple(shape)} has {len(shape)} axes."
            )
        return tuple(1 if axis in self.axes else size for axis, size in enumerate(shape))


@dataclass(frozen=True)
class Filter(Units):
    """Output units (axis 0): conv filters, neurons."""

    axes: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Row(Units):
    """Rows of a matrix (axis 0)."""

    axes: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Column(Units):
    """Columns of a matrix (axis 1)."""

    axes: tuple[int, ...] = (1,)


@dataclass(frozen=True)
class Channel(Units):
    """Input channels (axis 1)."""

    axes: tuple[int, ...] = (1,)


@dataclass(frozen=True)
class Kernel(Units):
    """2-D kernels: one unit for each (output, input) pair."""

    axes: tuple[int, ...] = (0, 1)


@dataclass(frozen=True)
class Vector(Units):
    """Kernel rows shared by all inputs, (out, kh); `Vector((0, 1, 2))` is one row for each (out, in, kh)."""

    axes: tuple[int, ...] = (0, 2)


@dataclass(frozen=True)
class Coupled(Granularity):
    """Whole units of the network's structure: a channel with all that belongs to it, in every parameter.

    Such a unit has no shape inside one parameter, so nothing can be tiled with it: `sparsewood.prune_units` chooses
    among them, and `sparsewood run` and `Pruner` call it for a `Pruning` with this granularity.

    >>> Coupled()
    Coupled()
    """

    def tile(self, shape: Shape) -> tuple[int, ...]:
        raise SparsewoodError(
            f"Coupled() units reach over several parameters and have no shape inside one (asked for {tuple(shape)}). "
            "Choose among them with sparsewood.prune_units(model, example_inputs, ...), or take Filter()."
        )


def _as_tuple(value: object) -> tuple[object, ...]:
    return tuple(value) if isinstance(value, Iterable) else (value,)


def grid(shape: Shape, tile: Shape) -> tuple[int, ...]:
    """Number of units along each axis."""
    return tuple(size // step if step else 0 for size, step in zip(shape, tile, strict=True))


def to_units(elements: Tensor, tile: Shape, reduction: Reduction = "sum") -> Tensor:
    """Reduce each tile to one number; the result has the shape of the unit grid.

    >>> import torch
    >>> to_units(torch.arange(8.0).reshape(2, 4), (1, 2))
    tensor([[ 1.,  5.],
            [ 9., 13.]])
    """
    if all(step == 1 for step in tile):
        return elements
    if elements.numel() == 0:
        return elements.new_zeros(grid(elements.shape, tile))
    split = [size for pair in zip(grid(elements.shape, tile), tile, strict=True) for size in pair]
    dims = tuple(range(1, 2 * len(tile), 2))
    tiled = elements.reshape(split)
    match reduction:
        case "sum":
            return tiled.sum(dims)
        case "amax":
            return tiled.amax(dims)
        case "first":
            return tiled[(slice(None), 0) * len(tile)]


def to_elements(units: Tensor, tile: Shape) -> Tensor:
    """Spread each unit's value over its tile.

    >>> import torch
    >>> to_elements(torch.tensor([[True, False]]), (2, 1))
    tensor([[ True, False],
            [ True, False]])
    """
    if all(step == 1 for step in tile):
        return units
    interleaved = [size for n in units.shape for size in (n, 1)]
    split = [size for pair in zip(units.shape, tile, strict=True) for size in pair]
    shape = [n * step for n, step in zip(units.shape, tile, strict=True)]
    return units.reshape(interleaved).expand(split).reshape(shape)
