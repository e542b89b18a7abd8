"""The same positions several times: axes that are expanded or repeated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsewood.structure.asked import argument, asked_by, given, record, sizes_of, trusted
from sparsewood.structure.axes import axes_of, tensors_in
from sparsewood.structure.expressions import Size
from sparsewood.structure.integers import row_of, tracked_shape
from sparsewood.structure.labels import Row
from sparsewood.structure.log import Op
from sparsewood.structure.rules import function_rule, rule
from sparsewood.structure.rules.pointwise import present
from sparsewood.structure.tracer import Tracer
from sparsewood.structure.tracked import expression_of, plain

__all__: list[str] = []

aten = torch.ops.aten

_FREE = -1
"""A size that was not given."""


@rule(*present("expand expand_copy"), family="movement", always=True)
def _expand(t: Tracer, op: Op) -> None:
    """An axis of one position is repeated: who owns that position must keep it; other axes stay as they are."""
    x, shape = op.args[0], op.out.shape
    lead = len(shape) - x.dim()
    rows: list[Row] = [None] * lead + list(t.rows(x))
    zero = [False] * lead + list(t.zero(x))
    sizes = _sizes_of_expand(t, op)
    for axis, size in enumerate(shape):
        if axis < lead or x.shape[axis - lead] != size:
            t.freeze(rows[axis], "it is the only position of its axis, and repeated")
            rows[axis], zero[axis] = _row_asked_for(t, sizes[axis], size), False
        elif asked_by(t) in _ALIGNED:
            _as_long_as(t, rows[axis], sizes[axis])
        else:
            given(t, rows[axis], sizes[axis], size)
    t.set(op.out, rows, zero)


@function_rule(Tensor.expand, Tensor.expand_as, Tensor.broadcast_to, torch.broadcast_to)
def _expand_function(t: Tracer, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A tensor that nobody owns may be expanded to the size of one with labels: then it shrinks with it."""
    out = function(*args, **kwargs)
    x = args[0] if args else kwargs["input"]
    if row_of(t, x) is not None:
        return out
    with torch._C.DisableTorchFunction():
        op = Op(aten.expand.default, (x, list(out.shape)), {}, out)
        if all(expression_of(size, t.sizes) is None for size in _sizes_of_expand(t, op)):
            return out
        before = axes_of(out)
        if before is None and not t.real:  # a constant with labels has no values, for they would have to shrink
            op.out = torch.empty_strided(out.shape, out.stride(), dtype=out.dtype, device="meta")
        _expand(t, op)
        after = axes_of(op.out)
        assert after is not None
        after.weight, after.step = (True, -1) if before is None else (before.weight, before.step)
    return op.out


def _row_asked_for(t: Tracer, value: Any, size: int) -> Row:
    """The new axis can shrink, for all its positions are alike: with the axis or the attribute that gave its size."""
    expression = expression_of(value, t.sizes)
    if isinstance(expression, Size):
        return expression.row
    if size > 1 and asked_by(t) == "multi_head_attention_forward":  # a mask of keys, which meets all heads
        return t.fresh(size)
    if size < 2 or expression is None:
        return None
    row = t.fresh(size)
    record(t, row, size, expression)
    return row


def _as_long_as(t: Tracer, row: Row, value: Any) -> None:
    """Two tensors are to have the same shape: their positions go together."""
    expression = expression_of(value, t.sizes)
    t.unite(row, expression.row if isinstance(expression, Size) else row if value == _FREE else None)


_ALIGNED = ("expand_as", "broadcast_tensors", "matmul", "__matmul__", "__rmatmul__")


def _sizes_of_expand(t: Tracer, op: Op) -> Sequence[Any]:
    name, shape = asked_by(t), op.out.shape
    if name in ("expand", "broadcast_to", "expand_copy"):
        sizes = sizes_of(t.calls[-1], 1, "size", "shape")
        return sizes if len(sizes) == len(shape) else list(shape)
    if name == "expand_as":
        return _aligned_sizes(t, [argument(t.calls[-1], 1, "other")], shape)
    if not trusted(t):
        return op.args[1]
    operands = list(tensors_in((t.calls[-1].args,)))
    if name in _ALIGNED:
        return _aligned_sizes(t, operands, shape)
    for operand in operands if name != "repeat_interleave" else ():  # as long as another, but it is not known which
        for row, size in zip(t.rows(t.stand_in(operand)), operand.shape, strict=True):
            if size > 1 and size in shape:
                _keep_expanded(t, op, row, size)
    return [_FREE] * len(shape)


def _keep_expanded(t: Tracer, op: Op, row: Row, size: int) -> None:
    """Freeze a row if some axis is expanded to its size."""
    old = (1,) * (op.out.dim() - op.args[0].dim()) + tuple(op.args[0].shape)
    if any(before == 1 and after == size for before, after in zip(old, op.out.shape, strict=True)):
        t.freeze(row, f"an axis is expanded to its size {size}")


def _aligned_sizes(t: Tracer, operands: Sequence[Tensor], shape: Sequence[int]) -> list[Any]:
    """The sizes of operands that are broadcast against one another; plain ones where nobody owns the axis of one."""
    sizes: list[Any] = [_FREE] * len(shape)
    for operand in operands:
        for back, size in enumerate(reversed(tracked_shape(t, operand)), start=1):
            fits = back <= len(shape) and plain(size) == shape[-back] and plain(size) > 1
            if fits and (sizes[-back] is _FREE or expression_of(size, t.sizes) is None):
                sizes[-back] = size
    return sizes


@rule(aten.repeat, family="movement")
def _repeat(t: Tracer, op: Op) -> None:
    """Whole axes are repeated: every copy of a position goes with it."""
    x, times = op.args[0], op.args[1]
    lead = len(times) - x.dim()
    rows: list[Row] = [None] * lead + list(t.rows(x))
    zero = [False] * lead + list(t.zero(x))
    asked = _times_asked_for(t, times)
    for axis, count in enumerate(times):
        row = rows[axis]
        if row is not None:
            rows[axis] = np.tile(row, count)
            given(t, None, asked[axis], count)
        elif axis < lead or x.shape[axis - lead] == 1:
            rows[axis] = _row_asked_for(t, asked[axis], count)
        else:
            given(t, None, asked[axis], count)
    t.set(op.out, rows, zero)


def _times_asked_for(t: Tracer, times: Sequence[int]) -> Sequence[Any]:
    if asked_by(t) in ("repeat", "tile"):
        asked = sizes_of(t.calls[-1], 1, "repeats", "dims")
        return [1] * (len(times) - len(asked)) + asked
    return times
