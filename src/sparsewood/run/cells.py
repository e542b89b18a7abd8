"""The cells of a grid: every network that is trained, what each needs to be there before, and the hash it is found by.

Controls are added here, so that no comparison is without them:

* `dense`, and `dense_tuned`: the dense network, and the same trained on for as long as the pruned ones are;
* `random`, `magnitude`: single weights (or whole units, where the methods remove these) by chance and by size, all
  competing, recovered as the methods are; one of each for every way of recovery among the methods;
* `random_layers`, `magnitude_layers`: as many weights in every layer as the method removes, by chance and by size;
* `small_dense`: a narrower dense network with as many parameters, trained for as long as dense and pruned one together;
* `scratch`: the method's network with new weights, trained for as long. Whole units are removed first.

The first weights, the order of the data and the trainings of a seed are the same for all (Blalock et al. 2020,
https://arxiv.org/abs/2003.03033; Liu et al. 2019, https://arxiv.org/abs/1810.05270, for `scratch`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from sparsewood.allocation import Everywhere
from sparsewood.criteria import Criterion, Magnitude, Random
from sparsewood.errors import SparsewoodError
from sparsewood.granularity import Coupled, Element
from sparsewood.pruning import Pruning
from sparsewood.run.canonical import canonical, digest
from sparsewood.run.grid import Grid, Problem
from sparsewood.run.lengths import dense_trainings, total_epochs, trainings_after
from sparsewood.run.recipe import Recipe, Variant, cell_hash
from sparsewood.schedules import Levels, OneShot, Schedule
from sparsewood.train.settings import Training
from sparsewood.types import Sparsity

__all__ = [
    "Cell",
    "Kind",
    "Plan",
    "cells_of",
    "family_of",
    "layer_control",
    "plainest",
    "stands_for",
    "tuned_meaning",
]

Kind = Literal["dense", "tuned", "pruned", "layers", "narrow", "scratch"]
DENSE = "dense"
ALL = "*"  # whose control it is that belongs to all
FORMAT = 1  # part of every hash: to be raised when the same cell would give other numbers


@dataclass(frozen=True)
class Cell:
    """One network of a comparison.

    Args:
        method: what tables call it; of: the method whose control it is, "" for a method or a control of all.
        amount: the compression asked for, 1 for dense networks.
        variant: the variant of the problem's recipe that it is, or whose settings or masks it has.
        stage: the directory below that of the seed.
        after: the hashes of the cells that have to be there before.
    """

    problem: str
    kind: Kind
    method: str
    of: str
    amount: float
    seed: int
    variant: str
    stage: str
    hash: str
    after: tuple[str, ...] = ()

    @property
    def role(self) -> Literal["method", "control"]:
        """Whether it is compared, or compared with."""
        return "method" if self.kind == "pruned" and not self.of else "control"

    @property
    def owner(self) -> str:
        """The method whose control it is; "" if it belongs to all."""
        return "" if self.of == ALL else self.of

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.problem}: {self.method} {self.amount:g}x, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """The cells of one problem, with the recipe whose variants they are and the directory where they lie."""

    problem: Problem
    recipe: Recipe
    directory: Path
    cells: tuple[Cell, ...]


def cells_of(grid: Grid) -> list[Plan]:
    """The cells of every problem; each comes after those it needs.

    Raises `SparsewoodError` for two that are the same: a cell is found by its hash, so that one of them would be lost.
    """
    plans = [_Expansion(grid, problem).plan() for problem in grid.problems]
    first: dict[str, Cell] = {}
    for cell in (cell for plan in plans for cell in plan.cells):
        other = first.setdefault(cell.hash, cell)
        if other is not cell:
            raise SparsewoodError(
                f"'{other.name}' and '{cell.name}' are the same network. Leave out one of the two "
                + (
                    "methods."
                    if other.problem == cell.problem
                    else "problems; what they differ in belongs into methods."
                )
            )
    return plans


@dataclass(frozen=True)
class Entry:
    """One variant as a line of tables: what it is called there, whose control it is, and its compression."""

    variant: Variant
    method: str
    of: str
    compression: float


class _Expansion:
    """Works out the cells of one problem."""

    def __init__(self, grid: Grid, problem: Problem) -> None:
        self.settings, self.problem = grid.settings, problem
        self.root = grid.directory
        self.named = {method.variant: method for method in problem.methods}

    def plan(self) -> Plan:
        """Variants first, renamed so that a directory belongs to one meaning; then the cells of every seed."""
        recipe = self.problem.recipe
        entries = [self._entry(variant) for variant in recipe.variants]
        entries += self._of_families(entries)
        renamed = replace(recipe, variants=tuple(entry.variant for entry in entries))
        snapshots = sorted({step for variant in renamed.variants for step in variant.snapshots if step > 0})
        base = digest({"recipe": cell_hash(renamed, None, 0), "snapshots": snapshots, "format": FORMAT})
        meanings = {variant.name: _meaning(renamed, variant) for variant in renamed.variants}
        made = _Cells(self.problem.name, renamed, base, meanings, self.settings.controls, self.settings.latency)
        amounts = self.settings.compressions
        cells = [cell for seed in self.settings.seeds for cell in made.of_seed(seed, entries, amounts)]
        return Plan(self.problem, renamed, self.root / f"{self.problem.name}-{base[:8]}", tuple(cells))

    def _entry(self, variant: Variant) -> Entry:
        recipe, method = self.problem.recipe, self.named[variant.name]
        names = {each.name: _with_hash(recipe, each) for each in (variant, *recipe.sources(variant))}
        sources = {
            key: names[getattr(variant, key)]
            for key in ("masks_from", "matched_to")
            if getattr(variant, key) is not None
        }
        return Entry(replace(variant, name=names[variant.name], **sources), method.name, "", method.compression)

    def _of_families(self, entries: Sequence[Entry]) -> list[Entry]:
        """`random` and `magnitude` for each way of recovery, unless a method is just that."""
        found: list[Entry] = []
        recipe = self.problem.recipe
        known = {_meaning(recipe, entry.variant) for entry in entries if entry.variant.source is None}
        titles: dict[tuple[str, str], str] = {}
        for entry in entries:
            for name, criterion in (("random", Random()), ("magnitude", Magnitude())):
                plain = plainest(entry.variant, criterion, entry.compression)
                meaning = _meaning(recipe, plain)
                if name not in self.settings.controls or meaning in known:
                    continue
                known.add(meaning)
                taken = {other.method for other in (*entries, *found)}
                family = (name, family_of(entry.variant))
                title = titles.setdefault(family, name if name not in taken else f"{name}_as_{entry.method}")
                plain = replace(plain, name=f"{title}-{entry.compression:g}x-{meaning[:8]}")
                found.append(Entry(plain, title, ALL, entry.compression))
        return found


@dataclass(frozen=True)
class _Cells:
    """Makes the cells of one problem, seed by seed."""

    problem: str
    recipe: Recipe
    base: str
    meanings: Mapping[str, str]
    controls: tuple[str, ...]
    latency: bool

    def of_seed(self, seed: int, entries: Sequence[Entry], compressions: Sequence[float]) -> Iterator[Cell]:
        """Dense networks, then pruned ones, then controls that need those."""
        dense = self._cell(seed, "dense", {}, method=DENSE, of=ALL, stage=DENSE)
        yield dense
        yield from self._tuned(seed, entries, dense)
        hashes: dict[str, str] = {}
        for entry in sorted(entries, key=lambda one: len(self.recipe.sources(one.variant))):
            variant = entry.variant
            cell = self._cell(
                seed,
                "pruned",
                {"cell": self.meanings[variant.name]},
                method=entry.method,
                of=entry.of,
                amount=entry.compression,
                variant=variant.name,
                stage=variant.name,
                after=(dense.hash, *(hashes[source.name] for source in self.recipe.sources(variant))),
            )
            hashes[variant.name] = cell.hash
            yield cell
        if "small_dense" in self.controls:
            longest = max((total_epochs(self.recipe, entry.variant) for entry in entries), default=0)
            for compression in compressions:
                what = {"compression": compression, "epochs": longest}
                stage = f"small_dense-{compression:g}x-{digest(what)[:8]}"
                yield self._cell(
                    seed,
                    "narrow",
                    what,
                    method="small_dense",
                    of=ALL,
                    amount=compression,
                    stage=stage,
                    after=(dense.hash,),
                )
        for entry in entries:
            if not entry.of:
                yield from self._of_method(seed, entry, (dense.hash, hashes[entry.variant.name]))

    def _tuned(self, seed: int, entries: Sequence[Entry], dense: Cell) -> Iterator[Cell]:
        """The dense network trained on, for each training that pruned networks have."""
        seen: set[str] = set()
        for entry in entries if "dense_tuned" in self.controls else ():
            meaning = tuned_meaning(self.recipe, entry.variant)
            if meaning is None or meaning in seen:
                continue
            name = "dense_tuned" if not seen else f"dense_tuned_as_{entry.method}"
            seen.add(meaning)
            yield self._cell(
                seed,
                "tuned",
                {"tuned": meaning},
                method=name,
                of=ALL,
                variant=entry.variant.name,
                stage=f"{name}-{meaning[:8]}",
                after=(dense.hash,),
            )

    def _of_method(self, seed: int, entry: Entry, after: tuple[str, ...]) -> Iterator[Cell]:
        """The controls of one method at one compression."""
        kinds: dict[str, Kind] = {"random_layers": "layers", "magnitude_layers": "layers", "scratch": "scratch"}
        alike = _shaped(entry.variant)
        for control, kind in kinds.items():
            if control not in self.controls or control == layer_control(entry.variant):
                continue
            yield self._cell(
                seed,
                kind,
                {"control": control, "of": self.meanings[entry.variant.name], **(alike if kind == "layers" else {})},
                method=f"{control}_of_{entry.method}",
                of=entry.method,
                amount=entry.compression,
                variant=entry.variant.name,
                stage=f"{control}-of-{entry.variant.name}",
                after=after,
            )

    def _cell(self, seed: int, kind: Kind, what: Mapping[str, object], **fields: Any) -> Cell:
        """A cell; `what` tells it from others of its kind."""
        measured = {} if self.latency else {"latency": False}
        found = digest({"kind": kind, "base": self.base, "seed": seed, **what, **measured})
        return Cell(self.problem, kind, seed=seed, hash=found, **{"amount": 1.0, "variant": "", **fields})


# ---------------------------------------------------------------- what is the same


def tuned_meaning(recipe: Recipe, variant: Variant) -> str | None:
    """What decides the training of a variant's dense control; None if its control is the dense network."""
    times = dense_trainings(variant)
    if not times:
        return None
    settings = variant.retraining or recipe.training
    follow = variant.pruning.recovery.follow
    return digest({"training": canonical(settings, Training), "times": times, "follow": repr(follow)})


