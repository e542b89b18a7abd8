"""Budgets: how much of a network may be left, and the most units that fit."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from sparsewood.errors import SparsewoodError
from sparsewood.shrinking.choice import Choice, Chooser
from sparsewood.shrinking.costs import Costs
from sparsewood.shrinking.engines import Eager, Engine
from sparsewood.shrinking.plan import Keep
from sparsewood.shrinking.pools import Free, filled_up

__all__ = ["Budget", "Bytes", "CountBudget", "Latency", "MACs", "Params", "meet", "require_budget"]

_NEIGHBOURS = 8


@dataclass(frozen=True)
class CountBudget(ABC):
    """At most so much may be left: a float in (0, 1] is a share of what there is, an int a number."""

    amount: int | float
    what: ClassVar[str]

    def __post_init__(self) -> None:
        value, whole = self.amount, isinstance(self.amount, int | np.integer)
        ok = isinstance(value, int | float | np.number) and not isinstance(value, bool)
        if not ok or (value < 1 if whole else not 0 < value <= 1):
            name = type(self).__name__
            raise SparsewoodError(
                f"{name} must be a float in (0, 1], the share of the {self.what} that may be left, or a whole number "
                f"of {self.what} >= 1. Got {value!r}."
            )

    def __str__(self) -> str:
        return f"{type(self).__name__}({self.amount})"

    @abstractmethod
    def left(self, costs: Costs, keep: Keep) -> int:
        """What is left, in the budget's measure."""

    def allowed(self, costs: Costs) -> int:
        """How much may be left."""
        if isinstance(self.amount, int | np.integer):
            return int(self.amount)
        return math.floor(self.amount * self.left(costs, {}))


@dataclass(frozen=True)
class Params(CountBudget):
    """At most so many parameters are left; tied ones count once.

    >>> Params(0.5), Params(100_000)
    (Params(amount=0.5), Params(amount=100000))
    """

    what: ClassVar[str] = "parameters"

    def left(self, costs: Costs, keep: Keep) -> int:
        return costs.params(keep)


@dataclass(frozen=True)
class MACs(CountBudget):
    """At most so many multiply-adds are left, of one forward on the example inputs.

    >>> MACs(0.5)
    MACs(amount=0.5)
    """

    what: ClassVar[str] = "multiply-adds"

    def left(self, costs: Costs, keep: Keep) -> int:
        return costs.macs(keep)


@dataclass(frozen=True)
class Bytes(CountBudget):
    """At most so many bytes are left, in parameters and persistent buffers.

    >>> Bytes(1 << 20)
    Bytes(amount=1048576)
    """

    what: ClassVar[str] = "bytes"

    def left(self, costs: Costs, keep: Keep) -> int:
        return costs.bytes(keep)


@dataclass(frozen=True)
class Latency:
    """A forward on the example inputs may take at most so long on this machine: a share of its time now, or `seconds`.

    `engine` runs the networks: `Eager()`, PyTorch as it is, or `OnnxRuntime()`.

    >>> Latency(0.5)
    Latency(fraction=0.5, seconds=None, engine=Eager())
    """

    fraction: float | None = None
    seconds: float | None = None
    engine: Engine = field(default_factory=Eager)

    def __post_init__(self) -> None:
        given = [value for value in (self.fraction, self.seconds) if value is not None]
        ok = len(given) == 1 and isinstance(given[0], int | float) and not isinstance(given[0], bool)
        if not ok or not 0 < given[0] < math.inf or (self.fraction is not None and self.fraction > 1):
            raise SparsewoodError(
                "Latency must be a share in (0, 1] of the time now, as Latency(0.5), or a time, as "
                f"Latency(seconds=0.01). Got {self!r}."
            )
        if isinstance(self.engine, type) or not isinstance(self.engine, Engine):
            raise SparsewoodError(f"'engine' must be Eager() or OnnxRuntime(). Got {self.engine!r}.")

    def __str__(self) -> str:
        amount = f"seconds={self.seconds}" if self.fraction is None else f"{self.fraction}"
        return f"Latency({amount}{'' if self.engine == Eager() else f', engine={self.engine}'})"


Budget = CountBudget | Latency


def require_budget(value: object) -> None:
    """Raise `SparsewoodError` for what is no budget: a bare number, or a class instead of one of its values."""
    if not isinstance(value, CountBudget | Latency):
        shown = value.__name__ if isinstance(value, type) else repr(value)
        raise SparsewoodError(
            "budget must say what it counts: sw.Params(0.5), sw.MACs(0.5), sw.Bytes(0.5) or sw.Latency(0.5). "
            f"Got {shown}."
        )


