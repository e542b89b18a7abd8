"""What a sweep is, noted beside its results: everything that a report has to say of how the numbers came about."""

from __future__ import annotations

import datetime
import re
import sys
from collections.abc import Sequence
from typing import Any

from sparsewood.run.bench import Bench
from sparsewood.run.canonical import canonical, written
from sparsewood.run.cells import Cell, Plan, family_of, layer_control, stands_for, tuned_meaning
from sparsewood.run.directory import write_json, write_text
from sparsewood.run.grid import Grid
from sparsewood.run.lengths import total_epochs
from sparsewood.run.provenance import machine, versions
from sparsewood.run.recipe import Recipe, Variant
from sparsewood.run.sweep_worker import Order
from sparsewood.train.settings import Training

__all__ = ["NOTES", "write_notes"]

NOTES = "sweep.json"
SOURCE = re.compile(r"(?:Source|Sources): (.*?)(?:\n\s*\n|\n\s*>>>|\Z)", re.DOTALL)


def write_notes(grid: Grid, plans: Sequence[Plan], benches: Sequence[Bench], order: Order) -> None:
    """Write sweep.json and the grid as it was read."""
    settings = grid.settings
    write_text(grid.directory / "grid.yaml", order.text)
    write_json(
        grid.directory / NOTES,
        {
            "name": settings.name,
            "description": settings.description,
            "source": order.source,
            "overrides": list(order.overrides),
            "dry_run": order.dry_run,
            "begun": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "python": sys.version.split()[0],
            "compressions": list(settings.compressions),
            "seeds": list(settings.seeds),
            "controls": list(settings.controls),
            "problems": {plan.problem.name: _problem(plan, bench) for plan, bench in zip(plans, benches, strict=True)},
            "versions": versions(),
            "machine": machine(),
        },
    )


def _problem(plan: Plan, bench: Bench) -> dict[str, Any]:
    recipe, split = plan.recipe, bench.split
    model = bench.network()
    return {
        "directory": plan.directory.name,
        "data": {
            "name": split.name,
            "settings": canonical(recipe.data, Recipe),
            "note": split.note,
            "examples": split.sizes,
            "classes": split.classes,
            "image": list(split.input_shape),
            "augment": None if recipe.augment is None else repr(recipe.augment),
            "normalization": "as the data set's function says" if "normalization" in recipe.data.parameters else "none",
        },
        "model": {
            "name": recipe.model.name,
            "settings": canonical(recipe.model, Recipe),
            "parameters": sum(p.numel() for p in model.parameters()),
            "macs": bench.macs(model).macs,
            "layers": [line.strip() for line in repr(model).splitlines()],
        },
        "training": written(recipe.training, Training),
        "device": recipe.device,
        "threads": recipe.threads,
        "methods": {cell.method: _method(plan, cell) for cell in plan.cells if cell.kind == "pruned"},
        "cells": {cell.hash: f"seed-{cell.seed}/{cell.stage}" for cell in plan.cells},
    }


def _method(plan: Plan, cell: Cell) -> dict[str, Any]:
    """How a method is carried out, at the last of its compressions, and where it comes from.

    `stands_for` names the control that it is by another name; `by_layer` the one with layer-wise proportions.
    """
    variant = plan.recipe.variant(cell.variant)
    follow = variant.pruning.recovery.follow.settings
    after = plan.recipe.training if follow == "training" else variant.retraining or plan.recipe.training
    component: Any = variant.dynamics or variant.pruning.criterion
    return {
        "variant": {k: v for k, v in canonical(variant, Variant).items() if k != "name"},
        "component": type(component).__name__,
        "source": source_of(type(component)),
        "follows": follow,
        "after": written(after, Training),
        "epochs": total_epochs(plan.recipe, variant),
        "control": _dense_control(plan, variant),
        "stands_for": stands_for(variant, cell.amount),
        "by_layer": layer_control(variant),
        "family": family_of(variant),
    }


def _dense_control(plan: Plan, variant: Variant) -> str:
    """What the dense network is called that was trained for as long."""
    meaning = tuned_meaning(plan.recipe, variant)
    tuned = (cell for cell in plan.cells if cell.kind == "tuned")
    same = (cell.method for cell in tuned if tuned_meaning(plan.recipe, plan.recipe.variant(cell.variant)) == meaning)
    return "dense" if meaning is None else next(same, "dense_tuned")


def source_of(component: type) -> str:
    """The publication that a component's docstring names; "" if it names none."""
    found = SOURCE.search(component.__doc__ or "")
    return " ".join(found[1].split()) if found else ""
