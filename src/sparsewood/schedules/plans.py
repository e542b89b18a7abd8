"""When to prune and how much: a schedule turns a number of rounds into a plan, which is plain data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from sparsewood.errors import SparsewoodError
from sparsewood.types import Amount, AmountLike, Remaining, Sparsity, as_amount


@dataclass(frozen=True)
class Event:
    """Before round `step` (from 0), prune to `amount`."""

    step: int
    amount: Amount


Plan = tuple[Event, ...]


class Schedule(ABC):
    """A number of rounds -> a plan."""

    @abstractmethod
    def __call__(self, rounds: int) -> Plan: ...


def require_rounds(rounds: int) -> None:
    """Raise `SparsewoodError` unless `rounds` is a whole number >= 1."""
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise SparsewoodError(f"A schedule needs a whole number of rounds >= 1. Got {rounds!r}.")


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


@dataclass(frozen=True)
class Linear(Schedule):
    """Sparsity s_i = final (i + 1) / n in round i of n.

    >>> [event.amount.fraction for event in Linear(0.8)(4)]
    [0.2, 0.4, 0.6000000000000001, 0.8]
    """

    final: float

    def __post_init__(self) -> None:
        Sparsity(self.final)

    def __call__(self, rounds: int) -> Plan:
        require_rounds(rounds)
        return tuple(Event(i, Sparsity(self.final * ((i + 1) / rounds))) for i in range(rounds))


@dataclass(frozen=True)
class Cubic(Schedule):
    """Sparsity s_i = final (1 - (1 - (i + 1) / n)^3) in round i of n: fast at first, then slower.

    Source: Zhu and Gupta 2017, "To prune, or not to prune" (automated gradual pruning),
    https://arxiv.org/abs/1710.01878.

    >>> [round(event.amount.fraction, 4) for event in Cubic(0.9)(10)][:3]
    [0.2439, 0.4392, 0.5913]
    """

    final: float

    def __post_init__(self) -> None:
        Sparsity(self.final)

    def __call__(self, rounds: int) -> Plan:
        require_rounds(rounds)
        return tuple(Event(i, Sparsity(self.final * (1 - (1 - (i + 1) / rounds) ** 3))) for i in range(rounds))
