"""What is known of single units, for a report: tables, activations on disk, and what runs noted of each level."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import torch
from torch import Tensor

from sparsewood.report.study import Memorization
from sparsewood.report.unit_files import read_memorization
from sparsewood.units.matrix import FORMAT, INDEX, ActivationMatrix
from sparsewood.units.ratio import contrast

__all__ = ["is_matrix", "of_levels", "of_matrix", "of_table"]

LEVELS = "Avg_UnitMems_perlevel.json"
SHOWN = 5  # units of each layer whose activations are shown
SAMPLES = 300  # of them


def is_matrix(directory: Path) -> bool:
    """Whether activations were written to this directory, to their end."""
    path = directory / INDEX
    return path.is_file() and FORMAT in path.read_text(encoding="utf-8")[:200]


def of_table(path: Path) -> Memorization:
    """UnitMem of every unit, from the table that `sparsewood inspect --units --csv` writes; None for dead ones."""
    scores: dict[str, list[float | None]] = {}
    with path.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            value = float(row["unitmem"]) if row["unitmem"] and row["state"] != "dead" else None
            scores.setdefault(row["layer"], []).append(value)
    return Memorization(path.name, "UnitMem", {layer: tuple(values) for layer, values in scores.items()})


def of_matrix(directory: Path) -> Memorization:
    """UnitMem of every unit, and activations of those that memorize most, from `inspect --units --activations`.

    With mu_i the mean activation for image i: (mu_k - m) / (mu_k + m), k the image of the largest, m the mean of the
    others. Of more than 300 images those at even distances are shown, and the largest activation.
    """
    matrix = ActivationMatrix.open(directory)
    scores: dict[str, tuple[float | None, ...]] = {}
    activations: dict[str, tuple[tuple[int, tuple[float, ...]], ...]] = {}
    for layer in matrix.layers:
        values = matrix.layer(layer).double()
        largest = values.max(0).values
        measured = contrast(largest, (values.sum(0) - largest).clamp_min(0) / max(len(values) - 1, 1))
        alive = largest > 0
        scores[layer] = tuple(
            value if there else None for value, there in zip(measured.tolist(), alive.tolist(), strict=True)
        )
        order = torch.argsort(torch.where(alive, measured, -1.0), descending=True, stable=True)[:SHOWN]
        activations[layer] = tuple((unit, _sampled(values[:, unit])) for unit in order.tolist() if alive[unit])
    return Memorization(directory.name, "UnitMem", scores, activations)


def _sampled(values: Tensor) -> tuple[float, ...]:
    if len(values) > SAMPLES:
        places = torch.linspace(0, len(values) - 1, SAMPLES - 1).round().long()
        values = torch.cat([values[places], values.max().reshape(1)])
    return tuple(round(value, 5) for value in values.tolist())


def of_levels(root: Path) -> list[Memorization]:
    """What the variants of a run noted of their units, at the first and the last level of the first seed."""
    found = []
    seeds = sorted(root.glob("seed-*"), key=lambda path: (len(path.name), path.name))
    for path in sorted(seeds[0].glob(f"*/{LEVELS}")) if seeds else []:
        levels = read_memorization(path)
        for number in dict.fromkeys((min(levels), max(levels))):
            layers = levels[number]
            if any(len(row) != 2 for rows in layers.values() for row in rows):
                continue  # outlier selectivity: another measure
            scores = {name: tuple(_known(row[0]) for row in rows) for name, rows in layers.items()}
            found.append(Memorization(f"{root.name}: {path.parent.name}, level {number}", "UnitMem", scores))
    return found


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
