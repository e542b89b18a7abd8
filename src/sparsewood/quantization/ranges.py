"""Calibration: from the values that a tensor took to the range that its integers cover."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from sparsewood.errors import SparsewoodError

__all__ = ["Calibrator", "Histogram", "MinMax", "Observed", "Percentile"]

_CANDIDATES = 256


@dataclass(frozen=True, eq=False)
class Observed:
    """The values that a tensor took over all of the calibration data.

    Attributes:
        low, high: the least and the largest.
        counts: int64 [bins], how many values there were in each of equal parts of low ... high; empty where the
            calibrator needs none.
        zeros: how many of them were exactly 0.
    """

    low: float
    high: float
    counts: np.ndarray
    zeros: int


@runtime_checkable
class Calibrator(Protocol):
    """Chooses a range. `bins` is how many parts the histogram has that it needs; 0: it needs none."""

    @property
    def bins(self) -> int: ...

    def __call__(self, observed: Observed) -> tuple[float, float]:
        """The range to cover, low <= high; what lies outside becomes its nearest end."""
        ...


@dataclass(frozen=True)
class MinMax:
    """All that was seen: the range is from the least to the largest value.

    >>> MinMax()(Observed(-1.0, 4.0, np.array([]), 0))
    (-1.0, 4.0)
    """

    @property
    def bins(self) -> int:
        return 0

    def __call__(self, observed: Observed) -> tuple[float, float]:
        return observed.low, observed.high


@dataclass(frozen=True)
class Percentile:
    """All but the outermost values: (100 - percent) / 2 % of them are cut off at each end, to the width of one bin.

    Few values far out make the steps of MinMax wide for all others.

    >>> counts = np.zeros(100, dtype=np.int64)
    >>> counts[:10], counts[99] = 1_000, 1
    >>> low, high = Percentile(99.9)(Observed(0.0, 100.0, counts, 0))
    >>> low < 0.1 and 9 <= high <= 10
    True
    """

    percent: float = 99.999
    bins: int = 8192

    def __post_init__(self) -> None:
        if not 0 < self.percent <= 100:
            raise SparsewoodError(f"Percentile: percent must be in (0, 100]. Got {self.percent!r}.")
        _require_bins(self)

    def __call__(self, observed: Observed) -> tuple[float, float]:
        edges = np.linspace(observed.low, observed.high, len(observed.counts) + 1)
        share = np.concatenate([[0.0], np.cumsum(observed.counts) / max(observed.counts.sum(), 1)])
        cut = (100.0 - self.percent) / 200.0
        # Flat stretches of the share are bins without values: the range ends where values do.
        low = edges[max(int(np.searchsorted(share, cut, side="right")) - 1, 0)]
        high = edges[min(int(np.searchsorted(share, 1.0 - cut, side="left")), len(edges) - 1)]
        return float(min(low, high)), float(high)


@dataclass(frozen=True)
class Histogram:
    """The range of least squared error: narrow steps against values that are cut off.

        minimise over low <= 0 <= high:   n * step^2 / 12  +  sum over x outside of (x - nearest end)^2

    with n values inside that are not zero, and step = (high - low) / 255: a value is off by a step's uniformly
    distributed part when it is rounded, and 0 is exact. The ends are searched for on a grid.

    Source: Banner et al. 2019, "Post training 4-bit quantization of convolutional networks for rapid-deployment",
    https://arxiv.org/abs/1810.05723, for the two errors; here they are those of the histogram, not of a fitted curve.

    >>> counts = np.zeros(1000, dtype=np.int64)
    >>> counts[:10], counts[999] = 100_000, 1  # one value of 1000 beside a million below 10
    >>> low, high = Histogram()(Observed(0.0, 1000.0, counts, 0))
    >>> low == 0 and 10 <= high < 500
    True
    """

    bins: int = 2048

    def __post_init__(self) -> None:
        _require_bins(self)

    def __call__(self, observed: Observed) -> tuple[float, float]:
        low, high = min(observed.low, 0.0), max(observed.high, 0.0)
        if low == high:
            return low, high
        edges = np.linspace(observed.low, observed.high, len(observed.counts) + 1)
        centres, counts = (edges[:-1] + edges[1:]) / 2, observed.counts.astype(np.float64)
        below, above = np.linspace(low, 0.0, _CANDIDATES), np.linspace(high, 0.0, _CANDIDATES)
        lost, left = _cut_off(below, centres, counts)
        lost_above, left_above = _cut_off(-above, -centres[::-1], counts[::-1])
        inside = np.maximum(counts.sum() - observed.zeros - left[:, None] - left_above[None, :], 0.0)
        steps = (above[None, :] - below[:, None]) / 255
        errors = inside * steps**2 / 12 + lost[:, None] + lost_above[None, :]
        i, j = np.unravel_index(int(errors.argmin()), errors.shape)
        return float(below[i]), float(above[j])


def _cut_off(ends: np.ndarray, centres: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each end, of ascending `centres`: sum over x < end of (x - end)^2, and how many they are."""
    upto = np.searchsorted(centres, ends, side="left")
    zero, one, two = (np.concatenate([[0.0], np.cumsum(counts * centres**power)])[upto] for power in range(3))
    return np.maximum(two - 2 * ends * one + ends**2 * zero, 0.0), zero


def _require_bins(calibrator: Percentile | Histogram) -> None:
    if not isinstance(calibrator.bins, int) or calibrator.bins < 2:
        raise SparsewoodError(
            f"{type(calibrator).__name__}: bins must be a whole number >= 2. Got {calibrator.bins!r}."
        )
