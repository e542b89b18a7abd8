"""What prunes while a network trains: the events of a schedule, or a rule of masks that change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from sparsewood.pruning.settings import Pruning
from sparsewood.recovery import FineTune
from sparsewood.run.bench import Bench
from sparsewood.run.recipe import Variant
from sparsewood.run.unit_rounds import unit_data
from sparsewood.schedules.plans import Plan, Schedule
from sparsewood.train import DynamicPruner, Pruner, Training

__all__ = ["pruner_of", "squeezed"]

DRY_STEPS = 4


@dataclass(frozen=True)
class _Squeezed(Schedule):
    """The events of another schedule, at whatever steps."""

    schedule: Schedule

    def __call__(self, rounds: int) -> Plan:
        return self.schedule(rounds)


def squeezed(bench: Bench, variant: Variant, settings: Training) -> tuple[Variant, Training]:
    """In a dry run a training has few steps, with an event before each, or an update after each."""
    if not bench.dry_run:
        return variant, settings
    if variant.dynamics is not None:
        often = replace(variant.dynamics, every=1, start=0.0, stop=1.0)
        return replace(variant, dynamics=often), replace(settings, epochs=DRY_STEPS)
    schedule = _Squeezed(variant.pruning.schedule)
    once = replace(variant.pruning, schedule=schedule, unit="step", start=0, every=1)
    return replace(variant, pruning=once), replace(settings, epochs=once.rounds + 1)


def pruner_of(
    bench: Bench, variant: Variant, model: nn.Module, optimizer: Any, *, steps: int, per_epoch: int
) -> Pruner | DynamicPruner:
    """What prunes `model` during a training of `steps` steps. Raises as its class does."""
    make: Callable[..., Pruner | DynamicPruner] = _scheduled if variant.dynamics is None else _dynamic
    return make(bench, variant, model, optimizer, steps=steps, per_epoch=per_epoch)


def _scheduled(
    bench: Bench, variant: Variant, model: nn.Module, optimizer: Any, *, steps: int, per_epoch: int
) -> Pruner:
    del steps
    pruning = variant.pruning
    # Where events name layers, sparsity is of all that they name, from the start.
    layered = any(event.layers is not None for event in pruning.plan)
    return Pruner(
        model,
        optimizer,
        replace(pruning, recovery=FineTune()),  # the recovery has taken place
        steps_per_epoch=per_epoch,
        data=unit_data(bench, pruning, 0),
        loss=nn.functional.cross_entropy,
        masks=pruning.all_kept(model) if layered else None,
        seed=bench.seed,
        structure=bench.structure(model) if pruning.coupled else None,
    )


def _dynamic(
    bench: Bench, variant: Variant, model: nn.Module, optimizer: Any, *, steps: int, per_epoch: int
) -> DynamicPruner:
    del per_epoch
    pruning: Pruning = variant.pruning
    assert variant.dynamics is not None
    return DynamicPruner(
        model,
        optimizer,
        variant.dynamics,
        steps=steps,
        include=list(pruning.include) or None,
        exclude=list(pruning.exclude) or None,
        protect_classifier=pruning.protect_classifier,
        seed=bench.seed,
    )
