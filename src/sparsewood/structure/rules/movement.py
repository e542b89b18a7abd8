"""Positions side by side, in another order, with others around them.

The rules for views, repetitions and parts of axes are in files of their own, and registered with these.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sparsewood.structure.asked import argument, asked_by, given, trusted
from sparsewood.structure.labels import Row
from sparsewood.structure.log import Op
from sparsewood.structure.rules import function_rule, repeating, rule, slicing, views
from sparsewood.structure.rules.pointwise import present
from sparsewood.structure.tracer import Tracer
from sparsewood.structure.tracked import plain

__all__ = ["repeating", "slicing", "views"]

aten = torch.ops.aten

# ---------------------------------------------------------------- several tensors side by side


@rule(*present("cat concat concatenate _cat"), family="movement")
def _cat(t: Tracer, op: Op) -> None:
    """Axes side by side: their labels follow one another; the other axes are united."""
    parts = [part for part in op.args[0] if part.dim() > 1 or part.numel() or op.out.dim() == 1]
    axis = op.get("dim", 1, 0) % op.out.dim()
    rows, zero = _united(t, parts, op.out.dim(), axis)
    labelled = [part for part in parts if t.rows(part)[axis] is not None]
    if labelled:
        pieces = [t.rows(part)[axis] for part in parts]
        rows[axis] = np.concatenate(
            [
                np.zeros(part.shape[axis], np.int64) if row is None else row
                for part, row in zip(parts, pieces, strict=True)
            ]
        )
        zero[axis] = all(t.zero(part)[axis] for part in labelled)
    t.set(op.out, rows, zero)


@rule(*present("stack _stack"), family="movement")
def _stack(t: Tracer, op: Op) -> None:
    """Tensors along a new axis that nobody owns: all their axes are united."""
    parts = op.args[0]
    axis = op.get("dim", 1, 0) % op.out.dim()
    rows, zero = _united(t, parts, op.out.dim() - 1, None)
    t.set(op.out, (*rows[:axis], None, *rows[axis:]), (*zero[:axis], False, *zero[axis:]))


def _united(t: Tracer, parts: Sequence[Tensor], dim: int, but: int | None) -> tuple[list[Row], list[bool]]:
    """The rows of tensors of the same shape, `but` for one axis, and where all of them are 0."""
    rows: list[Row] = [None] * dim
    zero = [False] * dim
    for axis in range(dim):
        if axis != but:
            rows[axis] = t.unite(*(t.rows(part)[axis] for part in parts))
            zero[axis] = rows[axis] is not None and all(t.zero(part)[axis] for part in parts)
    return rows, zero


# ---------------------------------------------------------------- positions in another order


@rule(aten.flip, family="movement")
def _flip(t: Tracer, op: Op) -> None:
    """The positions of some axes in reverse order."""
    rows = list(t.rows(op.args[0]))
    for axis in op.args[1]:
        rows[axis] = _turned(rows[axis])
    t.set(op.out, rows, t.zero(op.args[0]))


def _turned(row: Row) -> Row:
    return None if row is None else row[::-1].copy()


@rule(aten.rot90, family="movement")
def _rot90(t: Tracer, op: Op) -> None:
    """Two axes change places and directions, `k` times."""
    x, k = op.args[0], op.get("k", 1, 1) % 4
    first, second = (axis % x.dim() for axis in op.get("dims", 2, (0, 1)))
    rows, zero = list(t.rows(x)), list(t.zero(x))
    if k == 2:
        rows[first], rows[second] = _turned(rows[first]), _turned(rows[second])
    elif k == 1:
        rows[first], rows[second] = _turned(rows[second]), rows[first]
    elif k == 3:
        rows[first], rows[second] = rows[second], _turned(rows[first])
    if k % 2:
        zero[first], zero[second] = zero[second], zero[first]
    t.set(op.out, rows, zero)


@rule(aten.roll, family="movement")
def _roll(t: Tracer, op: Op) -> None:
    """Positions move by a fixed number of places: the axes along which they do stay; without axes, all."""
    _stay(t, op, op.get("dims", 2, ()) or range(op.out.dim()), "positions move along it by a number of places")


def _stay(t: Tracer, op: Op, axes: Iterable[int], why: str) -> None:
    """The result has the operand's axes; some of them stay, and nobody owns them any more."""
    x = op.args[0]
    rows = list(t.rows(x))
    for axis in axes:
        t.freeze(rows[axis], why)
        rows[axis] = None
    t.set(op.out, rows, t.zero(x))


@rule(*present("tril triu tril_ triu_"), family="movement")
def _triangle(t: Tracer, op: Op) -> None:
    """What is kept depends on the places along the last two axes, which stay."""
    _stay(t, op, (-2, -1), "it is one side of a triangle")


