"""Which side of every rectangle shrinks.

An axis of a * b positions that the forward views as (a, b) must stay a rectangle: either whole blocks go (an attention
head, a group of a grouped convolution) and the places inside a block stay, or a place goes from every block alike (a
head dimension, a channel of every group) and the blocks stay. One decision must do for all rectangles that share a
side, so a decision freezes the other side, and what that forces is decided next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from sparsewood.structure.labels import Split

__all__ = ["Side", "decide"]

Side = Literal["left", "right", "none"]


def decide(
    splits: Sequence[Split], component: np.ndarray, frozen: np.ndarray, heads: np.ndarray, *, keep_head_size: bool
) -> list[Side]:
    """For each split the side that shrinks, `none` where neither can.

    `component` maps labels to components, `frozen` and `heads` are flags of components; `frozen` is written to.
    Where both sides could shrink: the one that shrinks in another rectangle already; of a side of attention heads and
    another one the heads, unless `keep_head_size` is false; else the side with more removable units; of equal ones the
    left.
    """
    return _Decisions(splits, component, frozen, heads, keep_head_size).run()


class _Decisions:
    def __init__(
        self,
        splits: Sequence[Split],
        component: np.ndarray,
        frozen: np.ndarray,
        heads: np.ndarray,
        keep_head_size: bool,
    ) -> None:
        self.frozen, self.heads, self.keep_head_size = frozen, heads, keep_head_size
        self.sides: list[Side | None] = [None] * len(splits)
        self.shrinking = np.zeros_like(frozen)
        self.grids = [
            (
                component[split.parent].reshape(len(split.left), len(split.right)),
                component[split.left],
                component[split.right],
            )
            for split in splits
        ]
        pairs = [np.unique(np.concatenate([array.ravel() for array in arrays])) for arrays in self.grids]
        touched = np.concatenate(pairs)
        order = np.argsort(touched, kind="stable")
        self.touched, self.touching = touched[order], np.repeat(np.arange(len(pairs)), list(map(len, pairs)))[order]

    def run(self) -> list[Side]:
        waiting = deque(range(len(self.sides)))
        free = deque(range(len(self.sides)))
        while True:
            while waiting:
                waiting.extend(self._settle(waiting.popleft()))
            while free and self.sides[free[0]] is not None:
                free.popleft()
            if not free:
                return [side or "none" for side in self.sides]
            number = free.popleft()
            self.sides[number] = self._preferred(number)
            waiting.append(number)

    def _settle(self, number: int) -> Iterable[int]:
        """Decide what is forced, freeze what follows; the splits that this touches."""
        if self.sides[number] is None:
            left, right = self._removable(number)
            if left and right:
                return ()
            self.sides[number] = "left" if left else "right" if right else "none"
        return self._freeze(self._held(number))

    def _removable(self, number: int) -> tuple[int, int]:
        """How many units could go if the left side shrank, and if the right side did."""
        parent, left, right = self.grids[number]
        stay = self.frozen[parent]
        return (
            int((~(self.frozen[left] | stay.any(1))).sum()),
            int((~(self.frozen[right] | stay.any(0))).sum()),
        )

    def _preferred(self, number: int) -> Side:
        _, left, right = self.grids[number]
        if self.shrinking[left].any() != self.shrinking[right].any():
            return "left" if self.shrinking[left].any() else "right"
        heads_left, heads_right = self.heads[left].any(), self.heads[right].any()
        if heads_left != heads_right:
            return "left" if heads_left == self.keep_head_size else "right"
        more_left, more_right = self._removable(number)
        return "left" if more_left >= more_right else "right"

    def _held(self, number: int) -> np.ndarray:
        """The components that must stay once this split is decided."""
        parent, left, right = self.grids[number]
        side = self.sides[number]
        if side == "none":
            return np.concatenate([parent.ravel(), left, right])
        self.shrinking[left if side == "left" else right] = True
        if side == "left":
            rows = self.frozen[left] | self.frozen[parent].any(1)
            return np.concatenate([right, left[rows], parent[rows].ravel()])
        columns = self.frozen[right] | self.frozen[parent].any(0)
        return np.concatenate([left, right[columns], parent[:, columns].ravel()])

    def _freeze(self, components: np.ndarray) -> list[int]:
        """Freeze components; the splits that have something to do with those that were free."""
        new = np.unique(components[~self.frozen[components]])
        self.frozen[new] = True
        starts, ends = np.searchsorted(self.touched, new), np.searchsorted(self.touched, new, side="right")
        return np.unique(
            np.concatenate([self.touching[a:b] for a, b in zip(starts, ends, strict=True)] or [starts])
        ).tolist()
