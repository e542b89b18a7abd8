"""What is made of the rows of a sensitivity analysis. Requirement 004-33: table, CSV, plot data, picture."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import sparsewood as sw
from sparsewood.errors import FileFormatError, SparsewoodError, UnknownName
from sparsewood.report.plots import COLORS
from sparsewood.report.sensitivity import Curve, Sensitivity, SensitivityRow, plot_sensitivity
from sparsewood.report.table import as_text

DISTILLER = ["parameter", "sparsity", "top1", "top5", "loss"]


def rows(
    name: str, values: dict[float, float], units: str = "Element", top5: float | None = 1.0
) -> list[SensitivityRow]:
    return [SensitivityRow(name, at, top1, top5, 2 - top1, units, at / 2, 50, "f") for at, top1 in values.items()]


FOUND = Sensitivity(
    (
        *rows("a", {0.0: 0.9, 0.5: 0.89, 0.25: 0.895, 0.75: 0.5}),
        *rows("b", {0.0: 0.9, 0.25: 0.88, 0.5: 0.95, 0.75: 0.95}),
        *rows("c", {0.0: 0.9, 0.25: 0.9, 0.5: 0.9, 0.75: 0.9}),
        *rows("a", {0.0: 0.9, 0.5: 0.7}, "Filter"),
    )
)


def test_the_first_columns_are_those_of_distiller(tmp_path: Path) -> None:
    """[004-33] parameter, sparsity, top1, top5, loss."""
    FOUND.to_csv(tmp_path / "rows.csv")
    header, first, *_ = (tmp_path / "rows.csv").read_text().splitlines()
    assert header.split(",")[:5] == DISTILLER
    assert first == "a,0.0,0.9,1.0,1.1,Element,0.0,50,f"


@given(st.floats(0, 1), st.floats(allow_nan=False), st.none() | st.floats(0, 1), st.text("a.0_,\"' ", min_size=1))
def test_rows_read_back_exactly(top1: float, loss: float, top5: float | None, name: str) -> None:
    """[004-33] To the last bit, with what there is none of, and with any name."""
    found = Sensitivity((SensitivityRow(name, 0.0, top1, top5, loss, "Block((2, 2))", 0.0, 3, "0f"),))
    with tempfile.TemporaryDirectory() as directory:
        found.to_csv(Path(directory) / "rows.csv")
        assert Sensitivity.from_csv(Path(directory) / "rows.csv") == found


def test_files_are_checked(tmp_path: Path) -> None:
    """[004-33] File and line; a line that is not finished is none."""
    path = tmp_path / "rows.csv"
    FOUND.to_csv(path)
    whole = path.read_text()
    path.write_text(whole.rstrip("\n"))
    assert Sensitivity.from_csv(path).rows == FOUND.rows[:-1]
    path.write_text(whole.replace("b,0.25,", "b,0.25"))
    with pytest.raises(FileFormatError, match=r"rows\.csv', line 7: not a row"):
        Sensitivity.from_csv(path)
    path.write_text(whole.splitlines(keepends=True)[0])
    with pytest.raises(SparsewoodError, match="0 rows"):
        Sensitivity.from_csv(path)


def test_curves_ascend_by_amount() -> None:
    """[004-33] Layer -> amounts, what went, values."""
    curves = FOUND.curves()
    assert list(curves) == ["Element", "Filter"]
    assert curves["Element"]["a"] == Curve((0.0, 0.25, 0.5, 0.75), (0.0, 0.125, 0.25, 0.375), (0.9, 0.895, 0.89, 0.5))
    assert FOUND.curves("loss")["Filter"]["a"].values == (1.1, 1.3)


def test_the_ranking_ends_before_the_first_drop_that_is_too_large() -> None:
    """[004-33] b falls and recovers; 0.9 - 0.89 counts as 0.01, whatever binary fractions make of it."""
    assert FOUND.ranking(0.01) == {"Element": {"b": 0.0, "a": 0.25, "c": 0.375}, "Filter": {"a": 0.0}}
    assert list(FOUND.ranking(0.01)["Element"]) == ["b", "a", "c"]
    assert FOUND.ranking(0.02)["Element"] == {"a": 0.25, "c": 0.375, "b": 0.375}
    assert FOUND.ranking(0)["Element"] == {"b": 0.0, "a": 0.0, "c": 0.375}
    assert list(FOUND.ranking(0)["Element"]) == ["a", "b", "c"]  # of equal ones, what loses more on average
    assert FOUND.ranking(1)["Filter"] == {"a": 0.25}


def test_losses_rise_where_accuracies_drop() -> None:
    """[004-33] The ranking of the loss is that of 2 - loss."""
    assert FOUND.ranking(0.01, "loss") == FOUND.ranking(0.01, "top1")
    assert FOUND.ranking(0.01, "top5")["Filter"] == {"a": 0.25}


def test_a_ranking_is_a_scope_that_removes_exactly_these_units() -> None:
    """[004-33] Shares are those that went, so that rounding them again gives the same numbers."""
    model = nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3))
    data = [(torch.randn(20, 7), torch.randint(3, (20,)))]
    found = sw.sensitivity(model, data, granularities=[sw.Filter(), sw.Element()])
    for units, granularity in (("Filter", sw.Filter()), ("Element", sw.Element())):
        share = found.ranking(1.0)[units]["0.weight"]
        masks = sw.prune(model, sw.Magnitude(), scope={"0.weight": share}, granularity=granularity, include="0")
        assert masks.sparsity == share > 0.7


def test_the_table_has_a_column_for_each_amount() -> None:
    """[004-33] Accuracies in %, a dash for what was not asked."""
    assert str(FOUND) == as_text(FOUND.table())
    assert FOUND.table().headers == ("layer", "units", "0.25", "0.5", "0.75")
    assert FOUND.table().rows[0] == ("a", "Element", "89.50", "89.00", "50.00")
    assert FOUND.table().rows[-1] == ("a", "Filter", "-", "70.00", "-")
    assert FOUND.table("loss").title == "loss with one layer pruned; whole network 1.1"


def test_measures_that_are_not_there_are_refused() -> None:
    few = Sensitivity(tuple(rows("a", {0.0: 0.5}, top5=None)))
    with pytest.raises(SparsewoodError, match="no top5"):
        few.curves("top5")
    with pytest.raises(UnknownName, match="top1"):
        few.table("top2")  # pyright: ignore[reportArgumentType]
    for wrong in (-0.1, float("nan"), True, "1"):
        with pytest.raises(SparsewoodError, match="max_drop"):
            few.ranking(wrong)  # pyright: ignore[reportArgumentType]
    with pytest.raises(SparsewoodError, match="1 rows without one"):
        Sensitivity(tuple(rows("a", {0.5: 0.5})))


# ---------------------------------------------------------------- the picture


def test_lines_are_what_the_rows_say(tmp_path: Path) -> None:
    """[004-33] A panel for each granularity, over what went; the whole network is dashed."""
    pyplot = "matplotlib.pyplot" in sys.modules
    figure = plot_sensitivity(FOUND, tmp_path / "curves.png", title="Title")
    left, right = figure.axes
    assert [axes.get_title() for axes in (left, right)] == ["Element", "Filter"]
    np.testing.assert_allclose(np.asarray(left.lines[0].get_ydata(), float), [90.0, 90.0])
    assert [line.get_label() for line in left.lines[1:]] == ["a", "b", "c"]
    np.testing.assert_allclose(np.asarray(left.lines[1].get_xdata(), float), [0.0, 0.125, 0.25, 0.375])
    np.testing.assert_allclose(np.asarray(left.lines[1].get_ydata(), float), [90.0, 89.5, 89.0, 50.0])
    assert left.get_ylabel() == "top1 [%]"
    assert left.lines[1].get_color() == right.lines[1].get_color()
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert ("matplotlib.pyplot" in sys.modules) == pyplot


def test_many_layers_have_colours_of_their_own() -> None:
    many = Sensitivity(tuple(row for i in range(20) for row in rows(f"l{i}", {0.0: 0.9, 0.5: 0.8})))
    (axes,) = plot_sensitivity(many, measure="loss").axes
    colours = {str(line.get_color()) for line in axes.lines[1:]}
    assert len(colours) == 20 > len(COLORS)
    assert axes.get_ylabel() == "loss"
    np.testing.assert_allclose(np.asarray(axes.lines[1].get_ydata(), float), [1.1, 1.2])
