"""Plans, shown before anything runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sparsewood.errors import SparsewoodError
from sparsewood.report.schedules import plot_plan, show_plan
from sparsewood.schedules import Cubic, Event, Geometric, Levels, OneByOne, OneShot, RoundRobin, Soft
from sparsewood.types import Compression, Count, Density, Remaining, Sparsity, Threshold


def test_tables_say_when_how_much_and_where() -> None:
    """[003-19]"""
    plan = RoundRobin((("l1", 0.3, 0.1), ("l2", 0.5, 0.3)))(5)
    table = show_plan(plan, start=5, every=10)
    assert table.title == "Plan of 5 events"
    assert [row[:3] for row in table.rows] == [
        ("5", "sparsity 0.1", "l1"),
        ("15", "sparsity 0.3", "l2"),
        ("25", "sparsity 0.2", "l1"),
        ("35", "sparsity 0.5", "l2"),
        ("45", "sparsity 0.3", "l1"),
    ]


@pytest.mark.parametrize(
    ("amount", "words"),
    [
        (Count(1), "1 unit"),
        (Count(7), "7 units"),
        (Sparsity(0.99999), "sparsity 0.99999"),
        (Density(0.1), "density 0.1"),
        (Remaining(0.25), "0.25 of the rest"),
        (Compression(8), "compression 8"),
        (Threshold(0.01), "scores < 0.01"),
    ],
)
def test_every_amount_has_words(amount: Count, words: str) -> None:
    table = show_plan((Event(0, amount),))
    assert table.rows == (("0", words, "all", "stay"),)
    assert table.title == "Plan of 1 event"


def test_soft_events_are_marked() -> None:
    assert [row[-1] for row in show_plan(Soft(OneShot(0.5))(3)).rows] == ["may grow", "may grow", "stay"]


def test_the_curve_is_the_plan() -> None:
    """[004-34]"""
    axes = plot_plan(Cubic(0.9)(4), start=100, every=50).axes[0]
    stairs = axes.lines[0]
    np.testing.assert_allclose(np.asarray(stairs.get_xdata(), float), [100, 150, 200, 250])
    np.testing.assert_allclose(np.asarray(stairs.get_ydata(), float), [Cubic(0.9).at(i / 4) for i in (1, 2, 3, 4)])
    assert stairs.get_drawstyle() == "steps-post"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "sparsity")


@pytest.mark.parametrize(
    ("plan", "values"),
    [
        (Geometric(0.5)(3), [0.5, 0.75, 0.875]),
        (Levels([Compression(2), Density(0.25), Remaining(0.5)])(3), [0.5, 0.75, 0.875]),
        (OneByOne(3)(3), [1, 2, 3]),
    ],
)
def test_shares_are_drawn_as_the_sparsity_they_mean(plan: tuple[Event, ...], values: list[float]) -> None:
    line = plot_plan(plan).axes[0].lines[0]
    np.testing.assert_allclose(np.asarray(line.get_ydata(), float), values)


def test_kinds_have_panels_and_layers_have_lines() -> None:
    plan = (
        Event(0, Count(3), ("a",)),
        Event(0, Sparsity(0.1), ("b",)),
        Event(1, Sparsity(0.2), ("c",)),
        Event(2, Threshold(0.5)),
    )
    figure = plot_plan(plan)
    assert [axes.get_ylabel() for axes in figure.axes] == ["units", "sparsity", "threshold"]
    legend = figure.axes[1].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["b", "c"]


def test_soft_points_are_hollow() -> None:
    _, hard, soft = plot_plan(Soft(OneShot(0.5))(3)).axes[0].lines
    assert list(np.asarray(hard.get_xdata())) == [2]
    assert list(np.asarray(soft.get_xdata())) == [0, 1]
    assert soft.get_markerfacecolor() == "none"
    assert hard.get_markerfacecolor() != "none"


def test_written_when_asked(tmp_path: Path) -> None:
    plot_plan(Cubic(0.9)(4), tmp_path / "plan.png")
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("show", [show_plan, plot_plan])
def test_plans_that_are_none_are_refused(show) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SparsewoodError, match="plan is empty"):
        show(())
