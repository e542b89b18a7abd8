"""The Pareto front, against its definition."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsewood.errors import SparsewoodError
from sparsewood.report.fronts import BETTER, Better, pareto_front

POINTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12)


def beats(one: tuple[float, float], other: tuple[float, float], sign: int) -> bool:
    across, up = sign * (one[0] - other[0]), one[1] - other[1]
    return across >= 0 and up >= 0 and (across > 0 or up > 0)


@given(POINTS, st.sampled_from(["larger", "smaller"]))
def test_the_front_are_the_points_that_none_beats(points: list[tuple[float, float]], better: Better) -> None:
    sign = 1 if better == "larger" else -1
    expected = [i for i, own in enumerate(points) if not any(beats(one, own, sign) for one in points)]
    assert pareto_front(points, better=better) == sorted(expected, key=lambda i: (points[i][0], i))


def test_equal_points_stay_together() -> None:
    """Of the same x the less accurate goes, of the same accuracy the one with less compression."""
    assert pareto_front([(2, 0.9), (4, 0.8), (2, 0.9), (4, 0.7), (3, 0.8)]) == [0, 2, 1]
    assert pareto_front([(1, 0.5)] * 3) == [0, 1, 2]
    assert pareto_front([]) == []


def test_what_is_better_of_each_quantity() -> None:
    assert {name for name, better in BETTER.items() if better == "larger"} == {"compression", "speedup"}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_cannot_be_compared_are_refused(value: float) -> None:
    with pytest.raises(SparsewoodError, match=r"finite numbers.*as number 1"):
        pareto_front([(1.0, 0.5), (value, 0.5)])
    with pytest.raises(SparsewoodError, match=r"'larger' or 'smaller'. Got 'most'"):
        pareto_front([], better="most")  # pyright: ignore[reportArgumentType]
