"""Which units stay: unit scores x scope x amount, exactly."""

from __future__ import annotations

import copy
import fnmatch
import logging
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsewood.algebra import Integers
from sparsewood.allocation.budgets import Layer, total_kept
from sparsewood.allocation.erk import ERK
from sparsewood.allocation.scopes import (
    Amounts,
    Everywhere,
    PerLayer,
    Pool,
    Request,
    Scope,
    as_scope,
    threshold_pools,
)
from sparsewood.criteria import Criterion
from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.parameters import Selector, Selectors, entries, find
from sparsewood.shrinking.lifting import UnitScores, element_scores_of_units, over_mean, require_scores
from sparsewood.shrinking.pools import Free, kept_of_pool, lamp_shares, require_floors
from sparsewood.statistics import Loss
from sparsewood.structure import Group, Structure
from sparsewood.structure.structure import Slice
from sparsewood.structure.units import Part, Reduction
from sparsewood.types import AmountLike, Compression, Count, Sparsity, Statistics, Threshold, as_amount

__all__ = ["Choice", "Chooser", "Free", "UnitScores"]

logger = logging.getLogger(__name__)

DEFAULT_AMOUNT = Sparsity(0.5)
PROTECTED = "it is protected"
NO_SCORE = "the criterion gives it no score"
GONE = "none of its units is left"
REMOVED = -math.inf
_SHOW = "print(sparsewood.trace(model, inputs))"


@dataclass(frozen=True, eq=False)
class Choice:
    """What stays: for every group that loses units, one truth value for each (`keep`), and why others stay (`held`).

    `asked` is how many units were asked to go, `removed` how many go; they differ only by `round_to`, or where units
    came back to use up a `budget`. With a budget, `allowed` is what it allows and `reached` what is left.
    """

    keep: dict[str, np.ndarray]
    held: dict[str, str]
    asked: int
    removed: int
    budget: object = None
    allowed: int | None = None
    reached: int | None = None


