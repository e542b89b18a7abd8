"""Schedules that take layers in turn, and schedules made from other schedules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

from sparsewood.errors import SparsewoodError
from sparsewood.schedules.plans import Event, Plan, Schedule, require_rounds
from sparsewood.types import Density, Remaining, Sparsity

__all__ = ["Alternating", "RoundRobin", "Soft"]

Target = tuple[str, float, float]


@dataclass(frozen=True)
class RoundRobin(Schedule):
    """Layers in turn: each turn takes a layer `increment` further, and the last one exactly to its target.

    `targets` holds (layer, target, increment) for each layer; the k-th turn of a layer prunes it to sparsity
    min(target, k * increment), and layers that are done drop out. There are as many rounds as turns. Start and spacing
    are for `spaced`. Raises `SparsewoodError` if there is no target, since that would be an empty plan.

    >>> plan = RoundRobin((("l1", 0.3, 0.1), ("l2", 0.5, 0.3)))(5)
    >>> [(event.layers, round(event.amount.fraction, 2)) for event in plan]
    [(('l1',), 0.1), (('l2',), 0.3), (('l1',), 0.2), (('l2',), 0.5), (('l1',), 0.3)]
    """

    targets: Sequence[Target]

    def __post_init__(self) -> None:
        if not isinstance(self.targets, list | tuple) or not self.targets:
            raise SparsewoodError(
                f"RoundRobin needs (layer, target, increment) for at least one layer. Got {self.targets!r}."
            )
        targets = tuple(_checked(target) for target in self.targets)
        names = [name for name, _, _ in targets]
        if len(set(names)) < len(names):
            raise SparsewoodError(f"RoundRobin: every layer has one target. Got layers {names}.")
        object.__setattr__(self, "targets", targets)

    @property
    def fixed_rounds(self) -> int:
        return len(self._turns())

    def __call__(self, rounds: int) -> Plan:
        turns = self._turns()
        require_rounds(rounds, len(turns))
        return tuple(Event(i, Sparsity(reached), (name,)) for i, (name, reached) in enumerate(turns))

    def _turns(self) -> list[tuple[str, float]]:
        each = [[(name, share) for share in _shares(target, increment)] for name, target, increment in self.targets]
        return [turn for together in zip_longest(*each) for turn in together if turn is not None]


def _checked(target: Target) -> Target:
    if not isinstance(target, list | tuple) or len(target) != 3 or not isinstance(target[0], str):
        raise SparsewoodError(f"RoundRobin takes (layer, target, increment). Got {target!r}.")
    name, final, increment = target
    Sparsity(final)
    Sparsity(increment)
    if final == 0 or increment == 0:
        raise SparsewoodError(f"RoundRobin: target and increment must be above 0. Got {target!r}.")
    return name, final, increment


def _shares(target: float, increment: float) -> list[float]:
    """increment, 2 increment ... and at last the target; a step that comes within rounding of it is the last."""
    turns = max(1, math.ceil(target / increment * (1 - 1e-9)))
    return [*(turn * increment for turn in range(1, turns)), target]


@dataclass(frozen=True)
class Soft(Schedule):
    """The wrapped schedule, with zeros that may grow again after every event but the last, which holds.

    Scores of later events are those of all weights, so that what was removed too early comes back; the last event is
    hard, and the target is hit. A single event, as of `OneShot`, is repeated in every round (soft filter pruning: every
    epoch). For another pace use `spaced`, in steps of training. Refuses events of `Remaining`: after a soft event
    everything remains.

    Source: He et al. 2018, "Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks",
    https://arxiv.org/abs/1808.06866.

    >>> from sparsewood.schedules import Linear, OneShot
    >>> Soft(Linear(0.5))(2)
    (Event(step=0, amount=Sparsity(fraction=0.25), regrow=True), Event(step=1, amount=Sparsity(fraction=0.5)))
    >>> [(event.amount.fraction, event.regrow) for event in Soft(OneShot(0.5))(3)]
    [(0.5, True), (0.5, True), (0.5, False)]
    """

    schedule: Schedule

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, Schedule):
            raise SparsewoodError(f"Soft takes a schedule, for example Soft(OneShot(0.5)). Got {self.schedule!r}.")

    @property
    def fixed_rounds(self) -> int | None:
        return self.schedule.fixed_rounds

    @property
    def spacing(self) -> tuple[int, int] | None:
        return self.schedule.spacing

    def __call__(self, rounds: int) -> Plan:
        plan = self.schedule(rounds)
        if len(plan) == 1:
            plan = tuple(replace(plan[0], step=step) for step in range(rounds))
        if any(isinstance(event.amount, Remaining) for event in plan):
            raise SparsewoodError(
                f"{self}: after a soft event everything remains, so that shares of what remains lead nowhere. Use "
                "Exponential(final), which goes the same way in totals."
            )
        last = {event.layers: event.step for event in plan}  # the last event of each group of layers holds
        return tuple(replace(event, regrow=event.step < last[event.layers]) for event in plan)


@dataclass(frozen=True)
class Alternating(Schedule):
    """Sparse and dense phases in turn, ending sparse (AC/DC): each round begins the next phase.

        round i of n:  prune to sparsity `final` if n - 1 - i is even, else give all weights back

    In a dense phase nothing is removed and everything learns; what was removed begins at 0 again. Each sparse phase
    chooses anew among all weights, and the last one holds. (A scope may not have amounts of its own for some layers,
    since these would stay sparse: `Pruning` refuses it.) In units of epochs or steps `every` is the length of a
    phase, and the dense training before `start` the paper's warm-up.

    Source: Peste et al. 2021, "AC/DC: Alternating Compressed/DeCompressed Training of Deep Neural Networks",
    https://arxiv.org/abs/2106.12379.

    >>> [(event.step, event.amount, event.regrow) for event in Alternating(0.9)(3)]  # doctest: +NORMALIZE_WHITESPACE
    [(0, Sparsity(fraction=0.9), False), (1, Density(fraction=1.0), True), (2, Sparsity(fraction=0.9), False)]
    """

    final: float

    def __post_init__(self) -> None:
        Sparsity(self.final)

    def __call__(self, rounds: int) -> Plan:
        require_rounds(rounds)
        sparse, dense = Sparsity(self.final), Density(1.0)
        return tuple(Event(i, dense, regrow=True) if (rounds - 1 - i) % 2 else Event(i, sparse) for i in range(rounds))
