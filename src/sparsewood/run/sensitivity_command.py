"""`sparsewood sensitivity`: read a recipe, train its dense network if that is to be done, prune it layer by layer."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn

from sparsewood.criteria import Criterion, Magnitude
from sparsewood.errors import SparsewoodError
from sparsewood.files import writable_directory
from sparsewood.granularity import Coupled, Granularity
from sparsewood.recipes.sensitivity_analysis import AMOUNTS, GRANULARITIES, sensitivity
from sparsewood.report.plots import require_matplotlib
from sparsewood.report.sensitivity import Sensitivity, plot_sensitivity
from sparsewood.report.table import Table, as_text
from sparsewood.run.annotations import check
from sparsewood.run.begun import require_same_inputs
from sparsewood.run.bench import DENSE, Bench, Trained, load_split
from sparsewood.run.calls import importable
from sparsewood.run.components import INVALID, Reader, RecipeError
from sparsewood.run.directory import Stage, locked, write_text
from sparsewood.run.experiment import dense_steps, train_dense
from sparsewood.run.progress import no_progress, progress
from sparsewood.run.recipe import Recipe, load_recipe, text_of, tree_of
from sparsewood.run.show import show
from sparsewood.run.shrink_recipe import load_shrink_recipe
from sparsewood.run.threads import threads
from sparsewood.train import make_fabric
from sparsewood.unit_criteria.base import UnitCriterion

__all__ = ["Analysis", "analyse_recipe", "read_analysis", "settings_of"]

NAME = "sensitivity"
EXAMPLE_INPUTS = 1


@dataclass(frozen=True)
class Analysis:
    """What is asked: see `sparsewood.sensitivity`. `max_drop` is of the summary below the table."""

    amounts: tuple[Annotated[float, Field(ge=0, le=1)], ...] = AMOUNTS
    granularities: tuple[Granularity, ...] = GRANULARITIES
    criterion: Criterion | UnitCriterion = Magnitude()
    layers: tuple[str, ...] = ()
    max_drop: Annotated[float, Field(ge=0, le=1)] = 0.01

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class _Dense:
    """The dense network of a recipe of either kind: how it is trained, and where that lies."""

    recipe: Recipe
    directory: Path
    root: Path


def read_analysis(settings: Sequence[str], directory: Path | None = None) -> Analysis:
    """The analysis of settings such as "amounts=[0.5]". Raises `RecipeError` with every mistake in them.

    >>> read_analysis(["granularities=[Filter]", "amounts=[0.25, 0.5]"]).granularities
    (Filter(axes=(0,)),)
    """
    reader = Reader((directory or Path.cwd(), Path.cwd()))
    found = reader.section(tree_of("{}", "the command line", settings), Analysis)
    if found is INVALID or reader.problems:
        raise RecipeError(reader.problems)
    return found


def analyse_recipe(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    settings: Sequence[str] = (),
    output: Path | None = None,
    quiet: bool = False,
) -> Path:
    """Carry out the analysis of the recipe's dense network on its validation data; the directory that is written.

    A network that an earlier command trained is not trained again, and an analysis that was stopped goes on.

    Raises `SparsewoodError` for a recipe that cannot be read or has no data to validate on, where a directory is in
    use or cannot be written to, and for files there of another analysis.
    """
    here = (path.resolve().parent, Path.cwd())  # where components of one's own may import what lies beside them
    wanted = read_analysis(settings, here[0])
    dense = _dense(path, overrides)
    require_matplotlib()  # what can be wrong is found out now, not after hours
    target = writable_directory(output or dense.directory / NAME)
    with locked(writable_directory(dense.directory)), importable(here), threads(dense.recipe.threads):
        bench = _bench(dense)
        warning = require_same_inputs(dense.root, dense.recipe, bench.split, bench.fabric.device)
        if warning is not None:
            print(f"sparsewood: {warning}", file=sys.stderr)
        model = _trained(bench, quiet=quiet)
        with progress(None, quiet=quiet) as advance:
            found = _analysed(bench, model, wanted, target / f"{NAME}.csv", lambda doing: advance(doing, 0))
    title = f"{bench.split.name}, {dense.recipe.model.name}: validation"
    _report(found, wanted, target, title)
    return target


def _dense(path: Path, overrides: Sequence[str]) -> _Dense:
    """What the recipe says of the dense network, whichever command the recipe is for."""
    if "shrink" not in tree_of(text_of(path), str(path), overrides).value:
        recipe = load_recipe(path, overrides)
        return _Dense(recipe, recipe.directory, recipe.directory)
    shrinking = load_shrink_recipe(path, overrides)
    if shrinking.data is None:
        raise SparsewoodError(f"'{path}' has no data to evaluate on. Say which: --set data=NAME.")
    return _Dense(shrinking.dense, shrinking.directory, shrinking.dense_directory)


def _bench(dense: _Dense) -> Bench:
    recipe = dense.recipe
    trained = Stage(dense.root / f"seed-{recipe.seeds[0]}" / DENSE).done is not None
    if recipe.devices > 1 and not trained:
        raise SparsewoodError(
            f"devices: {recipe.devices}, but this command trains on one. Train with `sparsewood run` first, or say "
            "--set devices=1."
        )
    split = load_split(recipe)
    if not len(split.validation):
        raise SparsewoodError(
            f"{split.name} has no validation part, and layers are not compared on test data. Say --set "
            "data.validation=N, if the data set takes that."
        )
    fabric = make_fabric(recipe.device, precision=recipe.training.precision)
    return Bench(recipe, split, dense.root, recipe.seeds[0], fabric, no_progress)


def _trained(bench: Bench, *, quiet: bool) -> nn.Module:
    """The dense network; it is trained if no earlier command did."""
    done = Trained.of(bench.stage(DENSE))
    if done is None:
        with progress(dense_steps(bench) or None, quiet=quiet) as advance:
            done = train_dense(replace(bench, advance=advance))
    return bench.network_at(done.state())


def _analysed(bench: Bench, model: nn.Module, wanted: Analysis, path: Path, told: Any) -> Sensitivity:
    coupled = any(isinstance(one, Coupled) for one in wanted.granularities)
    images = isinstance(wanted.criterion, UnitCriterion) and wanted.criterion.reads_images
    return sensitivity(
        model,
        bench.plain(bench.split.validation),
        amounts=wanted.amounts,
        granularities=wanted.granularities,
        criterion=wanted.criterion,
        layers=list(wanted.layers) or None,
        scoring=bench.split.train if images else bench.plain(bench.split.train),
        example_inputs=bench.split.train.batch(torch.arange(EXAMPLE_INPUTS))[0] if coupled else None,
        path=path,
        seed=bench.seed,
        progress=told,
    )


def _report(found: Sensitivity, wanted: Analysis, target: Path, title: str) -> None:
    table = found.table()
    tables = (replace(table, title=f"{title} {table.title}"), _ranked(found, wanted.max_drop))
    plot_sensitivity(found, target / f"{NAME}.png", title=f"{title}, one layer pruned")
    write_text(target / f"{NAME}.txt", "\n\n".join(as_text(one) for one in tables) + "\n")
    for one in tables:
        show(one)
        print()
    print("Written:", *(f"  {target / f'{NAME}.{ending}'}" for ending in ("csv", "png", "txt")), sep="\n")


def _ranked(found: Sensitivity, most: float) -> Table:
    """The most sensitive layer first."""
    measure = found.measure(None)
    drops = f"{measure} {'rises' if measure == 'loss' else 'drops'} by at most {most:g}"
    ranking = found.ranking(most)
    rows = [(name, units, f"{share:.4g}") for units, layers in ranking.items() for name, share in layers.items()]
    return Table(f"How much each layer can lose alone while {drops}", ("layer", "units", "share"), tuple(rows))


def settings_of(
    amounts: str | None,
    granularity: Sequence[str],
    criterion: str | None,
    layers: Sequence[str],
    max_drop: float | None,
) -> list[str]:
    """The options of the command line as settings of an `Analysis`.

    >>> settings_of("0.5,0.9", ["Filter"], None, ["conv*"], None)
    ['amounts=[0.5,0.9]', 'granularities=[Filter]', 'layers=["conv*"]']
    """
    given = {
        "amounts": f"[{amounts}]" if amounts is not None else None,
        "granularities": f"[{', '.join(granularity)}]" if granularity else None,
        "criterion": criterion,
        "layers": json.dumps(list(layers)) if layers else None,
        "max_drop": str(max_drop) if max_drop is not None else None,
    }
    return [f"{name}={value}" for name, value in given.items() if value is not None]
