"""Labels: which positions belong together, recorded while a network runs and solved once at the end.

Every position along every parameter axis has a label, a positive integer. A *row* holds the labels along one axis of a
tensor; 0 in a row marks a position that no parameter owns, and `None` stands for a row of zeros (batch, time, space).
Nothing is solved here: `unite` notes pairs, `freeze` notes labels that must stay, and `split` and `merge` note which
rows are the two sides of a rectangle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod

import numpy as np

__all__ = ["Labels", "Reason", "Row", "Split"]

Row = np.ndarray | None
"""int64 labels of the positions of one axis; `None` if no parameter owns any of them."""


@dataclass(frozen=True, slots=True)
class Split:
    """`parent` (of length a * b, row-major) seen as a rectangle with the sides `left` (a) and `right` (b).

    Position (i, j) exists while `left[i]` and `right[j]` do, so either the left side or the right side can shrink.
    """

    parent: np.ndarray
    left: np.ndarray
    right: np.ndarray
    op: int


@dataclass(frozen=True, slots=True)
class Reason:
    """Why labels must stay: the operation, the module it ran in, the shapes of its operands, and a sentence."""

    op: str
    module: str
    shapes: str
    why: str


class Labels:
    """The record. `op` is the number of the operation that is being looked at."""

    def __init__(self) -> None:
        self.count = 1
        self.op = -1
        self.edges: list[tuple[np.ndarray, np.ndarray, int]] = []
        self.frozen: list[tuple[np.ndarray, int]] = []
        self.inexact_rows: list[tuple[np.ndarray, str, int]] = []
        self.head_rows: list[np.ndarray] = []
        self.consumed: list[np.ndarray] = []
        self.produced: list[np.ndarray] = []
        self.splits: list[Split] = []
        self.reasons: list[Reason] = []
        self._reason_numbers: dict[tuple[str, str, str], int] = {}
        self._sides: dict[tuple[bytes, int], tuple[np.ndarray, np.ndarray]] = {}
        self._products: dict[tuple[bytes, bytes], np.ndarray] = {}

    def fresh(self, size: int) -> np.ndarray:
        """New labels for an axis of `size` positions."""
        row = np.arange(self.count, self.count + size)
        self.count += size
        return row

    def place(self) -> tuple[str, str]:
        """The operation and the module in which something is frozen now."""
        return "", ""

    def reason(self, why: str) -> Reason:
        """The reason `why` at the present operation; tracers that know the operation say more."""
        return Reason("", "", "", why)

    def freeze(self, row: Row, why: str) -> None:
        """The positions of `row` must stay, because of `why`."""
        if row is None or not len(row):
            return
        number = self._reason_numbers.setdefault((*self.place(), why), len(self.reasons))
        if number == len(self.reasons):
            self.reasons.append(self.reason(why))
        self.frozen.append((row, number))

    def inexact(self, row: Row, kind: str) -> None:
        """Removing a position of `row` is not the same as zeroing it, because of `kind`; it may still be removed."""
        if row is not None:
            self.inexact_rows.append((row, kind, self.op))

    def heads(self, row: Row) -> None:
        """The positions of `row` are attention heads."""
        if row is not None:
            self.head_rows.append(row)

    def consume(self, row: Row) -> None:
        """The positions of `row`, an axis of a weight, are summed over: there the unit is read, not made."""
        if row is not None:
            self.consumed.append(row)

    def unite(self, first: Row, *others: Row, why: str = "it meets an axis that no parameter owns") -> Row:
        """Couple rows of equal length position by position; the row of the result.

        What meets a position that no parameter owns must stay.
        """
        for other in others:
            first = self._unite_two(first, other, why)
        return first

    def _unite_two(self, first: Row, second: Row, why: str) -> Row:
        if first is second:
            return first
        if first is None or second is None:
            self.freeze(first if second is None else second, why)
            return None
        if len(first) != len(second):
            raise ValueError(f"rows of {len(first)} and {len(second)} positions cannot be united")
        fixed = (first == 0) | (second == 0)
        if fixed.any():
            met = np.maximum(first, second)
            self.freeze(met[fixed & (met > 0)], why)
            free = ~fixed
            if free.any():
                self.edges.append((first[free], second[free], self.op))
            return np.where(fixed, 0, first)
        self.edges.append((first, second, self.op))
        return first

    # ------------------------------------------------------------ rectangles

    def split(self, row: Row, sizes: Sequence[int]) -> list[Row]:
        """The rows of the axes that an axis with `row` becomes when it is viewed as `sizes` (row-major)."""
        long = [axis for axis, size in enumerate(sizes) if size != 1]
        rows: list[Row] = [None] * len(sizes)
        if row is None or not len(row):
            return rows
        if not long:
            self.freeze(row, "it is the only position of its axis")
            return rows
        if len(long) == 1:
            rows[long[0]] = row
            return rows
        first = long[0]
        left, right = self._two_sides(row, sizes[first])
        rows[first] = left
        rows[first + 1 :] = self.split(right, sizes[first + 1 :])
        return rows

    def _two_sides(self, row: np.ndarray, size: int) -> tuple[Row, Row]:
        grid = row.reshape(size, -1)
        if (grid == grid[:, :1]).all():
            return _or_none(grid[:, 0].copy()), None
        if (grid == grid[:1]).all():
            return None, _or_none(grid[0].copy())
        key = (row.tobytes(), size)
        if key not in self._sides:
            self._note_rectangle(row, self.fresh(size), self.fresh(grid.shape[1]))
        return self._sides[key]

    def merge(self, rows: Sequence[Row], sizes: Sequence[int]) -> Row:
        """The row of the axis that axes with `rows`, of `sizes`, are flattened into (row-major)."""
        merged: Row = None
        length = 1
        for row, size in zip(reversed(rows), reversed(sizes), strict=True):
            merged = self._merge_two(row, size, merged, length)
            length *= size
        return merged

    def _merge_two(self, left: Row, a: int, right: Row, b: int) -> Row:
        if a == 1 or b == 1:
            single, other = (left, right) if a == 1 else (right, left)
            if a == b == 1 and other is None:
                return single
            if a * b > 1 and other is None:
                return None if single is None else np.full(a * b, single[0])
            self.freeze(single, "it is the only position of its axis")
            return other
        if left is None:
            return None if right is None else np.tile(right, a)
        if right is None:
            return np.repeat(left, b)
        key = (left.tobytes(), right.tobytes())
        if key not in self._products:
            both = (left[:, None] > 0) & (right[None, :] > 0)
            grid = np.maximum(left[:, None], right[None, :])
            grid[both] = self.fresh(int(both.sum()))
            self._note_rectangle(grid.reshape(-1), left, right)
        return self._products[key]

    def _note_rectangle(self, parent: np.ndarray, left: np.ndarray, right: np.ndarray) -> None:
        a, b = len(left), len(right)
        self.splits.append(Split(parent, left, right, self.op))
        turned = np.ascontiguousarray(parent.reshape(a, b).T).reshape(-1)
        self._products[left.tobytes(), right.tobytes()] = parent
        self._products[right.tobytes(), left.tobytes()] = turned
        self._sides[parent.tobytes(), a] = (left, right)
        self._sides[turned.tobytes(), b] = (right, left)

    def regroup(self, rows: Sequence[Row], shape: Sequence[int], new_shape: Sequence[int]) -> list[Row]:
        """The rows after a view of `shape` as `new_shape` (row-major, equal numbers of elements)."""
        out: list[Row] = []
        if 0 in shape:
            for row in rows:
                self.freeze(row, "the tensor is empty")
            return [None] * len(new_shape)
        for axes, new_axes in _matching_axes(shape, new_shape):
            if len(axes) == 1 == len(new_axes):
                out.append(rows[axes[0]])
                continue
            sizes, new_sizes = [shape[axis] for axis in axes], [new_shape[axis] for axis in new_axes]
            out.extend(self._regroup_run([rows[axis] for axis in axes], sizes, new_sizes))
        return out

    def _regroup_run(self, rows: Sequence[Row], sizes: Sequence[int], new_sizes: Sequence[int]) -> list[Row]:
        """Cut old and new axes where either ends, so that (2, 12) becomes (8, 3) by way of (2, 4, 3)."""
        cuts = sorted({1, *np.cumprod(sizes).tolist(), *np.cumprod(new_sizes).tolist()})
        if any(after % before for before, after in pairwise(cuts)):
            return self.split(self.merge(rows, sizes), new_sizes)
        parts = [after // before for before, after in pairwise(cuts)]
        fine: list[Row] = []
        for row, own in zip(rows, _taken(parts, sizes), strict=True):
            if not own:
                self.freeze(row, "it is the only position of its axis")
            fine.extend(self.split(row, own))
        left = iter(fine)
        return [self.merge([next(left) for _ in own], own) for own in _taken(parts, new_sizes)]


def _or_none(row: np.ndarray) -> Row:
    return row if row.any() else None


def _taken(parts: Sequence[int], sizes: Sequence[int]) -> list[list[int]]:
    """The consecutive parts that make up each of the sizes."""
    taken: list[list[int]] = []
    left = iter(parts)
    for size in sizes:
        own: list[int] = []
        while prod(own) < size:
            own.append(next(left))
        taken.append(own)
    return taken


def _matching_axes(shape: Sequence[int], new_shape: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Runs of old and new axes with equal numbers of elements, as short as they can be."""
    runs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(shape) or j < len(new_shape):
        old, new = [], []
        a = b = 1
        if i < len(shape) and j < len(new_shape) and shape[i] == new_shape[j]:
            old, new, i, j = [i], [j], i + 1, j + 1
        elif j < len(new_shape) and new_shape[j] == 1 and not (i < len(shape) and shape[i] == 1):
            new, j = [j], j + 1
        elif i < len(shape) and shape[i] == 1:
            old, i = [i], i + 1
        else:
            while not old or not new or a != b:
                if a <= b and i < len(shape) and (a < b or not old):
                    a *= shape[i]
                    old.append(i)
                    i += 1
                else:
                    b *= new_shape[j]
                    new.append(j)
                    j += 1
        runs.append((old, new))
    return runs
