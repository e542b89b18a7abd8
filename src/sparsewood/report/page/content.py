"""What the scripts of the page get of a study: columns of plain values, every recipe once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from sparsewood.report.page.columns import plain, table
from sparsewood.report.page.points import AXES, MEASURES, Point, dominating_series, points_of, series_of
from sparsewood.report.plots import COLORS
from sparsewood.report.study import Memorization, NetworkPicture, Study

__all__ = ["content", "facts", "is_empty", "verdict"]

ROW_COLUMNS = (
    "seed",
    "accuracy",
    "before",
    "validation",
    "train_accuracy",
    "compression",
    "speedup",
    "bytes",
    "latency",
    "seconds",
    "recipe",
    "hash",
)
ACTIVATION_DIGITS = 4
PARTS = (
    "rows",
    "differences",
    "layers",
    "curves",
    "overlaps",
    "histograms",
    "unit_maps",
    "memorization",
    "sensitivity",
    "networks",
)


def content(study: Study) -> dict[str, Any]:
    """Everything that is drawn. A part of the study that is empty is an empty table."""
    points = points_of(study.rows)
    return {
        "title": study.title,
        "verdict": verdict(study),
        "whole": study.complete,
        "colors": list(COLORS),
        "axes": [asdict(axis) for axis in AXES if any(point.values[axis.key] for point in points)],
        "series": [asdict(one) for one in series_of(study.rows).values()],
        "points": _points(points),
        "rows": table(study.rows, ROW_COLUMNS),
        "failures": table(study.failures, ("problem", "method", "amount", "seed")),
        "differences": table(study.differences),
        "layers": table(study.layers),
        "curves": table(study.curves),
        "overlaps": table(study.overlaps),
        "histograms": table(study.histograms),
        "unit_maps": table(study.unit_maps),
        "sensitivity": table(study.sensitivity),
        "memorization": [_memorization(one) for one in study.memorization],
        "networks": [_network(one) for one in study.networks],
    }


def is_empty(study: Study) -> bool:
    """Whether there is nothing to draw and no table."""
    return not any(getattr(study, part) for part in PARTS)


def verdict(study: Study) -> str:
    """One sentence: whether the tables are complete, and if not, how much is missing."""
    if study.complete:
        return f"The tables are complete: all {len(study.checklist)} items of the checklist are there, nothing failed."
    reasons = []
    if not study.checklist:
        reasons.append("there is no checklist")
    if study.missing:
        reasons.append(f"{len(study.missing)} of {len(study.checklist)} items of the checklist are missing")
    if study.failures:
        reasons.append(f"{len(study.failures)} network{'s are' if len(study.failures) > 1 else ' is'} missing")
    return f"The tables are not complete: {', '.join(reasons)}."


def facts(study: Study) -> list[tuple[str, str]]:
    """What is counted at the top: (number, of what)."""
    if not study.rows:
        return []
    counts = {
        "problem": len({row.problem for row in study.rows}),
        "method": len({row.method for row in study.rows if row.role == "method"}),
        "control": len({(row.method, row.of) for row in study.rows if row.role == "control"}),
        "amount": len({row.amount for row in study.rows}),
        "seed": len({row.seed for row in study.rows}),
        "network": len(study.rows),
    }
    return [(f"{count:,}", name + "s" * (count != 1)) for name, count in counts.items()]


def _points(points: Sequence[Point]) -> dict[str, Any]:
    records: list[dict[str, Any]] = []
    for point in points:
        record: dict[str, Any] = {
            "problem": point.problem,
            "series": point.series.name,
            "amount": point.amount,
            "rows": list(point.rows),
        }
        for measure in MEASURES:
            summary = point.values[measure]
            record[measure] = None if summary is None else summary.mean
            record[f"{measure}_std"] = None if summary is None else summary.std
        records.append(record)
    for axis in AXES:
        for record, above in zip(records, dominating_series(points, axis), strict=True):
            record[f"above_{axis.key}"] = above
    return table(records)


def _memorization(one: Memorization) -> dict[str, Any]:
    activations = {
        layer: [{"unit": unit, "values": plain(values, ACTIVATION_DIGITS)} for unit, values in units]
        for layer, units in one.activations.items()
    }
    scores = {layer: plain(values, ACTIVATION_DIGITS) for layer, values in one.scores.items()}
    return {"source": one.source, "measure": one.measure, "scores": scores, "activations": activations}


def _network(picture: NetworkPicture) -> dict[str, Any]:
    return {
        "problem": picture.problem,
        "method": picture.method,
        "amount": plain(picture.amount),
        "boxes": table(picture.boxes),
        "edges": plain(picture.edges),
    }
