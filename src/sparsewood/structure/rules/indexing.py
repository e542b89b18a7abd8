"""Operations that pick positions by tensors of numbers.

The numbers in an index count positions, which would have to be counted anew if some went: an axis that is indexed
stays, and so do the positions of the index itself. Axes that are not indexed keep their labels. That also holds for
indices that are buffers, such as a permutation of channels: their values, not only their sizes, would have to change.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsewood.structure.asked import given
from sparsewood.structure.labels import Row
from sparsewood.structure.log import Op
from sparsewood.structure.rules import function_rule, rule
from sparsewood.structure.rules.pointwise import present
from sparsewood.structure.tracer import Tracer
from sparsewood.structure.tracked import plain

__all__: list[str] = []

aten = torch.ops.aten


def _keep_indexed(t: Tracer, row: Row, index: Tensor) -> None:
    """Freeze an axis that is indexed, and the index."""
    name = t.parameter_name(index)
    if name is None:
        t.freeze(row, "its positions are chosen by an index")
    else:
        t.freeze(row, f"its positions are chosen by the index buffer {name}, whose values would have to change")
    t.barrier([index], "its values are positions of an axis")


# ---------------------------------------------------------------- one axis, one index


@rule(*present("index_select index_select_backward"), family="movement")
def _index_select(t: Tracer, op: Op) -> None:
    """The positions of one axis that an index lists."""
    x, axis, index = op.args[:3]
    rows = list(t.rows(x))
    if rows:
        _keep_indexed(t, rows[axis], index)
        rows[axis] = None
    t.set(op.out, rows, t.zero(x))


@rule(aten.take, family="movement")
def _take(t: Tracer, op: Op) -> None:
    """Elements by their number: everything stays."""
    for row in t.rows(op.args[0]):
        _keep_indexed(t, row, op.args[1])
    t.set(op.out, (None,) * op.out.dim())


@rule(aten.gather, family="movement")
def _gather(t: Tracer, op: Op) -> None:
    """Along one axis the index says which position; along the others it has positions of its own, which are united."""
    x, axis, index = op.args[:3]
    rows, zero, dim = _alongside(t, x, [index], axis), list(t.zero(x)), x.dim()
    if dim == 0:
        t.set(op.out, (None,) * op.out.dim())
        return
    t.freeze(t.rows(x)[axis], "its positions are chosen by an index")
    rows[axis] = t.rows(index)[axis] if index.dim() else None
    zero[axis % dim] = False
    t.set(op.out, rows, zero)


def _alongside(t: Tracer, x: Tensor, others: Sequence[Tensor], axis: int) -> list[Row]:
    """Unite the axes of `x` but one with those of tensors that are as long, or shorter: then both stay."""
    rows = list(t.rows(x))
    for other in others:
        for one, place in enumerate(t.rows(other)):
            if x.dim() != other.dim() or one == axis % x.dim():
                continue
            if x.shape[one] == other.shape[one]:
                rows[one] = t.unite(rows[one], place, why="an index has its own positions along it")
            else:
                t.freeze(rows[one], "only its first positions are indexed")
                t.freeze(place, "it is shorter than the axis that it indexes")
                rows[one] = None
    return rows


# ---------------------------------------------------------------- written by an index along one axis


@rule(*present("scatter scatter_ scatter_add scatter_add_ scatter_reduce scatter_reduce_"), family="movement")
def _scatter(t: Tracer, op: Op) -> None:
    """Entries are written or added at the positions of one axis that an index says; other axes are united."""
    x, axis, index, source = op.args[0], op.args[1], op.args[2], _value_or_source(op)
    others = [index, source] if isinstance(source, Tensor) else [index]
    adds = "add" in str(op.func)
    _write(t, op, axis, _alongside(t, x, others, axis), others, adds or not _is_zero(source))


def _value_or_source(op: Op) -> Any:
    return op.args[3] if len(op.args) > 3 else op.kwargs.get("src", op.kwargs.get("value"))


def _is_zero(value: Any) -> bool:
    return not isinstance(value, Tensor) and value == 0


def _write(t: Tracer, op: Op, axis: int, rows: list[Row], others: Sequence[Tensor], source_counts: bool) -> None:
    """Freeze the axis that is indexed; the others are 0 where both the operand and what is written are."""
    x = op.args[0]
    if not rows:
        t.set(op.out, rows)
        return
    for tensor in (x, *others):
        if tensor.dim():
            t.freeze(t.rows(tensor)[axis], "its positions are chosen by an index")
    zero = list(t.zero(x))
    if source_counts:
        source = t.zero(others[-1]) if others[-1].dim() == x.dim() and len(others) > 1 else (False,) * x.dim()
        zero = [a and b for a, b in zip(zero, source, strict=True)]
    if "reduce" in str(op.func):
        zero = [False] * len(zero)
    zero[axis] = False
    t.set(op.out, rows, zero)


@rule(*present("index_add index_add_ index_copy index_copy_ index_reduce index_reduce_"), family="movement")
def _index_add(t: Tracer, op: Op) -> None:
    """Slices of a source are written or added at the positions of one axis that an index lists."""
    x, axis, index, source = op.args[:4]
    t.barrier([index], "its values are positions of an axis")
    _write(t, op, axis, _alongside(t, x, [source], axis), [source, source], True)


@rule(*present("index_fill index_fill_"), family="movement")
def _index_fill(t: Tracer, op: Op) -> None:
    """One number is written at the positions of one axis that an index lists."""
    x, axis, index, value = op.args[:4]
    rows = list(t.rows(x))
    if rows:
        _keep_indexed(t, rows[axis], index)
    t.set(op.out, rows, t.zero(x) if _is_zero(value) else None)


# ---------------------------------------------------------------- several indices


@function_rule(Tensor.__getitem__, Tensor.__setitem__)
def _subscript(t: Tracer, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Lists of numbers in `x[...]` are constants: PyTorch makes tensors of them where nobody sees it."""
    x, index, *value = args
    if isinstance(index, tuple):
        index = tuple(_constant(t, item) for item in index)
    elif not isinstance(index, list) or not any(isinstance(item, Sequence) for item in index):
        index = _constant(t, index)  # a list of lists is several indices, or one, as the release of PyTorch has it
    args = (x, index, *value)
    t.calls[-1] = dataclasses.replace(t.calls[-1], args=args)
    return function(*args, **kwargs)


