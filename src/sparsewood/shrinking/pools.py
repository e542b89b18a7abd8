"""How many units of each group stay: the best of a pool, floors, and multiples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from sparsewood.algebra import Integers
from sparsewood.allocation.budgets import Layer
from sparsewood.allocation.scopes import Pool
from sparsewood.errors import SparsewoodError
from sparsewood.structure import Group
from sparsewood.structure.names import counted

__all__ = ["Free", "best_counts", "filled_up", "kept_of_pool", "lamp_shares", "require_floors"]

NEAR = 0.01
"""A budget of which less than this share is left is met."""


@dataclass(frozen=True, eq=False)
class Free:
    """The groups that may lose units, and the numbers of units that they may keep.

    `floors` are the fewest units that stay, `steps` what the numbers are multiples of; `held` says why other groups
    stay.
    """

    groups: tuple[Group, ...]
    units: Integers
    floors: Integers
    steps: Integers
    held: dict[str, str] = field(default_factory=dict)

    @property
    def least(self) -> Integers:
        """The smallest number that every group may keep."""
        return np.array([self.above(i, int(floor)) for i, floor in enumerate(self.floors)], np.int64)

    def above(self, group: int, kept: int) -> int:
        """The smallest allowed number that is at least `kept`."""
        step, units = int(self.steps[group]), int(self.units[group])
        return min(units, -(-max(kept, int(self.floors[group])) // step) * step)

    def below(self, group: int, kept: int) -> int:
        """The largest allowed number that is at most `kept`, or the smallest allowed one."""
        if kept == self.units[group]:
            return kept
        step = int(self.steps[group])
        lower = kept // step * step
        return lower if lower >= max(int(self.floors[group]), 1) else self.above(group, 1)

    def rounded(self, kept: Integers, pools: Sequence[Sequence[int]]) -> Integers:
        """Allowed numbers around `kept`, whose sum over each pool is as close to that of `kept` as can be.

        Every group is rounded down first. Then groups are rounded up, those that lost the largest share of a step
        first, as long as that brings the sum closer. Groups in no pool stay as they are.
        """
        if (self.steps == 1).all():
            return kept
        down = np.array([self.below(i, int(count)) for i, count in enumerate(kept)], np.int64)
        up = np.array([self.above(i, int(count)) for i, count in enumerate(kept)], np.int64)
        rounded = kept.copy()
        for members in map(list, pools):
            rounded[members] = down[members]
            missing = int((kept - down)[members].sum())
            between = [i for i in members if down[i] < kept[i] < up[i]]
            for i in sorted(between, key=lambda i: (-(kept[i] - down[i]) / (up[i] - down[i]), i)):
                if abs(missing - (up[i] - down[i])) < abs(missing):
                    rounded[i] = up[i]
                    missing -= int(up[i] - down[i])
        return rounded


def best_counts(scores: Sequence[np.ndarray], keep: int, floors: Sequence[int] | Integers) -> Integers:
    """int64[groups]: of how many units of each group the `keep` highest scores are, ties to the lower index.

    The rule is that of `allocation.select`: groups that would keep less than their floor keep it, and the others give
    up as many. For scores that are in memory anyway, and asked for again and again.

    >>> best_counts([np.array([5.0, 4.0]), np.array([3.0, 3.0, 1.0])], 3, [1, 1])
    array([2, 1])
    """
    floors, kept, free = np.asarray(floors), np.zeros(len(scores), np.int64), np.arange(len(scores))
    while True:
        open_scores = [scores[i] for i in free.tolist()]
        values = np.concatenate([np.zeros(0), *open_scores])
        numbers = np.repeat(free, [len(one) for one in open_scores])
        kept[free] = np.bincount(numbers[_best(values, keep)], minlength=len(scores))[free]
        short = free[kept[free] < floors[free]]
        if not len(short):
            return kept
        kept[short] = floors[short]
        keep -= int(floors[short].sum())
        free = np.setdiff1d(free, short)


def _best(values: np.ndarray, keep: int) -> np.ndarray:
    """The `keep` highest, as truth values."""
    if keep == 0:
        return np.zeros(len(values), bool)
    place = len(values) - keep
    limit = np.partition(values, place)[place]
    best = values > limit
    best[np.flatnonzero(values == limit)[: keep - int(best.sum())]] = True
    return best


def kept_of_pool(pool: Pool, scores: Sequence[np.ndarray], layers: Sequence[Layer], rule: str) -> Integers:
    """How many units of each member of a pool stay; raises `SparsewoodError` if that empties a group."""
    if pool.by_row:
        raise SparsewoodError("PerRow() is for single weights; a unit has no rows. Use PerLayer().")
    members = [layers[i] for i in pool.members]
    require_floors(members, pool.keep, rule)
    return best_counts([scores[i] for i in pool.members], pool.keep, pool.floors)


def require_floors(layers: Sequence[Layer], keep: int, rule: str) -> None:
    """Raise `SparsewoodError` if that many units are less than must stay of `layers`; `rule` says in words why."""
    least, units = sum(one.floor for one in layers), sum(one.units for one in layers)
    if keep < least:
        raise SparsewoodError(
            f"At most {units - least:,} of {units:,} units of {_shown([one.name for one in layers])} can go ({rule}), "
            f"but {units - keep:,} should. Ask for less."
        )


def filled_up(
    free: Free, kept: Integers, score: Callable[[int, int], float], cost: Callable[[Integers], float], allowed: float
) -> Integers:
    """`kept` and more units, the best-scored first, as far as `allowed` goes and until it is nearly used up.

    `score(group, n)` is that of the best unit that is not among the best n; `cost(kept)` what is left if these stay.
    """
    kept, left = kept.copy(), cost(kept)
    growing = set(np.flatnonzero(kept < free.units).tolist())
    while growing and left < (1 - NEAR) * allowed:
        best = max(growing, key=lambda group: (score(group, int(kept[group])), -group))
        more = kept.copy()
        more[best] = free.above(best, int(kept[best]) + 1)
        needed = cost(more)
        if needed <= allowed:
            kept, left = more, needed
        if needed > allowed or kept[best] == free.units[best]:
            growing.remove(best)
    return kept


def _shown(names: Sequence[str]) -> str:
    more = f" and {counted(len(names) - 3, 'more group')}" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def lamp_shares(scores: Sequence[np.ndarray], keep: int, floors: Integers) -> Integers:
    """How many units of each group a selection by s^2 / (sum of s_j^2 over the group's s_j >= s) leaves."""
    return best_counts([_lamp(one) for one in scores], keep, floors if keep else np.zeros_like(floors))


def _lamp(scores: np.ndarray) -> np.ndarray:
    """The LAMP scores; those of units that are gone (-inf) come last, behind any 0."""
    gone = np.isneginf(scores)
    squares = np.square(np.where(gone, 0.0, scores))
    ascending = np.sort(squares)
    sums = np.cumsum(ascending[::-1])[::-1]
    found = squares / np.maximum(sums[np.searchsorted(ascending, squares)], np.finfo(float).tiny)
    return np.where(gone, -1.0, found)
