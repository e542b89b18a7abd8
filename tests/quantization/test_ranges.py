"""Calibrators (001-11): what range they make of the values that were seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsewood.errors import SparsewoodError
from sparsewood.quantization import Histogram, MinMax, Percentile
from sparsewood.quantization.ranges import Calibrator, Observed


def observed(values: np.ndarray, bins: int) -> Observed:
    counts = np.histogram(values, bins, (values.min(), values.max()))[0] if bins else np.zeros(0, dtype=np.int64)
    return Observed(float(values.min()), float(values.max()), counts, int((values == 0).sum()))


def error(values: np.ndarray, limits: tuple[float, float]) -> float:
    """Of uint8 integers over the limits, as they are."""
    low, high = min(limits[0], 0.0), max(limits[1], 0.0)
    step = (high - low) / 255
    integers = np.clip(np.round(values / step) + np.round(-low / step), 0, 255)
    return float((((integers - np.round(-low / step)) * step - values) ** 2).mean())


@given(st.integers(0, 1000), st.floats(-3, 3), st.sampled_from([MinMax(), Percentile(99.0), Histogram()]))
def test_ranges_lie_within_what_was_seen(seed: int, shift: float, calibrator: Calibrator) -> None:
    values = np.random.default_rng(seed).standard_normal(500) + shift
    low, high = calibrator(observed(values, calibrator.bins))
    assert min(values.min(), 0.0) <= low <= high <= max(values.max(), 0.0)


def test_percentiles_are_those_of_the_values_to_a_bin() -> None:
    values = np.random.default_rng(0).standard_normal(100_000)
    calibrator = Percentile(98.0)
    low, high = calibrator(observed(values, calibrator.bins))
    width = (values.max() - values.min()) / calibrator.bins
    exact = np.quantile(values, [0.01, 0.99])
    assert abs(low - exact[0]) <= 2 * width
    assert abs(high - exact[1]) <= 2 * width
    assert Percentile(100.0)(observed(values, 8192)) == (values.min(), values.max())


@pytest.mark.parametrize("outliers", [0, 1, 20])
@pytest.mark.parametrize("rectified", [False, True])
def test_histograms_are_never_worse_than_least_and_largest(outliers: int, rectified: bool) -> None:
    random = np.random.default_rng(3)
    values = random.standard_normal(2_000_000 if outliers == 1 else 20_000)
    values[:outliers] = 60.0
    values = np.maximum(values, 0.0) if rectified else values
    calibrator = Histogram()
    limits = calibrator(observed(values, calibrator.bins))
    wide = error(values, MinMax()(observed(values, 0)))
    assert error(values, limits) <= wide * (1 + 1e-6)
    if outliers == 20:
        grid = [(values.min() * a, 60.0 * b) for a in np.linspace(0.5, 1, 6) for b in np.linspace(0.03, 1, 60)]
        assert error(values, limits) <= 1.1 * min(error(values, one) for one in grid)
    if outliers == 1:  # one of two million is worth cutting off, one of twenty thousand is not
        assert limits[1] < 40
        assert error(values, limits) < 0.7 * wide


def test_one_sided_values() -> None:
    values = -np.abs(np.random.default_rng(1).standard_normal(1000))
    low, high = Histogram()(observed(values, 2048))
    assert high == 0.0
    assert values.min() <= low < 0


@pytest.mark.parametrize("make", [lambda: Percentile(0.0), lambda: Percentile(101), lambda: Percentile(99, bins=1)])
def test_what_cannot_be_is_refused(make: object) -> None:
    assert callable(make)
    with pytest.raises(SparsewoodError, match="Percentile"):
        make()
    with pytest.raises(SparsewoodError, match="Histogram"):
        Histogram(bins=0)
