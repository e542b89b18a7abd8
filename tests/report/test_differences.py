"""Differences: paired by seed, in percentage points, with the interval of Student's t."""

from __future__ import annotations

import runpy
import statistics
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from sparsewood.report.differences import CONFIDENCE, controls_of, interval, paired_differences
from sparsewood.report.study import Difference, Row

studies = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("studies.py"))))


def rows(method: str, accuracies: list[float], role: str = "method", **values: Any) -> list[Row]:
    first = values.pop("first", 1)
    return [
        studies.row(method, seed=first + index, accuracy=accuracy, role=role, **values)
        for index, accuracy in enumerate(accuracies)
    ]


ACCURACIES = st.integers(2, 9).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 1000), min_size=n, max_size=n)] * 2)
)


# ---------------------------------------------------------------- intervals


@given(ACCURACIES)
def test_bounds_are_those_of_the_paired_t_test(pairs: tuple[list[int], list[int]]) -> None:
    """[8.3] Statistics over seeds, with what the error bars are defined as."""
    ours, theirs = ([value / 1000 for value in one] for one in pairs)
    every = [*rows("m", ours), *rows("random", theirs, "control")]
    (found,) = paired_differences(every)
    percent = [100 * (a - b) for a, b in zip(ours, theirs, strict=True)]
    assert found.pairs == len(ours)
    assert found.mean == pytest.approx(statistics.fmean(percent), abs=1e-9)
    if len({round(value, 6) for value in percent}) > 1:
        wanted = ttest_rel([100 * a for a in ours], [100 * b for b in theirs]).confidence_interval(CONFIDENCE)
        assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), rel=1e-6, abs=1e-9)
    else:
        assert (found.low, found.high) == pytest.approx((found.mean, found.mean), abs=1e-9)


@pytest.mark.parametrize(("confidence", "quantile"), [(0.95, 4.302653), (0.9, 2.919986), (0.99, 9.924843)])
def test_three_values_by_hand(confidence: float, quantile: float) -> None:
    """Mean 2, sample deviation 1: half the width is t / sqrt(3)."""
    found = interval([1.0, 2.0, 3.0], confidence)
    assert found is not None
    assert found == pytest.approx((2 - quantile / 3**0.5, 2 + quantile / 3**0.5), rel=1e-6)


def test_a_single_value_has_no_interval_and_equal_values_have_one_without_width() -> None:
    assert interval([1.0]) is None
    assert interval([]) is None
    assert interval([0.5] * 4) == (0.5, 0.5)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=8), st.floats(-50, 50))
def test_intervals_move_with_the_values(values: list[float], by: float) -> None:
    one, moved = interval(values), interval([value + by for value in values])
    assert one is not None
    assert moved is not None
    assert moved == pytest.approx((one[0] + by, one[1] + by), abs=1e-6)
    assert one[0] <= statistics.fmean(values) + 1e-9
    assert one[1] >= statistics.fmean(values) - 1e-9


# ---------------------------------------------------------------- pairs


def test_pairs_are_of_the_seeds_that_both_have() -> None:
    every = [*rows("m", [0.5, 0.6, 0.7]), *rows("random", [0.6, 0.2], "control", first=2)]  # seeds 2 and 3
    (found,) = paired_differences(every)
    assert (found.pairs, found.mean) == (2, pytest.approx((0.0 + 50.0) / 2))


def test_pairing_matters() -> None:
    """Seeds that are hard for both leave no trace in the differences."""
    every = [*rows("m", [0.51, 0.61, 0.71]), *rows("random", [0.5, 0.6, 0.7], "control")]
    (found,) = paired_differences(reversed(every))
    assert (found.mean, found.low, found.high) == pytest.approx((1.0, 1.0, 1.0))


def test_one_pair_has_no_bounds_and_none_no_difference() -> None:
    (found,) = paired_differences([*rows("m", [0.5, 0.6]), *rows("random", [0.4], "control")])
    assert (found.pairs, found.low, found.high) == (1, None, None)
    assert paired_differences([*rows("m", [0.5]), *rows("random", [0.4], "control", first=7)]) == []
    assert paired_differences(rows("m", [0.5])) == []
    assert paired_differences([]) == []


def test_amounts_and_problems_are_compared_apart() -> None:
    every = [
        *rows("m", [0.9], amount=2.0),
        *rows("m", [0.5], amount=8.0),
        *rows("m", [0.3], amount=2.0, problem="other"),
        *rows("random", [0.8], "control", amount=2.0),
        *rows("random", [0.1], "control", amount=8.0),
        *rows("random", [0.2], "control", amount=2.0, problem="other"),
        *rows("dense", [0.95], "control", amount=1.0),
    ]
    found = {(d.problem, d.amount, d.control): round(d.mean, 6) for d in paired_differences(every)}
    digits = "digits, small_conv"
    assert found == {
        (digits, 2.0, "random"): 10,
        (digits, 8.0, "random"): 40,
        (digits, 2.0, "dense"): -5,
        (digits, 8.0, "dense"): -45,
        ("other", 2.0, "random"): 10,
    }


def test_a_control_of_one_method_is_compared_with_it_alone() -> None:
    every = [
        *rows("lamp", [0.9]),
        *rows("snip", [0.8]),
        *rows("random_layers_of_lamp", [0.5], "control", of="lamp"),
        *rows("scratch_of_snip", [0.6], "control", of="snip"),
        *rows("random", [0.4], "control"),
    ]
    found = {(d.method, d.control): round(d.mean, 6) for d in paired_differences(every)}
    assert found == {
        ("lamp", "random_layers"): 40,
        ("lamp", "random"): 50,
        ("snip", "scratch"): 20,
        ("snip", "random"): 40,
    }


def test_controls_are_not_compared_and_nothing_with_itself() -> None:
    every = [*rows("random", [0.4], "control"), *rows("dense", [0.9], "control", amount=1.0)]
    assert paired_differences(every) == []


def test_whoever_asks_says_what_is_compared() -> None:
    every = [*rows("m", [0.9]), *rows("k", [0.7]), *rows("random", [0.4], "control")]
    found = paired_differences(every, lambda row: {"the other": ("k", row.amount)} if row.method == "m" else {})
    assert [replace(one, mean=round(one.mean, 9)) for one in found] == [
        Difference("digits, small_conv", "m", "the other", 4.0, 1, 20.0, None, None)
    ]


def test_controls_of_a_row() -> None:
    every = [
        *rows("m", [0.9]),
        *rows("magnitude_layers_of_m", [0.5], "control", of="m"),
        *rows("random", [0.5], "control"),
        *rows("random", [0.5], "control", amount=64.0),
        *rows("dense", [0.5], "control", amount=1.0),
    ]
    assert controls_of(every)(every[0]) == {
        "magnitude_layers": ("magnitude_layers_of_m", 4.0),
        "random": ("random", 4.0),
        "dense": ("dense", 1.0),
    }