@rule(aten.unfold, aten.unfold_copy, family="movement")
def _unfold(t: Tracer, op: Op) -> None:
    """Windows of a fixed length move along an axis, which stays; a new last axis holds the places in a window."""
    x = op.args[0]
    rows = list(t.rows(x))
    if rows:
        t.freeze(rows[op.args[1]], "windows move along it")
        rows[op.args[1]] = None
    zero = list(t.zero(x))
    t.set(op.out, [*rows, None][: op.out.dim()], [*zero, False][: op.out.dim()])


# ---------------------------------------------------------------- padding


@rule(aten.constant_pad_nd, family="movement")
def _pad(t: Tracer, op: Op) -> None:
    """New positions at the ends of the last axes, which nobody owns; a negative number cuts positions off."""
    x, pads = op.args[0], op.args[1]
    rows, zero = list(t.rows(x)), list(t.zero(x))
    padded = set()
    for number in range(len(pads) // 2):
        axis, ends = x.dim() - 1 - number, pads[2 * number : 2 * number + 2]
        if any(ends):
            rows[axis] = _padded(t, rows[axis], *ends)
            padded.add(axis)
    if op.get("value", 2, 0) != 0:  # the new entries are not 0 where another axis is masked
        zero = [kept and not padded - {axis} for axis, kept in enumerate(zero)]
    t.set(op.out, rows, zero)


def _padded(t: Tracer, row: Row, before: int, after: int) -> Row:
    if row is None:
        return None
    if before < 0 or after < 0:
        t.freeze(row, "a fixed number of its positions is cut off")
        row = row[max(-before, 0) : len(row) - max(-after, 0)]
    return np.pad(row, (max(before, 0), max(after, 0)))


_MIRRORS = " ".join(f"{kind}_pad{n}d" for kind in ("reflection", "replication") for n in (1, 2, 3))


@rule(*present(_MIRRORS), family="movement")
def _mirror(t: Tracer, op: Op) -> None:
    """New positions repeat others near the ends of the last axes, which stay."""
    dim = op.out.dim()
    _stay(t, op, range(dim - len(op.args[1]) // 2, dim), "positions near its ends are repeated")


@function_rule(F.pad)
def _pad_function(t: Tracer, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Circular padding writes slices into an empty tensor, where labels cannot follow: concatenate them instead."""
    call = t.calls[-1]
    pads = argument(call, 1, "pad")
    if argument(call, 2, "mode") != "circular" or min(pads, default=0) < 0:
        return function(*args, **kwargs)
    x = args[0] if args else kwargs["input"]
    for number in range(len(pads) // 2):
        axis = x.dim() - 1 - number
        before, after, size = plain(pads[2 * number]), plain(pads[2 * number + 1]), x.shape[axis]
        if before > size or after > size:
            return function(*args, **kwargs)
        parts = [x.narrow(axis, size - before, before), x, x.narrow(axis, 0, after)]
        x = torch.cat([part for part in parts if part.shape[axis]], axis)
    return x


# ---------------------------------------------------------------- channels and places


@rule(aten.pixel_shuffle, family="movement")
def _pixel_shuffle(t: Tracer, op: Op) -> None:
    """Channels are (channels, places in a square of r x r): all places of a channel go together."""
    x, r = op.args[0], op.args[1]
    *lead, channels, height, width = t.rows(x)
    left, places = t.split(channels, (op.out.shape[-3], r * r))
    for row in (places, height, width):
        t.freeze(row, "it is a place in space")
    t.set(op.out, (*lead, left, None, None), (*t.zero(x)[:-2], False, False))


@rule(aten.pixel_unshuffle, family="movement")
def _pixel_unshuffle(t: Tracer, op: Op) -> None:
    """Every channel becomes r x r channels, which go together."""
    x, r = op.args[0], op.args[1]
    *lead, channels, height, width = t.rows(x)
    for row in (height, width):
        t.freeze(row, "it is a place in space")
    merged = None if channels is None else np.repeat(channels, r * r)
    t.set(op.out, (*lead, merged, None, None), (*t.zero(x)[:-2], False, False))


@rule(*present("channel_shuffle native_channel_shuffle"), family="movement")
def _channel_shuffle(t: Tracer, op: Op) -> None:
    """Channels are (groups, channels of a group), and leave as (channels of a group, groups)."""
    x, groups = op.args[0], op.args[1]
    rows, inner = list(t.rows(x)), x.shape[1] // groups
    blocks, places = t.split(rows[1], (groups, inner))
    if not trusted(t) or asked_by(t) in ("channel_shuffle", "native_channel_shuffle"):
        given(t, blocks, argument(t.calls[-1], 1, "groups") if t.calls else groups, groups)
    rows[1] = t.merge((places, blocks), (inner, groups))
    t.set(op.out, rows, t.zero(x))
