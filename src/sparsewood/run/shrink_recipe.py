"""A recipe for `sparsewood shrink`: which network, trained how, and what is removed from it for good.

    name: digits_small_conv_shrink
    data: digits
    model: {name: small_conv, batch_norm: true}
    training: {epochs: 20, batch_size: 64}
    shrink: {budget: {name: MACs, amount: 0.5}, recalibrate: true}
    retraining: {epochs: 5}

It is read as recipes of `sparsewood run` are: components by their catalogue names, or as mappings of `name` and
parameters; unknown keys are refused; `retraining` changes `training`. Reading a recipe imports the modules that it
names, so read only recipes that you trust.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from sparsewood.allocation.scopes import Amounts, Everywhere, Scope
from sparsewood.criteria import Criterion, Magnitude
from sparsewood.errors import SparsewoodError
from sparsewood.run import yamlfile
from sparsewood.run.annotations import OfKind, check
from sparsewood.run.calls import Call
from sparsewood.run.canonical import written
from sparsewood.run.components import INVALID, Reader, RecipeError
from sparsewood.run.recipe import SHARED, Name, Positive, Recipe, Seed, cell_hash, text_of, tree_of
from sparsewood.run.yamlfile import Node, merge
from sparsewood.shrinking.budgets import Budget
from sparsewood.train.settings import Training
from sparsewood.types import AmountLike
from sparsewood.unit_criteria import UnitCriterion, needs_data

__all__ = [
    "LeastSquares",
    "ShrinkRecipe",
    "Shrinking",
    "effective_shrink_recipe",
    "load_shrink_recipe",
    "parse_shrink_recipe",
]


@dataclass(frozen=True)
class LeastSquares:
    """How consumers of removed units are refitted: see `sparsewood.recovery.least_squares.reconstruct`."""

    samples: Positive = 10
    ridge: Annotated[float, Field(ge=0)] = 1e-4


@dataclass(frozen=True)
class Shrinking:
    """What is removed, and what makes good for it before any training: the section `shrink`.

    Args:
        sparsity: how many units go, or a mapping from layers to that; half of them if there is no `budget` either.
        budget: instead of `sparsity`, how much may be left.
        criterion: of weights, or of units (`sparsewood list unit-criteria`).
        scope, round_to, min_units, attention, inexact, verify: as in `shrink`.
        protect: a layer's name or pattern, or several.
        samples: how many training examples a criterion that needs data sees, and bias propagation, least squares and
            BatchNorm recalibration; null means all.
        bias_propagation: the mean of removed units moves into the biases of their readers.
        least_squares: readers of removed units are refitted to what the dense network computes.
        recalibrate: BatchNorm statistics are estimated anew.

    Raises `SparsewoodError` for what cannot be.
    """

    sparsity: AmountLike | Amounts | None = None
    budget: Budget | None = None
    criterion: Criterion | UnitCriterion = Magnitude()
    scope: Scope = Everywhere()
    protect: str | tuple[str, ...] = ()
    round_to: Positive = 1
    min_units: Positive = 1
    attention: Literal["heads", "head_dims"] = "heads"
    inexact: bool = True
    verify: bool = True
    samples: Positive | None = 512
    bias_propagation: bool = False
    least_squares: bool | LeastSquares = False
    recalibrate: bool = False

    def __post_init__(self) -> None:
        check(self)
        if self.sparsity is not None and self.budget is not None:
            raise SparsewoodError(
                f"sparsity says how much goes and budget how much stays: give one of them. Got sparsity={self.sparsity}"
                f" and {self.budget}. (--set shrink.budget=null takes one back.)"
            )

    @property
    def reads_data(self) -> tuple[str, ...]:
        """The settings that make something of training examples."""
        given = {
            f"criterion {self.criterion}": needs_data(self.criterion),
            "bias_propagation": self.bias_propagation,
            "least_squares": self.least_squares is not False,
            "recalibrate": self.recalibrate,
        }
        return tuple(name for name, needed in given.items() if needed)


@dataclass(frozen=True)
class ShrinkRecipe:
    """A network, and how it shrinks.

    Args:
        model, data, augment, description, device, threads, workers, test_batch_size: as in `Recipe`.
        weights: the file of the network's weights; it is then not trained before.
        inputs: the shapes of example inputs, as "1,3,224,224" or "1,16:int64"; by default one example of `data`, or
            what the model's library says. Multiply-adds and latency budgets are of these.
        training: of the dense network, before anything is removed. Without it and `weights` the weights are those that
            the model is built with.
        retraining: the fine-tuning of the small network.
        seed: of all that is random.
        output: the directory that is written; by default runs/NAME.
        repeats: how many forwards are timed at each batch size; 0 leaves the latency out.

    Raises `SparsewoodError` where something needs data and there is none.
    """

    name: Name
    model: Annotated[Call, OfKind("models")]
    shrink: Shrinking
    data: Annotated[Call, OfKind("data")] | None = None
    augment: Annotated[Any, OfKind("augmentations")] | None = None
    weights: Path | None = None
    inputs: tuple[str, ...] = ()
    training: Training | None = None
    retraining: Training | None = None
    seed: Seed = 1
    description: str = ""
    output: Path | None = None
    device: str = "auto"
    threads: Positive = 1
    workers: Annotated[int, Field(ge=0)] = 0
    test_batch_size: Positive = 1000
    repeats: Annotated[int, Field(ge=0)] = 30

    def __post_init__(self) -> None:
        check(self)
        if self.data is None:
            given = {"training": self.training, "retraining": self.retraining}
            needing = [*(name for name, value in given.items() if value is not None), *self.shrink.reads_data]
            if needing:
                raise SparsewoodError(
                    f"Without data there can be no {', '.join(needing)}. Say which data: 'data: ...'."
                )
        trainings = [self.retraining] if self.retraining else []
        trainings += [self.training] if self.training and self.trains else []
        precisions = {training.precision for training in trainings}
        if len(precisions) > 1 or "64-true" in precisions:
            raise SparsewoodError(
                f"training.precision: weights are kept in 32 bits, and a recipe has one precision. Got "
                f"{', '.join(sorted(precisions))}. Use '32-true' or 'bf16-mixed'."
            )

    @property
    def trains(self) -> bool:
        """Whether the dense network is trained."""
        return self.training is not None and self.weights is None

    @property
    def directory(self) -> Path:
        """What is written."""
        return Path("runs") / self.name if self.output is None else self.output

    @property
    def dense(self) -> Recipe:
        """How the dense network comes about, for the parts that `sparsewood run` consists of."""
        assert self.data is not None
        return Recipe(
            name=self.name,
            data=self.data,
            model=self.model,
            augment=self.augment,
            weights=self.weights,
            train_dense=self.trains,
            training=(self.training if self.trains else self.retraining) or Training(),
            seeds=(self.seed,),
            device=self.device,
            threads=self.threads,
            workers=self.workers,
            test_batch_size=self.test_batch_size,
        )

    @property
    def dense_directory(self) -> Path:
        """Where the dense training lies: of all shrink recipes that begin with the same one, the same."""
        return self.directory / f"dense-{cell_hash(self.dense, None, self.seed)[:12]}"


def load_shrink_recipe(path: str | Path, overrides: Sequence[str] = ()) -> ShrinkRecipe:
    """Read a recipe from a file; `overrides` are settings such as "shrink.sparsity=0.7", applied in order.

    Raises as `load_recipe` does.
    """
    return _build(text_of(path), str(path), overrides, Path(path).resolve().parent)


def parse_shrink_recipe(text: str, source: str = "<text>", overrides: Sequence[str] = ()) -> ShrinkRecipe:
    """Read a recipe from a text, which errors call `source`. Raises as `load_recipe` does.

    >>> recipe = parse_shrink_recipe("{name: tiny, model: lenet5_caffe, shrink: {budget: {name: MACs, amount: 0.5}}}")
    >>> recipe.shrink.budget, recipe.trains
    (MACs(amount=0.5), False)
    """
    return _build(text, source, overrides, Path.cwd())


def effective_shrink_recipe(recipe: ShrinkRecipe) -> str:
    """The whole recipe with every default written out, as YAML that reads back to an equal recipe."""
    return yamlfile.write(written(recipe, ShrinkRecipe))


def _build(text: str, source: str, overrides: Iterable[str], directory: Path) -> ShrinkRecipe:
    _refuse_other_recipes(tree_of(text, source).value)
    root = tree_of(text, source, overrides)
    reader = Reader((directory, Path.cwd()))
    recipe = reader.section(_merged(root), ShrinkRecipe)
    if recipe is INVALID or reader.problems:
        raise RecipeError(reader.problems)
    return recipe


def _refuse_other_recipes(given: Mapping[str, Node]) -> None:
    own, others = ({f.name for f in fields(kind)} for kind in (ShrinkRecipe, Recipe))
    foreign = [key for key in given if key in {*others, *SHARED} - own]
    if "shrink" not in given and foreign:
        raise RecipeError(
            [
                f"{given[foreign[0]].where}: {foreign[0]}: this is a recipe for `sparsewood run`, not for "
                "`sparsewood shrink`, which reads what to remove from a section 'shrink'."
            ]
        )


def _merged(root: Node) -> Node:
    """`retraining` is as `training` but for what it says."""
    given: Mapping[str, Node] = root.value
    training, retraining = given.get("training"), given.get("retraining")
    if training is None or retraining is None or retraining.value is None:
        return root
    return replace(root, value={**given, "retraining": merge(training, retraining)})
