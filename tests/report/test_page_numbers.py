"""The numbers of the page: who dominates whom, means and deviations, columns."""

from __future__ import annotations

import json
import math
import runpy
import statistics
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsewood.report.fronts import pareto_front
from sparsewood.report.page.columns import column, embeddable, plain, table
from sparsewood.report.page.content import content
from sparsewood.report.page.pareto import dominators
from sparsewood.report.page.points import AXES, dominating_series, points_of, series_of
from sparsewood.report.study import Study

row = runpy.run_path(str(Path(__file__).with_name("studies.py")))["row"]
HOSTILE = "</script><img src=x onerror=alert(1)><!--<script>"


# ---------------------------------------------------------------- who dominates whom


@pytest.mark.parametrize(
    ("better", "across", "up", "expected"),
    [
        ("larger", [1, 2, 4], [0.9, 0.8, 0.7], [0, 1, 2]),  # each gives up one for the other
        ("larger", [1, 2, 4], [0.7, 0.8, 0.9], [2]),
        ("smaller", [1, 2, 4], [0.7, 0.8, 0.9], [0, 1, 2]),
        ("smaller", [1, 2, 4], [0.9, 0.8, 0.7], [0]),
        ("larger", [2, 2, 2], [0.9, 0.9, 0.8], [0, 1]),  # equal ones stay, both
        ("larger", [2, 3], [0.9, 0.9], [1]),  # as accurate, and smaller
        ("larger", [], [], []),
    ],
)
def test_front(better: Any, across: list[float], up: list[float], expected: list[int]) -> None:
    assert pareto_front(zip(across, up, strict=True), better=better) == expected


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), max_size=12), st.sampled_from(["larger", "smaller"]))
def test_the_front_dominates_the_rest_and_nothing_dominates_it(points: list[tuple[int, int]], better: Any) -> None:
    across, up = [x for x, _ in points], [y for _, y in points]
    above, best = dominators(across, up, better), pareto_front(zip(across, up, strict=True), better=better)
    assert all(not above[one] for one in best)
    assert all(set(above[one]) & set(best) for one in range(len(points)) if one not in best)
    assert [up[one] for one in best] == sorted((up[one] for one in best), reverse=better == "larger")


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(1, 4), st.integers(0, 4)), max_size=9, unique_by=lambda t: t[:2]
    ),
    st.sets(st.sampled_from("abc")),
)
def test_the_front_of_some_series_is_found_by_leaving_the_others_out(points: list[Any], off: set[str]) -> None:
    rows = [row(name, float(amount), accuracy=up / 4, compression=float(amount)) for name, amount, up in points]
    made = points_of(rows)
    above = dominating_series(made, AXES[0])
    found = {n for n, one in enumerate(made) if one.series.name not in off and not set(above[n]) - off}
    shown = [(n, amount, up) for n, (name, amount, up) in enumerate(points) if name not in off]
    expected = pareto_front([(x, y) for _, x, y in shown])
    assert found == {shown[one][0] for one in expected}


# ---------------------------------------------------------------- means


def test_points_are_means_and_sample_deviations_over_seeds() -> None:
    """[8.3] Mean and sample standard deviation over seeds."""
    accuracies = [0.91, 0.94, 0.92]
    made = points_of([row(seed=seed, accuracy=value) for seed, value in enumerate(accuracies)])
    assert len(made) == 1
    summary = made[0].values["accuracy"]
    assert summary is not None
    assert summary.mean == pytest.approx(statistics.fmean(accuracies))
    assert summary.std == pytest.approx(statistics.stdev(accuracies))
    single = points_of([row()])[0].values["accuracy"]
    assert single is not None
    assert single.std is None


def test_what_was_not_measured_does_not_count_and_what_is_not_finite_is_no_mean() -> None:
    made = points_of([row(seed=0, latency=2.0, accuracy=0.5), row(seed=1, latency=None, accuracy=math.nan)])
    latency = made[0].values["latency"]
    assert latency is not None
    assert (latency.mean, latency.std) == (2.0, None)
    assert made[0].values["accuracy"] is None
    assert made[0].values["bytes"] is None


def test_series_are_dense_then_methods_then_controls_and_their_names_differ() -> None:
    rows = [
        row("random", role="control", of="SNIP"),
        row("SNIP"),
        row("random", role="control", of="GraSP"),
        row("dense", 1.0, role="control"),
        row("GraSP"),
    ]
    names = [one.name for one in series_of(rows).values()]
    assert names == ["dense", "SNIP", "GraSP", "random [SNIP]", "random [GraSP]"]
    assert len(points_of(rows)) == 5


def test_points_of_other_problems_do_not_dominate() -> None:
    made = points_of([row("a", problem="p", accuracy=0.5), row("b", problem="q", accuracy=0.9)])
    assert dominating_series(made, AXES[0]) == [[], []]


# ---------------------------------------------------------------- JSON


@given(st.lists(st.one_of(st.none(), st.integers(-3, 3), st.text(max_size=3), st.sampled_from([0.5, 1.5])), max_size=8))
def test_columns_read_back(values: list[Any]) -> None:
    made = column(values)
    again = made if isinstance(made, list) else [made["values"][place] for place in made["at"]]
    assert again == values


def test_recipes_are_stored_once() -> None:
    recipe = "criterion: SNIP\n" * 50
    text = embeddable(content(Study("study", [row(seed=seed, recipe=recipe) for seed in range(40)])))
    assert text.count(json.dumps(recipe)) == 1


def test_json_holds_no_markup_and_no_numbers_that_are_none() -> None:
    text = embeddable(plain({"name": HOSTILE, "values": [math.nan, math.inf, -math.inf, 0.1]}))
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"name": HOSTILE, "values": [None, None, None, 0.1]}
    with pytest.raises(ValueError, match="Out of range"):
        embeddable(math.nan)
    assert table([]) == {"length": 0, "columns": {}}