def _constant(t: Tracer, item: Any) -> Any:
    """A list, tuple, range or array of numbers as the tensor that it is as an index; anything else as it is."""
    if isinstance(item, np.ndarray):
        return torch.tensor(item) if item.dtype.kind in "bi" else item
    numbers = list(_leaves(item))
    if not isinstance(item, _LISTS) or not all(isinstance(one, int | np.integer | np.bool_) for one in numbers):
        return item
    for number in numbers:
        given(t, None, number, plain(number))
    return torch.tensor(item, dtype=None if numbers else torch.long)


_LISTS = (list, tuple, range)


def _leaves(item: Any) -> Iterator[Any]:
    """What is in lists and in the lists among them."""
    for one in item if isinstance(item, _LISTS) else ():
        yield from _leaves(one) if isinstance(one, _LISTS) else (one,)


@rule(*present("index _unsafe_index"), family="movement")
def _index(t: Tracer, op: Op) -> None:
    """`x[indices]`: the axes of the indices, broadcast, stand where the first was, or in front if they are apart."""
    x = op.args[0]
    places = _layout(op.args[1], x.dim(), op.out.dim())
    t.set(op.out, *_indexed(t, x, op.args[1], places))


def _layout(indices: Sequence[Tensor | None], dim: int, out_dim: int) -> list[int | None]:
    """For every axis of `x[indices]` the axis of `x` that it is; `None` for those of the indices."""
    taken = _indexed_axes(indices)
    kept = [axis for axis in range(dim) if axis not in taken]
    together = taken == list(range(taken[0], taken[-1] + 1)) if taken else True
    first = taken[0] if taken and together else 0
    layout: list[int | None] = list(kept)
    layout[first:first] = [None] * (out_dim - len(kept))
    return layout


