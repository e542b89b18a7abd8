"""A recipe: one YAML file that describes an experiment, typed and checked before anything runs.

    name: mnist-lenet-lottery
    data: {name: mnist, validation: 5000}
    model: lenet_300_100
    training: {epochs: 10, batch_size: 128, optimizer: {name: Adam, lr: 1.2e-3}}
    pruning: {schedule: {name: Geometric, rate: 0.2}, rounds: 18, recovery: {name: Rewind, step: 0}}
    seeds: 3

A component is written by its catalogue name (`sparsewood list`), or as a mapping of `name` and parameters; your own is
"package.module:name", looked up in the recipe's directory, the working directory and what is installed. Reading a
recipe imports such a module, so read only recipes that you trust.

`variants` are named changes of `pruning`, `retraining` and the other fields of `Variant`; what stands at the top level
holds for all of them. A mapping without a `name` changes what it names, one with a `name` stands in place of what was
there. `retraining`, and the `tuning` of `sharing`, change `training` in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from sparsewood.dynamics.base import Dynamics
from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.granularity import Element
from sparsewood.pruning.settings import Pruning
from sparsewood.recovery import Initializer
from sparsewood.run import yamlfile
from sparsewood.run.annotations import UNHASHED, OfKind, check
from sparsewood.run.calls import Call
from sparsewood.run.canonical import canonical, digest, written
from sparsewood.run.components import INVALID, Reader, RecipeError
from sparsewood.run.sharing import Sharing
from sparsewood.run.yamlfile import Node, merge, shown
from sparsewood.train.settings import Training

__all__ = [
    "Call",
    "Recipe",
    "RecipeError",
    "Variant",
    "cell_hash",
    "counted",
    "effective",
    "load_recipe",
    "parse_recipe",
    "recipe_hash",
    "recipe_of",
    "text_of",
    "tree_of",
]

Name = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        description="a name of at most 100 letters, digits, '.', '_' and '-', as it becomes part of a path",
    ),
]
Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
MOST_SEEDS = 10_000
WITH_DYNAMICS = ("recovery", "include", "exclude", "protect_classifier", "unit")


@dataclass(frozen=True)
class Variant:
    """One line of the experiment: a pruning, and how it is carried out.

    Args:
        retraining: the training after pruning; None means the same as the dense network's.
        independent: every event starts from the dense network, not from what the event before it left.
        masks_from: the name of the variant whose masks are taken, round by round.
        shuffled: the masks taken from there are shuffled inside each parameter: as many weights stay in every layer,
            at random places.
        matched_to: the name of another variant. In every round as many weights go as that one's masks remove, whatever
            the amounts of the schedule are.
        at_step: what goes is chosen on the dense network as it was after so many steps of its training (0: before it),
            not as it is at the end: pruning at initialisation, where `recovery` is `Rewind`.
        dynamics: a rule of masks that change in one training, in place of criterion, schedule and all else that
            `pruning` says; only its recovery and its choice of parameters hold.
        sharing: what becomes of the last pruned network: its weights take few values, in a small file.
        only: the rounds that are trained and reported, counted from 1; None means all.

    Raises `SparsewoodError` for what cannot be.
    """

    name: Name = "pruned"
    pruning: Pruning = field(default_factory=Pruning)
    retraining: Training | None = None
    independent: bool = False
    masks_from: str | None = None
    shuffled: bool = False
    only: tuple[Positive, ...] | None = None
    matched_to: str | None = None
    dynamics: Dynamics | None = None
    sharing: Sharing | None = None
    at_step: Annotated[int, Field(ge=0)] | None = None

    def __post_init__(self) -> None:
        check(self)
        self._require_step()
        if self.shuffled and self.masks_from is None:
            raise SparsewoodError(f"Variant {self.name!r}: 'shuffled' is for masks of another variant: masks_from.")
        self._require_match()
        self._require_dynamics()
        if self.retraining is not None and self.pruning.recovery.follow.settings == "training":
            object.__setattr__(self, "retraining", None)  # of no use to a recovery that repeats the dense training
        if self.only is None:
            return
        if not self.only or sorted(set(self.only)) != list(self.only) or self.only[-1] > self.pruning.rounds:
            raise SparsewoodError(
                f"Variant {self.name!r}: 'only' must be rounds from 1 to {self.pruning.rounds}, ascending. "
                f"Got {list(self.only)}."
            )

    def _require_step(self) -> None:
        """One state is chosen on: later rounds would need one each."""
        if self.at_step is None:
            return
        chained = not self.independent and self.pruning.rounds > 1
        if self.source is not None or self.in_training or chained:
            raise SparsewoodError(
                f"Variant {self.name!r}: at_step says on which weights is chosen, once or with independent: true, by "
                "rounds. Leave it out, or leave out masks_from, matched_to, dynamics, unit and further rounds."
            )

    @property
    def snapshots(self) -> tuple[int, ...]:
        """The steps of the dense training whose states are needed."""
        return (*self.pruning.recovery.snapshots, *(() if self.at_step is None else (self.at_step,)))

    def _require_match(self) -> None:
        """Only single weights can be matched exactly, round by round."""
        if self.matched_to is None:
            return
        one = self.pruning
        if self.masks_from is not None or not isinstance(one.granularity, Element) or one.unit != "round":
            raise SparsewoodError(
                f"Variant {self.name!r}: matched_to chooses single weights, round by round: leave masks_from out, with "
                f"granularity Element and unit: round. Got {one.granularity}, unit {one.unit!r}, masks_from "
                f"{self.masks_from!r}."
            )
        if one.scope.own_amounts is not None or any(event.layers is not None or event.regrow for event in one.plan):
            raise SparsewoodError(
                f"Variant {self.name!r}: matched_to says how much goes in all, so neither scope nor schedule may "
                f"say it for layers. Got {one.scope} and {one.schedule}."
            )

    def _require_dynamics(self) -> None:
        """What a rule decides itself, nobody else may say."""
        if self.dynamics is None:
            return
        usual = Pruning()
        said = [
            f"pruning.{f.name}"
            for f in fields(Pruning)
            if f.name not in WITH_DYNAMICS and getattr(self.pruning, f.name) != getattr(usual, f.name)
        ]
        said += [name for name in ("independent", "masks_from", "only", "matched_to") if getattr(self, name)]
        if said:
            raise SparsewoodError(
                f"Variant {self.name!r}: dynamics decide what is pruned and when, so leave out {', '.join(said)} (or "
                "say it in the variants that need it, not for all)."
            )

    @property
    def in_training(self) -> bool:
        """Whether all takes place during one training, rather than round by round."""
        return self.dynamics is not None or self.pruning.unit != "round"

    @property
    def source(self) -> str | None:
        """The variant that must have run before: the one whose masks, or whose numbers of weights, are taken."""
        return self.masks_from if self.masks_from is not None else self.matched_to


@dataclass(frozen=True)
class Recipe:
    """All that decides an experiment's numbers, and how it is carried out.

    `data` and `model` are calls that the run makes; all other components are values. Fields marked `UNHASHED` change
    how a run is carried out or called, not what comes out, so they are no part of its hash. `initial` draws the weights
    with which the dense network begins; without it, and without a file of `weights`, they are those that the model's
    function gives it.

    Raises `SparsewoodError` for two variants of one name, for masks from a variant that is not there, and for weights
    that are both drawn and read.
    """

    name: Name = field(metadata=UNHASHED)
    data: Annotated[Call, OfKind("data")]
    model: Annotated[Call, OfKind("models")]
    augment: Annotated[Any, OfKind("augmentations")] | None = None
    weights: Path | None = None
    initial: Initializer | None = None
    train_dense: bool = True
    training: Training = field(default_factory=Training)
    variants: tuple[Variant, ...] = field(default_factory=lambda: (Variant(),))
    seeds: tuple[Seed, ...] = (1,)
    description: str = field(default="", metadata=UNHASHED)
    output: Path = field(default=Path("runs"), metadata=UNHASHED)
    device: str = field(default="auto", metadata=UNHASHED)
    devices: Positive = 1
    strategy: str = field(default="auto", metadata=UNHASHED)
    threads: Positive = field(default=1, metadata=UNHASHED)
    workers: Annotated[int, Field(ge=0)] = field(default=0, metadata=UNHASHED)
    checkpoint_every: Positive = field(default=1, metadata=UNHASHED)
    logs: tuple[Literal["auto", "csv", "mlflow", "tensorboard", "wandb"], ...] = field(
        default=("csv",), metadata=UNHASHED
    )
    test_batch_size: Positive = field(default=1000, metadata=UNHASHED)

    def __post_init__(self) -> None:
        check(self)
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise SparsewoodError(f"'seeds' must be at least one, each once. Got {list(self.seeds)}.")
        self._require_initial()
        names = [variant.name for variant in self.variants]
        if not names or len(set(names)) != len(names):
            raise SparsewoodError(f"'variants' must be at least one, each with a name of its own. Got {names}.")
        for variant in self.variants:
            self.sources(variant)

    def _require_initial(self) -> None:
        if self.initial is None:
            return
        if self.weights is not None or self.initial.snapshots:
            raise SparsewoodError(
                f"'initial' draws the first weights, so give neither a file of 'weights' nor an initializer that goes "
                f"back to earlier ones. Got {self.initial!r} and weights {self.weights}."
            )

    @property
    def hash(self) -> str:
        """SHA-256 of what the experiment means: see `recipe_hash`."""
        return recipe_hash(self)

    @property
    def directory(self) -> Path:
        """Where the run is written: `<output>/<name>-<the first 12 digits of the hash>`."""
        return self.output / f"{self.name}-{self.hash[:12]}"

    def variant(self, name: str) -> Variant:
        """The variant of this name; raises `UnknownName` if there is none."""
        for variant in self.variants:
            if variant.name == name:
                return variant
        raise UnknownName.among("variant", name, [variant.name for variant in self.variants])

    def sources(self, variant: Variant) -> tuple[Variant, ...]:
        """The variants that must have run before this one: the one its masks (or numbers) are from, and theirs.

        Raises `SparsewoodError` if one of them does not exist or is the variant itself.
        """
        found: list[Variant] = []
        last = variant
        while last.source is not None:
            try:
                last = self.variant(last.source)
            except UnknownName as error:
                key = "masks_from" if last.masks_from is not None else "matched_to"
                raise SparsewoodError(f"Variant {last.name!r}, {key}: {error}") from error
            if last.name == variant.name or last in found:
                raise SparsewoodError(f"Variant {variant.name!r} takes its masks, in the end, from itself.")
            found.append(last)
        return tuple(found)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from a file; `overrides` are settings such as "training.epochs=5", applied in order.

    Raises `FileFormatError` if the file is no YAML, `RecipeError` with every mistake in it, each with line and field,
    and `SparsewoodError` if the file cannot be read or an override does not fit.
    """
    return _build(text_of(path), str(path), overrides, Path(path).resolve().parent)


