"""Schedules for all layers together: from one amount to the next."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from sparsewood.errors import SparsewoodError
from sparsewood.schedules.plans import Event, Plan, Schedule, require_rounds
from sparsewood.types import Amount, AmountLike, Count, Remaining, Sparsity, as_amount

__all__ = ["Cubic", "Exponential", "Geometric", "Levels", "Linear", "OneByOne", "OneShot"]


@dataclass(frozen=True)
class OneShot(Schedule):
    """All at once, before the first round.

    >>> OneShot(0.9)(3)
    (Event(step=0, amount=Sparsity(fraction=0.9)),)
    """

    amount: AmountLike

    def __post_init__(self) -> None:
        as_amount(self.amount)

    def __call__(self, rounds: int) -> Plan:
        require_rounds(rounds)
        return (Event(0, as_amount(self.amount)),)


@dataclass(frozen=True)
class Geometric(Schedule):
    """The same fraction of what remains in every round: density (1 - rate)^(i + 1) after round i.

    The end depends on the number of rounds; `Exponential` goes the same way to an end that is given.
    Source: Frankle and Carbin 2019, "The Lottery Ticket Hypothesis", https://arxiv.org/abs/1803.03635.

    >>> Geometric(0.2)(2)
    (Event(step=0, amount=Remaining(fraction=0.2)), Event(step=1, amount=Remaining(fraction=0.2)))
    """

    rate: float

    def __post_init__(self) -> None:
        Remaining(self.rate)

    def __call__(self, rounds: int) -> Plan:
        require_rounds(rounds)
        return tuple(Event(i, Remaining(self.rate)) for i in range(rounds))


class Curve(Schedule):
    """A schedule along a curve: in round i of n the sparsity that it has at (i + 1) / n."""

    @abstractmethod
    def at(self, progress: float) -> float:
        """The sparsity at `progress` from 0 (start) to 1 (end), and as at the ends outside."""

    def __call__(self, rounds: int) -> Plan:
        require_rounds(rounds)
        return tuple(Event(i, Sparsity(self.at((i + 1) / rounds))) for i in range(rounds))


@dataclass(frozen=True)
class Exponential(Curve):
    """Density (1 - final)^((i + 1) / n) in round i of n: the same fraction of what remains each time, to a given end.

    Source: the schedule of Tanaka et al. 2020, "Pruning neural networks without any data by iteratively conserving
    synaptic flow", https://arxiv.org/abs/2006.05467. `final` is below 1, since no fraction repeated removes all.

    >>> [round(event.amount.fraction, 4) for event in Exponential(0.8)(7)]
    [0.2054, 0.3686, 0.4983, 0.6014, 0.6832, 0.7483, 0.8]
    """

    final: float

    def __post_init__(self) -> None:
        Sparsity(self.final)
        if self.final == 1:
            raise SparsewoodError(
                "Exponential(1.0) would end at density 0, which no fraction of what remains reaches. Use a final "
                "sparsity below 1, or Linear(1.0) or Cubic(1.0)."
            )

    def at(self, progress: float) -> float:
        progress = _clamped(progress)
        # In this form the powers of densities close to 1 keep their digits.
        return self.final if progress == 1 else min(self.final, -math.expm1(progress * math.log1p(-self.final)))


@dataclass(frozen=True)
class Linear(Curve):
    """Sparsity s_i = initial + (final - initial) (i + 1) / n in round i of n.

    >>> [event.amount.fraction for event in Linear(0.8)(4)]
    [0.2, 0.4, 0.6000000000000001, 0.8]
    """

    final: float
    initial: float = 0.0

    def __post_init__(self) -> None:
        _require_rise(self.initial, self.final)

    def at(self, progress: float) -> float:
        progress = _clamped(progress)
        reached = self.initial + (self.final - self.initial) * progress
        return self.final if progress == 1 else min(self.final, reached)


@dataclass(frozen=True)
class Cubic(Curve):
    """Sparsity s_i = final + (initial - final) (1 - (i + 1) / n)^3 in round i of n: fast at first, then slower.

    Source: Zhu and Gupta 2017, "To prune, or not to prune" (automated gradual pruning),
    https://arxiv.org/abs/1710.01878.

    >>> [round(event.amount.fraction, 4) for event in Cubic(0.9)(10)][:3]
    [0.2439, 0.4392, 0.5913]
    >>> [Cubic(0.9).at(progress) for progress in (-1, 0, 1, 2)]
    [0.0, 0.0, 0.9, 0.9]
    """

    final: float
    initial: float = 0.0

    def __post_init__(self) -> None:
        _require_rise(self.initial, self.final)

    def at(self, progress: float) -> float:
        progress = _clamped(progress)
        reached = self.initial + (self.final - self.initial) * (1 - (1 - progress) ** 3)
        return self.final if progress == 1 else min(self.final, reached)


@dataclass(frozen=True)
class Levels(Schedule):
    """A list of amounts, a_i in round i: as many rounds as there are amounts.

    Raises `SparsewoodError` for an empty list and for sparsities that fall.

    >>> Levels([0.5, 0.75])(2)
    (Event(step=0, amount=Sparsity(fraction=0.5)), Event(step=1, amount=Sparsity(fraction=0.75)))
    """

    amounts: Sequence[AmountLike]

    def __post_init__(self) -> None:
        given = self.amounts
        if not isinstance(given, list | tuple) or not given:
            raise SparsewoodError(f"Levels takes a list of amounts, one for each round. Got {given!r}.")
        amounts = tuple(as_amount(amount) for amount in given)
        shares = [amount.fraction for amount in amounts if isinstance(amount, Sparsity)]
        fall = next((pair for pair in pairwise(shares) if pair[0] > pair[1]), None)
        if fall is not None:
            raise SparsewoodError(
                f"Levels are totals, which cannot fall. Got sparsity {fall[0]} and then {fall[1]}. Sort them."
            )
        object.__setattr__(self, "amounts", amounts)

    @classmethod
    def compounded(cls, percent: float = 5.0, floor: float = 39.0) -> Levels:
        """`percent` of what is left at each level, for as long as `floor` percent are left.

        Nominal densities in percent, rounded to two digits: d_i = round(100 (1 - percent / 100)^i, 2), i = 1, 2 ...

        >>> [round(100 * level.fraction, 2) for level in Levels.compounded(25, floor=30).amounts]
        [25.0, 43.75, 57.81, 68.36]
        """
        if not 0 < percent < 100 or not 0 < floor < 100:
            raise SparsewoodError(f"percent and floor must be between 0 and 100. Got {percent!r} and {floor!r}.")
        levels: list[Amount] = []
        while (density := round(100 * (1 - percent / 100) ** (len(levels) + 1), 2)) >= floor:
            levels.append(Sparsity(round(100 - density, 2) / 100))
        if not levels:
            raise SparsewoodError(
                f"The first level, {percent:g} %, leaves less than the floor of {floor:g} %. Lower one of them."
            )
        return cls(tuple(levels))

    @property
    def fixed_rounds(self) -> int:
        return len(self.amounts)

    def __call__(self, rounds: int) -> Plan:
        require_rounds(rounds, self.fixed_rounds)
        return tuple(Event(i, as_amount(amount)) for i, amount in enumerate(self.amounts))


@dataclass(frozen=True)
class OneByOne(Schedule):
    """One unit more in every round: i + 1 units removed in round i; as many rounds as units.

    Scores are taken anew after every unit (greedy pruning, as in Molchanov et al. 2017, "Pruning Convolutional Neural
    Networks for Resource Efficient Inference", https://arxiv.org/abs/1611.06440).

    >>> OneByOne(2)(2)
    (Event(step=0, amount=Count(n=1)), Event(step=1, amount=Count(n=2)))
    """

    units: int

    def __post_init__(self) -> None:
        if Count(self.units).n < 1:
            raise SparsewoodError(f"OneByOne needs at least one unit to remove. Got {self.units!r}.")

    @property
    def fixed_rounds(self) -> int:
        return self.units

    def __call__(self, rounds: int) -> Plan:
        require_rounds(rounds, self.fixed_rounds)
        return tuple(Event(i, Count(i + 1)) for i in range(rounds))


def _require_rise(initial: float, final: float) -> None:
    Sparsity(final)
    Sparsity(initial)
    if initial > final:
        raise SparsewoodError(f"Sparsity cannot fall: initial must be at most final. Got {initial} and {final}.")


def _clamped(progress: float) -> float:
    if math.isnan(progress):
        raise SparsewoodError("progress must be a number, 0 at the start and 1 at the end. Got nan.")
    return min(1.0, max(0.0, progress))
