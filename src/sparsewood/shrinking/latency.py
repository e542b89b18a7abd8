"""Latency budgets: the most units that stay in the time allowed, at widths that are really faster on this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property, partial
from itertools import chain
from math import lcm
from statistics import median

import numpy as np
from torch import nn

from sparsewood.errors import SparsewoodError
from sparsewood.inputs import Inputs
from sparsewood.measurement.layer_times import best_of, cache_directory, clock_for
from sparsewood.shrinking.budgets import Latency
from sparsewood.shrinking.choice import Choice, Chooser
from sparsewood.shrinking.latency_model import LatencyModel
from sparsewood.shrinking.plan import Keep
from sparsewood.shrinking.pools import Free, filled_up
from sparsewood.structure import Structure
from sparsewood.structure.names import counted

__all__ = ["Rounds", "allowed_seconds", "meet_latency"]

_TIMING = "time the network, module by module"
_WIDER = 4
"""How many steps wider a group is tried for nothing."""
_CLOSE = (0.92, 1.03)
"""What share of the time allowed is near enough to it."""
_ROUNDS = 3
_PAIRS = 7
"""How often the large and the small network are timed in turn."""
_TRIED = 24
"""Among how many numbers of units the smallest that will do is looked for."""


def meet_latency(
    chooser: Chooser,
    model: nn.Module,
    example_inputs: Inputs,
    structure: Structure,
    budget: Latency,
    held: Mapping[str, str] | None = None,
    *,
    times: LatencyModel | None = None,
    correction: float = 1.0,
    progress: Callable[[str], None] | None = None,
) -> Choice:
    """The choice that is predicted to take at most the time that the budget allows; `times.predict(choice.keep)`.

    The number of units that go is found by bisection, in the chooser's scope, every group rounded to widths that suit
    the machine (`LatencyModel.unit_steps`) and the chooser's `round_to`. Then groups get wider: first those that are as
    fast when wider, so that no width is chosen of which a larger one takes no longer; then, the best-scored units
    first, as far as they fit.

    `times` are predictions made earlier for this model and inputs, and `correction` says how much longer what was
    chosen by them took in truth: measured over predicted. Raises `SparsewoodError`, with the least that is reachable,
    if the budget is not, and if the chooser's amounts are those of single groups.
    """
    if not chooser.scope.shares_total:
        raise SparsewoodError(
            f"{budget} needs a scope that shares a total out, but {chooser.scope} has amounts of its own. Use "
            "Everywhere(), PerLayer(), PerType() or Isomorphic(), or leave the budget out."
        )
    tell = progress or (lambda _: None)
    free = chooser.free(held or {})
    if times is None:
        tell(_TIMING)
        times = LatencyModel(model, example_inputs, structure, engine=budget.engine, cache=cache_directory())
    allowed = allowed_seconds(budget, times) / correction
    search = _Search(chooser, times, free, allowed)
    tell("time layers at other widths")
    try:
        asked, kept = search.found()
        if search.seconds(kept) > allowed:
            raise _unreachable(budget, times, search, correction)
        kept = search.filled(search.widened(kept))
    finally:
        times.save()
    return replace(chooser.chosen(free, kept, asked), budget=budget)


def allowed_seconds(budget: Latency, times: LatencyModel) -> float:
    """How long a forward pass may take."""
    return budget.seconds if budget.seconds is not None else (budget.fraction or 1.0) * times.dense


class Rounds:
    """Predictions that are corrected by what a network, once built, really takes.

    Each round chooses widths by the tables, and once the network is built `measure` compares it with the large one, in
    turn. If that is further from the budget than `_CLOSE`, the next round's predictions are corrected by the factor
    that was found; at most `_ROUNDS`. `progress` is called with what is being measured.
    """

    def __init__(
        self,
        chooser: Chooser,
        model: nn.Module,
        example_inputs: Inputs,
        structure: Structure,
        budget: Latency,
        *,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        self.chooser, self.model, self.inputs, self.structure = chooser, model, example_inputs, structure
        self.budget, self.correction, self.round = budget, 1.0, 0
        self.progress = progress or (lambda _: None)

    @cached_property
    def times(self) -> LatencyModel:
        """The large network, timed."""
        self.progress(_TIMING)
        return LatencyModel(self.model, self.inputs, self.structure, engine=self.budget.engine, cache=cache_directory())

    @cached_property
    def _dense(self) -> Callable[[], object]:
        return self.budget.engine.ready(self.model, self.inputs)

    @property
    def allowed(self) -> float:
        """Seconds that a forward pass may take."""
        return allowed_seconds(self.budget, self.times)

    def choose(self, held: Mapping[str, str]) -> Choice:
        """What stays, by the corrected tables."""
        return meet_latency(
            self.chooser, self.model, self.inputs, self.structure, self.budget, held,
            times=self.times, correction=self.correction, progress=self.progress,
        )  # fmt: skip

    def measure(self, small: nn.Module, keep: Keep) -> tuple[float, float, bool]:
        """Seconds that the small network takes, measured and predicted, and whether another round should follow."""
        self.progress("time both networks")
        first = next(chain(small.parameters(), small.buffers()))
        timed = partial(best_of, repeats=5, minimum=3, seconds=0.3, clock=clock_for(first.device))
        smaller = self.budget.engine.ready(small, self.inputs)
        pairs = [(timed(self._dense), timed(smaller)) for _ in range(_PAIRS)]
        before, after = (median(times) for times in zip(*pairs, strict=True))
        measured, predicted = after / before * self.times.dense, self.times.predict(keep)
        self.round += 1
        close = _CLOSE[0] <= measured / self.allowed <= _CLOSE[1]
        again = not close and self.round < _ROUNDS
        if again:
            self.correction = measured / predicted
        return measured, predicted, again


class _Search:
    """Numbers of units kept of each free group, and how long what is left takes."""

    def __init__(self, chooser: Chooser, times: LatencyModel, free: Free, allowed: float) -> None:
        self.chooser, self.times, self.allowed = chooser, times, allowed
        places = {name: place for place, name in enumerate(times.names)}
        self._places = np.array([places[group.name] for group in free.groups], np.int64)
        steps = [lcm(int(a), int(b)) for a, b in zip(free.steps, times.unit_steps()[self._places], strict=True)]
        self.free = replace(free, steps=np.array(steps, np.int64))
        self.fastest = times.dense

    def seconds(self, kept: np.ndarray) -> float:
        """Seconds that are predicted."""
        every = self.times.units.copy()
        every[self._places] = kept
        seconds = self.times.predict_units(every)
        self.fastest = min(self.fastest, seconds)
        return seconds

    def rounded(self, gone: int) -> np.ndarray:
        """What stays of each group if `gone` units of all go: the closest number that suits the machine."""
        kept = self.chooser.counts(self.free, gone)
        pairs = [(self.free.below(i, int(n)), self.free.above(i, int(n))) for i, n in enumerate(kept)]
        closest = [low if n - low < high - n else high for n, (low, high) in zip(kept.tolist(), pairs, strict=True)]
        return np.array(closest, np.int64)

    def found(self) -> tuple[int, np.ndarray]:
        """The fewest units that are asked to go so that the rest is fast enough, and how many of each group then stay.

        The narrowest network if none is fast enough. Fewer units can be slower, so that bisection alone finds some
        number that will do; whether a smaller one does is tried at numbers equally far apart.
        """
        most = int((self.free.units - self.free.floors).sum())
        if self.fits(0):
            return 0, self.free.units.copy()
        enough = self.bisected(0, most)
        spread = np.linspace(0, enough, _TRIED + 1).astype(np.int64)[1:].tolist()
        first = next((number for number, gone in enumerate(spread) if self.fits(gone)), None)
        if first is not None:
            enough = self.bisected(spread[first - 1] if first else 0, spread[first])
        return (enough, self.rounded(enough)) if self.fits(enough) else (most, self.free.least)

    def fits(self, gone: int) -> bool:
        """Whether what stays is fast enough if so many units are asked to go."""
        return self.seconds(self.rounded(gone)) <= self.allowed

    def bisected(self, low: int, high: int) -> int:
        """A number of units after which the rest is fast enough, as far as it is after `high`, not after `low`."""
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.fits(middle) else (middle, high)
        return high

    def widened(self, kept: np.ndarray) -> np.ndarray:
        """Every group as wide as takes no longer than it does now, within a few steps."""
        kept, now = kept.copy(), self.seconds(kept)
        for group in range(len(kept)):
            wider = kept.copy()
            for _ in range(_WIDER):
                wider[group] = self.free.above(group, int(wider[group]) + 1)
                seconds = self.seconds(wider)
                if seconds <= now:
                    kept, now = wider.copy(), seconds
        return kept

    def filled(self, kept: np.ndarray) -> np.ndarray:
        """More units, as far as there is time for them."""
        chooser, free = self.chooser, self.free
        return filled_up(free, kept, lambda i, n: chooser.next_score(free, i, n), self.seconds, self.allowed)


def _unreachable(budget: Latency, times: LatencyModel, search: _Search, correction: float) -> SparsewoodError:
    dense, least = times.dense, search.fastest * correction
    held = f"; held: {counted(len(search.free.held), 'group')}" if search.free.held else ""
    corrected = f" (predictions times {correction:.2f}, as measured)" if correction != 1 else ""
    return SparsewoodError(
        f"{budget} allows {1000 * search.allowed * correction:.4g} ms of the {1000 * dense:.4g} ms that the network "
        f"takes. The least that is predicted{corrected} is {1000 * least:.4g} ms ({100 * least / dense:.1f} %), with "
        f"the fewest units that may stay in every group ({search.chooser.floor_rule}){held}. Ask for "
        f"Latency({least / dense:.3f}) or more, protect less, or lower min_units and round_to."
    )