def parse_recipe(text: str, source: str = "<text>", overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from a text, which errors call `source`. Raises as `load_recipe` does."""
    return _build(text, source, overrides, Path.cwd())


def text_of(path: str | Path) -> str:
    """The text of a recipe's file. Raises `SparsewoodError` if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SparsewoodError(f"Cannot read recipe '{path}': {reason}. Give the path of a YAML file.") from error


def tree_of(text: str, source: str, overrides: Iterable[str] = ()) -> Node:
    """The tree of a recipe's text with what overrides set. Raises as `parse_recipe` does for what is no mapping."""
    root = yamlfile.read(text, source)
    if not isinstance(root.value, dict):
        raise RecipeError([f"{root.where}: a recipe is a mapping of 'key: value' lines. Got {shown(root)}."])
    for setting in overrides:
        root = yamlfile.override(root, setting)
    return root


def effective(recipe: Recipe) -> str:
    """The whole recipe with every default written out, as YAML that reads back to an equal recipe.

    Raises `SparsewoodError` for a recipe built in Python that holds what no file can say.
    """
    plain = written(recipe, Recipe)
    variants = {entry.pop("name"): entry for entry in plain.pop("variants")}
    return yamlfile.write(plain | {"variants": variants})


def recipe_hash(recipe: Recipe) -> str:
    """SHA-256 over what differs from the defaults: equal meaning, equal hash.

    Spelling, the order of keys and variants, and the fields marked `UNHASHED` do not matter, and neither does a field
    that did not exist when the recipe was written, as long as it has its default.
    """
    plain = canonical(recipe, Recipe)
    variants = {variant.name: _meaning(recipe, variant) for variant in recipe.variants}
    return digest(plain | {"variants": variants})


def cell_hash(recipe: Recipe, variant: Variant | None, seed: int) -> str:
    """SHA-256 over what decides one cell of the experiment, one variant with one seed (None = the dense network).

    A cell that means the same in another recipe has the same hash, whatever its variant is called.
    """
    plain = canonical(replace(recipe, variants=(Variant(),), seeds=(1,)), Recipe)  # the others are of no interest
    plain.pop("variants", None)
    plain.pop("seeds", None)
    if variant is not None:
        chain = [_meaning(recipe, each) for each in (variant, *recipe.sources(variant))]
        plain["variant"] = [_nameless(each) for each in chain]
    return digest(plain | {"seed": seed})


def _nameless(meaning: dict[str, Any]) -> dict[str, Any]:
    """A variant's meaning without what its source is called; that it is matched to one matters."""
    found = {key: value for key, value in meaning.items() if key != "masks_from"}
    return found | {"matched_to": ""} if "matched_to" in found else found


def _meaning(recipe: Recipe, variant: Variant) -> dict[str, Any]:
    """A variant without its name, and without a retraining that is what it would be anyway."""
    same = variant.retraining is None or canonical(variant.retraining, Training) == canonical(recipe.training, Training)
    return canonical(replace(variant, name="pruned", retraining=None if same else variant.retraining), Variant)


# ---------------------------------------------------------------- from the tree


SHARED = tuple(f.name for f in fields(Variant) if f.name != "name")


OTHER_COMMANDS = {"shrink": "sparsewood shrink", "problems": "sparsewood sweep"}


def _build(text: str, source: str, overrides: Iterable[str], directory: Path) -> Recipe:
    root = tree_of(text, source, overrides)
    for key, command in OTHER_COMMANDS.items():
        if key in root.value:
            where = root.value[key].where
            raise RecipeError([f"{where}: {key}: this is a recipe for `{command}`, not for `sparsewood run`."])
    return recipe_of(root, directory)


def recipe_of(root: Node, directory: Path) -> Recipe:
    """The recipe that a tree describes; components of one's own are looked up in `directory` first.

    Raises `RecipeError` with every mistake in it.
    """
    reader = Reader((directory, Path.cwd()), also=SHARED)
    recipe = reader.section(_expanded(root, reader), Recipe)
    if recipe is INVALID or reader.problems:
        raise RecipeError(reader.problems)
    _refuse_unused(root, recipe, reader)
    if reader.problems:
        raise RecipeError(reader.problems)
    return recipe


def _refuse_unused(root: Node, recipe: Recipe, reader: Reader) -> None:
    """What a variant says itself must be used. (A `retraining` for all may be of use to others.)"""
    variants = root.value.get("variants")
    for name, node in ((variants.value if variants is not None else None) or {}).items():
        own = (node.value or {}).get("retraining")
        recovery = recipe.variant(name).pruning.recovery
        if own is not None and own.value is not None and recovery.follow.settings == "training":
            reader.problem(own, f"is of no use: {recovery} repeats the dense training, with its settings.")


def _expanded(root: Node, reader: Reader) -> Node:
    """The tree as `Recipe` has it: every variant with what the top level says, seeds as a list."""
    given: dict[str, Node] = dict(root.value)
    base = {key: given.pop(key) for key in SHARED if key in given}
    listed = given.get("variants")
    if listed is None or listed.value is None:
        listed = root.child("variants", {})
    if not isinstance(listed.value, dict):
        reader.problem(listed, f"must be a mapping from names to what they change. Got {shown(listed)}.")
        listed = replace(listed, value={})
    named = listed.value or {"pruned": root.child("variants", {})}
    given["variants"] = replace(
        listed, value=[_variant(base, name, node, given, reader) for name, node in named.items()]
    )
    if "seeds" in given:
        given["seeds"] = counted(given["seeds"], reader)
    return replace(root, value=given)


def _variant(base: dict[str, Node], name: str, node: Node, given: dict[str, Node], reader: Reader) -> Node:
    if not isinstance(node.value, dict | None):
        return node  # refused when it is read
    own = node.value or {}
    if "name" in own:
        reader.problem(own["name"], f"The name of a variant is its key. Got {name!r} and {shown(own['name'])}.")
    merged = base | {key: merge(base.get(key), value) for key, value in own.items()}
    retraining = merged.get("retraining")
    if retraining is not None and "training" in given:
        merged["retraining"] = merge(given["training"], retraining)
    sharing = merged.get("sharing")
    if sharing is not None and isinstance(sharing.value, dict) and "training" in given:
        tuning = sharing.value.get("tuning")
        if tuning is not None and tuning.value is not None:
            tuned = merge(given["training"], tuning)
            merged["sharing"] = replace(sharing, value={**sharing.value, "tuning": tuned})
    return replace(node, value=merged | {"name": node.child("name", name)})


def counted(node: Node, reader: Reader) -> Node:
    """`seeds: 3` is [1, 2, 3]."""
    count = node.value
    if isinstance(count, bool) or not isinstance(count, int):
        return node
    if not 1 <= count <= MOST_SEEDS:
        reader.problem(node, f"must be how many seeds, from 1 to {MOST_SEEDS:,}, or a list of them. Got {count}.")
        count = 1
    return replace(node, value=[replace(node, value=seed) for seed in range(1, count + 1)])
