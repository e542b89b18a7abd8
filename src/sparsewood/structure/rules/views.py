"""The same elements in other shapes: views, axes in another order, axes of one position."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from sparsewood.structure.asked import argument, asked_by, given_all, sizes_of, trusted
from sparsewood.structure.expressions import Constant, Size
from sparsewood.structure.integers import tracked_shape
from sparsewood.structure.labels import Row, _matching_axes
from sparsewood.structure.log import Op
from sparsewood.structure.rules import rule
from sparsewood.structure.rules.pointwise import present
from sparsewood.structure.sizes import Comparison
from sparsewood.structure.tracer import Tracer

__all__: list[str] = []

aten = torch.ops.aten

_ONLY = "it is the only position of its axis"
_FREE = -1
"""A size that was not given."""


# ---------------------------------------------------------------- views


@rule(*present("_unsafe_view view_copy _reshape_alias _reshape_copy reshape"), aten.view.default, family="movement")
def _view(t: Tracer, op: Op) -> None:
    """The same elements in row-major order: axes that are flattened or split are rectangles."""
    x, shape = op.args[0], op.out.shape
    rows = t.regroup(t.rows(x), x.shape, shape)
    given_all(t, rows, _sizes_of_view(t, op), shape)
    t.set(op.out, rows, _zero_after_view(t, x, rows, shape))


def _zero_after_view(t: Tracer, x: Tensor, rows: Sequence[Row], shape: Sequence[int]) -> list[bool]:
    """An axis is 0 where it is masked if all the labelled axes that it is made of are."""
    old, old_zero = t.rows(x), t.zero(x)
    zero = [False] * len(shape)
    for axes, new_axes in [] if 0 in shape else _matching_axes(x.shape, shape):
        kept = all(old_zero[axis] for axis in axes if old[axis] is not None)
        for axis in new_axes:
            zero[axis] = kept and rows[axis] is not None
    return zero


def _sizes_of_view(t: Tracer, op: Op) -> Sequence[Any]:
    """The sizes that were asked for, -1 where PyTorch found them."""
    name, shape = asked_by(t), op.out.shape
    sizes: Sequence[Any] = op.args[1]
    if name in ("view", "reshape", "view_copy", "_unsafe_view"):
        sizes = sizes_of(t.calls[-1], 1, "shape", "size")
    elif name in ("view_as", "reshape_as"):
        sizes = tracked_shape(t, argument(t.calls[-1], 1, "other"))
    elif name == "unflatten":
        call = t.calls[-1]
        first, inner = argument(call, 1, "dim"), sizes_of(call, 2, "sizes")
        first %= len(shape) - len(inner) + 1
        sizes = [_FREE] * first + inner + [_FREE] * (len(shape) - first - len(inner))
    elif trusted(t):
        return [_FREE] * len(shape)
    return sizes if len(sizes) == len(shape) else list(shape)


@rule(aten.view.dtype, family="movement")
def _view_dtype(t: Tracer, op: Op) -> None:
    """The same bytes as other numbers: zeros stay zeros; if the sizes of the numbers differ, the last axis stays."""
    x = op.args[0]
    rows = list(t.rows(x))
    if rows and x.element_size() != op.out.element_size():
        t.freeze(rows[-1], "its bytes are read as numbers of another size")
        rows[-1] = None
    t.set(op.out, rows, t.zero(x))


@rule(*present("as_strided as_strided_ as_strided_copy"), family="movement")
def _as_strided(t: Tracer, op: Op) -> None:
    """Strides are numbers that count elements: everything stays; but pooling to one place only renews its layout."""
    x = op.args[0]
    if op.before == tuple(op.args[1]) and t.calls and t.calls[-1].name.startswith("adaptive_avg_pool"):
        t.set(op.out, t.rows(x), t.zero(x))
        return
    t.barrier(op.args[:1], "its memory is read with strides of the caller's")
    t.set(op.out, (None,) * op.out.dim())


# ---------------------------------------------------------------- axes in another order, axes of one position


def _permuted(t: Tracer, op: Op, order: Sequence[int]) -> None:
    rows, zero = t.rows(op.args[0]), t.zero(op.args[0])
    t.set(op.out, [rows[axis] for axis in order], [zero[axis] for axis in order])


@rule(*present("permute permute_copy"), family="movement")
def _permute(t: Tracer, op: Op) -> None:
    """Axes change places."""
    _permuted(t, op, op.args[1])


@rule(*present("transpose transpose_ transpose_copy swapaxes swapaxes_ swapdims swapdims_"), family="movement")
def _transpose(t: Tracer, op: Op) -> None:
    """Two axes change places."""
    order = list(range(op.out.dim()))
    if order:
        first, second = op.args[1], op.args[2]
        order[first], order[second] = order[second], order[first]
    _permuted(t, op, order)


@rule(*present("t t_ t_copy numpy_T"), family="movement")
def _reversed_axes(t: Tracer, op: Op) -> None:
    """The axes in reverse order."""
    _permuted(t, op, range(op.out.dim())[::-1])


@rule(*present("mT adjoint mH"), family="movement")
def _last_two(t: Tracer, op: Op) -> None:
    """The last two axes change places."""
    *order, a, b = range(op.out.dim())
    _permuted(t, op, [*order, b, a])


@rule(*present("unsqueeze unsqueeze_ unsqueeze_copy"), family="movement")
def _unsqueeze(t: Tracer, op: Op) -> None:
    """A new axis of one position that nobody owns."""
    rows, zero = list(t.rows(op.args[0])), list(t.zero(op.args[0]))
    axis = op.args[1] % (len(rows) + 1)
    rows.insert(axis, None)
    zero.insert(axis, False)
    t.set(op.out, rows, zero)


@rule(*present("squeeze squeeze_ squeeze_copy"), family="movement")
def _squeeze(t: Tracer, op: Op) -> None:
    """Axes of one position go; who owned the position must keep it, and other axes must not come down to one."""
    x = op.args[0]
    rows, zero = t.rows(x), t.zero(x)
    gone = _squeezed(op, len(rows))
    for axis in gone:
        t.freeze(rows[axis], _ONLY)
    for axis, row in enumerate(rows):
        if (
            row is not None
            and axis not in gone
            and (op.get("dim", 1) is None or axis in _axes_asked_for(op, len(rows)))
        ):
            t.sizes.append(Comparison(Size(row), "!=", Constant(1), True))
    t.set(op.out, _without(rows, gone), _without(zero, gone))


def _squeezed(op: Op, dim: int) -> list[int]:
    """The axes that went. The operand of an in-place form has its new shape already."""
    gone = dim - op.out.dim()
    axes = None if op.get("dim", 1) is None else _axes_asked_for(op, dim)
    if gone == 0:
        return []
    if op.args[0] is not op.out:
        axes = [axis for axis, size in enumerate(op.args[0].shape) if size == 1 and (axes is None or axis in axes)]
    if axes is None or len(axes) != gone:
        raise ValueError("which axes were squeezed in place is not known")
    return axes


def _axes_asked_for(op: Op, dim: int) -> list[int]:
    asked = op.get("dim", 1)
    return [axis % dim for axis in ([asked] if isinstance(asked, int) else asked)]


def _without(values: Sequence[Any], axes: Iterable[int]) -> tuple[Any, ...]:
    gone = set(axes)
    return tuple(value for axis, value in enumerate(values) if axis not in gone)


@rule(*present("diagonal diagonal_copy"), family="movement")
def _diagonal(t: Tracer, op: Op) -> None:
    """The entries (i, i) of two axes: position i of both goes together; other diagonals are fixed positions."""
    x, offset = op.args[0], op.get("offset", 1, 0)
    first, second = op.get("dim1", 2, 0) % x.dim(), op.get("dim2", 3, 1) % x.dim()
    rows, zero = t.rows(x), t.zero(x)
    row: Row = None
    if offset == 0 and x.shape[first] == x.shape[second]:
        row = t.unite(rows[first], rows[second])
    else:
        for one in (rows[first], rows[second]):
            t.freeze(one, "a diagonal of fixed positions is read")
    both = (first, second)
    t.set(op.out, (*_without(rows, both), row), (*_without(zero, both), zero[first] or zero[second]))
