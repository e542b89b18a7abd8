"""All figures of a study: names, what is left out, files; and what every function for figures has in common."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import nn

import sparsewood as sw
from sparsewood.errors import OutputError, SparsewoodError
from sparsewood.plot import figures, left_out, write_figures
from sparsewood.report.rows import Result, to_csv
from sparsewood.report.study import (
    BoxState,
    Histogram,
    LayerSparsity,
    Memorization,
    NetworkPicture,
    Overlap,
    Row,
    SensitivityCurve,
    Study,
    TrainingCurve,
    UnitMap,
)

AMOUNTS = (2.0, 4.0, 8.0)
METHODS = ("a", "b")


def row(problem: str, method: str, amount: float, seed: int, role: Any = "method") -> Row:
    return Row(
        problem, method, role, "", amount, seed, 0.9, None, 0.5, None, None, amount, amount, 100, 10, 100, 10,
        None, None, None, 1.0, "", "",
    )  # fmt: skip


def study() -> Study:
    each = [("digits, net", method, amount) for method in METHODS for amount in AMOUNTS]
    rows = [row("digits, net", "dense", 1.0, seed, "control") for seed in (1, 2)]
    rows += [row(*which, seed) for which in each for seed in (1, 2)]
    edges = (0.0, 1.0, 2.0)
    curves = [
        TrainingCurve(*which, seed, stage, (1, 2), (1.0, 0.5), (1.0, 0.6), (0.5, 0.6), (0.4, 0.5))
        for which in each
        for seed in (1, 2)
        for stage in ("dense", "after")
    ]
    matrix = ((1.0, 0.5), (0.5, 1.0))
    return Study(
        "A study",
        rows=rows,
        layers=[LayerSparsity(*which, layer, 10, 0.5) for which in each for layer in ("conv", "fc")],
        curves=curves,
        overlaps=[Overlap("digits, net", amount, "methods", "", METHODS, matrix) for amount in AMOUNTS]
        + [Overlap("digits, net", 4.0, "seeds", "a", ("1", "2"), matrix)],
        histograms=[Histogram(*which, layer, edges, (0, 3), (2, 1), 1.0) for which in each for layer in ("", "conv")],
        unit_maps=[UnitMap(*which, "conv", (0.0, 1.0)) for which in each],
        memorization=[
            Memorization("unitmem", "UnitMem", {"conv": (0.5, None)}, {"conv": ((0, (0.1, 0.2)),), "fc": ()})
        ],
        sensitivity=[SensitivityCurve("one run", "conv", "Filter", (0.0, 0.5), (0.9, 0.5))],
        networks=[NetworkPicture(*which, (BoxState("conv", "Conv2d", "1x1x3x3", 9, 3),)) for which in each],
    )


NAMES = [
    "accuracy-compression-digits-net",
    "accuracy-speedup-digits-net",
    "accuracy-parameters-digits-net",
    "overlap-methods-digits-net",
    "overlap-seeds-digits-net",
    "layers-digits-net",
    "scores-digits-net-a",
    "scores-digits-net-b",
    "units-digits-net-a",
    "units-digits-net-b",
    "network-digits-net-a",
    "network-digits-net-b",
    "training-digits-net",
    "sensitivity-one-run",
    "memorization-unitmem",
    "activations-unitmem-conv",
]


def test_there_is_a_figure_for_each_problem_and_kind() -> None:
    """Bytes and latency were not measured."""
    assert list(figures(study())) == NAMES


def test_figures_are_at_the_amount_in_the_middle_and_the_rest_is_named() -> None:
    found = figures(study())
    assert found["layers-digits-net"]().axes[0].get_title(loc="left") == "digits, net: asked 4x"
    titles = [axes.get_title(loc="left") for axes in found["training-digits-net"]().axes][::2]
    assert titles == [
        "digits, net: a, asked 2x, seed 1, dense",
        "digits, net: a, asked 4x, seed 1, after",
        "digits, net: b, asked 4x, seed 1, after",
    ]
    told = left_out(study())
    assert "scores, digits, net: compression 2, 8; drawn is 4" in told
    assert "trainings, digits, net: seeds 2; drawn is 1" in told
    assert len(told) == 7


def test_many_methods_and_layers_are_cut_and_named() -> None:
    many = [
        Histogram("p", f"m{n:02}", 4.0, layer, (0.0, 1.0), (1,), (1,), None)
        for n in range(10)
        for layer in map(str, range(15))
    ]
    one = Study("many", histograms=many)
    assert len(figures(one)) == 8
    assert len(figures(one)["scores-p-m00"]().axes) == 12
    assert "scores by method, p: the first 8 of 10 are drawn" in left_out(one)
    assert "scores by layer, p, m07: the first 12 of 15 are drawn" in left_out(one)


def test_names_that_would_coincide_are_numbered() -> None:
    rows = [row(problem, method, 2.0, 1) for problem in ("A b", "a, b") for method in METHODS]
    names = [name for name in figures(Study("", rows=rows)) if name.startswith("accuracy-compression")]
    assert names == ["accuracy-compression-a-b", "accuracy-compression-a-b-2"]


def test_values_that_no_axis_can_show_have_no_figure() -> None:
    rows = [replace(row("p", "a", 2.0, 1), speedup=float("inf"), bytes=5)]
    names = [name.split("-")[1] for name in figures(Study("", rows=rows))]
    assert names == ["compression", "bytes", "parameters"]


def test_all_are_written_one_after_the_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sparsewood.plot.study_figures")
    short = replace(study(), rows=(), curves=(), histograms=(), unit_maps=(), overlaps=(), memorization=())
    written = write_figures(short, tmp_path / "new" / "figures", formats=("png", "svg"))
    assert written == [
        tmp_path / "new" / "figures" / f"{name}.{ending}"
        for name in ("layers-digits-net", "network-digits-net-a", "network-digits-net-b", "sensitivity-one-run")
        for ending in ("png", "svg")
    ]
    assert sorted(written) == sorted((tmp_path / "new" / "figures").iterdir())
    assert written[0].read_bytes().startswith(b"\x89PNG")
    assert written[1].read_bytes().startswith(b"<?xml")
    assert "No figure of network, digits, net: compression 2, 8; drawn is 4" in caplog.messages


def test_formats_are_checked_before_anything_is_drawn(tmp_path: Path) -> None:
    for formats, got in ((("png", "txt"), "txt"), ((), "none")):
        with pytest.raises(OutputError, match=f"Got {got}"):
            write_figures(study(), tmp_path / "figures", formats=formats)
    assert not (tmp_path / "figures").exists()
    assert write_figures(Study("empty"), tmp_path / "figures") == []


# ---------------------------------------------------------------- every function


def run_directory(place: Path) -> Path:
    (place / "seed-1" / "a").mkdir(parents=True)
    (place / "seed-1" / "a" / "pruning_results.csv").write_text("iteration,sparsity,test_acc\n0,10,90\n1,20,80\n")
    return place


def results(place: Path) -> Path:
    rows = [
        Result("d", "m", "s", ratio, 80, 10, ratio, 16, 4, 4.0, 0.5, 1.0, 0.9, 1.0, 1, 64, 3, "SGD", 0.1, 3, "")
        for ratio in (1.0, 2.0)
    ]
    (place / "results.csv").write_text(to_csv(rows))
    return place / "results.csv"


ALL, NET = study(), nn.Linear(3, 4)
FUNCTIONS: dict[str, Callable[[Path, Path | None], Figure]] = {
    "accuracy_curves": lambda _, path: sw.plot.accuracy_curves(ALL.rows, path=path),
    "adjacency": lambda _, path: sw.plot.adjacency(NET, path=path),
    "before_and_after": lambda place, path: sw.plot.before_and_after(results(place), path=path),
    "layer_profile": lambda _, path: sw.plot.layer_profile(ALL.layers, path=path),
    "levels": lambda place, path: sw.plot.levels(run_directory(place / "run"), path=path),
    "mask_overlap": lambda _, path: sw.plot.mask_overlap(ALL.overlaps, path=path),
    "memorization": lambda _, path: sw.plot.memorization(ALL.memorization[0], path=path),
    "memorization_violins": lambda _, path: sw.plot.memorization_violins(ALL.memorization[0], "conv", path=path),
    "network": lambda _, path: sw.plot.network(ALL.networks[0], path=path),
    "score_histogram": lambda _, path: sw.plot.score_histogram(ALL.histograms, path=path),
    "sensitivity_curves": lambda _, path: sw.plot.sensitivity_curves(ALL.sensitivity, path=path),
    "training_curves": lambda _, path: sw.plot.training_curves(ALL.curves[:2], path=path),
    "unit_maps": lambda _, path: sw.plot.unit_maps(ALL.unit_maps, path=path),
}


def test_every_function_is_tried_here() -> None:
    names = {name for name in sw.plot.__all__ if ".study_" in getattr(sw.plot, name).__module__ and name[0].islower()}
    assert names - {"connections", "figures", "left_out", "level_curves", "write_figures"} == set(FUNCTIONS)


def settings() -> dict[str, Any]:
    """Those of matplotlib; reading the backend would choose one."""
    return {key: matplotlib.rcParams[key] for key in matplotlib.rcParams if key != "backend"}


@pytest.mark.parametrize("draw", FUNCTIONS.values(), ids=FUNCTIONS)
def test_figures_leave_the_process_alone_and_can_be_written(
    draw: Callable[[Path, Path | None], Figure], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, before, state = "matplotlib.pyplot" in sys.modules, settings(), torch.get_rng_state()
    path = tmp_path / "figure.png"
    figure = draw(tmp_path / ".", path)
    assert type(figure) is Figure
    assert isinstance(figure.canvas, FigureCanvasAgg)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert ("matplotlib.pyplot" in sys.modules) == loaded
    assert settings() == before
    assert torch.equal(torch.get_rng_state(), state)
    figure.canvas.draw()
    assert np.ptp(np.asarray(figure.canvas.buffer_rgba())[..., :3]) > 100, "something is drawn"
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    (tmp_path / "again").mkdir()
    with pytest.raises(SparsewoodError, match=r"pip install 'sparsewood\[report\]'"):
        draw(tmp_path / "again", None)
