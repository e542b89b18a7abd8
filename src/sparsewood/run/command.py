"""`sparsewood run`: read the recipe, check it, show the plan, carry it out, show and write the results."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from sparsewood.distributed import rank
from sparsewood.errors import SparsewoodError
from sparsewood.files import writable_directory
from sparsewood.report.plots import require_matplotlib
from sparsewood.report.schedules import show_plan
from sparsewood.run.begun import require_same_inputs
from sparsewood.run.bench import Bench, load_split
from sparsewood.run.calls import importable
from sparsewood.run.directory import locked
from sparsewood.run.file_outputs import files_table, read_stages, write_stages
from sparsewood.run.methods import Choice, load_chosen
from sparsewood.run.outputs import lines, read_results, results_table, write_levels, write_parameters, write_results
from sparsewood.run.preflight import check_run
from sparsewood.run.progress import no_progress, progress
from sparsewood.run.recipe import Recipe, Variant
from sparsewood.run.runner import carry_out_all, fabric_of, remaining_steps
from sparsewood.run.show import show
from sparsewood.state import TrainingState

__all__ = ["run_recipe"]


def run_recipe(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    jobs: int = 1,
    dry_run: bool = False,
    quiet: bool = False,
    plan_only: bool = False,
    save_model: Path | None = None,
    seconds: float = 15.0,
    choice: Choice | None = None,
) -> Path:
    """Carry out the recipe at `path`, or what is chosen of it; the directory of the run.

    Raises `SparsewoodError` for a recipe that cannot be read or carried out, and where the directory is in use or
    cannot be written to.
    """
    choice = choice or Choice()
    recipe = load_chosen(path, overrides, choice)
    if jobs < 1:
        raise SparsewoodError(f"--jobs must be a whole number >= 1. Got {jobs}.")
    follows = recipe.devices > 1 and int(os.environ.get("LOCAL_RANK", "0")) > 0  # a process that the first one started
    if plan_only or not (quiet or follows):
        _show_plans(recipe)
    if plan_only:
        return recipe.directory
    if jobs > 1 and recipe.devices > 1:
        raise SparsewoodError(f"--jobs {jobs} shares the work by whole trainings; devices: {recipe.devices} must be 1.")
    root = _directory(recipe, dry_run=dry_run)
    if save_model is not None and (save_model.is_dir() or not writable_directory(save_model.parent)):
        raise SparsewoodError(f"--save-model must be a file, such as {save_model / 'model.safetensors'}.")
    require_matplotlib()  # what can be wrong is found out now, not after hours
    here = (path.resolve().parent, Path.cwd())  # where components of one's own may import what lies beside them
    with nullcontext() if follows else locked(root), importable(here):
        fabric = fabric_of(recipe)
        if recipe.devices > 1:
            fabric.launch()
        leads = rank() == 0
        if leads and dry_run:
            _forget(root)
        split = load_split(recipe)
        bench = Bench(recipe, split, root, recipe.seeds[0], fabric, no_progress, dry_run)
        check_run(bench)
        if leads:
            warning = require_same_inputs(root, recipe, split, fabric.device)
            if warning is not None:
                print(f"sparsewood: {warning}", file=sys.stderr)
            write_parameters(root, recipe, split, dry_run=dry_run)
        again = partial(load_chosen, path.resolve(), list(overrides), choice)
        with progress(remaining_steps(bench), quiet=quiet or not leads, seconds=seconds) as advance:
            evaluations = carry_out_all(replace(bench, advance=advance), again=again, jobs=jobs)
        if leads:
            _report(recipe, root, evaluations, split.note, dry_run=dry_run)
            if save_model is not None:
                _save_model(root, evaluations[recipe.seeds[0]]["results"], save_model)
    return root


def _forget(root: Path) -> None:
    """A dry run is to see that all works now, not that it did."""
    for directory in root.glob("seed-*"):
        shutil.rmtree(directory)
    (root / "inputs.json").unlink(missing_ok=True)


def _directory(recipe: Recipe, *, dry_run: bool) -> Path:
    directory = recipe.directory
    return writable_directory(directory.with_name(f"{directory.name}-dry-run") if dry_run else directory)


def _show_plans(recipe: Recipe) -> None:
    """Each plan once, with the variants that have it."""
    groups: dict[tuple[Any, ...], list[Variant]] = {}
    for variant in recipe.variants:
        pruning = variant.pruning
        when = (pruning.plan, pruning.unit, pruning.start, pruning.every, repr(variant.dynamics))
        key = (variant.masks_from, variant.matched_to) if variant.source is not None else when
        groups.setdefault(key, []).append(variant)
    for members in groups.values():
        names, first = ", ".join(variant.name for variant in members), members[0]
        if first.masks_from is not None:
            print(f"{names}: the masks of {first.masks_from}", end="\n\n")
            continue
        if first.matched_to is not None:
            print(f"{names}: as many weights as the masks of {first.matched_to} remove", end="\n\n")
            continue
        if first.dynamics is not None:
            print(f"{names}: {first.dynamics}", end="\n\n")
            continue
        pruning = first.pruning
        by_round = pruning.unit == "round"  # counted from 1, as their directories are
        table = show_plan(pruning.plan, start=1 if by_round else pruning.start, every=1 if by_round else pruning.every)
        show(replace(table, title=f"{names}: before each {pruning.unit}"))
        print()


def _report(recipe: Recipe, root: Path, evaluations: dict[int, Any], note: str, *, dry_run: bool) -> None:
    found = read_results(evaluations)
    seeds = len({one.result.seed for one in found})
    over = f"mean +- sample standard deviation over {seeds} seeds" if seeds > 1 else "one seed, so no deviation"
    dry = "DRY RUN (one batch, the numbers mean nothing): " if dry_run else ""
    data = recipe.data.name + (f" ({note})" if note else "")
    title = f"{dry}{data}, {recipe.model.name}"
    paths = write_results(root, found, title)
    if any(variant.pruning.coupled for variant in recipe.variants):
        write_levels(root, found, [variant.name for variant in recipe.variants])
    show(results_table(lines(found), f"{title}: test accuracy, {over}"))
    stages = read_stages(evaluations)
    if stages:
        paths += write_stages(root, stages)
        print()
        show(files_table(stages, f"{title}: accuracy and bytes of the file after each stage, {over}"))
    print("\nWritten:")
    for path in paths:
        print(f"  {path}")
    sys.stdout.flush()


def _save_model(root: Path, results: list[dict[str, Any]], path: Path) -> None:
    """The weights of the last network of the first seed."""
    from safetensors.torch import save

    from sparsewood.files import write_atomically

    last = results[-1]["result"]
    state = TrainingState.load(root / last["path"] / "final.safetensors")
    content = save(state.part("model"))
    writable_directory(path.parent)
    write_atomically(path, lambda temporary: temporary.write_bytes(content))
    print(f"  {path} ({last['strategy']}, {last['path']})")
