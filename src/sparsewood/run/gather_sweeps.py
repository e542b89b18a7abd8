"""Networks of a sweep as parts of a study: what its cells noted, and which of them there is none of."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsewood.errors import FileFormatError
from sparsewood.report.checklist import Facts
from sparsewood.report.study import Failure
from sparsewood.run.cell_work import of_this_dense
from sparsewood.run.directory import read_json
from sparsewood.run.store import Store
from sparsewood.run.sweep_notes import NOTES

if TYPE_CHECKING:
    from sparsewood.run.gather import Found

__all__ = ["sweep_cells"]

PLANNED = re.compile(r"(?:(.+)-of-)?(.+)-([\d.]+(?:e[+-]?\d+)?)x-[0-9a-f]{8}")
DAMAGED = "What it noted, cell.json, is damaged. Remove that file and carry out the sweep again."
STALE = "It is of another dense network than the one that is there now. Carry out the sweep again."


def sweep_cells(place: Path, found: Found) -> bool:
    """Add the networks of a sweep to what was found, and what there is none of as failures."""
    notes = read_json(place / NOTES)
    known = {row["hash"]: row for row in Store(place).rows()}
    problems, first = {}, {}
    for name, problem in notes["problems"].items():
        problems[name] = problem
        for key, stage in problem["cells"].items():
            row = known.get(key)
            directory = place / problem["directory"] / stage
            if row is not None and row["status"] == "done" and (directory / "cell.json").is_file():
                cell = _noted(directory / "cell.json")
                if cell is None:
                    found.failures.append(_failure(name, stage, row | {"error": DAMAGED}))
                    continue
                if not of_this_dense(place / problem["directory"], cell):
                    found.failures.append(_failure(name, stage, row | {"error": STALE}))
                    continue
                found.cells.append((cell, directory))
                begun = first.setdefault((name, cell["seed"]), set())
                begun |= {cell["first_weights"]} - {None}  # some begin with new weights
            else:
                found.failures.append(_failure(name, stage, row))
    methods = {f"{name}/{key}": told for name, p in problems.items() for key, told in p["methods"].items()}
    command = shlex.join(["sparsewood", "sweep", notes["source"], *_options(notes["overrides"])])
    found.facts.append(
        Facts(
            command,
            problems,
            methods,
            {key: frozenset(values) for key, values in first.items()},
            notes["versions"],
            notes["machine"],
            notes["dry_run"],
        )
    )
    found.titles.append(notes["name"])
    found.begun.append(notes["begun"])
    return True


def _options(overrides: Iterable[str]) -> list[str]:
    return [word for setting in overrides for word in ("--set", setting)]


def _noted(path: Path) -> dict[str, Any] | None:
    """What a cell noted; None if that is no longer to be read, which must not keep the others from being shown."""
    try:
        cell = read_json(path)
        return cell if all(math.isfinite(cell[key]) for key in ("seed", "amount", "accuracy", "size")) else None
    except (FileFormatError, KeyError, TypeError):
        return None


def _failure(problem: str, stage: str, row: dict[str, Any] | None) -> Failure:
    if row is None:  # nobody began with it: its directory's name says what it will be
        seed, _, name = stage.partition("/")
        of = PLANNED.fullmatch(name)
        method, amount = (of[2], float(of[3])) if of else (name.partition("-")[0], 1.0)
        method = f"{of[1]}_of_{method}" if of and of[1] else method
        return Failure(problem, method, amount, int(seed.removeprefix("seed-")), "It is not done yet.")
    return Failure(problem, row["method"], row["amount"], row["seed"], row["error"] or "It is not done yet.")
