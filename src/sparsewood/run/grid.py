"""A grid: one YAML file that describes a comparison, methods x amounts x seeds x data sets x models.

    name: small-comparison
    problems:
      digits: {data: digits, model: small_conv, training: {epochs: 12}}
    methods:
      magnitude: {}
      snip: {at_step: 0, pruning: {criterion: WeightTimesGradient, recovery: {name: Rewind, step: 0}}}
      gradual: {pruning: {schedule: {name: Cubic, final: $sparsity}, rounds: 10, unit: step, every: 5}}
    compressions: [2, 4, 8, 16, 32]
    retraining: {epochs: 5}
    seeds: 3

A problem is a data set and a model with their training; what stands at the top level holds for all of them. With
`models:` in place of `model:` a problem is one for each of these. A method is what a variant of a recipe is (see
`run.recipe`), and is carried out once for every compression. Of a compression c (prunable weights / kept ones)
`$sparsity` is 1 - 1/c, `$density` 1/c, `$compression` c and `$units` 1 - sqrt(1/c): the share of units at which as many
weights go where a layer loses inputs and outputs alike. A method that says no amount prunes to `$sparsity` in one step,
and whole units (`Coupled`) to `$units`.

Nobody has to ask for controls: see `run.cells`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.granularity import NM
from sparsewood.run.annotations import check
from sparsewood.run.components import INVALID, Reader, RecipeError
from sparsewood.run.recipe import Name, Recipe, Seed, counted, recipe_of, text_of, tree_of
from sparsewood.run.yamlfile import Node, merge, shown

__all__ = ["CONTROLS", "Grid", "Method", "Problem", "grid_of", "load_grid", "parse_grid"]

CONTROLS = ("dense_tuned", "random", "magnitude", "random_layers", "magnitude_layers", "small_dense", "scratch")
"""What methods are compared with, unless a grid leaves some of it out."""

AMOUNTS = ("$sparsity", "$density", "$compression", "$units")
LEAST_AMOUNTS = 5
TAKEN = re.compile(
    r"dense|small_dense|dense_tuned(_as_.*)?|(random|magnitude)_as_.*|(random_layers|magnitude_layers|scratch)_of_.*"
)
"""Names of controls, that a method cannot have: it would be counted as one of them."""

Compression = Annotated[float, Field(gt=1.0)]
OF_METHODS = ("pruning", "dynamics", "at_step")


@dataclass(frozen=True)
class Settings:
    """What a grid says beside its problems and methods.

    Raises `SparsewoodError` for what cannot be.
    """

    name: Name
    compressions: tuple[Compression, ...]
    seeds: tuple[Seed, ...] = (1, 2, 3)
    controls: tuple[str, ...] = CONTROLS
    latency: bool = True
    description: str = ""
    output: Path = Path("runs")

    def __post_init__(self) -> None:
        check(self)
        names = {f"{compression:g}" for compression in self.compressions}
        if not names or len(names) != len(self.compressions):
            raise SparsewoodError(
                f"'compressions' must be at least one, each once (six digits count). Got {list(self.compressions)}."
            )
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise SparsewoodError(f"'seeds' must be at least one, each once. Got {list(self.seeds)}.")
        for name in self.controls:
            if name not in CONTROLS:
                raise UnknownName.among("control", name, CONTROLS)


@dataclass(frozen=True)
class Method:
    """One method at one compression on one problem: `variant` is what its recipe calls it."""

    name: str
    compression: float
    variant: str


@dataclass(frozen=True)
class Problem:
    """A data set, a model and their trainings; its recipe has every method at every compression as a variant."""

    name: str
    recipe: Recipe
    methods: tuple[Method, ...]

    @property
    def title(self) -> str:
        """Data set and model."""
        return f"{self.recipe.data.name}, {self.recipe.model.name}"


@dataclass(frozen=True)
class Grid:
    """A comparison that can be carried out."""

    settings: Settings
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...] = field(default=())

    @property
    def directory(self) -> Path:
        """Where it is carried out: by name, since each cell in it is found by a hash of its own."""
        return self.settings.output / self.settings.name


def load_grid(path: str | Path, overrides: Sequence[str] = ()) -> Grid:
    """Read a grid from a file; `overrides` are settings such as "training.epochs=5", applied in order.

    Raises `FileFormatError` if the file is no YAML, `RecipeError` with every mistake in it, each with line and field,
    and `SparsewoodError` if the file cannot be read or an override does not fit.
    """
    return grid_of(tree_of(text_of(path), str(path), overrides), Path(path).resolve().parent)


def parse_grid(text: str, source: str = "<text>", overrides: Sequence[str] = ()) -> Grid:
    """Read a grid from a text, which errors call `source`. Raises as `load_grid` does.

    >>> grid = parse_grid('''
    ... name: two
    ... problems: {digits: {data: digits, model: small_conv}}
    ... methods: {magnitude: {}, random: {pruning: {criterion: Random}}}
    ... compressions: [2, 4, 8]
    ... ''')
    >>> [method.variant for method in grid.problems[0].methods][:3]
    ['magnitude-2x', 'magnitude-4x', 'magnitude-8x']
    """
    return grid_of(tree_of(text, source, overrides), Path.cwd())


def grid_of(root: Node, directory: Path) -> Grid:
    """The grid that a tree describes; components of one's own are looked up in `directory` first."""
    given: dict[str, Node] = dict(root.value)
    problems, methods = given.pop("problems", None), given.pop("methods", None)
    for key, node in (("problems", problems), ("methods", methods)):
        if node is None or not isinstance(node.value, dict) or not node.value:
            got = "nothing" if node is None else shown(node)
            raise RecipeError([f"{root.where}: {key}: a grid needs a mapping of names to what they are. Got {got}."])
    assert problems is not None
    assert methods is not None
    known = {name for name in Settings.__dataclass_fields__}
    own = {key: given.pop(key) for key in list(given) if key in known}
    reader = Reader((directory, Path.cwd()), also=[*given, "problems", "methods"])
    if "seeds" in own:
        own["seeds"] = counted(own["seeds"], reader)
    _refuse_elsewhere(problems, given, reader)
    _refuse_taken(methods, reader)
    settings = reader.section(replace(root, value=own), Settings)
    if settings is INVALID or reader.problems:
        raise RecipeError(reader.problems)
    below = [
        (name, settings_of, *_variants(methods, settings.compressions, settings_of, given))
        for name, settings_of in _each_model(problems, given)
    ]
    mistakes = _twice(problems, [name for name, *_ in below])
    made = []
    for name, node, found, variants in below:
        try:
            made.append(Problem(name, _recipe(root, name, node, variants, own, directory), found))
        except RecipeError as error:
            mistakes += error.problems
        else:
            mistakes += [*_same_amounts(made[-1], methods), *_unmeasured(made[-1], root)]
    if mistakes:
        raise RecipeError(mistakes)
    return Grid(settings, tuple(made), tuple(_warnings(settings, made)))


