"""What a run writes and shows when all is evaluated: tables as CSV and JSON, and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sparsewood.data.split import Split
from sparsewood.report.plots import compression_curves, save_figure
from sparsewood.report.rows import MEASURES, Point, Result, Summary, summarize, to_csv
from sparsewood.report.table import Table
from sparsewood.run.canonical import written
from sparsewood.run.directory import write_json, write_text
from sparsewood.run.evaluation import Evaluated, Layer
from sparsewood.run.provenance import machine, versions
from sparsewood.run.recipe import Recipe, effective

__all__ = [
    "Level",
    "Line",
    "Step",
    "lines",
    "read_results",
    "results_table",
    "write_levels",
    "write_parameters",
    "write_results",
]

DEFINITIONS = {
    "size, size_nz": "all parameters of the model; those that are not zero at the end",
    "compression": "all parameters / those that the masks left",
    "real_compression": "size / size_nz",
    "flops, flops_nz": "multiply-adds of one example, counted once for each product; those with a non-zero weight",
    "speedup": "flops / flops_nz, theoretical",
    "acc1, acc5": "share of test examples whose class is the first, among the first five; pre = the weights that were "
    "pruned (with pruning inside a training: those of the dense network), masked, before any recovery; post = after "
    "recovery and training, the epoch chosen on validation data",
    "control": "the dense network; where pruned networks are fine-tuned, the dense network trained on as often and as "
    "long. Each round has its own; the row of round 0, compression 1 is that of the last",
    "epochs, completed_epochs": "of the training after pruning; those that took place",
    "generalization_gap": "train_acc - test_acc, both of the final weights, neither augmented",
    "sparsity": "achieved: the share of the prunable weights that the masks remove (of whole units: of all entries of "
    "parameters in which units lie)",
    "unit_sparsity": "achieved: the share of the units that can go that went; empty where single weights go",
    "std": "sample standard deviation over seeds (n - 1)",
    "path": "the stage in this directory: weights, masks, logs.csv",
}


@dataclass(frozen=True)
class Step:
    """One row of pruning_results.csv."""

    strategy: str
    seed: int
    iteration: int
    sparsity: float
    train_acc: float
    test_acc: float
    generalization_gap: float
    control_acc: float
    unit_sparsity: float | None = None


@dataclass(frozen=True)
class Level:
    """One row of a variant's own pruning_results.csv: percentages, as older scripts have them.

    `sparsity` is achieved, of units where units go, else of weights; `weight_sparsity` of all parameters, by non-zeros.
    """

    iteration: int
    sparsity: float
    train_acc: float
    test_acc: float
    generalization_gap: float
    weight_sparsity: float


@dataclass(frozen=True)
class Line:
    """One variant after one round, over seeds."""

    strategy: str
    round: int
    kept: Summary
    validation_acc1: Summary | None
    control_acc1: Summary
    point: Point


def read_results(evaluations: dict[int, dict[str, list[dict[str, Any]]]]) -> list[Evaluated]:
    """Evaluated networks from what the seeds noted."""
    found = []
    for evaluation in evaluations.values():
        for row in evaluation["results"]:
            layers = tuple(Layer(**layer) for layer in row["layers"])
            found.append(Evaluated(**{**row, "result": Result(**row["result"]), "layers": layers}))
    return found


def write_parameters(directory: Path, recipe: Recipe, split: Split, *, dry_run: bool) -> None:
    """The effective recipe, and params.json: all that was in effect, and what the columns mean."""
    write_text(directory / "recipe.yaml", effective(recipe))
    data = {"name": recipe.data.name, "note": split.note, "examples": split.sizes}
    write_json(
        directory / "params.json",
        {
            "recipe": recipe.name,
            "hash": recipe.hash,
            "dry_run": dry_run,
            "dataset": data,
            "model": recipe.model.name,
            "settings": written(recipe, Recipe),
            "seeds": list(recipe.seeds),
            "threads": recipe.threads,
            "device": recipe.device,
            "devices": recipe.devices,
            "versions": versions(),
            "machine": machine(),
            "definitions": DEFINITIONS,
        },
    )


def write_results(directory: Path, found: Sequence[Evaluated], title: str) -> list[Path]:
    """Write every file, each complete or not at all; the paths written."""
    table = lines(found)
    texts = {
        "results.csv": to_csv([one.result for one in found]),
        "pruning_results.csv": to_csv([_step(one) for one in found]),
        "masks_summary.csv": to_csv([layer for one in found for layer in one.layers]),
    }
    for name, text in texts.items():
        write_text(directory / name, text)
    write_json(directory / "metrics.json", {"lines": [asdict(line) for line in table]})
    save_figure(compression_curves([line.point for line in table], title), directory / "curve.png")
    return [directory / name for name in (*texts, "metrics.json", "curve.png", "params.json", "recipe.yaml")]


def lines(found: Sequence[Evaluated]) -> list[Line]:
    """One for each variant and round, in the order of the recipe, over whatever seeds there are."""
    groups: dict[tuple[str, int], list[Evaluated]] = {}
    for one in found:
        groups.setdefault((one.result.strategy, one.round), []).append(one)
    return [_line(strategy, number, members) for (strategy, number), members in groups.items()]


def _line(strategy: str, number: int, members: Sequence[Evaluated]) -> Line:
    results = [member.result for member in members]
    measured = {name: summarize([getattr(result, name) for result in results]) for name in MEASURES}
    compression = 1.0 if number == 0 else sum(result.compression for result in results) / len(results)
    checked = [member.validation_acc1 for member in members if member.validation_acc1 is not None]
    return Line(
        strategy,
        number,
        summarize([member.kept for member in members]),
        summarize(checked) if len(checked) == len(members) else None,
        summarize([member.control_acc1 for member in members]),
        Point(strategy, compression, len(members), **measured),
    )


def results_table(table: Sequence[Line], title: str) -> Table:
    """Accuracy in % over what is kept of the prunable weights, with compression and theoretical speed-up."""
    counts, accuracies = ("kept [%]", "compression"), ("validation [%]", "before [%]", "test [%]", "control [%]")
    headers = ("variant", "round", *counts, *accuracies, "speed-up")
    rows = tuple(
        (
            line.strategy,
            "control" if line.round == 0 else str(line.round),
            _cell(line.kept, 100, 2),
            _cell(line.point.real_compression, 1, 2),
            "-" if line.validation_acc1 is None else _accuracy(line.validation_acc1),
            _accuracy(line.point.pre_acc1),
            _accuracy(line.point.post_acc1),
            _accuracy(line.control_acc1),
            _cell(line.point.speedup, 1, 2),
        )
        for line in table
    )
    return Table(title, headers, rows)


def _cell(summary: Summary, factor: float, digits: int) -> str:
    """Mean and deviation; the mean alone of one value, or of a count that is the same in every seed."""
    mean = f"{factor * summary.mean:.{digits}f}"
    return mean if not summary.std else f"{mean} +- {factor * summary.std:.{digits}f}"


def _accuracy(summary: Summary) -> str:
    mean = f"{100 * summary.mean:.2f}"
    return mean if summary.std is None else f"{mean} +- {100 * summary.std:.2f}"


def _step(one: Evaluated) -> Step:
    result = one.result
    gap = one.train_acc1 - result.post_acc1
    reached = (one.train_acc1, result.post_acc1, gap, one.control_acc1)
    return Step(result.strategy, result.seed, one.round, 1 - one.kept, *reached, one.units)


def write_levels(directory: Path, found: Sequence[Evaluated], variants: Sequence[str]) -> None:
    """pruning_results.csv of each of these variants and of every seed, beside what else they wrote of their levels."""
    for seed in sorted({one.result.seed for one in found}):
        for name in variants:
            rows = [
                _level(one) for one in found if (one.result.strategy, one.result.seed) == (name, seed) and one.round
            ]
            write_text(directory / f"seed-{seed}" / name / "pruning_results.csv", to_csv(rows))


def _level(one: Evaluated) -> Level:
    """Iteration 0 is the first round, level 0 of the other files."""
    train, test = 100 * one.train_acc1, 100 * one.result.post_acc1
    sparsity = 100 * (1 - one.kept if one.units is None else one.units)
    zeros = 100 * (1 - one.result.size_nz / one.result.size)
    return Level(one.round - 1, sparsity, train, test, train - test, zeros)