def plainest(variant: Variant, criterion: Criterion, compression: float) -> Variant:
    """One cut by a criterion, all weights (or units) competing, recovered as `variant` is and trained as often.

    What has several trainings in a row is cut before the first of them.

    Where masks change in a training that begins at an early step, the cut is made on the weights of that step.
    """
    old = variant.pruning
    early = min(old.recovery.snapshots, default=None) if variant.in_training else None
    density = 1 / compression
    share = 1 - density**0.5 if isinstance(old.granularity, Coupled) else 1 - density
    times = trainings_after(variant)
    # Amounts are totals, so that nothing more goes in later rounds.
    schedule: Schedule = OneShot(Sparsity(share)) if times == 1 else Levels((Sparsity(share),) * times)
    pruning = Pruning(
        criterion, schedule, Everywhere(), old.granularity, old.recovery, rounds=times, include=old.include,
        exclude=old.exclude, protect_classifier=old.protect_classifier, min_units=old.min_units,
    )  # fmt: skip
    return Variant("plain", pruning, variant.retraining, at_step=early if early is not None else variant.at_step)


def stands_for(variant: Variant, compression: float) -> str | None:
    """The control of all that a variant is, under whatever name; None if it is none."""
    own = _plain_meaning(variant)
    criteria = {"random": Random(), "magnitude": Magnitude()}
    return next(
        (name for name, c in criteria.items() if _plain_meaning(plainest(variant, c, compression)) == own), None
    )


