"""Prune, recover, train, repeat."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from sparsewood.criteria import Criterion
from sparsewood.errors import SparsewoodError
from sparsewood.masks import apply_masks, not_held
from sparsewood.parameters import choose
from sparsewood.pruning import prune
from sparsewood.recovery import FineTune, Recovery, Snapshot, snapshot
from sparsewood.schedules import Event, Plan, require_plan
from sparsewood.types import Masks

Train = Callable[[nn.Module, Masks], object]
Condition = Callable[[nn.Module, Masks], bool]
Evaluate = Callable[[nn.Module], float]


def prune_iteratively(
    model: nn.Module,
    criterion: Criterion,
    plan: Plan,
    train: Train,
    *,
    rounds: int | None = None,
    recovery: Recovery = FineTune(),
    snapshots: Mapping[int, Snapshot] | None = None,
    evaluate: Evaluate | None = None,
    until: Condition | None = None,
    generator: torch.Generator | None = None,
    options: Mapping[str, Any] | None = None,
) -> Masks:
    """Carry out a plan on `model`, in place, and return the last masks.

    Every round ends with `train(model, masks)`, which should hold the masks with `enforce`. Before a round for which
    the plan has events: choose what stays (removed weights stay removed), set the weights that `recovery` says, and
    zero the masked ones. An event with `layers` is for those alone. What a soft event (`regrow`) sets to zero is not
    in the masks that `train` gets, so that it may grow again; it is in those that `until` gets and that are returned.

    Args:
        plan: from a schedule, for example `Geometric(0.2)(10)`.
        rounds: how many; without it up to the last event. Give it to train alike by plans that end at different times.
        recovery: sets the weights; which training its `follow` asks for is for `train` to heed.
        snapshots: networks to go back to by training step, as `snapshot(model)` took them. Step 0 is the model as it
            is given, unless it is among them.
        evaluate: the quality of a network, higher = better; for recoveries that pick the best of several snapshots.
        until: a condition looked at after each round; when it holds, the rest is dropped.
        options: further keywords of `prune`: scope, granularity, include, exclude, data, loss ...

    Raises `SparsewoodError` for an empty plan, one with two events for the same layers at one step, one that goes
    beyond `rounds`, and if snapshots or `evaluate` are missing that the recovery needs.

    >>> from sparsewood.criteria import Magnitude
    >>> from sparsewood.schedules import Geometric
    >>> masks = prune_iteratively(nn.Linear(10, 10), Magnitude(), Geometric(0.5)(3), train=lambda *_: None)
    >>> masks.sparsity
    0.87
    """
    events = _events(plan, rounds)
    options = {**_checked(options or {}), "generator": generator}
    start = snapshot(model)
    known = {0: start, **(snapshots or {})}
    _require_recovery(recovery, known, evaluate)
    masks = held = Masks({})
    for step in range(max(events) + 1 if rounds is None else rounds):
        zeros = held
        for event in events.get(step, ()):
            held, chosen = _carry_out(event, model, criterion, held, options)
            zeros = Masks({**zeros, **chosen})
        if step in events:
            masks = Masks({**masks, **zeros})
            picked = recovery.pick(lambda at, zeros=zeros: _quality(model, known[at], zeros, evaluate))
            recovery(model, start if picked is None else known[picked], generator)
            apply_masks(model, zeros)
        train(model, held)
        _require_held(model, held)
        if until is not None and until(model, masks):
            break
    return masks


def _carry_out(
    event: Event, model: nn.Module, criterion: Criterion, held: Masks, options: Mapping[str, Any]
) -> tuple[Masks, Masks]:
    """Zero in `model` what the event removes. Returns the masks to hold from now on, and those that were chosen."""
    if event.layers is not None:
        options = {**options, "include": list(event.layers)}
    if event.regrow:
        which = {key: options[key] for key in ("include", "exclude", "protect_classifier") if key in options}
        free = {entry.name for entry in choose(model, default=criterion.covers, **which)}
        held = Masks({name: mask for name, mask in held.items() if name not in free})
    chosen = prune(model, criterion, event.amount, masks=held, **options)
    apply_masks(model, chosen)  # the next event of this step sees the network without what this one removed
    return held if event.regrow else chosen, chosen


def _require_held(model: nn.Module, held: Masks) -> None:
    found = not_held(model, held)
    if found is not None:
        raise SparsewoodError(
            f"After train, {found[1]} masked weights of {found[0]!r} are not zero. Train inside "
            "`with enforce(model, masks, optimizer):`, with the masks that train is given."
        )


def _quality(model: nn.Module, network: Snapshot, masks: Masks, evaluate: Evaluate | None) -> float:
    """What `evaluate` says of a snapshot with the masks applied; the model is left as it was."""
    if evaluate is None:
        raise SparsewoodError("To pick the best of several snapshots, pass evaluate=..., a function of the model.")
    before = snapshot(model)
    try:
        model.load_state_dict(dict(network))
        apply_masks(model, masks)
        return evaluate(model)
    finally:
        model.load_state_dict(dict(before))


def _events(plan: Plan, rounds: int | None) -> dict[int, list[Event]]:
    require_plan(plan)
    events: dict[int, list[Event]] = {}
    for event in plan:
        events.setdefault(event.step, []).append(event)
    if rounds is not None and rounds <= max(events):
        raise SparsewoodError(f"The plan's last event is at step {max(events)}; rounds must be more. Got {rounds}.")
    return events


def _require_recovery(recovery: Recovery, known: Mapping[int, Snapshot], evaluate: Evaluate | None) -> None:
    if not isinstance(recovery, Recovery):
        raise SparsewoodError(f"recovery must be a Recovery, for example Rewind(). Got {recovery!r}.")
    missing = [step for step in recovery.snapshots if step not in known]
    if missing:
        raise SparsewoodError(
            f"{recovery} needs the network as it was at step {', '.join(map(str, missing))} of its training. Keep it "
            f"when training gets there, states[{missing[0]}] = sparsewood.recovery.snapshot(model), and pass "
            f"snapshots=states. Got steps {sorted(known)}."
        )
    if len(recovery.snapshots) > 1 and evaluate is None:
        raise SparsewoodError(f"{recovery} picks by quality: pass evaluate=..., a function of the model.")


def _checked(options: Mapping[str, Any]) -> Mapping[str, Any]:
    taken = {"masks", "generator", "sparsity", "criterion", "model"} & options.keys()
    if taken:
        raise SparsewoodError(f"prune_iteratively decides {', '.join(sorted(taken))} itself; leave it out of options.")
    return options
