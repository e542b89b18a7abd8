"""Operations that take parts of an axis: literal positions keep their labels, parts that follow the sizes do not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sparsewood.structure.asked import argument, asked_by, given, record, trusted
from sparsewood.structure.expressions import Operation
from sparsewood.structure.labels import Row
from sparsewood.structure.log import Op
from sparsewood.structure.rules import rule
from sparsewood.structure.rules.pointwise import present
from sparsewood.structure.tracer import Tracer
from sparsewood.structure.tracked import expression_of, plain

__all__: list[str] = []

aten = torch.ops.aten

_FIXED = "a slice of it begins or ends at a fixed position"
_PICKED = "a fixed position of it is read"

# ---------------------------------------------------------------- one position, all positions one by one


@rule(*present("select select_copy"), family="movement")
def _select(t: Tracer, op: Op) -> None:
    """One position of an axis, by its number: the axis stays."""
    _drop(t, op, op.args[1] % (op.out.dim() + 1), [op.out], _PICKED)


@rule(*present("unbind unbind_copy"), family="movement")
def _unbind(t: Tracer, op: Op) -> None:
    """Every position of an axis becomes a tensor: as many as there are, so the axis stays."""
    _drop(t, op, op.get("dim", 1, 0) % op.args[0].dim(), op.out, "its positions become tensors of their own")


def _drop(t: Tracer, op: Op, axis: int, results: Iterable[Tensor], why: str) -> None:
    rows, zero = t.rows(op.args[0]), t.zero(op.args[0])
    t.freeze(rows[axis], why)
    for result in results:
        t.set(result, rows[:axis] + rows[axis + 1 :], zero[:axis] + zero[axis + 1 :])


# ---------------------------------------------------------------- slices


class _Bound(NamedTuple):
    """One end of a slice: what was given for it, the position that it is, and whether it may be beyond the end."""

    value: Any
    place: int
    clipped: bool = True


@rule(*present("slice slice_copy"), family="movement")
def _slice(t: Tracer, op: Op) -> None:
    """A part of an axis. What decides where it begins and ends must not move: see `_end_at`."""
    x = op.args[0]
    axis = op.get("dim", 1, 0) % x.dim()
    size, step = x.shape[axis], op.get("step", 4, 1)
    start, stop, _ = slice(op.get("start", 2), op.get("end", 3), step).indices(size)
    rows = list(t.rows(x))
    bounds = _bounds_asked_for(t, op, axis, start, stop)
    _judge(t, rows[axis], bounds, step)
    row = rows[axis]
    if row is not None and len(row) != op.out.shape[axis]:
        rows[axis] = row[start:stop:step]
    t.set(op.out, rows, t.zero(x))


def _judge(t: Tracer, row: Row, bounds: Sequence[_Bound] | None, step: int) -> None:
    size = 0 if row is None else len(row)
    if row is None:
        for bound in bounds or ():
            _stays(t, bound)
    elif bounds is None or step != 1:
        t.freeze(row, _FIXED)
    else:
        for bound in bounds:
            _end_at(t, row, bound, size)


def _stays(t: Tracer, bound: _Bound) -> None:
    expression = expression_of(bound.value, t.sizes)
    if expression is not None:
        record(t, None, plain(bound.value), expression)


def _end_at(t: Tracer, row: np.ndarray, bound: _Bound, size: int) -> None:
    """A slice begins or ends at a position: as many as now must be before it, or after it if counted from the end."""
    value, place, clipped = bound
    expression = expression_of(value, t.sizes)
    if value is None or (expression is None and (place == 0 or (clipped and place == size and value > 0))):
        return
    from_end = plain(value) < 0
    part = row[place:] if from_end else row[:place]
    if expression is None or len(part) != abs(plain(value)):
        t.freeze(row, _FIXED)
    else:
        record(t, part, len(part), Operation("neg", (expression,)) if from_end else expression)


def _bounds_asked_for(t: Tracer, op: Op, axis: int, start: int, stop: int) -> Sequence[_Bound] | None:
    """The ends of the slice as they were given; `None` if that is not known."""
    size = op.args[0].shape[axis]
    name = asked_by(t)
    if name in ("narrow", "narrow_copy"):
        first, length = argument(t.calls[-1], 2, "start"), argument(t.calls[-1], 3, "length")
        if isinstance(first, Tensor):
            return None
        first = first if first >= 0 else first + size
        return (_Bound(first, start), _Bound(first + length, stop, clipped=False))
    if name in ("__getitem__", "__setitem__"):
        asked = _slice_of_axis(t, axis)
        if asked is None or isinstance(asked.start, Tensor) or isinstance(asked.stop, Tensor):
            return None
        if slice(_plain(asked.start), _plain(asked.stop)).indices(size)[:2] == (start, stop):
            return (_Bound(asked.start, start), _Bound(asked.stop, stop))
        return None
    return () if start == 0 and stop == size and trusted(t) else None


def _plain(bound: Any) -> int | None:
    return None if bound is None else plain(bound)


def _slice_of_axis(t: Tracer, axis: int) -> slice | None:
    """The slice in `x[...]` that is applied when `axis` is the number of axes that are done."""
    call = t.calls[-1]
    items = call.args[1] if isinstance(call.args[1], tuple) else (call.args[1],)
    done = 0
    for item in items:
        if isinstance(item, slice):
            if done == axis:
                return item
            done += 1
        elif item is Ellipsis:
            done += call.args[0].dim() - sum(map(_consumed, items))
        elif item is None or isinstance(item, bool):
            done += 1
        elif isinstance(item, Tensor):
            done += 0 if item.dim() == 0 and item.dtype not in (torch.bool, torch.uint8) else 1
        elif not isinstance(item, int):
            done += 1
    return None


def _consumed(item: Any) -> int:
    if item is None or item is Ellipsis or isinstance(item, bool):
        return 0
    return item.dim() if isinstance(item, Tensor) and item.dtype in (torch.bool, torch.uint8) else 1


# ---------------------------------------------------------------- an axis in parts


_SPLITS = "split split_copy split_with_sizes split_with_sizes_copy unsafe_split unsafe_split_with_sizes"


@rule(*present(_SPLITS), family="movement")
def _split(t: Tracer, op: Op) -> None:
    """Parts of an axis side by side. Equal parts of a number that is not given lose the same positions together."""
    x, axis = op.args[0], op.get("dim", 2, 0) % op.args[0].dim()
    rows, zero = list(t.rows(x)), t.zero(x)
    pieces = _pieces(t, op, rows[axis], [part.shape[axis] for part in op.out])
    for part, piece in zip(op.out, pieces, strict=True):
        rows[axis] = piece
        t.set(part, rows, zero)


def _pieces(t: Tracer, op: Op, row: Row, sizes: Sequence[int]) -> Sequence[Row]:
    asked, trust = _parts_asked_for(t, op)
    if row is None:
        for value in asked if isinstance(asked, list | tuple) else [asked]:
            given(t, None, value, plain(value))
        return [None] * len(sizes)
    if len(sizes) == 1 and not isinstance(asked, list | tuple) and expression_of(asked, t.sizes) is None:
        return [row]
    pieces = [row[sum(sizes[:i]) : sum(sizes[: i + 1])] for i in range(len(sizes))]
    if isinstance(asked, list | tuple):
        for piece, value, size in zip(pieces, asked, sizes, strict=True):
            given(t, piece, value, size)
        return pieces
    if len(set(sizes)) > 1 or not (trust or expression_of(asked, t.sizes) is not None):
        t.freeze(row, f"it is cut into parts of {sizes[0]}")
        return pieces
    blocks, places = t.split(row, (len(sizes), sizes[0]))
    t.freeze(blocks, f"it is cut into {len(sizes)} equal parts")
    if not trust:
        given(t, places, asked, sizes[0])
    return [places] * len(sizes)


def _parts_asked_for(t: Tracer, op: Op) -> tuple[Any, bool]:
    """The size or sizes of the parts, and whether PyTorch found them from a number of parts."""
    name = asked_by(t)
    if name in ("chunk", "unsafe_chunk"):
        chunks = argument(t.calls[-1], 1, "chunks")
        given(t, None, chunks, plain(chunks))
        return op.args[1], len(op.out) == chunks
    if name in ("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "split_copy"):
        return argument(t.calls[-1], 1, "split_size", "split_size_or_sections", "split_sizes"), False
    if name == "multi_head_attention_forward":  # the rows of queries, and those of keys and values, of one weight
        return [-1] * len(op.out), False
    return op.args[1], trusted(t) and isinstance(op.args[1], int)


# ---------------------------------------------------------------- a part written into a tensor


@rule(*present("slice_scatter"), family="movement")
def _slice_scatter(t: Tracer, op: Op) -> None:
    """A tensor with a part of an axis replaced: that axis stays, the others are united."""
    x, source = op.args[:2]
    axis = op.get("dim", 2, 0) % x.dim()
    rows, places = list(t.rows(x)), t.rows(source)
    for row in (rows[axis], places[axis]):
        t.freeze(row, _FIXED)
    _replaced(t, op, axis, [None if one == axis else place for one, place in enumerate(places)], t.zero(source))


@rule(*present("select_scatter"), family="movement")
def _select_scatter(t: Tracer, op: Op) -> None:
    """A tensor with one position of an axis replaced: that axis stays, the others are united."""
    x, source = op.args[:2]
    axis = op.get("dim", 2) % x.dim()
    t.freeze(t.rows(x)[axis], _PICKED)
    places, zero = t.rows(source), t.zero(source)
    _replaced(t, op, axis, (*places[:axis], None, *places[axis:]), (*zero[:axis], False, *zero[axis:]))


def _replaced(t: Tracer, op: Op, axis: int, places: Sequence[Row], zero: Sequence[bool]) -> None:
    """Unite the axes of a tensor, but for `axis`, with those of what is written into it."""
    x = op.args[0]
    rows = [row if one == axis else t.unite(row, places[one]) for one, row in enumerate(t.rows(x))]
    both = [one != axis and kept and zero[one] for one, kept in enumerate(t.zero(x))]
    t.set(op.out, rows, both)