def _indexed_axes(indices: Sequence[Tensor | None]) -> list[int]:
    """The axes that are indexed: a mask takes as many as it has."""
    taken: list[int] = []
    axis = 0
    for index in indices:
        width = index.dim() if index is not None and index.dtype in (torch.bool, torch.uint8) else 1
        if index is not None:
            taken += range(axis, axis + width)
        axis += width
    return taken


def _indexed(
    t: Tracer, x: Tensor, indices: Sequence[Tensor | None], layout: Sequence[int | None]
) -> tuple[list[Row], list[bool]]:
    """The rows of `x[indices]`, and where it is 0; what is indexed stays."""
    rows, zero = t.rows(x), t.zero(x)
    axis = 0
    for index in indices:
        width = index.dim() if index is not None and index.dtype in (torch.bool, torch.uint8) else 1
        if index is not None:
            for one in range(axis, axis + width):
                _keep_indexed(t, rows[one], index)
        axis += width
    return (
        [None if place is None else rows[place] for place in layout],
        [place is not None and zero[place] for place in layout],
    )


@rule(*present("index_put index_put_ _unsafe_index_put _index_put_impl_"), family="movement")
def _index_put(t: Tracer, op: Op) -> None:
    """`x[indices] = values`: axes that are not indexed are united with those of the values."""
    x, indices, values = op.args[:3]
    taken = set(_indexed_axes(indices))
    kept = [axis for axis in range(x.dim()) if axis not in taken]
    _indexed(t, x, indices, ())
    rows, zero = list(t.rows(x)), list(t.zero(x))
    width = _broadcast_width(indices)
    layout = _layout(indices, x.dim(), width + len(kept)) if width is not None else None
    if layout is None or values.dim() > len(layout):
        t.barrier([x, values], "it is written by a mask")
        t.set(op.out, rows)
        return
    pad = len(layout) - values.dim()
    places, value_zero = (None,) * pad + t.rows(values), (False,) * pad + t.zero(values)
    for number, axis in enumerate(layout):
        size = values.shape[number - pad] if number >= pad else 1
        _put_along(t, rows, zero, axis, (places[number], value_zero[number], size))
    t.set(op.out, rows, [kept and axis not in taken for axis, kept in enumerate(zero)])


def _broadcast_width(indices: Sequence[Tensor | None]) -> int | None:
    """How many axes the indices have when broadcast; `None` if one is a mask among others."""
    given = [index for index in indices if index is not None]
    masks = [index for index in given if index.dtype in (torch.bool, torch.uint8)]
    if masks:
        return 1 if len(given) == 1 else None
    return max((index.dim() for index in given), default=0)


def _put_along(t: Tracer, rows: list[Row], zero: list[bool], axis: int | None, values: tuple[Row, bool, int]) -> None:
    """Unite one axis of the operand with the values' at the same place, unless the values are repeated along it."""
    row, value_zero, size = values
    if axis is None:
        t.freeze(row, "it is written by an index")
    elif size == len(_or_empty(rows[axis])) or (rows[axis] is None and size > 1):
        rows[axis] = t.unite(rows[axis], row)
        zero[axis] = zero[axis] and value_zero
    else:
        t.freeze(row, "it is the only position of its axis, and repeated")
        zero[axis] = False


def _or_empty(row: Row) -> Sequence[int]:
    return () if row is None else row  # pyright: ignore[reportReturnType]


@rule(
    *present("put put_ masked_scatter masked_scatter_ masked_select nonzero nonzero_static argwhere"), family="movement"
)
def _by_number(t: Tracer, op: Op) -> None:
    """Elements are counted through all axes, or listed by their positions: everything stays."""
    t.barrier([value for value in op.args if isinstance(value, Tensor)], "its elements are counted")
    t.set(op.out, (None,) * op.out.dim())
