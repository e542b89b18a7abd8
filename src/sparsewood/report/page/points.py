"""Means and deviations over seeds: a point of the page is one method at one amount on one problem."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sparsewood.report.fronts import Better
from sparsewood.report.page.pareto import dominators
from sparsewood.report.rows import Summary, summarize
from sparsewood.report.study import Row

__all__ = ["AXES", "DENSE", "MEASURES", "Axis", "Point", "Series", "dominating_series", "points_of", "series_of"]

DENSE = "dense"
MEASURES = (
    "accuracy",
    "accuracy5",
    "before",
    "validation",
    "train_accuracy",
    "compression",
    "speedup",
    "size_nz",
    "flops_nz",
    "bytes",
    "latency",
    "latency_ratio",
    "seconds",
)


@dataclass(frozen=True)
class Axis:
    """What accuracy can be drawn over. `absolute` axes have units, so that other architectures can be put beside."""

    key: str
    label: str
    title: str
    better: Better
    absolute: bool


AXES = (
    Axis("compression", "compression", "compression: parameters / non-zero parameters", "larger", False),
    Axis("speedup", "speed-up", "theoretical speed-up: multiply-adds / those of non-zero weights", "larger", False),
    Axis(
        "latency_ratio",
        "measured speed-up",
        "measured speed-up: latency of the dense network / latency",
        "larger",
        False,
    ),
    Axis("size_nz", "parameters", "non-zero parameters", "smaller", True),
    Axis("flops_nz", "multiply-adds", "multiply-adds of non-zero weights, one example", "smaller", True),
    Axis("bytes", "bytes", "bytes of the packed file", "smaller", True),
    Axis("latency", "latency", "latency of one example [ms]", "smaller", True),
)


@dataclass(frozen=True)
class Series:
    """What has one colour and one symbol: a method. `name` is unique, also where two methods have controls alike."""

    name: str
    method: str
    role: str
    of: str


@dataclass(frozen=True)
class Point:
    """Networks that differ in nothing but the seed. `values` has a summary of each measure, None if there is none."""

    problem: str
    series: Series
    amount: float
    rows: tuple[int, ...]
    values: dict[str, Summary | None]


def series_of(rows: Sequence[Row]) -> dict[tuple[str, str], Series]:
    """The series by method and what it is a control of: dense first, then methods, then controls, as they appear."""
    kinds = dict.fromkeys((row.method, row.of) for row in rows)
    roles = {(row.method, row.of): row.role for row in reversed(rows)}
    methods = [method for method, _ in kinds]
    ordered = sorted(kinds, key=lambda kind: (kind[0] != DENSE, roles[kind] != "method"))
    return {
        (method, of): Series(method if methods.count(method) == 1 else f"{method} [{of or 'all'}]", method, role, of)
        for method, of in ordered
        for role in (roles[method, of],)
    }


def points_of(rows: Sequence[Row]) -> list[Point]:
    """The points of all rows, in order of first appearance.

    A value that is None was not measured and does not count; one that is not finite leaves the mean without a value.
    """
    series = series_of(rows)
    groups: dict[tuple[str, str, str, float], list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault((row.problem, row.method, row.of, row.amount), []).append(number)
    return [
        Point(
            problem,
            series[method, of],
            amount,
            tuple(members),
            {measure: _summary([getattr(rows[i], measure) for i in members]) for measure in MEASURES},
        )
        for (problem, method, of, amount), members in groups.items()
    ]


def dominating_series(points: Sequence[Point], axis: Axis) -> list[list[str]]:
    """For every point, the names of the series that have a point on the same problem that dominates it.

    Whoever looks at some series only sees a front of those: the points whose list names none of them. Points without
    a value on the axis have an empty list and are not drawn.
    """
    found: list[list[str]] = [[] for _ in points]
    for problem in dict.fromkeys(point.problem for point in points):
        drawn: list[tuple[int, float, float]] = []
        for number, point in enumerate(points):
            across, up = point.values[axis.key], point.values["accuracy"]
            if point.problem == problem and across is not None and up is not None:
                drawn.append((number, across.mean, up.mean))
        above = dominators([x for _, x, _ in drawn], [y for _, _, y in drawn], axis.better)
        for (number, _, _), ones in zip(drawn, above, strict=True):
            found[number] = list(dict.fromkeys(points[drawn[one][0]].series.name for one in ones))
    return found


def _summary(values: Sequence[float | None]) -> Summary | None:
    known = [float(value) for value in values if value is not None]
    if not known or not all(math.isfinite(value) for value in known):
        return None
    return summarize(known)
