"""What is pruned, when and how much: one value that a recipe, a training loop and a callback all carry out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import torch
from torch import nn

from sparsewood.allocation import Everywhere, Scope
from sparsewood.batches import require_batches
from sparsewood.criteria import Criterion, Magnitude
from sparsewood.errors import SparsewoodError
from sparsewood.granularity import NM, Coupled, Element, Granularity
from sparsewood.parameters import Entry, is_weight
from sparsewood.parameters import choose as choose_parameters
from sparsewood.pruning.api import DEFAULT_AMOUNT, prune
from sparsewood.recovery import FineTune, Recovery
from sparsewood.schedules import Event, OneShot, Plan, Schedule, require_plan, spaced
from sparsewood.statistics import Loss, Statistic
from sparsewood.types import Density, Masks, Statistics
from sparsewood.unit_criteria.base import UnitCriterion

Unit = Literal["round", "epoch", "step"]
UNITS: tuple[Unit, ...] = ("round", "epoch", "step")
Select = Literal["lowest", "highest", "hybrid"]
SELECTIONS: tuple[Select, ...] = ("lowest", "highest", "hybrid")


@dataclass(frozen=True)
class Pruning:
    """What is pruned, when and how much, and what follows.

    Args:
        rounds: how many rounds the schedule is asked for.
        unit: with "round", every event is followed by its recovery and a training of its own; with "epoch" and "step"
            the events fall into one training, event i before epoch (or step) `start + every * i`, and `recovery` says
            from which weights that training starts.
        include, exclude, protect_classifier, min_units: as in `prune`.
        score_batches: how many batches of training data a criterion that needs data sees; None means all.
        iterations, revive: as in `prune`: every event reaches its amount in so many steps, with scores taken anew.
        select: which of the scores go; others than the lowest are for units of the structure (see `prune_units`).

    With the granularity `Coupled()` whole units of the network's structure go, by scores of weights or by a criterion
    of units. Amounts are then of the units that can go; `include` names where units may go, `exclude` where they stay,
    and what the network returns stays anyway.

    Raises `SparsewoodError` for a field of the wrong kind, and for a schedule whose amounts change from event to event
    where scope or granularity (N:M) already say how much goes, or which has dense phases where the scope says it of
    some layers.

    >>> from sparsewood.schedules import Cubic
    >>> Pruning(schedule=Cubic(0.9), rounds=2, unit="epoch", start=1, every=2).events(steps_per_epoch=10).keys()
    dict_keys([10, 30])
    """

    criterion: Criterion | UnitCriterion = Magnitude()
    schedule: Schedule = OneShot(0.9)
    scope: Scope = Everywhere()
    granularity: Granularity = Element()
    recovery: Recovery = FineTune()
    rounds: int = 1
    unit: Unit = "round"
    start: int = 0
    every: int = 1
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    protect_classifier: bool = True
    min_units: int = 1
    score_batches: int | None = 1
    select: Select = "lowest"
    iterations: int = 1
    revive: bool = False

    def __post_init__(self) -> None:
        self._require_criterion()
        kinds: dict[str, type] = {
            "schedule": Schedule,
            "scope": Scope,
            "granularity": Granularity,
            "recovery": Recovery,
            "protect_classifier": bool,
            "revive": bool,
        }
        for name, kind in kinds.items():
            if not isinstance(getattr(self, name), kind):
                raise SparsewoodError(f"Pruning: {name} must be a {kind.__name__}. Got {getattr(self, name)!r}.")
        if self.unit not in UNITS:
            raise SparsewoodError(f"Pruning: unit must be one of {', '.join(UNITS)}. Got {self.unit!r}.")
        for name, least in (("start", 0), ("every", 1), ("min_units", 0), ("rounds", 1), ("iterations", 1)):
            _require_count(name, getattr(self, name), least)
        if self.score_batches is not None:
            _require_count("score_batches", self.score_batches, 1)
        for name in ("include", "exclude"):
            _require_names(name, getattr(self, name))
        require_plan(self.plan)  # a number of rounds that the schedule cannot do is found out here
        self._require_whole_units()
        self._require_amounts(self.plan)
        self._require_iterations()
        spacing = self.schedule.spacing
        if spacing is not None and ((self.start, self.every) != spacing or self.unit == "round"):
            raise SparsewoodError(
                f"Pruning: {self.schedule} counts training steps or epochs, so give start={spacing[0]} and "
                f"every={spacing[1]} here, too, with unit 'step' or 'epoch'. Got start={self.start}, "
                f"every={self.every}, unit {self.unit!r}."
            )

    @property
    def plan(self) -> Plan:
        """The schedule's events, by round."""
        return self.schedule(self.rounds)

    @property
    def coupled(self) -> bool:
        """Whether whole units of the network's structure go."""
        return isinstance(self.granularity, Coupled)

    @property
    def needs(self) -> tuple[Statistic, ...]:
        """The statistics of weights that the criterion reads; a criterion of units collects its own."""
        return () if isinstance(self.criterion, UnitCriterion) else self.criterion.needs

    @property
    def reads_data(self) -> bool:
        """Whether the criterion needs data."""
        return self.criterion.reads_data if isinstance(self.criterion, UnitCriterion) else bool(self.needs)

    @property
    def reads_images(self) -> bool:
        """Whether the criterion takes images that it augments itself, rather than batches."""
        return isinstance(self.criterion, UnitCriterion) and self.criterion.reads_images

    @property
    def fixes_amounts(self) -> bool:
        """Whether scope or granularity say how much goes, so that the schedule only says when."""
        own = self.scope.own_amounts
        return isinstance(self.granularity, NM) or bool(own and None not in own.values())

    def events(self, steps_per_epoch: int) -> dict[int, tuple[Event, ...]]:
        """The events by the training step before which they take place, for units "epoch" and "step".

        >>> Pruning(start=3, unit="epoch").events(steps_per_epoch=10)[30][0].amount
        Sparsity(fraction=0.9)
        """
        _require_count("steps_per_epoch", steps_per_epoch, 1)
        scale = steps_per_epoch if self.unit == "epoch" else 1
        found: dict[int, tuple[Event, ...]] = {}
        for event in spaced(self.plan, self.start * scale, self.every * scale):
            found[event.step] = (*found.get(event.step, ()), event)
        return found

    def parameters(self, model: nn.Module, event: Event | None = None) -> list[Entry]:
        """The parameters that `event` decides about; without one, those of events that name no layers.

        Raises as `prune` does for names that mean nothing.

        >>> [entry.name for entry in Pruning().parameters(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))]
        ['0.weight']
        """
        layers = None if event is None else event.layers
        return choose_parameters(
            model,
            include=self._include(layers),
            exclude=list(self.exclude) or None,
            protect_classifier=self.protect_classifier,
            default=is_weight if isinstance(self.criterion, UnitCriterion) else self.criterion.covers,
        )

    def all_kept(self, model: nn.Module) -> Masks:
        """Masks that keep everything, of all parameters that some event decides about; none for coupled units.

        Sparsity is the removed share of these, also while events for some of them are still to come.

        >>> Pruning().all_kept(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
        Masks(1 tensors, 0 of 4 removed, sparsity 0.0000)
        """
        if self.coupled:
            return Masks({})  # which parameters these lie in, the structure of the network says
        every = {entry.name: entry.parameter for event in self.plan for entry in self.parameters(model, event)}
        return Masks.adopt({name: torch.ones_like(p, dtype=torch.bool) for name, p in every.items()})

    def choose(
        self,
        model: nn.Module,
        event: Event,
        masks: Masks,
        *,
        data: Iterable[Any] | None = None,
        loss: Loss | None = None,
        generator: torch.Generator | None = None,
        statistics: Statistics | None = None,
    ) -> Masks:
        """The masks after `event`. Pure: the model is not changed.

        What earlier `masks` removed stays removed. If the event regrows, that holds only for parameters that it is not
        about. Of `data`, the first `score_batches` batches are read, and only by a criterion that needs any.

        Raises as `prune` does, and for coupled units, which `shrinking.unit_masks.choose_units` chooses.

        >>> layer = nn.Linear(10, 1)
        >>> setting = Pruning(schedule=OneShot(0.3))
        >>> setting.choose(layer, setting.plan[0], Masks({})).sparsity
        0.3
        """
        if self.coupled or isinstance(self.criterion, UnitCriterion):
            raise SparsewoodError(
                "Pruning.choose chooses inside parameters, and Coupled() units reach over several. Use "
                "sparsewood.prune_units, or a Pruner or a recipe, which know the network's structure."
            )
        if event.regrow:
            about = {name for entry in self.parameters(model, event) for name in (entry.name, *entry.aliases)}
            masks = Masks.adopt({name: mask for name, mask in masks.items() if name not in about})
        return prune(
            model,
            self.criterion,
            DEFAULT_AMOUNT if self.fixes_amounts else event.amount,
            scope=self.scope,
            granularity=self.granularity,
            include=self._include(event.layers),
            exclude=list(self.exclude) or None,
            protect_classifier=self.protect_classifier,
            min_units=self.min_units,
            masks=masks,
            data=self.seen(data) if self.criterion.needs else None,
            loss=loss,
            statistics=statistics,
            generator=generator,
            iterations=self.iterations,
            revive=self.revive,
        )

    def _include(self, layers: tuple[str, ...] | None) -> list[str] | None:
        return list(self.include if layers is None else layers) or None

    def seen(self, data: Iterable[Any] | None) -> Iterable[Any] | None:
        """What of `data` the criterion sees: `score_batches` batches, or all images if it augments them itself."""
        if data is None or self.score_batches is None or self.reads_images:
            return data
        require_batches(data)  # of one batch, the first "batch" would be its inputs
        few = islice(data, self.score_batches)
        # Some criteria of units read twice, and then the same batches, which a loader that shuffles would not give.
        return list(few) if isinstance(self.criterion, UnitCriterion) else few

    def _require_criterion(self) -> None:
        if not isinstance(self.criterion, Criterion | UnitCriterion):
            raise SparsewoodError(f"Pruning: criterion must be a Criterion. Got {self.criterion!r}.")
        if isinstance(self.criterion, UnitCriterion) and not self.coupled:
            raise SparsewoodError(
                f"Pruning: {self.criterion} scores units of the network's structure, so the granularity must be "
                f"Coupled(). Got {self.granularity!r}."
            )

    def _require_whole_units(self) -> None:
        """What goes with units of the structure, and what only with them."""
        if self.select not in SELECTIONS:
            raise SparsewoodError(f"Pruning: select must be one of {', '.join(SELECTIONS)}. Got {self.select!r}.")
        if self.select != "lowest" and not self.coupled:
            raise SparsewoodError(
                f"Pruning: select={self.select!r} is for units of the network's structure: granularity=Coupled(). "
                f"Got {self.granularity}."
            )
        if not self.coupled:
            return
        if self.min_units < 1:
            raise SparsewoodError(f"Pruning: with Coupled(), min_units must be at least 1. Got {self.min_units}.")
        if any(event.regrow for event in self.plan):
            raise SparsewoodError(
                f"Pruning: {self.schedule} lets weights grow again, and whole units that were removed stay so. Use a "
                "schedule that does not regrow, or granularity=Filter()."
            )

    def _require_iterations(self) -> None:
        if self.revive and self.iterations == 1:
            raise SparsewoodError(
                "Pruning: revive is for iterations: with one nothing went before that could come back."
            )
        if self.iterations > 1 and (self.coupled or self.fixes_amounts):
            who = self.granularity if self.coupled or isinstance(self.granularity, NM) else self.scope
            raise SparsewoodError(
                f"Pruning: iterations={self.iterations} is for amounts of the schedule inside parameters. Got {who}: "
                "leave one of them out, or use a schedule with more rounds."
            )

    def _require_amounts(self, plan: Plan) -> None:
        amounts = {event.amount for event in plan}
        if self.fixes_amounts and len(amounts) > 1:
            who = f"granularity {self.granularity}" if isinstance(self.granularity, NM) else f"scope {self.scope}"
            raise SparsewoodError(
                f"Pruning: the amounts of {self.schedule} would be ignored, because {who} says how much goes. Use a "
                "schedule whose events all ask for the same, such as OneShot, or give None as amount to keys of the "
                "scope."
            )
        own = {key: amount for key, amount in (self.scope.own_amounts or {}).items() if amount is not None}
        if own and any(event.regrow and event.amount == Density(1.0) for event in plan):
            key, amount = next(iter(own.items()))
            raise SparsewoodError(
                f"Pruning: {self.schedule} gives all weights back now and then, and scope {self.scope} has an amount "
                f"that holds at every event, {amount} of {key!r}: it would never be dense. Give None to all keys of "
                "the scope."
            )


def _require_count(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SparsewoodError(f"Pruning: {name} must be a whole number >= {least}. Got {value!r}.")


def _require_names(name: str, value: object) -> None:
    if not isinstance(value, tuple) or not all(isinstance(item, str) for item in value):
        raise SparsewoodError(f"Pruning: {name} must be a tuple of names and patterns, as ('conv1',). Got {value!r}.")