def _warnings(settings: Settings, problems: Sequence[Problem]) -> Iterable[str]:
    """What can be done, but makes a comparison worth less."""
    if len(settings.compressions) < LEAST_AMOUNTS:
        yield f"{len(settings.compressions)} compressions: a comparison needs at least {LEAST_AMOUNTS}, over a range."
    new = [name for name in ("small_dense", "scratch") if name in settings.controls]
    for problem in problems if new else ():
        if problem.recipe.weights is not None or not problem.recipe.train_dense:
            yield (
                f"{problem.name}: nobody knows how long the weights that are given were trained, so "
                f"{' and '.join(new)}, which begin with new ones, are trained for less than the others."
            )


def _refuse_taken(methods: Node, reader: Reader) -> None:
    for name, node in methods.value.items():
        if TAKEN.fullmatch(str(name)):
            reader.problem(node, f"{name!r} is what a control is called. Give the method another name.")


def _twice(problems: Node, names: Sequence[str]) -> list[str]:
    """A problem and a model of another may come to the same name."""
    found = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    return [f"{problems.where}: problems: two of them are called {name!r}. Give one another name." for name in found]


def _unmeasured(problem: Problem, root: Node) -> list[str]:
    """What a recipe may say, and a cell would carry out in vain: it is the last pruned network that is measured."""
    found = []
    for key in ("sharing", "only"):
        names = [
            one.variant for one in problem.methods if getattr(problem.recipe.variant(one.variant), key) is not None
        ]
        if names:
            found.append(f"{root.where}: {key}: belongs to `sparsewood run`. Leave it out ({names[0]} has it).")
    return found


def _same_amounts(problem: Problem, methods: Node) -> list[str]:
    """Methods of which the same share goes whatever the compression is: N:M, or a scope with amounts of its own."""
    found = []
    for name, node in methods.value.items():
        variants = (problem.recipe.variant(one.variant) for one in problem.methods if one.name == name)
        fixed = [one.pruning for one in variants if one.dynamics is None and one.pruning.fixes_amounts]
        if len(fixed) > 1 and len({(repr(one.granularity), repr(one.scope)) for one in fixed}) == 1:
            who = fixed[0].granularity if isinstance(fixed[0].granularity, NM) else fixed[0].scope
            found.append(
                f"{node.where}: {node.path}: {who} removes as much at every compression. Compare it in a grid with the "
                f"one compression that it has, or write one of {', '.join(AMOUNTS)} in it."
            )
    return found


def _refuse_elsewhere(problems: Node, given: Mapping[str, Node], reader: Reader) -> None:
    """What a recipe says, and a grid says in another place: it would be of no use."""
    if "variants" in given:
        reader.problem(given["variants"], "a grid has methods in place of variants.")
    for node in problems.value.values():
        for key, child in node.value.items() if isinstance(node.value, dict) else ():
            if key in ("name", "seeds", "output", "variants"):
                reader.problem(child, "belongs to the whole grid, not to a problem: write it at the top level.")


