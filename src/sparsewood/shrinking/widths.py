"""Widths that a forward divides by and that are others now, and which weights could make up for them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import nn

from sparsewood.shrinking.attention import MultiheadAttention
from sparsewood.shrinking.origins import Origins
from sparsewood.shrinking.plan import Edit, Keep, Scaling
from sparsewood.shrinking.sizes import Sizes
from sparsewood.structure import Structure
from sparsewood.structure.log import Step

__all__ = ["Option", "Task", "Widths"]

_MEAN, _IMPLICIT, _SCALED = "mean over units", "attention scale", "scaled by the number of units"
_LARGEST_EPSILON = 1e-2


@dataclass(frozen=True, eq=False)
class Option:
    """One way to make up for a width; `sort` is alike for the same way in another place.

    `rest` says what it does not make up for.
    """

    sort: tuple[object, ...]
    scalings: tuple[Scaling, ...]
    edits: tuple[Edit, ...] = ()
    rest: str = ""


@dataclass(frozen=True, eq=False)
class Task:
    """A place with widths that are others now, and what may make up for them, likeliest first; or why nothing."""

    where: str
    options: tuple[Option, ...] = ()
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class _Weight:
    """The vector that scales what a mean of squares divides: what may be added to it, and to the mean."""

    param: str
    offsets: tuple[float, ...]
    epsilon: bool


class Widths:
    """The widths that are others in the small network, and the weights that could make up for them."""

    def __init__(self, small: nn.Module, structure: Structure, keep: Keep) -> None:
        self.small, self.structure, self.keep = small, structure, keep
        self.record = structure.record
        self.sizes = Sizes(structure, keep)
        self.modules = dict(small.named_modules(remove_duplicate=False))
        held = (id(p) for module in small.modules() for p in module.parameters(recurse=False))
        self.holders = Counter(held)
        changed = [number for number, (row, *_) in enumerate(self.record.inexact) if self.sizes.left(row) < len(row)]
        self.changed = {number: self.record.inexact[number] for number in changed}
        self.kept_scale = [
            number
            for number, (_, kind, step) in self.changed.items()
            if kind == _IMPLICIT and isinstance(self.modules.get(self.record.steps[step].module), MultiheadAttention)
        ]
        """Widths of attention that kept its scale."""

    @cached_property
    def labels(self) -> Origins:
        """Where rows come from; most networks divide by no width."""
        return Origins(self.structure)

    def tasks(self) -> list[Task]:
        means: dict[str, list[int]] = {}
        scaled: dict[str, list[int]] = {}
        implicit: list[Task] = []
        for number, (row, kind, step) in self.changed.items():
            if kind == _MEAN:
                means.setdefault(self.record.steps[step].module, []).append(number)
            elif kind == _IMPLICIT and number not in self.kept_scale:
                implicit.append(self._implicit(number))
            elif kind == _SCALED:
                scaled.setdefault(self._owner(row), []).append(number)
        found = [self._mean(module, numbers) for module, numbers in means.items()]
        found += [self._scaled(module, numbers) for module, numbers in scaled.items()]
        return [*found, *_merged(implicit)]

    def _left(self, row: np.ndarray) -> float:
        return self.sizes.left(row) / len(row)

    # ------------------------------------------------------------ root mean squares

    def _mean(self, name: str, entries: Sequence[int]) -> Task:
        """The weight behind the root mean squares that a module takes, and its epsilon."""
        where = name or type(self.small).__name__
        weights: list[_Weight] = []
        for row, _, step in (self.record.inexact[entry] for entry in entries):
            weight = self._weight_behind(step, row)
            if weight is None:
                return Task(where, why_not="a mean over units, behind which no weight scales them")
            if self.holders[id(self.small.get_parameter(weight.param))] > 1:
                return Task(where, why_not=f"{weight.param}, which scales the units, is used elsewhere, too")
            weights.append(weight)
        shares = {self._left(self.record.inexact[entry][0]) for entry in entries}
        if len(shares) > 1:
            return Task(where, why_not="its means are taken over different widths")
        (share,) = shares
        module = self.modules[name]
        epsilon = any(weight.epsilon for weight in weights)
        options = [
            Option(
                ("mean", type(module), offset, *(edit.name for edit in edits)),
                tuple(self._whole(param, 1 / math.sqrt(share), offset) for param in {one.param for one in weights}),
                edits,
                "" if edits or not epsilon else "what is added to its mean square is not among its attributes",
            )
            for offset in weights[0].offsets
            for edits in _epsilons(name, module, share)
        ]
        return Task(where, tuple(options))

    def _whole(self, param: str, factor: float, offset: float) -> Scaling:
        return Scaling(param, 0, torch.arange(len(self._kept(param, 0))), factor, offset)

    def _weight_behind(self, number: int, row: np.ndarray) -> _Weight | None:
        """The first vector of this width on the way from a mean of squares through its root, before any other layer."""
        steps = self.record.steps
        if "rms_norm" in steps[number].op:
            return self._vector_in(steps[number], row, epsilon=True)
        if not any(_is_square(steps[source]) for source in steps[number].sources):
            return None
        derived, rooted, epsilon = {number}, False, False
        for later in range(number + 1, len(steps)):
            step = steps[later]
            if derived.isdisjoint(step.sources):
                continue
            if step.family == "contraction":
                return None
            derived.add(later)
            epsilon = epsilon or (not rooted and any(word in step.op for word in (".add", ".clamp", ".maximum")))
            rooted = rooted or any(word in step.op for word in ("sqrt", ".pow."))
            found = self._vector_in(step, row, epsilon=epsilon) if rooted else None
            if found is not None:
                return found
        return None

    def _vector_in(self, step: Step, row: np.ndarray, *, epsilon: bool) -> _Weight | None:
        """The vector, one entry for each place of a row, that an operation is given."""
        without = (
            isinstance(self.modules.get(step.module), nn.RMSNorm) and vars(self.modules[step.module])["eps"] is None
        )
        for axes in step.weights:
            made = self.record.steps[axes.step].op if axes.step >= 0 else ""
            for labels in axes.rows:
                if labels is not None and len(labels) == len(row) and self._one_to_one(labels, row):
                    param = self.labels.vector(labels)
                    if param is not None:
                        return _Weight(param, (1.0, 0.0) if ".add" in made else (0.0, 1.0), epsilon and not without)
        return None

    def _one_to_one(self, first: np.ndarray, second: np.ndarray) -> bool:
        return bool((self.record.component[first] == self.record.component[second]).all())

    def _kept(self, param: str, axis: int) -> np.ndarray:
        """The positions of an axis that stay."""
        stays = np.ones(self.structure.shapes[param][axis], bool)
        for name, units in self.keep.items():
            for one in self.structure.group(name).slices:
                if one.param == param and one.axis == axis:
                    stays &= (one.owner < 0) | np.asarray(units)[one.owner]
        return np.flatnonzero(stays)

    # ------------------------------------------------------------ scales of attention

    def _implicit(self, entry: int) -> Task:
        """What makes the queries of one call of attention: by its trace, the width is that of the queries."""
        row, _, step = self.record.inexact[entry]
        where = self.record.steps[step].module or type(self.small).__name__
        options = list(self._scaled_makers([row], [0.5]))
        why_not = "" if options else "the layer that makes its queries was not found"
        return Task(where, tuple(options), why_not)

    def _scaled(self, owner: str, entries: Sequence[int]) -> Task:
        """What is scaled by a width somewhere: what makes one of the rows of this width, by a power of it."""
        rows = {row.tobytes(): row for row in (self.record.inexact[entry][0] for entry in entries)}
        options = list(self._scaled_makers(list(rows.values()), [0.5, 1.0, -0.5, -1.0]))
        why_not = "" if options else "it is scaled by a number of units, of which the layer was not found"
        return Task(owner or type(self.small).__name__, tuple(options), why_not)

    def _owner(self, row: np.ndarray) -> str:
        """The module around the layer that makes a row."""
        for places in self.labels.candidates(row):
            found = self.labels.places(places)
            if found is not None:
                return found[0].rpartition(".")[0].rpartition(".")[0]
        return ""

    def _scaled_makers(self, rows: Sequence[np.ndarray], powers: Sequence[float]) -> Iterator[Option]:
        """(n / N)^power times what makes a row; before, where there is one, the weight of a norm behind it."""
        for power in powers:
            for number, param in enumerate(self._norms(rows[0])):
                layer, places = param.rpartition(".")[0], np.arange(self._size(param, 0))
                scalings = tuple(self._of_layer(param, 0, places, self._left(rows[0]) ** power))
                if scalings:
                    yield Option(("norm", power, number, type(self.modules[layer])), scalings)
            for number, row in enumerate(rows):
                factor = self._left(row) ** power
                for choice, labels in enumerate(self.labels.candidates(row)):
                    found = self.labels.places(labels)
                    scalings = () if found is None else tuple(self._of_layer(*found, factor))
                    if scalings:
                        yield Option(("rows", power, number, choice), scalings)

    def _of_layer(self, param: str, axis: int, positions: np.ndarray, factor: float) -> Iterator[Scaling]:
        """The weight, and the bias that is added to what it makes; nothing if the weight is used elsewhere, too."""
        if self.holders[id(self.small.get_parameter(param))] > 1:
            return
        owner = param.rpartition(".")[0]
        prefix = f"{owner}." if owner else ""
        for name, parameter in self.modules[owner].named_parameters(recurse=False):
            other = prefix + name
            if self.holders[id(parameter)] > 1 or other not in self.structure.shapes:
                continue
            if other == param or self.structure.shapes[other] == (self._size(param, axis),):
                along = axis if other == param else 0
                index = np.flatnonzero(np.isin(self._kept(other, along), positions))
                yield Scaling(other, along, torch.from_numpy(index), factor)

    def _size(self, param: str, axis: int) -> int:
        return self.structure.shapes[param][axis]

    def _norms(self, row: np.ndarray) -> list[str]:
        """Vectors, one entry for each place of the row, of modules that hold nothing but vectors."""
        groups = np.unique(self.record.group_of[self.record.component[row[row > 0]]])
        found: list[str] = []
        for group in (self.structure.groups[number] for number in groups.tolist() if number >= 0):
            for one in group.slices:
                module = self.modules.get(one.param.rpartition(".")[0])
                only = module is not None and all(p.dim() == 1 for p in module.parameters())
                if only and self.structure.shapes[one.param] == (len(row),) and one.param.endswith("weight"):
                    found.append(one.param)
        return found


def _merged(tasks: Iterable[Task]) -> Iterator[Task]:
    """One task for what is made by the same weights: what is called twice, or was run in two modes, is scaled once."""
    found: dict[object, Task] = {}
    for task in tasks:
        first = task.options[0].scalings if task.options else ()
        key = tuple((one.param, one.axis, tuple(one.positions.tolist())) for one in first)
        found[key or (task.where, task.why_not)] = task
    yield from found.values()


def _epsilons(name: str, module: nn.Module, share: float) -> list[tuple[Edit, ...]]:
    """The small numbers that a module holds, each as what is added to a mean; and none of them."""
    edits = [
        Edit(name, key, (), value, value / share)
        for key, value in vars(module).items()
        if isinstance(value, float) and 0 < value <= _LARGEST_EPSILON
    ]
    return [*((edit,) for edit in edits), ()]


def _is_square(step: Step) -> bool:
    return any(word in step.op for word in (".pow.", ".mul.", ".square."))