class Chooser:
    """Chooses units. Scores are computed once; `choose` may be called again, with more groups held.

    Args:
        criterion: scores elements, lifted to units (see `lifting`), or units themselves (`UnitScores`).
        scope: which units compete; a mapping means `Named`. A group counts as one layer, called by its name, or by the
            parameters and modules in which its units are made.
        amount: how much goes of the units that can: of all groups that are removable and not held. By default half. A
            mapping from names, patterns or classes to amounts is that of `PerLayer`.
        data, loss, statistics, example_inputs: see `score`.
        protect: names, patterns, classes or modules; no unit that is made there goes, nor one of a group of that name.
        round_to: along each axis where units are made, what is left of a group is a multiple of this.
        min_units: how many units of every group stay at least (all of them where there are fewer).
        reduction: how element scores are combined, by default as the criterion does with the elements of any unit.
        part: "producers" leaves out elements where a unit is only read.
        normalize: whether scores are divided by their mean over the group; by default if they are made of single
            weights and need no data. Criteria of units give scores that compete as they are.
        inexact: whether units may go whose removal differs from zeroing them.
        generator: for random criteria.
        alive: bool[units] for groups that earlier masks took units from, True = left. The others are gone: they stay
            gone, count as removed, and their scores are -inf.

    `scores` are those that compete, `raw_scores` those of the criterion, which thresholds are compared with:
    float64[units] for each group that has any.

    The number that goes is exact, up to `round_to`; equal scores are decided by position, lower index first.
    """

    def __init__(
        self,
        model: nn.Module,
        structure: Structure,
        *,
        criterion: Criterion | UnitScores,
        scope: Scope | Amounts = Everywhere(),
        amount: AmountLike | Amounts | None = None,
        data: Iterable[Any] | None = None,
        loss: Loss | None = None,
        example_inputs: Any = None,
        protect: Selectors = (),
        round_to: int = 1,
        min_units: int = 1,
        reduction: Reduction | None = None,
        part: Part = "group",
        normalize: bool | None = None,
        inexact: bool = True,
        generator: torch.Generator | None = None,
        statistics: Statistics | None = None,
        alive: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        _require_whole("round_to", round_to)
        _require_whole("min_units", min_units)
        self.model, self.structure, self.criterion = model, structure, criterion
        self.round_to, self.min_units, self.inexact = round_to, min_units, inexact
        self.scope, self.amount = _scope_and_amount(as_scope(scope), amount)
        self._entries = entries(model)
        self._alive = {group.name: np.ones(group.units, bool) for group in structure.prunable} | dict(alive or {})
        self._protected = {group.name for group in self.made_in(protect, "protect")}
        generator = generator if generator is not None else torch.Generator().manual_seed(0)
        if isinstance(criterion, Criterion):
            self.raw_scores = element_scores_of_units(
                model, structure, criterion, data=data, loss=loss, example_inputs=example_inputs,
                statistics=statistics, generator=generator, reduction=reduction, part=part,
            )  # fmt: skip
        else:
            _require_criterion(criterion)
            found = criterion(model, structure, data=data, loss=loss, generator=generator)
            self.raw_scores = require_scores(structure, found, criterion)
        self.raw_scores = {name: one.masked_fill(self._gone(name), REMOVED) for name, one in self.raw_scores.items()}
        self.scores = self._scored(self.raw_scores, normalize)
        self._ranks = _ranks(self.scores)

    # ------------------------------------------------------------ the choice

    def choose(self, held: Mapping[str, str] | None = None) -> Choice:
        """What stays if the groups in `held` (name -> reason) lose nothing.

        Raises `SparsewoodError` if no unit can go, and for amounts that would empty a group.
        """
        free = self.free(held or {})
        unrounded, pools = self._selected(free, self.amount)
        kept = free.rounded(unrounded, pools)
        return self.chosen(free, kept, int((free.units - unrounded).sum()))

    def free(self, held: Mapping[str, str]) -> Free:
        """The groups that may lose units if those in `held` may not."""
        reasons = self._held(held)
        groups = tuple(group for group in self.structure.prunable if group.name not in reasons)
        if not groups:
            raise self._nothing(reasons)
        units = np.array([group.units for group in groups], np.int64)
        steps = np.array([self._steps[group.name] for group in groups], np.int64)
        return Free(groups, units, np.minimum(self._left(groups), self.min_units), steps, reasons)

    def counts(self, free: Free, gone: int) -> Integers:
        """int64[groups]: how many units of each group stay if `gone` of them all go."""
        return free.rounded(*self._selected(free, Count(gone)))

    def keep(self, free: Free, kept: Integers) -> dict[str, np.ndarray]:
        """The best `kept` units of each group; groups that stay whole are left out."""
        return {
            group.name: self._ranks[group.name] < count
            for group, count in zip(free.groups, kept, strict=True)
            if count < group.units
        }

    def chosen(self, free: Free, kept: Integers, asked: int) -> Choice:
        """The choice that keeps the best `kept` units of each group."""
        return Choice(self.keep(free, kept), dict(free.held), asked, int((free.units - kept).sum()))

    def next_score(self, free: Free, group: int, kept: int) -> float:
        """The score of the best unit that is not among the best `kept` of a group."""
        name = free.groups[group].name
        return float(self.scores[name][self._ranks[name] == kept])

    def competing(self, held: Mapping[str, str] | None = None) -> list[tuple[str, ...]]:
        """The groups whose units compete with one another, pool by pool, if those in `held` lose nothing."""
        free = self.free(held or {})
        return [tuple(free.groups[i].name for i in pool.members) for pool in self._pools(free, self.amount)]

    def with_scores(self, scores: Mapping[str, Tensor]) -> Chooser:
        """The same choice by other scores, float64[units] for each group that has any."""
        other = copy.copy(self)
        other.scores = {name: one.masked_fill(self._gone(name), REMOVED) for name, one in scores.items()}
        other._ranks = _ranks(other.scores)
        return other

    @property
    def floor_rule(self) -> str:
        """Why some units of every group stay, in words."""
        return f"min_units={self.min_units}" + (f", round_to={self.round_to}" if self.round_to > 1 else "")

    # ------------------------------------------------------------ scores

    def _scored(self, scores: Mapping[str, Tensor], normalize: bool | None) -> dict[str, Tensor]:
        """The scores as they compete."""
        if normalize is None:
            one = self.criterion
            normalize = isinstance(one, Criterion) and not one.needs and one.reduction != "first"
        for name, values in scores.items():
            left = values[~self._gone(name)]
            if len(left) > 1 and bool((left == left[0]).all()):
                logger.warning("All %d scores of %s are equal: what stays is decided by position.", len(left), name)
        if not normalize:
            return dict(scores)
        return {name: _among(values, ~self._gone(name), over_mean) for name, values in scores.items()}

    def _gone(self, group: str) -> Tensor:
        """bool[units]: which units earlier masks took."""
        return torch.from_numpy(~self._alive[group])

    # ------------------------------------------------------------ what may go

    def _held(self, given: Mapping[str, str]) -> dict[str, str]:
        reasons: dict[str, str] = {}
        for group in self.structure.prunable:
            if group.name in self._protected:
                reasons[group.name] = PROTECTED
            elif group.name in given:
                reasons[group.name] = given[group.name]
            elif not self.inexact and not group.exact:
                reasons[group.name] = f"removing its units is not exact: {', '.join(group.inexact)}"
            elif group.name not in self.scores:
                reasons[group.name] = NO_SCORE
            elif not self._alive[group.name].any():
                reasons[group.name] = GONE
        for name in given:
            if name not in reasons:
                self.structure.group(name)  # raises for a name that is no group's
        return reasons

    def _nothing(self, reasons: Mapping[str, str]) -> SparsewoodError:
        if not reasons:
            largest = [str(one) for one in self.structure.barriers if one.parameters]
            why = "".join(f" {one}." for one in list(dict.fromkeys(largest))[:3])
            return SparsewoodError(f"No unit of this network can be removed.{why} {_SHOW} says what froze all of them.")
        shown = "; ".join(f"{name}: {why}" for name, why in list(reasons.items())[:6])
        more = f"; and {len(reasons) - 6} more" if len(reasons) > 6 else ""
        return SparsewoodError(
            f"No unit can go, for every group is held. {shown}{more}. Protect less, or choose a criterion that gives "
            "them scores."
        )

    @cached_property
    def _steps(self) -> dict[str, int]:
        return {group.name: self._step(group) for group in self.structure.prunable}

    def _step(self, group: Group) -> int:
        shares = [int((one.owner == 0).sum()) for one in self._makers(group)]
        return math.lcm(*(self.round_to // math.gcd(self.round_to, share) for share in shares))

    def made_in(self, selectors: Any, what: str) -> list[Group]:
        """The groups whose units are made in what is meant, or that are called so."""
        wanted: list[Any] = list(selectors) if isinstance(selectors, list | tuple | set | frozenset) else [selectors]
        return [group for selector in wanted for group in self._of(selector, what)]

    def _of(self, selector: Selector, what: str) -> list[Group]:
        prunable, shapes = self.structure.prunable, self.structure.shapes
        means: set[str] = set()
        named: set[str] = set()
        if isinstance(selector, str):
            named = {group.name for group in prunable if fnmatch.fnmatchcase(group.name, selector)}
            means = {name for name in shapes if fnmatch.fnmatchcase(name, selector)}  # buffers, too
        elif isinstance(selector, type):
            slices = [one for group in prunable for one in group.slices]
            means = {one.param for one in slices if isinstance(self._module(one), selector)}
        try:
            means |= {entry.name for entry in find(self._entries, [selector], what)}
        except UnknownName:
            if not named and not means:
                raise
        return [group for group in prunable if group.name in named or _made(group) & means]

    # ------------------------------------------------------------ pools

    def _selected(self, free: Free, amount: Any) -> tuple[Integers, list[tuple[int, ...]]]:
        """How many units of each group stay, before rounding, and the groups that share a total."""
        layers = self._layers_of(free)
        scores = [self.scores[group.name].numpy() for group in free.groups]
        pools = self._pools(free, amount)
        kept = self._left(free.groups)
        for pool in pools:
            kept[list(pool.members)] = kept_of_pool(pool, scores, layers, self.floor_rule)
        together = self.scope.shares_total and not self._by_threshold(amount)
        return kept, [tuple(range(len(layers)))] if together else [pool.members for pool in pools]

    def _pools(self, free: Free, amount: Any) -> list[Pool]:
        """The pools of the scope, and how many units of each stay."""
        layers = self._layers_of(free)
        raw = [self.raw_scores[group.name].numpy() for group in free.groups]
        request = Request(
            layers,
            amount,
            lambda selector: self._find(free, selector),
            lambda keep: lamp_shares(raw, keep, free.floors),
            lambda group, value: int((raw[group] >= value).sum()),
        )
        if self._by_threshold(amount):
            return threshold_pools(range(len(layers)), request, amount)
        if self.scope.shares_total:
            without_floors = [replace(layer, floor=0) for layer in layers]
            require_floors(layers, total_kept(amount, without_floors), self.floor_rule)
        return self.scope.pools(request)

    def _by_threshold(self, amount: Any) -> bool:
        return isinstance(amount, Threshold) and self.scope.own_amounts is None

    def _left(self, groups: Sequence[Group]) -> Integers:
        """int64[groups]: how many units earlier masks left."""
        return np.array([self._alive[group.name].sum() for group in groups], np.int64)

    def _layers_of(self, free: Free) -> tuple[Layer, ...]:
        return tuple(self._layers[group.name] for group in free.groups)

    @cached_property
    def _layers(self) -> dict[str, Layer]:
        return {
            group.name: Layer(
                group.name,
                (),
                (group.units,),
                int(self._alive[group.name].sum()),
                min(self.min_units, int(self._alive[group.name].sum())),
                self._owner(group),
                self._kind(group),
            )
            for group in self.structure.prunable
        }

    def _owner(self, group: Group) -> type[nn.Module]:
        """The class of the module that makes the units."""
        return type(self._module(self._makers(group)[0]))

    def _makers(self, group: Group) -> list[Slice]:
        """The axes of weights along which units are made; of whatever there is, if no weight makes them."""
        made = [one for one in group.slices if one.role != "in"] or list(group.slices)
        return [one for one in made if len(self.structure.shapes[one.param]) >= 2] or made

    def _module(self, one: Slice) -> nn.Module:
        return self.model.get_submodule(one.param.rpartition(".")[0].partition(".parametrizations.")[0])

    def _kind(self, group: Group) -> Hashable:
        """What groups of equal shape have in common: how many positions they own of what, whatever it is called."""
        places = [
            (
                type(self._module(one)).__name__,
                one.param.rpartition(".")[2],
                one.role,
                one.axis,
                self.structure.shapes[one.param],
                int((one.owner == 0).sum()),
            )
            for one in group.slices
        ]
        return (group.units, *sorted(places))

    def _find(self, free: Free, selector: object) -> list[int]:
        what = "the mapping of amounts"
        if not isinstance(selector, str | type | nn.Module):
            raise SparsewoodError(f"{what} takes names, patterns, module classes and modules. Got {selector!r}.")
        meant = {group.name for group in self._of(selector, what)}
        if not meant:
            raise SparsewoodError(
                f"{selector!r} in {what} means no unit that can be removed: none is made there. "
                f"{_SHOW} says which there are, and why others stay."
            )
        return [number for number, group in enumerate(free.groups) if group.name in meant]


def _ranks(scores: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """The place of every unit of a group among the units of that group, the best first."""
    return {name: np.argsort(np.argsort(-one.numpy(), kind="stable")) for name, one in scores.items()}


def _among(values: Tensor, chosen: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """`function` of the chosen values alone, in their places."""
    return values.masked_scatter(chosen, function(values[chosen]))


def _made(group: Group) -> set[str]:
    """The parameters and buffers in which a group's units are made."""
    return {one.param for one in group.slices if one.role != "in"}


def _scope_and_amount(scope: Scope, amount: AmountLike | Amounts | None) -> tuple[Scope, Any]:
    if isinstance(scope, PerLayer) and isinstance(scope.allocation, ERK):
        raise SparsewoodError(
            "ERK() shares out single weights, by the sides of each weight; a group of units has no sides, so that it "
            "would be Uniform(). Use PerLayer() or PerLayer(sparsewood.allocation.LAMP())."
        )
    if isinstance(amount, Mapping):
        if scope != Everywhere():
            raise SparsewoodError(
                f"Amounts by layer are a scope of their own, PerLayer({{...}}); leave scope out. Got {scope}."
            )
        return PerLayer(amount), DEFAULT_AMOUNT
    own = scope.own_amounts
    if own and amount is not None and None not in own.values():
        raise SparsewoodError(
            f"sparsity={amount} would be ignored: every key of the scope has an amount of its own, {dict(own)}. "
            "Leave sparsity out, or give None to the keys that it is for."
        )
    chosen = DEFAULT_AMOUNT if amount is None else as_amount(amount)
    asked = [chosen, *(as_amount(one) for one in (own or {}).values() if one is not None)]
    for one in asked:
        if isinstance(one, Compression):
            raise SparsewoodError(
                f"{one} counts parameters, and a unit has several. Use budget=sw.Params({1 / one.ratio:g})."
            )
    return scope, chosen


def _require_whole(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise SparsewoodError(f"{name} must be a whole number >= 1. Got {value!r}.")


def _require_criterion(criterion: object) -> None:
    if isinstance(criterion, type) or not callable(criterion):
        raise SparsewoodError(f"criterion must be a Criterion, for example Magnitude(). Got {criterion!r}.")