def _each_model(problems: Node, given: Mapping[str, Node]) -> Iterable[tuple[str, dict[str, Node]]]:
    """Every problem with what holds for all; one for each of its `models`."""
    shared = {key: node for key, node in given.items() if key not in OF_METHODS}
    for name, node in problems.value.items():
        if not isinstance(node.value, dict):
            raise RecipeError([f"{node.where}: {node.path}: must be a mapping with data and model. Got {shown(node)}."])
        merged = shared | {key: merge(shared.get(key), value) for key, value in node.value.items()}
        models = merged.pop("models", None)
        if models is None:
            yield name, merged
            continue
        if not isinstance(models.value, dict):
            raise RecipeError([f"{models.where}: {models.path}: must map names to models. Got {shown(models)}."])
        for model, value in models.value.items():
            yield f"{name}-{model}", merged | {"model": value}


def _variants(
    methods: Node, compressions: Sequence[float], problem: Mapping[str, Node], given: Mapping[str, Node]
) -> tuple[tuple[Method, ...], dict[str, Node]]:
    """Each method at each compression, as the variants of a recipe."""
    found, variants = [], dict[str, Node]()
    said = [key for key in OF_METHODS if key in given or key in problem]
    for name, node in methods.value.items():
        if not isinstance(node.value, dict | None):
            raise RecipeError([f"{node.where}: {node.path}: must be a mapping, as a variant is. Got {shown(node)}."])
        own: dict[str, Node] = node.value or {}
        base = {key: merge(given.get(key), problem[key]) if key in problem else given[key] for key in said}
        merged = base | {key: merge(base.get(key), value) for key, value in own.items()}
        for compression in compressions:
            variant = f"{name}-{compression:g}x"
            found.append(Method(name, compression, variant))
            filled = _filled(_with_amount(replace(node, value=merged)), _amounts(compression))
            variants[variant] = replace(filled, value=filled.value | _sources(filled, f"-{compression:g}x"))
    return tuple(found), variants


def _sources(node: Node, suffix: str) -> dict[str, Node]:
    """Other methods that a method names, at its own compression."""
    named = {key: node.value[key] for key in ("masks_from", "matched_to") if key in node.value}
    return {key: replace(one, value=f"{one.value}{suffix}") for key, one in named.items() if one.value is not None}


def _with_amount(node: Node) -> Node:
    """The method with the schedule that it has if it says no amount."""
    if any(_mentions(child) for child in node.value.values()):
        return node
    pruning = node.value.get("pruning") or node.child("pruning", {})
    below = {} if pruning.value is None else pruning.value
    dynamics = node.value.get("dynamics")
    if not isinstance(below, dict) or "schedule" in below or (dynamics is not None and dynamics.value is not None):
        what = "schedule says" if isinstance(below, dict) and "schedule" in below else "settings say"
        raise RecipeError(
            [
                f"{node.where}: {node.path}: its {what} an amount that is the same for every compression. Write one of "
                f"{', '.join(AMOUNTS)} in its place."
            ]
        )
    granularity = below.get("granularity")
    kind = granularity.value if granularity is not None else None
    kind = kind["name"].value if isinstance(kind, dict) and "name" in kind else kind
    amount = "$units" if kind == "Coupled" else "$sparsity"
    schedule = pruning.child("schedule", None)
    schedule = replace(
        schedule, value={"name": schedule.child("name", "OneShot"), "amount": schedule.child("amount", amount)}
    )
    return replace(node, value=node.value | {"pruning": replace(pruning, value=below | {"schedule": schedule})})


def _mentions(node: Node) -> bool:
    if isinstance(node.value, dict):
        return any(map(_mentions, node.value.values()))
    if isinstance(node.value, list):
        return any(map(_mentions, node.value))
    return isinstance(node.value, str) and node.value.startswith("$")


def _amounts(compression: float) -> dict[str, float]:
    density = 1 / compression
    return {
        "$sparsity": 1 - density,
        "$density": density,
        "$compression": compression,
        "$units": 1 - density**0.5,
    }


def _filled(node: Node, amounts: Mapping[str, float]) -> Node:
    """The tree with numbers in the places of amounts."""
    if isinstance(node.value, dict):
        return replace(node, value={key: _filled(child, amounts) for key, child in node.value.items()})
    if isinstance(node.value, list):
        return replace(node, value=[_filled(child, amounts) for child in node.value])
    if isinstance(node.value, str) and node.value.startswith("$"):
        if node.value not in amounts:
            raise RecipeError([f"{node.where}: {node.path}: must be one of {', '.join(AMOUNTS)}. Got {node.value!r}."])
        amount = amounts[node.value]
        whole = ".granularity." in node.path and amount == int(amount)  # the m of N:M is a whole number
        return replace(node, value=int(amount) if whole else amount)
    return node


def _recipe(
    root: Node,
    name: str,
    node: Mapping[str, Node],
    variants: Mapping[str, Node],
    own: Mapping[str, Node],
    directory: Path,
) -> Recipe:
    """The recipe of one problem."""
    tree: dict[str, Any] = {key: child for key, child in node.items() if key not in OF_METHODS}
    tree["name"] = root.child("name", name)
    tree["variants"] = root.child("variants", dict(variants))
    tree["seeds"] = own["seeds"] if "seeds" in own else root.child("seeds", 3)
    return recipe_of(replace(root, value=tree), directory)
