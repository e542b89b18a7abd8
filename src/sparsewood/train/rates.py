"""Learning rates over a training, as factors on the optimizer's own. No state: any step can be asked for.

A schedule is asked before each step, with the number of steps done; the steps of an epoch count as parts of it, so the
factor moves with every step unless the schedule is a staircase.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from sparsewood.errors import SparsewoodError

__all__ = ["Constant", "Cosine", "CosineRestarts", "MultiStep", "OneCycle", "Piecewise", "Step", "Warmup"]

# Boundaries such as 0.07 * 100 steps are whole numbers that floating point misses by far less than this.
_ROUNDING = 1e-9


def _falling(share: float) -> float:
    return (1 + math.cos(math.pi * share)) / 2


def _require(kind: str, name: str, value: Any, above: float | None = None) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0 or value == above:
        limits = "> 0" if above is not None else ">= 0"
        raise SparsewoodError(f"{kind}: {name} must be a finite number {limits}. Got {value!r}.")


class Rate(ABC):
    """A learning-rate schedule."""

    @abstractmethod
    def __call__(self, step: float, steps: float, per_epoch: float) -> float:
        """The factor on the learning rate of the step after `step` of `steps`, with `per_epoch` of them in an epoch."""


@dataclass(frozen=True)
class Constant(Rate):
    """The factor 1 throughout.

    >>> Constant()(7, 10, 5)
    1.0
    """

    def __call__(self, step: float, steps: float, per_epoch: float) -> float:  # noqa: ARG002 - the same at every step
        return 1.0


@dataclass(frozen=True)
class Cosine(Rate):
    """floor + (1 - floor) (1 + cos(pi t)) / 2, with t the share of the training, or of `epochs`, that is done.

    `epochs` is half a period (`T_max` of PyTorch's CosineAnnealingLR): in a longer training the rate rises again.
    Source: Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983.

    >>> [round(Cosine()(step, 4, 2), 3) for step in range(5)]
    [1.0, 0.854, 0.5, 0.146, 0.0]
    >>> [round(Cosine(epochs=1, floor=0.1)(step, 4, 2), 3) for step in range(5)]
    [1.0, 0.55, 0.1, 0.55, 1.0]
    """

    epochs: float | None = None
    floor: float = 0.0

    def __post_init__(self) -> None:
        if self.epochs is not None:
            _require("Cosine", "epochs", self.epochs, above=0.0)
        _require("Cosine", "floor", self.floor)

    def __call__(self, step: float, steps: float, per_epoch: float) -> float:
        half = steps if self.epochs is None else self.epochs * per_epoch
        return self.floor + (1 - self.floor) * _falling(step / half)


@dataclass(frozen=True)
class CosineRestarts(Rate):
    """Falling cosines from 1 to `floor`, one after another.

    The first takes `first` epochs, each next one `multiply` times as long as the one before.

    Source: Loshchilov and Hutter 2017 (SGDR), https://arxiv.org/abs/1608.03983.

    >>> [round(CosineRestarts(first=1)(step, 4, 2), 3) for step in range(4)]
    [1.0, 0.5, 1.0, 0.5]
    """

    first: float = 5
    multiply: int = 1
    floor: float = 0.0

    def __post_init__(self) -> None:
        _require("CosineRestarts", "first", self.first, above=0.0)
        _require("CosineRestarts", "floor", self.floor)
        if isinstance(self.multiply, bool) or not isinstance(self.multiply, int) or self.multiply < 1:
            raise SparsewoodError(f"CosineRestarts: multiply must be a whole number >= 1. Got {self.multiply!r}.")

    def __call__(self, step: float, steps: float, per_epoch: float) -> float:  # noqa: ARG002 - known by epochs alone
        length, left = self.first * per_epoch, step
        if self.multiply == 1:
            left -= length * math.floor(left / length + _ROUNDING)
        else:
            while left >= length - _ROUNDING:
                left, length = left - length, length * self.multiply
        return self.floor + (1 - self.floor) * _falling(max(left, 0) / length)


@dataclass(frozen=True)
class Step(Rate):
    """factor ^ floor(epoch / every): one drop after every so many epochs (StepLR).

    >>> [round(Step(every=1, factor=0.1)(step, 6, 2), 3) for step in range(6)]
    [1.0, 1.0, 0.1, 0.1, 0.01, 0.01]
    """

    every: float = 20
    factor: float = 0.1

    def __post_init__(self) -> None:
        _require("Step", "every", self.every, above=0.0)
        _require("Step", "factor", self.factor)

    def __call__(self, step: float, steps: float, per_epoch: float) -> float:  # noqa: ARG002 - known by epochs alone
        return self.factor ** math.floor(step / (self.every * per_epoch) + _ROUNDING)


@dataclass(frozen=True)
class MultiStep(Rate):
    """factor ^ (number of marks in `at` that were passed). Marks below 1 are shares of the training, others epochs.

    >>> [MultiStep(at=(0.5, 0.75), factor=0.5)(step, 4, 1) for step in range(4)]
    [1.0, 1.0, 0.5, 0.25]
    """

    at: tuple[float, ...] = (0.5, 0.75)
    factor: float = 0.1

    def __post_init__(self) -> None:
        if isinstance(self.at, str) or not hasattr(self.at, "__iter__"):
            raise SparsewoodError(f"MultiStep: at must be a list of epochs or shares. Got {self.at!r}.")
        object.__setattr__(self, "at", tuple(self.at))
        for mark in self.at:
            _require("MultiStep", "at", mark, above=0.0)
        if any(mark < 1 for mark in self.at) and any(mark >= 1 for mark in self.at):
            raise SparsewoodError(
                f"MultiStep: at holds shares of the training (below 1) or epochs (from 1 on), not both. Got {self.at}."
            )
        _require("MultiStep", "factor", self.factor)

    def __call__(self, step: float, steps: float, per_epoch: float) -> float:
        passed = sum(step >= mark * (steps if mark < 1 else per_epoch) - _ROUNDING for mark in self.at)
        return self.factor**passed


@dataclass(frozen=True)
class Piecewise(Rate):
    """The factor of the last of `points`, pairs of (epoch, factor), whose epoch has begun; 1 before the first.

    >>> [Piecewise(((1, 0.5), (2, 0.1)))(step, 6, 2) for step in range(6)]
    [1.0, 1.0, 0.5, 0.5, 0.1, 0.1]
    """

    points: tuple[tuple[float, float], ...] = ((3, 0.5), (6, 0.1))

    def __post_init__(self) -> None:
        try:
            points = tuple((epoch, factor) for epoch, factor in self.points)
        except (TypeError, ValueError):
            raise SparsewoodError(f"Piecewise: points must be pairs of (epoch, factor). Got {self.points!r}.") from None
        object.__setattr__(self, "points", points)
        for epoch, factor in points:
            _require("Piecewise", "epoch", epoch)
            _require("Piecewise", "factor", factor)
        epochs = [epoch for epoch, _ in points]
        if any(late <= early for early, late in pairwise(epochs)):
            raise SparsewoodError(f"Piecewise: the epochs of points must rise. Got {epochs}.")

    def __call__(self, step: float, steps: float, per_epoch: float) -> float:  # noqa: ARG002 - known by epochs alone
        begun = [factor for epoch, factor in self.points if step >= epoch * per_epoch - _ROUNDING]
        return float(begun[-1]) if begun else 1.0


@dataclass(frozen=True)
class OneCycle(Rate):
    """Up to `peak` along a cosine over the first `share` of the training, then down to next to nothing along another.

    It starts at peak / divide and ends, at the last step, at peak / divide / final_divide. Factors count from the
    optimizer's own rate: `SGD(lr=0.01)` and peak 10 go up to 0.1. As PyTorch's OneCycleLR, without its cycle of the
    momentum. Source: Smith and Topin 2019, https://arxiv.org/abs/1708.07120.

    >>> [round(OneCycle(share=0.5)(step, 5, 5), 2) for step in range(5)]
    [0.4, 7.6, 9.05, 3.45, 0.0]
    """

    peak: float = 10.0
    share: float = 0.3
    divide: float = 25.0
    final_divide: float = 1e4

    def __post_init__(self) -> None:
        for name in ("peak", "divide", "final_divide"):
            _require("OneCycle", name, getattr(self, name), above=0.0)
        _require("OneCycle", "share", self.share)
        if self.share > 1:
            raise SparsewoodError(f"OneCycle: share must be a part of the training, in [0, 1]. Got {self.share!r}.")

    def __call__(self, step: float, steps: float, per_epoch: float) -> float:  # noqa: ARG002 - known by shares alone
        top, last = self.share * steps - 1, steps - 1
        start = self.peak / self.divide
        if step <= top:
            return start + (self.peak - start) * (1 - _falling(step / top if top > 0 else 1.0))
        end = start / self.final_divide
        return end + (self.peak - end) * _falling(min((step - top) / (last - top), 1.0) if last > top else 1.0)


@dataclass(frozen=True)
class Warmup(Rate):
    """start + (1 - start) t over the first `epochs`, t their share that is done; from there on `then`.

    `then` counts its steps from the end of the warmup.

    Source: Goyal et al. 2017, https://arxiv.org/abs/1706.02677.

    >>> [round(Warmup(epochs=1, start=0.1)(step, 6, 2), 3) for step in range(6)]
    [0.1, 0.55, 1.0, 0.854, 0.5, 0.146]
    """

    epochs: float = 5
    then: Rate = Cosine()
    start: float = 0.0

    def __post_init__(self) -> None:
        _require("Warmup", "epochs", self.epochs)
        _require("Warmup", "start", self.start)
        if not isinstance(self.then, Rate):
            raise SparsewoodError(f"Warmup: then must be a learning-rate schedule. Got {self.then!r}.")

    def __call__(self, step: float, steps: float, per_epoch: float) -> float:
        warm = self.epochs * per_epoch
        if step < warm - _ROUNDING:
            return self.start + (1 - self.start) * step / warm
        return self.then(step - warm, steps - warm, per_epoch)


@dataclass(frozen=True)
class Stretched(Rate):
    """`rate` over a training that is `factor` times as long: what it counts in epochs takes as many times longer.

    >>> [Stretched(Step(every=1, factor=0.1), 2)(step, 8, 2) for step in range(0, 8, 2)]
    [1.0, 1.0, 0.1, 0.1]
    """

    rate: Rate
    factor: float

    def __call__(self, step: float, steps: float, per_epoch: float) -> float:
        return self.rate(step, steps, per_epoch * self.factor)
