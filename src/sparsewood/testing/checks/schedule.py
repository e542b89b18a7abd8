"""The contract of a schedule and of a recovery."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from sparsewood import recovery as recoveries
from sparsewood import schedules, types
from sparsewood.errors import SparsewoodError
from sparsewood.recovery import Follow, Recovery, snapshot
from sparsewood.schedules import Event, Plan, Schedule, require_plan
from sparsewood.testing.checks.shared import check_value, expect, seeded
from sparsewood.testing.toys import ARCHITECTURES
from sparsewood.types import Amount, Count, Sparsity, Threshold

ROUNDS = (1, 2, 3, 7, 29, 100)


def check_schedule(schedule: Schedule) -> None:
    """Raise `AssertionError` unless `schedule` is one.

    It is a frozen dataclass whose representation rebuilds it. For any number of rounds, or for its `fixed_rounds` and
    no other, it gives a tuple of events at ascending steps within the rounds, the same at every call. Of the events for
    the same layers, sparsities, counts and thresholds never fall, the last is hard, so that its zeros stay, and its
    amount is the same, exactly, for every number of rounds. Numbers of rounds that are none are refused.

    >>> from sparsewood.schedules import Cubic
    >>> check_schedule(Cubic(0.9))
    """
    check_value(schedule, Schedule, {**vars(types), **vars(schedules)})
    fixed = schedule.fixed_rounds
    last: set[tuple[tuple[tuple[str, ...] | None, Amount], ...]] = set()
    for rounds in ROUNDS if fixed is None else (fixed,):
        plan = schedule(rounds)
        expect(plan == schedule(rounds), f"{schedule} gives another plan when asked again for {rounds} rounds")
        last.add(_check_plan(schedule, plan, rounds))
    expect(len(last) == 1, f"{schedule} must end at one amount, whatever the rounds. Got {last}")
    others = () if fixed is None else (*(n for n in ROUNDS if n != fixed), fixed + 1)
    for wrong in (0, -1, 1.5, True, *others):
        try:
            schedule(wrong)  # pyright: ignore[reportArgumentType]
        except SparsewoodError:
            continue
        raise AssertionError(f"{schedule} must refuse {wrong!r} rounds with SparsewoodError.")


def _check_plan(schedule: Schedule, plan: Plan, rounds: int) -> tuple[tuple[tuple[str, ...] | None, Amount], ...]:
    """Returns the last amount for each group of layers."""
    expect(
        isinstance(plan, tuple) and bool(plan) and all(isinstance(event, Event) for event in plan),
        f"{schedule} must give a tuple of events for {rounds} rounds. Got {plan!r}",
    )
    require_plan(plan)
    steps = [event.step for event in plan]
    expect(
        steps == sorted(set(steps)) and steps[0] >= 0 and steps[-1] < rounds,
        f"{schedule} must give events at ascending steps in [0, {rounds}). Got {steps}",
    )
    groups: dict[tuple[str, ...] | None, list[Event]] = {}
    for event in plan:
        groups.setdefault(event.layers, []).append(event)
    for events in groups.values():
        sizes = [_size(event.amount) for event in events]
        for (kind, low), (following, high) in pairwise(sizes):
            word = {Sparsity: "sparsities", Count: "counts", Threshold: "thresholds"}.get(kind)
            rises = word is None or kind is not following or low <= high
            expect(rises, f"{schedule}: {word} fall within {rounds} rounds: {[size for _, size in sizes]}")
        expect(not events[-1].regrow, f"{schedule} must end with a hard event, so that its target holds")
    return tuple((layers, events[-1].amount) for layers, events in groups.items())


def _size(amount: Amount) -> tuple[type, float]:
    match amount:
        case Sparsity(size) | Count(size) | Threshold(size):
            return type(amount), size
        case _:
            return type(amount), 0.0


def check_recovery(recovery: Recovery) -> None:
    """Raise `AssertionError` unless `recovery` is one.

    It is a frozen dataclass. It leaves the snapshot and the global random state alone, also when the network is trained
    on afterwards; keeps every parameter object and shape; and gives the same weights for the same generator. It picks
    one of its `snapshots`, or None if it has none, and its `follow` says from which step training goes on.

    >>> from sparsewood.recovery import Rewind
    >>> check_recovery(Rewind())
    """
    check_value(recovery, Recovery, vars(recoveries))
    _check_picks(recovery)
    model = next(toy for toy in ARCHITECTURES if toy.name == "conv_norm").build()
    start = snapshot(model)
    _disturb(model)
    before, twin, state = _digest(start), copy.deepcopy(model), torch.get_rng_state()
    parameters = dict(model.named_parameters())
    recovery(model, start, seeded(1))
    recovery(twin, start, seeded(1))
    expect(torch.equal(state, torch.get_rng_state()), f"{recovery} drew from the global random state")
    expect(_digest(start) == before, f"{recovery} changed the snapshot")
    after = dict(model.named_parameters())
    expect(
        after.keys() == parameters.keys() and all(after[name] is parameters[name] for name in parameters),
        f"{recovery} replaced parameters instead of changing them in place",
    )
    expect(_digest(model.state_dict()) == _digest(twin.state_dict()), f"{recovery} gave two results for one generator")
    _disturb(model)
    expect(_digest(start) == before, f"{recovery} changed the snapshot: the network is an alias of it")


def _check_picks(recovery: Recovery) -> None:
    steps, follow = recovery.snapshots, recovery.follow
    expect(
        isinstance(steps, tuple) and all(isinstance(step, int) and step >= 0 for step in steps),
        f"{recovery}: snapshots must be a tuple of steps >= 0. Got {steps!r}",
    )
    for score in (float, lambda step: -float(step), lambda _: 1.0):
        picked = recovery.pick(score)
        expect(
            picked in steps if steps else picked is None,
            f"{recovery} must pick one of its snapshots {steps}, or None if there is none. Got {picked!r}",
        )
        expect(picked == recovery.pick(score), f"{recovery} picks another snapshot when asked again")
        expected = follow if picked is None else replace(follow, step=picked)
        expect(recovery.follow_from(picked) == expected, f"{recovery} must go on from the step that it picked")
    expect(isinstance(follow, Follow), f"{recovery}: follow must be a Follow. Got {follow!r}")
    expect(bool(steps) or not follow.restore_optimizer, f"{recovery} has no snapshot to restore the optimizer from")


def _disturb(model: nn.Module) -> None:
    """Change every parameter and buffer in place, as training does."""
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(1)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(name.encode() + tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
