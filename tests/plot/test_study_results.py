"""Figures of the files of runs: 004-15 (before and after training), 000-14 (level by level)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes

from sparsewood.errors import FileFormatError, SparsewoodError
from sparsewood.plot import before_and_after, level_curves, levels
from sparsewood.report.rows import Result, to_csv
from sparsewood.report.unit_files import by_level

HEADER = "iteration,sparsity,train_acc,test_acc,generalization_gap,weight_sparsity\n"


def result(strategy: str, ratio: float, seed: int, before: float, after: float, model: str = "net") -> Result:
    return Result(
        "digits", model, strategy, ratio, 800, round(800 / ratio), ratio, 160, 40, ratio / 2, before, 1.0, after, 1.0,
        seed, 64, 3, "SGD", 0.1, 3, "masks_summary.csv",
    )  # fmt: skip


ROWS = [
    result(strategy, ratio, seed, 0.9 - 0.05 * ratio - shift, 0.9 - 0.01 * ratio - shift + seed / 100)
    for strategy, shift in (("weights, one-shot", 0.0), ("weights, iterative", 0.02), ("channels", 0.1))
    for ratio in (8.0, 2.0, 1.0)
    for seed in (0, 2)
]


def series(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    heads = {str(one.get_label()): one.lines[0] for one in axes.containers}  # pyright: ignore[reportAttributeAccessIssue]
    return {
        name: (np.asarray(one.get_xdata(), float).tolist(), np.asarray(one.get_ydata(), float).tolist())
        for name, one in heads.items()
    }


def test_004_15_accuracy_over_pruned_share_before_and_after_training(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text(to_csv(ROWS), encoding="utf-8")
    (axes,) = before_and_after(path).axes
    found = series(axes)
    ways = ("weights, one-shot", "weights, iterative", "channels")
    assert list(found) == [f"{name}, {when}" for name in ways for when in ("fine-tuned", "as pruned")]
    assert found["channels, as pruned"] == (pytest.approx([50, 87.5]), pytest.approx([70, 40]))
    assert found["weights, one-shot, fine-tuned"] == (pytest.approx([50, 87.5]), pytest.approx([89, 83]))
    assert series(before_and_after(ROWS).axes[0]) == found, "the file alone says it"
    dense = next(line for line in axes.lines if line.get_label() == "dense control")
    np.testing.assert_allclose(np.asarray(dense.get_ydata(), float), 100 * (0.9 - 0.01 - 0.04 + 0.01))


def test_004_15_raw_is_hollow_and_of_the_same_colour() -> None:
    (axes,) = before_and_after(ROWS).axes
    tuned, raw = (one.lines[0] for one in axes.containers[:2])  # pyright: ignore[reportAttributeAccessIssue]
    assert tuned.get_color() == raw.get_color()
    assert (raw.get_markerfacecolor(), raw.get_linestyle()) == ("white", ":")
    assert tuned.get_markerfacecolor() != "white"


def test_models_have_panels() -> None:
    figure = before_and_after([*ROWS, result("channels", 2.0, 1, 0.1, 0.2, model="other")])
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["digits, net", "digits, other"]
    assert list(series(figure.axes[1])) == ["channels, fine-tuned", "channels, as pruned"]
    with pytest.raises(SparsewoodError, match="no result"):
        before_and_after([])


# ---------------------------------------------------------------- level by level


def write(
    run: Path, seed: int, variant: str, rows: list[tuple[float, float]], scores: Any = None, gone: Any = None
) -> None:
    place = run / f"seed-{seed}" / variant
    place.mkdir(parents=True)
    lines = [f"{level},{sparsity},99.0,{accuracy},1.0,0.0\n" for level, (sparsity, accuracy) in enumerate(rows)]
    (place / "pruning_results.csv").write_text(HEADER + "".join(lines))
    if scores is not None:
        (place / "Avg_UnitMems_perlevel.json").write_text(by_level(scores))
    if gone is not None:
        (place / "pruned_indices.json").write_text(by_level(gone))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for seed, shift in ((1, 0.0), (2, 2.0)):
        scores = {0: {"conv": [(0.2, 5), (0.4, 5)]}, 1: {"conv": [(0.0, -1), (0.6, 5)], "fc": [(float("nan"), -1)]}}
        write(tmp_path, seed, "highest", [(20, 90 + shift), (40, 80 + shift)], scores, {0: {"conv": [0]}, 1: {}})
        write(tmp_path, seed, "magnitude", [(25, 95), (45, 85)])
    return tmp_path


def test_000_14_accuracy_and_unitmem_over_sparsity_side_by_side(run: Path) -> None:
    left, right = levels(run).axes
    assert (left.get_ylabel(), right.get_ylabel()) == ("test accuracy [%]", "mean UnitMem of the units left")
    assert series(left) == {
        "highest": (pytest.approx([20, 40]), pytest.approx([91, 81])),
        "magnitude": (pytest.approx([25, 45]), pytest.approx([95, 85])),
    }
    assert list(series(right)) == ["highest"], "magnitude measures none"
    x, y = series(right)["highest"]
    assert (x, y) == (pytest.approx([0, 20]), pytest.approx([0.3, 0.6])), "measured before a level, of units left then"


def test_000_14_deviations_are_over_seeds(run: Path) -> None:
    curve = level_curves(run)["highest"]
    assert [one.std for one in curve.accuracy] == pytest.approx([2**0.5 / 100] * 2)
    assert [one.std for one in curve.sparsity] == [0, 0]


def test_000_14_units_that_were_not_seen_and_levels_without_any_do_no_harm(tmp_path: Path) -> None:
    nothing = {0: {"conv": [(float("nan"), -1)]}, 1: {"conv": [(0.5, 1), (float("nan"), -1)]}}
    write(tmp_path, 1, "dead", [(10, 50), (20, 40)], nothing)
    curve = level_curves(tmp_path)["dead"]
    assert [one.mean for one in curve.unitmem] == [0.5]
    assert [one.mean for one in curve.measured] == [0.1]


def test_outlier_selectivity_is_no_unitmem(tmp_path: Path) -> None:
    write(tmp_path, 1, "outlier", [(10, 50)], {0: {"conv": [(0.1, 3, 4), (0.2, 3, 5)]}})
    assert level_curves(tmp_path)["outlier"].unitmem == ()


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SparsewoodError, match=r"no file seed-\*/VARIANT/pruning_results.csv"):
        levels(tmp_path)
    write(tmp_path, 1, "a", [(10, 50)])
    path = tmp_path / "seed-1" / "a" / "pruning_results.csv"
    for text, message in (("a,b\n1,2\n", "line 2"), (HEADER + "0,x,1,2,3,4\n", "line 2"), (HEADER + "0\n", "line 2")):
        path.write_text(text)
        with pytest.raises(FileFormatError, match=message):
            levels(tmp_path)
