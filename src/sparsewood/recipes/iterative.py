"""Prune, recover, train, repeat."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from sparsewood.criteria import Criterion
from sparsewood.errors import SparsewoodError
from sparsewood.masks import apply_masks
from sparsewood.pruning import prune
from sparsewood.recovery import FineTune, Recovery, snapshot
from sparsewood.schedules import Event, Plan
from sparsewood.types import Masks

Train = Callable[[nn.Module, Masks], object]
Condition = Callable[[nn.Module, Masks], bool]


def prune_iteratively(
    model: nn.Module,
    criterion: Criterion,
    plan: Plan,
    train: Train,
    *,
    rounds: int | None = None,
    recovery: Recovery = FineTune(),
    until: Condition | None = None,
    generator: torch.Generator | None = None,
    options: Mapping[str, Any] | None = None,
) -> Masks:
    """Carry out a plan on `model`, in place, and return the last masks.

    Every round ends with `train(model, masks)`, which should hold the masks with `enforce`. Before a round for which
    the plan has an event: choose what stays (removed weights stay removed), set the weights that `recovery` says, and
    zero the masked ones.

    Args:
        plan: from a schedule, for example `Geometric(0.2)(10)`.
        rounds: how many; without it up to the last event. Give it to train alike by plans that end at different times.
        until: a condition looked at after each round; when it holds, the rest is dropped.
        options: further keywords of `prune`: scope, granularity, include, exclude, data, loss ...

    Raises `SparsewoodError` for an empty plan, one with two events at one step, or one that goes beyond `rounds`.

    >>> from sparsewood.criteria import Magnitude
    >>> from sparsewood.schedules import Geometric
    >>> masks = prune_iteratively(nn.Linear(10, 10), Magnitude(), Geometric(0.5)(3), train=lambda *_: None)
    >>> masks.sparsity
    0.87
    """
    events = _events(plan, rounds)
    _require_options(options or {})
    if not isinstance(recovery, Recovery):
        raise SparsewoodError(f"recovery must be a Recovery, for example Rewind(). Got {recovery!r}.")
    start, masks = snapshot(model), Masks({})
    for step in range(max(events) + 1 if rounds is None else rounds):
        if step in events:
            masks = prune(model, criterion, events[step].amount, masks=masks, generator=generator, **(options or {}))
            recovery(model, start, generator)
            apply_masks(model, masks)
        train(model, masks)
        if until is not None and until(model, masks):
            break
    return masks


def _events(plan: Plan, rounds: int | None) -> dict[int, Event]:
    if not isinstance(plan, tuple) or not all(isinstance(event, Event) for event in plan):
        raise SparsewoodError(f"A plan is a tuple of events, such as Cubic(0.9)(10). Got {plan!r:.80}.")
    if not plan:
        raise SparsewoodError("The plan is empty: there is nothing to do. Get one from a schedule, as OneShot(0.9)(1).")
    events = {event.step: event for event in plan}
    if len(events) < len(plan) or min(events) < 0:
        raise SparsewoodError(f"A plan needs events at different steps >= 0. Got steps {[e.step for e in plan]}.")
    if rounds is not None and rounds <= max(events):
        raise SparsewoodError(f"The plan's last event is at step {max(events)}; rounds must be more. Got {rounds}.")
    return events


def _require_options(options: Mapping[str, Any]) -> None:
    taken = {"masks", "generator", "sparsity", "criterion", "model"} & options.keys()
    if taken:
        raise SparsewoodError(f"prune_iteratively decides {', '.join(sorted(taken))} itself; leave it out of options.")
