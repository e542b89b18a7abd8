"""`sparsewood shrink`: read the recipe, train if it says so, remove units, recover, measure, show and write."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

from sparsewood.errors import OutputError
from sparsewood.files import writable_directory
from sparsewood.measurement.layer_times import cache_directory
from sparsewood.run import shrink_outputs as outputs
from sparsewood.run.calls import importable
from sparsewood.run.directory import locked, write_text
from sparsewood.run.progress import progress
from sparsewood.run.show import show
from sparsewood.run.shrink_recipe import ShrinkRecipe, load_shrink_recipe
from sparsewood.run.shrink_work import Work
from sparsewood.run.threads import threads
from sparsewood.shrinking.budgets import Latency

__all__ = ["shrink_recipe"]


def shrink_recipe(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    preview: bool = False,
    json_file: str | None = None,
    quiet: bool = False,
) -> ShrinkRecipe:
    """Carry out the recipe at `path`, or only show what it would remove.

    What is written lies in the directory of the recipe that is returned; `json_file` gets the summary, too, or "-",
    standard output, which then has nothing else. A preview writes nothing but that.

    Raises `SparsewoodError` for a recipe that cannot be read or carried out, and where the directory is in use or
    cannot be written to. There is then no network but that of an earlier command, whole.
    """
    recipe = load_shrink_recipe(path, overrides)
    _check_target(json_file)
    here = (path.resolve().parent, Path.cwd())  # where components of one's own may import what lies beside them
    aside = redirect_stdout(sys.stderr) if json_file == "-" else nullcontext()
    with importable(here), threads(recipe.threads), aside:
        values = _preview(recipe) if preview else _carry_out(recipe, quiet=quiet)
    if json_file == "-":
        print(_text(values), end="")
    elif json_file is not None:
        write_text(Path(json_file), _text(values))
    return recipe


def _check_target(file: str | None) -> None:
    """What can be wrong is found out now, not after hours."""
    if file is None or file == "-":
        return
    if Path(file).exists() and not Path(file).is_file():
        raise OutputError(f"Cannot write file '{file}': it exists and is no regular file. Choose another path.")
    writable_directory(Path(file).parent)


def _text(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, allow_nan=False) + "\n"


def _preview(recipe: ShrinkRecipe) -> dict[str, Any]:
    work = Work(recipe)
    report = work.preview()
    found = outputs.preview_rows(report)
    show(outputs.rows_table(found, outputs.title(recipe, report)))
    print()
    show(outputs.group_table(report, "Units of each group"))
    told = [*outputs.budget(report), *outputs.inexact(report), *outputs.what_stays(report)]
    print("", *told, "", _untouched(recipe), _weights(work), sep="\n")
    return outputs.preview_values(recipe, report, found)


def _untouched(recipe: ShrinkRecipe) -> str:
    """What a preview left as it was."""
    if isinstance(recipe.shrink.budget, Latency):
        return f"No network was changed or written; the times of its layers are kept in '{cache_directory()}'."
    return "Nothing was changed or written."


def _weights(work: Work) -> str:
    """Whose weights decided."""
    recipe = work.recipe
    if recipe.weights is not None:
        return f"The weights are those of '{recipe.weights}'."
    if not recipe.trains:
        return f"The weights are those that {recipe.model.name} is built with."
    if work.trained_before() is not None:
        return f"The weights are those of the training in '{recipe.dense_directory}'."
    return "The network is not trained yet; when it is, its weights may choose units of other groups."


def _refuse_another_model(recipe: ShrinkRecipe) -> None:
    there = outputs.model_there(recipe.directory)
    if there is not None and there != recipe.model.name:
        raise OutputError(
            f"Directory '{recipe.directory}' holds the network of another model, {there}; this recipe's is "
            f"{recipe.model.name}. Choose another directory with --output, or remove that one."
        )


def _carry_out(recipe: ShrinkRecipe, *, quiet: bool) -> dict[str, Any]:
    _refuse_another_model(recipe)
    root = writable_directory(recipe.directory)
    with locked(root):
        work = Work(recipe)
        warning = work.check()
        if warning is not None:
            print(f"sparsewood: {warning}", file=sys.stderr)
        with progress(work.steps(), quiet=quiet) as advance:
            work.advance = advance
            outcome = work.carry_out()
            stored = outputs.save_network(root, outcome)
            tested = work.tested(outcome)
        split, report = work.split, outcome.shrunk.report
        found = outputs.rows(outcome, tested, stored, filled=recipe.shrink.bias_propagation)
        values = outputs.all_values(recipe, outcome, tested, found, split)
        paths = outputs.write_all(root, recipe, found, values)
    data = "" if split is None else split.name + (f" ({split.note})" if split.note else "")
    show(outputs.rows_table(found, outputs.title(recipe, report, data)))
    print()
    show(outputs.group_table(report, "Units of each group"))
    recovered = [f"{name}: {note}" for name, note in outcome.notes.items()]
    proof = [outputs.proven(report), *outputs.inexact(report), *outputs.notes(report)]
    print("", *outputs.budget(report), *proof, _weights(work), *recovered, *outputs.what_stays(report), sep="\n")
    print("\nWritten:", *(f"  {path}" for path in paths), *outputs.loading(root, recipe), sep="\n")
    return values
