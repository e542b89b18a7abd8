"""Sharing out: exact totals, bounds, proportionality."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsewood.algebra import apportion, round_half_even
from sparsewood.errors import SparsewoodError


def shares(total: int, weights: list[int], low: list[int] | None = None, high: list[int] | None = None) -> list[int]:
    low = [0] * len(weights) if low is None else low
    high = [total] * len(weights) if high is None else high
    return apportion(total, np.array(weights), np.array(low), np.array(high)).tolist()


def water_level(total: int, weights: list[int], low: list[int], high: list[int]) -> list[Fraction]:
    """The real-valued shares clip(t * w, low, high) that add up to `total`: t found among the breakpoints, exactly."""
    points = sorted(
        {Fraction(bound, w) for w, *bounds in zip(weights, low, high, strict=True) if w for bound in bounds}
    )

    def at(t: Fraction) -> list[Fraction]:
        return [min(max(t * w, Fraction(lo)), Fraction(hi)) for w, lo, hi in zip(weights, low, high, strict=True)]

    for start, stop in zip([Fraction(0), *points], points, strict=False):
        a, b = sum(at(start)), sum(at(stop))
        if a <= total <= b:
            return at(start if a == b else start + (stop - start) * (total - a) / (b - a))
    return at(points[-1])


parts = st.lists(st.tuples(st.integers(1, 50), st.integers(0, 10), st.integers(0, 40)), min_size=1, max_size=6)


@given(parts, st.data())
def test_is_the_bounded_proportional_share_rounded(parts: list[tuple[int, int, int]], data: st.DataObject) -> None:
    """Exact sum, within the bounds, and less than one from the real-valued optimum."""
    weights, low, more = map(list, zip(*parts, strict=True))
    high = [lo + m for lo, m in zip(low, more, strict=True)]
    total = data.draw(st.integers(sum(low), sum(high)))
    found = shares(total, weights, low, high)
    assert sum(found) == total
    assert all(lo <= share <= hi for share, lo, hi in zip(found, low, high, strict=True))
    real = water_level(total, weights, low, high)
    assert all(abs(share - quota) < 1 for share, quota in zip(found, real, strict=True))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(0, 12))
def test_minimises_the_squared_error(weights: list[int], total: int) -> None:
    """Against every way of sharing out; the largest remainder is the closest."""
    quotas = [Fraction(total * w, sum(weights)) for w in weights]

    def error(candidate: tuple[int, ...]) -> Fraction:
        return sum(((share - quota) ** 2 for share, quota in zip(candidate, quotas, strict=True)), Fraction(0))

    candidates = [c for c in product(range(total + 1), repeat=len(weights)) if sum(c) == total]
    assert error(tuple(shares(total, weights))) == min(map(error, candidates))


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=8), st.integers(0, 5000))
def test_larger_weights_get_no_less(weights: list[int], total: int) -> None:
    found = shares(total, weights)
    assert all(
        a >= b for v, a in zip(weights, found, strict=True) for w, b in zip(weights, found, strict=True) if v > w
    )


@pytest.mark.parametrize(
    ("total", "weights", "expected"),
    [
        (10, [1, 1, 1], [4, 3, 3]),  # equal remainders: the lower index
        (2, [1, 1, 1, 1], [1, 1, 0, 0]),
        (0, [5, 5], [0, 0]),
        (7, [7], [7]),
        (0, [], []),
        (3, [0, 1], [0, 3]),
    ],
)
def test_by_hand(total: int, weights: list[int], expected: list[int]) -> None:
    assert shares(total, weights) == expected


def test_weightless_parts_take_what_the_others_cannot() -> None:
    assert shares(9, [0, 1, 0], high=[3, 4, 9]) == [3, 4, 2]


def test_huge_totals_do_not_overflow() -> None:
    """10^12 weights in each part: products of 10^24 are beyond int64."""
    part = 10**12
    assert shares(3 * part // 2, [part, part, part], high=[part] * 3) == [part // 2] * 3
    assert shares(part + 1, [part, part - 1], high=[part, part]) == [part // 2 + 1, part // 2]


@pytest.mark.parametrize("total", [1, 12])
def test_impossible_totals(total: int) -> None:
    with pytest.raises(SparsewoodError, match=rf"Cannot share out {total}: the parts take between 2 and 11"):
        shares(total, [1, 1], [1, 1], [5, 6])


def test_halves_round_to_even() -> None:
    assert [round_half_even(x) for x in (0.5, 1.5, 2.5, 2.51, 562.5)] == [0, 2, 2, 3, 562]