def layer_control(variant: Variant) -> str | None:
    """The control with a method's layer-wise proportions that the method is itself; None if it is neither."""
    pruning = variant.pruning
    once = variant.source is None and not variant.in_training and pruning.rounds == pruning.iterations == 1
    if not once or pruning.select != "lowest":
        return None
    found = {Random: "random_layers", Magnitude: "magnitude_layers"}
    return found.get(type(pruning.criterion))


def _shaped(variant: Variant) -> dict[str, object]:
    """What of a method its controls by layer share, as far as it is not the usual."""
    granularity, times = variant.pruning.granularity, trainings_after(variant)
    shape: dict[str, object] = {} if isinstance(granularity, Element | Coupled) else {"granularity": repr(granularity)}
    return shape | ({"trainings": times} if times > 1 else {})


def _plain_meaning(variant: Variant) -> object:
    return canonical(replace(variant, name="pruned"), Variant)


def family_of(variant: Variant) -> str:
    """A hash that variants share which are alike in recovery, units and trainings, whatever they choose by."""
    return digest(canonical(plainest(variant, Magnitude(), 2.0), Variant))[:12]


def _meaning(recipe: Recipe, variant: Variant) -> str:
    return cell_hash(recipe, variant, 0)


def _with_hash(recipe: Recipe, variant: Variant) -> str:
    return f"{variant.name}-{_meaning(recipe, variant)[:8]}"
