"""Schedules of thresholds: what scores below them goes, however much that is."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sparsewood.errors import SparsewoodError
from sparsewood.schedules.plans import Event, Plan, Schedule, require_rounds
from sparsewood.types import Threshold

__all__ = ["RNNRamp"]


@dataclass(frozen=True)
class RNNRamp(Schedule):
    """A threshold that rises in two straight lines, slowly and then `multiplier` times as fast.

    With f = `every` and the slopes
        theta = 2 q f / (2 (ramp - start) + 3 (end - ramp)),    phi = multiplier * theta,
    the threshold at step t is
        eps(t) = theta (t - start + 1) / f                                      for start <= t < ramp
        eps(t) = (theta (ramp - start + 1) + phi (t - ramp + 1)) / f            for ramp <= t <= end,
    which with multiplier 1.5 ends near q. It was made for recurrent networks; q is the 90th percentile of |w| of a
    trained network of the kind. Steps are those of training. Event i is the one of step start + every * i, so that a
    plan of it is spaced with the same `start` and `every`; there are (end - start) // every + 1 of them.

    Source: Narang et al. 2017, "Exploring Sparsity in Recurrent Neural Networks", https://arxiv.org/abs/1704.05119.

    >>> ramp = RNNRamp(0.12, ramp=2, end=4)
    >>> [round(event.amount.value, 3) for event in ramp(ramp.fixed_rounds)]
    [0.024, 0.048, 0.108, 0.144, 0.18]
    """

    q: float
    ramp: int
    end: int
    start: int = 0
    every: int = 1
    multiplier: float = 1.5

    def __post_init__(self) -> None:
        Threshold(self.q)
        if self.q <= 0:
            raise SparsewoodError(f"RNNRamp: q must be above 0, as a percentile of |w|. Got {self.q!r}.")
        steps = (self.start, self.ramp, self.end, self.every)
        whole = all(isinstance(step, int) and not isinstance(step, bool) for step in steps)
        if not whole or not 0 <= self.start <= self.ramp <= self.end or self.start == self.end or self.every < 1:
            raise SparsewoodError(
                "RNNRamp needs whole steps 0 <= start <= ramp <= end, start < end, and every >= 1. "
                f"Got start={self.start!r}, ramp={self.ramp!r}, end={self.end!r}, every={self.every!r}."
            )
        if not math.isfinite(self.multiplier) or self.multiplier <= 0:
            raise SparsewoodError(f"RNNRamp: multiplier must be a number above 0 (1.5 to 2). Got {self.multiplier!r}.")

    def at(self, step: int) -> float:
        """The threshold at a step of training: 0 before `start`, and as at `end` after it."""
        if step < self.start:
            return 0.0
        step = min(step, self.end)
        slope = 2 * self.q * self.every / (2 * (self.ramp - self.start) + 3 * (self.end - self.ramp))
        if step < self.ramp:
            return slope * (step - self.start + 1) / self.every
        steep = self.multiplier * slope
        return (slope * (self.ramp - self.start + 1) + steep * (step - self.ramp + 1)) / self.every

    @property
    def fixed_rounds(self) -> int:
        return (self.end - self.start) // self.every + 1

    @property
    def spacing(self) -> tuple[int, int]:
        return (self.start, self.every)

    def __call__(self, rounds: int) -> Plan:
        require_rounds(rounds, self.fixed_rounds)
        return tuple(Event(i, Threshold(self.at(self.start + self.every * i))) for i in range(rounds))
