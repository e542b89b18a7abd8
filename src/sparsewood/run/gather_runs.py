"""Runs of recipes as parts of a study: every variant at every round is a network like those of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsewood.report.checklist import Facts
from sparsewood.run.directory import read_json
from sparsewood.run.gather_units import of_levels
from sparsewood.run.yamlfile import write

if TYPE_CHECKING:
    from sparsewood.run.gather import Found

__all__ = ["RUN", "run_cells"]

RUN = "params.json"


def run_cells(place: Path, found: Found) -> bool:
    """Add the networks of a run to what was found; False if it is not finished.

    What is called as in an earlier run, but is something else, gets the name of this run as well: a problem that has
    other settings, and a method of another recipe at one of the same amounts.
    """
    parameters = read_json(place / RUN)
    if "settings" not in parameters or not list(place.glob("seed-*/evaluation.json")):
        return False
    settings = parameters["settings"]
    run = f"{parameters['recipe']} {parameters['hash'][:6]}"
    problem = f"{parameters['dataset']['name']}, {parameters['model']}"
    about = _problem(parameters)
    if any(
        (facts.problems[problem], facts.dry_run) != (about, parameters["dry_run"])
        for facts in found.facts
        if problem in facts.problems
    ):
        problem = f"{problem} ({run})"
    told = {name: value for name, value in settings.items() if name in ("data", "model", "training", "initial")}
    results = [read_json(path)["results"] for path in sorted(place.glob("seed-*/evaluation.json"))]
    amounts, cells = _amounts(results), []
    for seed in results:
        first = None
        for one in seed:
            control, of = one["round"] == 0, ""
            if control:
                network = _fingerprint(place / one["result"]["path"])
                if network == first:
                    continue
                of = "" if first is None else one["result"]["strategy"]  # it was trained on as this variant is
                first = network if first is None else first
            variant = next((v for v in settings["variants"] if v["name"] == one["result"]["strategy"]), {})
            recipe = write(told if control else {**told, "variant": variant})
            amount = 1.0 if control else amounts.get((one["result"]["strategy"], one["round"]), 0.0)
            cell = _cell(problem, one, recipe, amount, control=control)
            cell |= {"of": of, "method": f"dense_of_{of}"} if of else {}
            cells.append((cell, place / one["result"]["path"]))
    found.cells += _told_apart(cells, [cell for cell, _ in found.cells], run)
    found.facts.append(
        Facts(
            command=f"sparsewood run (recipe {parameters['recipe']}, {parameters['hash'][:12]})",
            problems={problem: about},
            versions=parameters["versions"],
            machine=parameters["machine"],
            dry_run=parameters["dry_run"],
        )
    )
    found.memorization += of_levels(place)
    found.titles.append(parameters["recipe"])
    return True


def _told_apart(
    cells: Sequence[tuple[dict[str, Any], Path]], before: Sequence[dict[str, Any]], run: str
) -> list[tuple[dict[str, Any], Path]]:
    """The cells of a run, whose methods are renamed where another recipe gave one of that name and amount."""
    known = {(cell["problem"], cell["method"], cell["amount"]): cell["recipe"] for cell in before}
    names: dict[str, str] = {}
    for cell, _ in cells:
        if known.get((cell["problem"], cell["method"], cell["amount"]), cell["recipe"]) != cell["recipe"]:
            name = cell["of"] or cell["method"]
            names[name] = f"{name} ({run})"
    found = []
    for cell, place in cells:
        of = names.get(cell["of"], cell["of"])
        method = f"dense_of_{of}" if of else names.get(cell["method"], cell["method"])
        found.append((cell | {"method": method, "of": of}, place))
    return found


def _fingerprint(stage: Path) -> str:
    """That of the network that a stage came to: variants that are trained alike have the same control."""
    path = stage / "done.json"
    return str(read_json(path).get("fingerprint")) if path.is_file() else ""


def _amounts(results: Sequence[Sequence[dict[str, Any]]]) -> dict[tuple[str, int], float]:
    """The compression of the prunable weights by variant and round: the mean over seeds, so that they are one point."""
    found: dict[tuple[str, int], list[float]] = {}
    for one in (one for seed in results for one in seed if one["kept"]):
        found.setdefault((one["result"]["strategy"], one["round"]), []).append(1 / one["kept"])
    return {key: round(sum(values) / len(values), 3) for key, values in found.items()}


def _cell(problem: str, one: dict[str, Any], recipe: str, amount: float, *, control: bool) -> dict[str, Any]:
    """A network of a run, as a cell of a sweep notes it; what a run does not measure is None."""
    result = one["result"]
    return {
        "problem": problem,
        "method": "dense" if control else result["strategy"],
        "kind": "dense" if control else "pruned",
        "role": "control" if control else "method",
        "of": "",
        "amount": amount,
        "seed": result["seed"],
        "accuracy": result["post_acc1"],
        "accuracy5": result["post_acc5"],
        "before": None if control else result["pre_acc1"],
        "validation": one["validation_acc1"],
        "train_accuracy": one["train_acc1"],
        "compression": result["real_compression"],
        "speedup": result["speedup"],
        "size": result["size"],
        "size_nz": result["size_nz"],
        "flops": result["flops"],
        "flops_nz": result["flops_nz"],
        "bytes": None,
        "latency": None,
        "latency_ratio": None,
        "seconds": 0.0,
        "recipe": recipe,
        "hash": "",
        "layers": [
            {
                "layer": layer["parameter"],
                "shape": [int(size) for size in layer["shape"].split("x") if size],
                "size": layer["size"],
                "kept": layer["kept"],
            }
            for layer in one["layers"]
        ],
        "bins": [],
    }


def _problem(parameters: dict[str, Any]) -> dict[str, Any]:
    settings, data = parameters["settings"], parameters["dataset"]
    return {
        "data": {
            "name": data["name"],
            "settings": settings["data"],
            "note": data["note"],
            "examples": data["examples"],
            "classes": None,
            "image": None,
            "augment": settings.get("augment"),
            "normalization": "as the data set's function says",
        },
        "model": {"name": parameters["model"], "settings": settings["model"], "parameters": None, "layers": None},
        "training": settings["training"],
    }
