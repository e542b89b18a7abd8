"""From directories of results to a `Study`: what a report is made of."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sparsewood.errors import SparsewoodError
from sparsewood.report.checklist import METRICS, Facts, as_report, checklist
from sparsewood.report.differences import controls_of, paired_differences
from sparsewood.report.sensitivity import parse_rows
from sparsewood.report.study import Failure, Memorization, Row, SensitivityCurve, Study
from sparsewood.run.gather_masks import of_masks
from sparsewood.run.gather_runs import RUN, run_cells
from sparsewood.run.gather_sweeps import sweep_cells
from sparsewood.run.gather_units import is_matrix, of_matrix, of_table
from sparsewood.run.store import FILE
from sparsewood.run.sweep_notes import NOTES

__all__ = ["Gathered", "gather"]

logger = logging.getLogger(__name__)

SENSITIVITY = "sensitivity.csv"


@dataclass(frozen=True)
class Gathered:
    """A study, and the content of its report.json."""

    study: Study
    report: dict[str, Any]


@dataclass
class Found:
    """What was found in the directories so far; `cells` are the rows that cells noted, with the directory of each."""

    cells: list[tuple[dict[str, Any], Path]] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    facts: list[Facts] = field(default_factory=list)
    sensitivity: list[SensitivityCurve] = field(default_factory=list)
    memorization: list[Memorization] = field(default_factory=list)
    titles: list[str] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)


def gather(places: Sequence[Path], title: str | None = None) -> Gathered:
    """What there is in these directories: sweeps, runs, sensitivity analyses, tables of units.

    Several sweeps or runs become one study; problems of one name are one. Raises `SparsewoodError` for a directory in
    which there is nothing that a report could show, and for sweeps that mean different problems by one name.
    """
    found = Found()
    for place in places:
        _look_into(place, found)
    found.cells = _each_once(found.cells)
    rows = [_row(cell) for cell, _ in found.cells]
    found.failures = _without(found.failures, rows)
    facts = _joined(found.facts)
    items = checklist(rows, facts)
    differences = paired_differences(rows, _controls(rows, facts))
    study = Study(
        title or ", ".join(dict.fromkeys(found.titles)) or "sparsewood",
        rows=rows,
        failures=found.failures,
        checklist=items,
        differences=differences,
        sensitivity=found.sensitivity,
        memorization=found.memorization,
        about=_about(facts, found, rows),
        definitions=dict(METRICS),
    )
    study = replace(study, **of_masks(found.cells))
    return Gathered(study, as_report(rows, items, found.failures, differences, facts))


def _each_once(cells: Sequence[tuple[dict[str, Any], Path]]) -> list[tuple[dict[str, Any], Path]]:
    """Cells without those that several sweeps or runs have, or that were found twice: they are no further seeds."""
    found: dict[object, tuple[dict[str, Any], Path]] = {}
    for cell, place in cells:
        same = tuple(cell[name] for name in ("problem", "method", "of", "amount", "seed", "accuracy", "recipe"))
        found.setdefault(cell["hash"] or same, (cell, place))
    return list(found.values())


def _without(failures: Iterable[Failure], rows: Iterable[Row]) -> list[Failure]:
    """Failures, each once, of what is not there from elsewhere."""
    there = {(row.problem, row.method, row.amount, row.seed) for row in rows}
    return [f for f in dict.fromkeys(failures) if (f.problem, f.method, f.amount, f.seed) not in there]


def _look_into(place: Path, found: Found) -> None:
    if not place.exists():
        raise SparsewoodError(f"'{place}' does not exist. Give directories that sparsewood wrote.")
    if place.is_file():
        known = _file(place, found)
    elif _is_known(place):
        known = _directory(place, found)
    else:
        below = [path for path in sorted(place.iterdir()) if path.is_dir() or path.suffix == ".csv"]
        shown = {path: _quietly(path, found) for path in below}
        known = any(shown.values())
        for path in (path for path, there in shown.items() if not there and path.is_dir() and _is_known(path)):
            logger.warning("'%s' is left out of the report: nothing in it is finished.", path)
    if not known:
        raise SparsewoodError(
            f"'{place}' holds nothing that a report could show. Give the directory of `sparsewood sweep` or "
            "`sparsewood run`, or the tables that `sparsewood sensitivity` or `sparsewood inspect --csv` wrote."
        )


def _is_known(place: Path) -> bool:
    return (place / NOTES).is_file() or (place / RUN).is_file() or (place / SENSITIVITY).is_file() or is_matrix(place)


def _directory(place: Path, found: Found) -> bool:
    """What one command wrote to a directory; False if there is nothing in it that can be shown."""
    if (place / NOTES).is_file():
        return (place / FILE).is_file() and sweep_cells(place, found)
    if (place / RUN).is_file():
        return run_cells(place, found)
    if is_matrix(place):
        found.memorization.append(of_matrix(place))
        return True
    return (place / SENSITIVITY).is_file() and _file(place / SENSITIVITY, found)


def _quietly(path: Path, found: Found) -> bool:
    return _file(path, found) if path.is_file() else _directory(path, found)


# ---------------------------------------------------------------- networks


def _row(cell: dict[str, Any]) -> Row:
    """What a cell noted, as a row of the study."""
    return Row(
        problem=cell["problem"],
        method=cell["method"],
        role=cell["role"],
        of=cell["of"],
        amount=cell["amount"],
        seed=cell["seed"],
        accuracy=cell["accuracy"],
        accuracy5=cell["accuracy5"],
        before=cell["before"],
        validation=cell["validation"],
        train_accuracy=cell.get("train_accuracy"),
        compression=cell["compression"],
        speedup=cell["speedup"],
        size=cell["size"],
        size_nz=cell["size_nz"],
        flops=cell["flops"],
        flops_nz=cell["flops_nz"],
        bytes=cell["bytes"],
        latency=cell["latency"],
        latency_ratio=cell["latency_ratio"],
        seconds=cell["seconds"],
        recipe=cell["recipe"],
        hash=cell["hash"],
    )


def _controls(rows: Sequence[Row], facts: Facts) -> Callable[[Row], dict[str, tuple[str, float]]]:
    """The controls of a method: of those for all only the ones that are recovered, or trained on, as it is."""
    every = controls_of(rows)

    def find(row: Row) -> dict[str, tuple[str, float]]:
        told = facts.methods.get(f"{row.problem}/{row.method}", {})
        found = {}
        for name, there in every(row).items():
            plain = name.partition("_as_")[0]
            other = facts.methods.get(f"{row.problem}/{there[0]}", {})
            if other and (other.get("family") is None or other["family"] != told.get("family")):
                continue  # recovered in another way, or nobody noted in which
            if plain.startswith("dense") and there[0] != told.get("control", there[0]):
                continue
            found.setdefault(plain, there)
        for key, other in facts.methods.items():  # a method that is a control by another name stands for it
            problem, _, name = key.rpartition("/")
            control = other.get("stands_for")
            same = problem == row.problem and other.get("family") == told.get("family")
            if control and same and name != row.method:
                found.setdefault(control, (name, row.amount))
        return found

    return find


# ---------------------------------------------------------------- tables


def _file(path: Path, found: Found) -> bool:
    """A table of a sensitivity analysis or of units; False for any other file."""
    if path.suffix != ".csv":
        return False
    with path.open(newline="", encoding="utf-8", errors="replace") as stream:  # it may be anybody's
        heads = next(csv.reader(stream), [])
    if heads[:3] == ["parameter", "sparsity", "top1"]:
        found.sensitivity += _sensitivity(path)
        return True
    if heads[:2] == ["layer", "unit"] and "unitmem" in heads:
        found.memorization.append(of_table(path))
        return True
    return False


def _sensitivity(path: Path) -> list[SensitivityCurve]:
    curves: dict[tuple[str, str], list[tuple[float, float]]] = {}
    rows = parse_rows(path.read_text(encoding="utf-8"), str(path))
    whole = [row.top1 for row in rows if row.sparsity == 0 and row.top1 is not None]
    for row in rows:
        if row.top1 is not None and row.sparsity > 0:
            curves.setdefault((row.parameter, row.granularity), []).append((row.achieved, row.top1))
    found = []
    for (layer, granularity), points in curves.items():
        start = [(0.0, whole[0])] if whole else []
        every: list[tuple[float, float]] = sorted([*start, *points])
        found.append(
            SensitivityCurve(
                path.parent.name, layer, granularity, tuple(x for x, _ in every), tuple(y for _, y in every)
            )
        )
    return found


# ---------------------------------------------------------------- together


def _require_same_problems(facts: Sequence[Facts]) -> None:
    """Networks of one problem are compared seed by seed, so that sweeps must mean the same by its name."""
    known: dict[str, Mapping[str, Any]] = {}
    for name, problem in (item for one in facts if one.methods for item in one.problems.items()):
        other = known.setdefault(name, problem)
        unlike = [key for key in ("data", "model", "training") if problem.get(key) != other.get(key)]
        if unlike:
            raise SparsewoodError(
                f"Two sweeps have a problem {name!r} with other {' and '.join(unlike)}: their networks cannot be "
                "compared. Report on one of them at a time, or carry one out with the problem under another name."
            )


def _joined(facts: Sequence[Facts]) -> Facts:
    _require_same_problems(facts)
    first: dict[tuple[str, int], frozenset[str]] = {}
    for one in facts:
        for key, values in one.first_weights.items():
            first[key] = first.get(key, frozenset()) | values
    return Facts(
        "; ".join(dict.fromkeys(one.command for one in facts if one.command)),
        {name: problem for one in facts for name, problem in one.problems.items()},
        {name: method for one in facts for name, method in one.methods.items()},
        first,
        facts[0].versions if facts else {},
        facts[0].machine if facts else {},
        any(one.dry_run for one in facts),
    )


def _about(facts: Facts, found: Found, rows: Sequence[Row]) -> dict[str, str]:
    told = {"command": facts.command} if facts.command else {}
    if found.begun:
        told["begun"] = ", ".join(dict.fromkeys(found.begun))
    if facts.machine:
        machine = facts.machine
        told["machine"] = f"{machine.get('cores')} cores, {machine.get('processor')}, {machine.get('platform')}"
        told["accelerators"] = ", ".join(machine.get("accelerators") or []) or "none"
    told |= {
        name: str(value)
        for name, value in facts.versions.items()
        if value and name in ("sparsewood", "torch", "python")
    }
    if rows:
        told["networks"] = f"{len(rows):,}"
        told["work"] = f"{sum(row.seconds for row in rows) / 3600:.2f} hours of one process"
    if facts.dry_run:
        told["dry run"] = "one batch of everything: the numbers mean nothing"
    return told
