"""Accuracy over what networks cost: what is drawn are the rows' means and deviations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.plot import accuracy_curves
from sparsewood.report.fronts import pareto_front
from sparsewood.report.study import Row

SPREAD = {1: -0.01, 2: 0.0, 3: 0.01}  # of seeds: sample standard deviation 0.01


def row(method: str, amount: float, seed: int, accuracy: float, **given: Any) -> Row:
    base: dict[str, Any] = {
        "problem": "digits, net", "role": "method", "of": "", "accuracy5": None, "before": None, "validation": None,
        "train_accuracy": None, "compression": amount * (1 + SPREAD[seed]), "speedup": amount / 2, "size": 1000,
        "size_nz": int(1000 / amount), "flops": 10, "flops_nz": 1, "bytes": int(4000 / amount), "latency": 1 / amount,
        "latency_ratio": None, "seconds": 1.0, "recipe": "", "hash": "",
    }  # fmt: skip
    return Row(method=method, amount=amount, seed=seed, accuracy=accuracy + SPREAD[seed], **(base | given))


def rows(problem: str = "digits, net") -> list[Row]:
    found = [row("dense", 1.0, seed, 0.95, role="control") for seed in SPREAD]
    for method, role, drop in (("a", "method", 0.01), ("b", "method", 0.02), ("random", "control", 0.1)):
        found += [
            row(method, amount, seed, 0.95 - drop * amount, role=role) for amount in (8.0, 2.0) for seed in SPREAD
        ]
    return [replace(one, problem=problem) for one in found]


def series(axes: Axes) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    drawn = {str(one.get_label()): one.lines[0] for one in axes.containers}  # pyright: ignore[reportAttributeAccessIssue]
    return {
        name: (np.asarray(one.get_xdata(), float), np.asarray(one.get_ydata(), float)) for name, one in drawn.items()
    }


def line(axes: Axes, label: str) -> Any:
    return next(one for one in axes.lines if one.get_label() == label)


def test_points_are_means_over_seeds_with_deviations_in_both_directions() -> None:
    (axes,) = accuracy_curves(rows()).axes
    assert list(series(axes)) == ["a", "b", "random"]
    for method, up in (("a", [93, 87]), ("b", [91, 79]), ("random", [75, 15])):
        x, y = series(axes)[method]
        np.testing.assert_allclose(x, [2, 8], err_msg="amounts ascend")
        np.testing.assert_allclose(y, up)
    _, _, (sideways, upwards) = axes.containers[0].lines  # pyright: ignore[reportAttributeAccessIssue]
    np.testing.assert_allclose([np.ptp(one[:, 1]) for one in upwards.get_segments()], [2, 2])
    np.testing.assert_allclose([np.ptp(one[:, 0]) for one in sideways.get_segments()], [0.04, 0.16])
    assert axes.get_xscale() == "log"


@pytest.mark.parametrize(
    ("across", "expected"),
    [("speedup", [1, 4]), ("bytes", [2000, 500]), ("latency", [0.5, 0.125]), ("parameters", [500, 125])],
)
def test_other_axes(across: Any, expected: list[float]) -> None:
    (axes,) = accuracy_curves(rows(), across=across).axes
    np.testing.assert_allclose(series(axes)["a"][0], expected)
    assert axes.get_xscale() == "log"
    assert ("left is better" in axes.get_xlabel()) == (across != "speedup")


def test_dense_controls_are_a_line_with_a_band() -> None:
    (axes,) = accuracy_curves(rows()).axes
    np.testing.assert_allclose(line(axes, "dense").get_ydata(), 95)
    (band,) = axes.patches
    assert (band.get_y(), band.get_height()) == (pytest.approx(94), pytest.approx(2))  # pyright: ignore[reportAttributeAccessIssue]


def test_controls_of_one_method_have_its_colour_and_equal_ones_are_one_line() -> None:
    own = [row("dense", 1.0, seed, 0.9, role="control", of="b") for seed in SPREAD]
    (axes,) = accuracy_curves([*rows(), *own]).axes
    (b,) = (one for one in axes.containers if one.get_label() == "b")
    assert line(axes, "dense (control of b)").get_color() == b.lines[0].get_color()  # pyright: ignore[reportAttributeAccessIssue]
    same = [replace(one, of="b") for one in rows() if one.method == "dense"]
    (axes,) = accuracy_curves([*rows(), *same]).axes
    assert [one.get_label() for one in axes.lines if str(one.get_label()).startswith("dense")] == ["dense"]


@pytest.mark.parametrize("across", ["compression", "bytes"])
def test_the_front_is_marked(across: Any) -> None:
    (axes,) = accuracy_curves(rows(), across=across).axes
    points = [(x, y) for xs, ys in series(axes).values() for x, y in zip(xs, ys, strict=True)]
    expected = [points[i] for i in pareto_front(points, better="larger" if across == "compression" else "smaller")]
    np.testing.assert_allclose(np.transpose(line(axes, "Pareto front").get_data()), expected)
    assert len(expected) == 2
    (axes,) = accuracy_curves(rows(), across=across, pareto=False).axes
    assert all(one.get_label() != "Pareto front" for one in axes.lines)


def test_methods_are_told_apart_without_colours_and_look_alike_in_every_panel() -> None:
    figure = accuracy_curves([*rows(), *(one for one in rows("other, net") if one.method != "a")])
    left, right = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["digits, net", "other, net"]

    def looks(axes: Axes) -> dict[str, tuple[Any, ...]]:
        heads = {str(one.get_label()): one.lines[0] for one in axes.containers}  # pyright: ignore[reportAttributeAccessIssue]
        return {name: (one.get_color(), one.get_marker(), one.get_linestyle()) for name, one in heads.items()}

    assert looks(right) == {name: look for name, look in looks(left).items() if name != "a"}
    assert len({look[1:] for look in looks(left).values()}) == 3
    faces = {str(one.get_label()): one.lines[0].get_markerfacecolor() for one in left.containers}  # pyright: ignore[reportAttributeAccessIssue]
    assert faces["random"] == "white", "controls are hollow"
    assert faces["a"] != "white"
    assert legend(figure) == ["dense", "a", "b", "random", "Pareto front"]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_networks_without_a_value_are_left_out_and_counted() -> None:
    some = [replace(one, latency=None) if one.method == "b" else one for one in rows()]
    (axes,) = accuracy_curves(some, across="latency").axes
    assert list(series(axes)) == ["a", "random"]
    assert axes.get_title(loc="left") == "digits, net (6 networks without a value)"
    none = [replace(one, latency=None) for one in rows()]
    with pytest.raises(SparsewoodError, match=r"of 21 networks, no pruned one has a finite 'latency'"):
        accuracy_curves(none, across="latency")
    with pytest.raises(SparsewoodError, match="no pruned one has a finite 'speedup'"):
        accuracy_curves([replace(one, speedup=float("inf")) for one in rows()], across="speedup")


def test_of_very_many_lines_controls_of_single_methods_are_left_out() -> None:
    methods = [f"m{number}" for number in range(9)]
    given = [row(name, 2.0, seed, 0.9) for name in methods for seed in SPREAD]
    for kind in ("random_layers", "scratch"):
        given += [
            row(f"{kind}_of_{name}", 2.0, seed, 0.8, role="control", of=name) for name in methods for seed in SPREAD
        ]
    given += [row("random", 2.0, seed, 0.5, role="control") for seed in SPREAD]
    (axes,) = accuracy_curves(given).axes
    assert list(series(axes)) == [*methods, "random"]
    assert axes.get_ylabel().endswith("\nwithout 18 controls of single methods")
    few = [one for one in given if one.method == "m1" or one.of == "m1"]
    (axes,) = accuracy_curves(few).axes
    assert list(series(axes)) == ["m1", "random_layers_of_m1", "scratch_of_m1"]
    assert "without" not in axes.get_ylabel()


def test_all_names_fit_beside_the_drawing() -> None:
    figure = accuracy_curves([row(f"m{number}", 2.0, seed, 0.9) for number in range(60) for seed in SPREAD])
    figure.canvas.draw()
    box = figure.legends[0].get_window_extent()
    assert box.y0 >= 0
    assert box.y1 <= figure.bbox.height


def test_single_seeds_have_no_deviation() -> None:
    (axes,) = accuracy_curves([one for one in rows() if one.seed == 2]).axes
    assert "seeds: 1" in axes.get_ylabel()
    _, _, (_, upwards) = axes.containers[0].lines  # pyright: ignore[reportAttributeAccessIssue]
    np.testing.assert_allclose([np.ptp(one[:, 1]) for one in upwards.get_segments()], 0)


def test_one_problem_can_be_chosen() -> None:
    both = [*rows(), *rows("other, net")]
    (axes,) = accuracy_curves(both, problem="other, net").axes
    assert axes.get_title(loc="left") == "other, net"
    with pytest.raises(UnknownName, match="'othr, net'"):
        accuracy_curves(both, problem="othr, net")
    with pytest.raises(UnknownName, match="x axis"):
        accuracy_curves(both, across="size")  # pyright: ignore[reportArgumentType]
    with pytest.raises(SparsewoodError, match="no network was given"):
        accuracy_curves([])


@pytest.mark.parametrize("amounts", [(1.05, 1.3), (2.0, 64.0), (2.0, 3.0)])
def test_axes_have_at_least_two_numbers(amounts: tuple[float, float]) -> None:
    for across in ("compression", "bytes"):
        given = [row("a", amount, seed, 0.9) for amount in amounts for seed in SPREAD]
        (axes,) = accuracy_curves(given, across=across).axes
        low, high = axes.get_xlim()
        assert sum(low <= tick <= high for tick in axes.get_xticks()) >= 2
