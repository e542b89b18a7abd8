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
from sparsewood.schedules import Plan
from sparsewood.types import Masks

Train = Callable[[nn.Module, Masks], object]
Condition = Callable[[nn.Module, Masks], bool]


def prune_iteratively(
    model: nn.Module,
    criterion: Criterion,
    plan: Plan,
    train: Train,
    *,
    recovery: Recovery = FineTune(),
    until: Condition | None = None,
    generator: torch.Generator | None = None,
    options: Mapping[str, Any] | None = None,
) -> Masks:
    """Carry out a plan on `model`, in place, and return the last masks.

    For each event: choose what stays (removed weights stay removed), set the weights that `recovery` says, zero the
    masked ones, and call `train(model, masks)`, which should hold the masks with `enforce`.

    Args:
        plan: from a schedule, for example `Geometric(0.2)(10)`.
        until: a condition looked at after each round; when it holds, the remaining events are dropped.
        options: further keywords of `prune`: scope, granularity, include, exclude, data, loss ...

    >>> from sparsewood.criteria import Magnitude
    >>> from sparsewood.schedules import Geometric
    >>> masks = prune_iteratively(nn.Linear(10, 10), Magnitude(), Geometric(0.5)(3), train=lambda *_: None)
    >>> masks.sparsity
    0.87
    """
    if not plan:
        raise SparsewoodError("The plan is empty: there is nothing to do. Get one from a schedule, as OneShot(0.9)(1).")
    start, masks = snapshot(model), None
    for event in plan:
        masks = prune(model, criterion, event.amount, masks=masks, generator=generator, **(options or {}))
        recovery(model, start, generator)
        apply_masks(model, masks)
        train(model, masks)
        if until is not None and until(model, masks):
            break
    assert masks is not None  # the plan has an event
    return masks
