"""Figures of the files that runs write: before and after training, and level by level with what units memorize."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import TYPE_CHECKING

from sparsewood.errors import FileFormatError, SparsewoodError
from sparsewood.plot.panels import middle_cut
from sparsewood.plot.study_sheet import Path, finish, panels, require_some
from sparsewood.report.plots import DENSE, Look, draw_dense, draw_series, require_matplotlib
from sparsewood.report.rows import Result, Summary, read_csv, summarize
from sparsewood.report.unit_files import read_memorization, read_pruned_indices

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["LevelCurve", "before_and_after", "level_curves", "levels"]

RESULTS, MEMORIZATION, PRUNED = "pruning_results.csv", "Avg_UnitMems_perlevel.json", "pruned_indices.json"


def before_and_after(results: str | os.PathLike[str] | Iterable[Result], *, path: Path = None) -> Figure:
    """Test accuracy over the pruned share, as pruned (hollow) and after training (filled), of each strategy.

    `results` is a results.csv that a run wrote, or what `report.rows.read_csv` read of it: granularities and ways of
    pruning, as one-shot and iterative, are strategies. The pruned share is 1 - size_nz / size, of all parameters.
    Points are means over seeds, bars one sample standard deviation; compression 1 is the dense control, a line with a
    band. A panel for each data set and model.

    Returns a figure of matplotlib that no window knows of. Raises `FileFormatError` if the file has no results, and
    `SparsewoodError` if there is none, or matplotlib is missing.
    """
    require_matplotlib()
    given = read_csv(FilePath(results)) if isinstance(results, str | os.PathLike) else results
    rows = require_some(given, "result")
    problems = list(dict.fromkeys((row.dataset, row.model) for row in rows))
    looks = {name: Look.of(number) for number, name in enumerate(dict.fromkeys(row.strategy for row in rows))}
    figure, drawn = panels(len(problems), width=5.6, height=4.2)
    for axes, problem in zip(drawn, problems, strict=True):
        _draw_both(axes, [row for row in rows if (row.dataset, row.model) == problem], looks)
        axes.set_title(", ".join(problem), fontsize=9, loc="left")
    kinds = {label: handle for axes in drawn for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(kinds.values(), kinds.keys(), loc="outside right upper", fontsize=8, frameon=False)
    return finish(figure, path)


def _draw_both(axes: Axes, rows: Sequence[Result], looks: Mapping[str, Look]) -> None:
    dense = [row.post_acc1 for row in rows if row.compression == DENSE]
    if dense:
        draw_dense(axes, summarize(dense))
    for strategy, look in looks.items():
        groups: dict[float, list[Result]] = {}
        for row in sorted(rows, key=lambda row: row.compression):
            if row.strategy == strategy and row.compression != DENSE:
                groups.setdefault(row.compression, []).append(row)
        if groups:
            shares = [summarize([100 * (1 - row.size_nz / row.size) for row in members]) for members in groups.values()]
            raw = [summarize([row.pre_acc1 for row in members]) for members in groups.values()]
            tuned = [summarize([row.post_acc1 for row in members]) for members in groups.values()]
            name = middle_cut(strategy, 30)
            draw_series(axes, shares, tuned, Look(look.color, look.marker, "-"), f"{name}, fine-tuned")
            draw_series(axes, shares, raw, Look(look.color, look.marker, ":"), f"{name}, as pruned", filled=False)
    axes.set_xlabel("pruned share of all parameters [%]", fontsize=8.5)
    axes.set_ylabel("test accuracy [%]", fontsize=8.5)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)


# ---------------------------------------------------------------- level by level


@dataclass(frozen=True)
class LevelCurve:
    """What a variant came to, level by level, means over seeds.

    `accuracy[i]` is that of the network of `sparsity[i]`, both shares; `unitmem[j]` the mean over units of the network
    of sparsity `measured[j]`.
    """

    sparsity: tuple[Summary, ...]
    accuracy: tuple[Summary, ...]
    measured: tuple[Summary, ...]
    unitmem: tuple[Summary, ...]


def levels(run: str | os.PathLike[str], *, path: Path = None) -> Figure:
    """Accuracy (left) and mean UnitMem (right) over sparsity, a curve for each variant of a run that prunes units.

    Points are means over seeds of one level, bars one sample standard deviation, of what `level_curves` reads from the
    files that the run wrote. Variants that did not measure UnitMem, as those by magnitude, are on the left only.

    Returns a figure of matplotlib that no window knows of. Raises as `level_curves`, and `SparsewoodError` if
    matplotlib is missing.
    """
    require_matplotlib()
    figure, (left, right) = panels(2, width=5.2, height=4.0)
    for number, (variant, curve) in enumerate(level_curves(run).items()):
        look, label = Look.of(number), middle_cut(variant, 30)
        draw_series(left, _per_cent(curve.sparsity), curve.accuracy, look, label)
        if curve.unitmem:
            draw_series(right, _per_cent(curve.measured), curve.unitmem, look, label, factor=1)
    left.set_ylabel("test accuracy [%]", fontsize=8.5)
    right.set_ylabel("mean UnitMem of the units left", fontsize=8.5)
    for axes in (left, right):
        axes.set_xlabel("sparsity [%]", fontsize=8.5)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False)
    return finish(figure, path)


def level_curves(run: str | os.PathLike[str]) -> dict[str, LevelCurve]:
    """What a run that prunes units, level by level, came to, by variant.

    Read from pruning_results.csv, Avg_UnitMems_perlevel.json and pruned_indices.json in seed-*/VARIANT. UnitMem is
    measured to choose what goes at a level, so it is of the network that the level before left, of sparsity 0 at the
    first. Its mean is over the units of all layers that are left there and were seen. Variants that noted outlier
    selectivity in its place (rows of three numbers) have none.

    Raises `FileFormatError` if a file is something else, and `SparsewoodError` if the directory has none.
    """
    reached: dict[str, dict[int, list[tuple[float, float]]]] = {}
    measured: dict[str, dict[int, list[tuple[float, float]]]] = {}
    for file in sorted(FilePath(run).glob(f"seed-*/*/{RESULTS}")):
        variant, rows = file.parent.name, _read_levels(file)
        for level, row in rows.items():
            reached.setdefault(variant, {}).setdefault(level, []).append(row)
        for level, mean in _memorization(file.parent).items():
            if level == 0 or level - 1 in rows:
                before = rows[level - 1][0] if level else 0.0
                measured.setdefault(variant, {}).setdefault(level, []).append((before, mean))
    if not reached:
        raise SparsewoodError(
            f"'{run}' has no file seed-*/VARIANT/{RESULTS}. Give the directory of a run that prunes units, level by "
            "level."
        )
    return {name: LevelCurve(*_means(of), *_means(measured.get(name, {}))) for name, of in reached.items()}


def _means(of: Mapping[int, Sequence[tuple[float, float]]]) -> tuple[tuple[Summary, ...], tuple[Summary, ...]]:
    ordered = [of[level] for level in sorted(of)]
    first, second = (tuple(summarize([row[i] for row in rows]) for rows in ordered) for i in (0, 1))
    return first, second


def _memorization(directory: FilePath) -> dict[int, float]:
    """By level the mean over the units that were left before it."""
    if not (directory / MEMORIZATION).exists():
        return {}
    pruned = read_pruned_indices(directory / PRUNED) if (directory / PRUNED).exists() else {}
    found: dict[int, float] = {}
    for level, layers in read_memorization(directory / MEMORIZATION).items():
        gone = {(name, unit) for k, of in pruned.items() if k < level for name, units in of.items() for unit in units}
        rows = [row for name, of in layers.items() for unit, row in enumerate(of) if (name, unit) not in gone]
        scores = [row[0] for row in rows if len(row) == 2]  # with three, it is outlier selectivity
        seen = [score for score in scores if not math.isnan(score)]
        if seen:
            found[level] = sum(seen) / len(seen)
    return found


def _per_cent(shares: Sequence[Summary]) -> list[Summary]:
    return [Summary(100 * one.mean, None if one.std is None else 100 * one.std) for one in shares]


def _read_levels(file: FilePath) -> dict[int, tuple[float, float]]:
    """Sparsity and test accuracy by level, as shares; the file has them in per cent."""
    with file.open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        try:
            return {
                int(row["iteration"]): (float(row["sparsity"]) / 100, float(row["test_acc"]) / 100) for row in reader
            }
        except (KeyError, TypeError, ValueError) as error:
            raise FileFormatError(
                f"'{file}', line {reader.line_num}: not a level of a run ({error!r}); expected the columns iteration, "
                "sparsity and test_acc, numbers in each."
            ) from error