def meet(chooser: Chooser, costs: Costs, budget: CountBudget, held: Mapping[str, str] | None = None) -> Choice:
    """The choice that leaves at most what the budget allows, and as close to it as units allow.

    The number of units that go is found by bisection, in the chooser's scope. Where one unit is worth more than 1 % of
    the budget (or several go together, because of `round_to`), units that went come back, the best first, as far as
    they fit, until less than 1 % is left.

    Raises `SparsewoodError`, with the least that is reachable, if the budget is not, and if the chooser's amounts are
    those of single groups.
    """
    free = chooser.free(held or {})
    if not chooser.scope.shares_total:
        raise SparsewoodError(
            f"{budget} needs a scope that shares a total out, but {chooser.scope} has amounts of its own. Use "
            "Everywhere(), PerLayer(), PerType() or Isomorphic(), or leave the budget out."
        )
    search = _Search(chooser, costs, budget, free)
    if search.left(free.units) <= search.allowed:
        return search.result(free.units, 0)
    least = search.left(free.least)
    if least > search.allowed:
        raise _unreachable(search, least)
    asked, kept = search.bisected()
    return search.result(search.filled(kept), asked)


class _Search:
    """Numbers of units kept, and what these leave."""

    def __init__(self, chooser: Chooser, costs: Costs, budget: CountBudget, free: Free) -> None:
        self.chooser, self.costs, self.budget, self.free = chooser, costs, budget, free
        self.allowed = budget.allowed(costs)

    def left(self, kept: np.ndarray) -> int:
        return self.budget.left(self.costs, self.chooser.keep(self.free, kept))

    def bisected(self) -> tuple[int, np.ndarray]:
        """How many units are asked to go so that the rest fits, and how many of each group then stay."""
        low, high = 0, int((self.free.units - self.free.floors).sum())
        most = high
        while high - low > 1:
            middle = (low + high) // 2
            fits = self.left(self.chooser.counts(self.free, middle)) <= self.allowed
            low, high = (low, middle) if fits else (middle, high)
        # Floors and rounding make the cost jump both ways between neighbours.
        tried = {gone: self.chooser.counts(self.free, gone) for gone in self._around(high, most)}
        fitting = {gone: left for gone, kept in tried.items() if (left := self.left(kept)) <= self.allowed}
        if not fitting:
            return most, self.free.least
        best = min(fitting, key=lambda gone: (-fitting[gone], gone))
        return best, tried[best]

    def _around(self, gone: int, most: int) -> range:
        return range(max(0, gone - _NEIGHBOURS), min(most, gone + _NEIGHBOURS) + 1)

    def filled(self, kept: np.ndarray) -> np.ndarray:
        """More units, as far as they fit."""
        chooser, free = self.chooser, self.free
        return filled_up(free, kept, lambda i, n: chooser.next_score(free, i, n), self.left, self.allowed)

    def result(self, kept: np.ndarray, asked: int) -> Choice:
        choice = self.chooser.chosen(self.free, kept, asked)
        return replace(choice, budget=self.budget, allowed=self.allowed, reached=self.left(kept))


def _unreachable(search: _Search, least: int) -> SparsewoodError:
    budget, costs, free = search.budget, search.costs, search.free
    now = budget.left(costs, {})
    nothing = {name: np.zeros(units, bool) for name, units in zip(costs.names, costs.units, strict=True)}
    fixed = budget.left(costs, nothing)
    smallest = search.chooser.keep(free, free.least)
    held = least - budget.left(costs, {**smallest, **{name: nothing[name] for name in free.held if name in nothing}})
    parts = [f"{fixed:,} lie in no unit that can be removed"]
    if held:
        names = list(free.held)
        shown = "; ".join(f"{name}: {free.held[name]}" for name in names[:3])
        parts.append(f"{held:,} go with units that are held ({shown}{'; ...' if len(names) > 3 else ''})")
    parts.append(f"{least - fixed - held:,} with units that stay in every group ({search.chooser.floor_rule})")
    ask = f"{math.ceil(1000 * least / now) / 1000:g}" if isinstance(budget.amount, float) else str(least)
    return SparsewoodError(
        f"{budget} allows {search.allowed:,} of {now:,} {budget.what}. The least that can be reached is {least:,} "
        f"({100 * least / max(now, 1):.1f} %): {', '.join(parts)}. Ask for {type(budget).__name__}({ask}) or more, "
        "protect less, or lower min_units and round_to."
    )
