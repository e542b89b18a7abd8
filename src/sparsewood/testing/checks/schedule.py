"""The contract of a schedule and of a recovery."""

from __future__ import annotations

import copy

import torch

from sparsewood.errors import SparsewoodError
from sparsewood.recovery import Recovery, snapshot
from sparsewood.schedules import Event, Schedule
from sparsewood.testing.checks.shared import check_value, expect, seeded
from sparsewood.testing.toys import ARCHITECTURES
from sparsewood.types import Amount, Sparsity

ROUNDS = (1, 2, 3, 7, 29, 100)


def check_schedule(schedule: Schedule) -> None:
    """Raise `AssertionError` unless `schedule` is one.

    It is a frozen dataclass whose representation rebuilds it. For any number of rounds it gives a tuple of events at
    ascending steps within the rounds, the same at every call; sparsities never fall, and the last is the same, exactly,
    for every number of rounds. Numbers of rounds that are none are refused.

    >>> from sparsewood.schedules import Cubic
    >>> check_schedule(Cubic(0.9))
    """
    check_value(schedule, Schedule)
    last: set[Amount] = set()
    for rounds in ROUNDS:
        plan = schedule(rounds)
        expect(plan == schedule(rounds), f"{schedule} gives another plan when asked again for {rounds} rounds")
        expect(
            isinstance(plan, tuple) and bool(plan) and all(isinstance(event, Event) for event in plan),
            f"{schedule} must give a tuple of events for {rounds} rounds. Got {plan!r}",
        )
        steps = [event.step for event in plan]
        expect(
            steps == sorted(set(steps)) and steps[0] >= 0 and steps[-1] < rounds,
            f"{schedule} must give events at ascending steps in [0, {rounds}). Got {steps}",
        )
        shares = [event.amount.fraction for event in plan if isinstance(event.amount, Sparsity)]
        expect(shares == sorted(shares), f"{schedule}: sparsities fall within {rounds} rounds: {shares}")
        last.add(plan[-1].amount)
    expect(len(last) == 1, f"{schedule} must end at one amount, whatever the rounds. Got {last}")
    for wrong in (0, -1, 1.5, True):
        try:
            schedule(wrong)  # pyright: ignore[reportArgumentType]
        except SparsewoodError:
            continue
        raise AssertionError(f"{schedule} must refuse {wrong!r} rounds with SparsewoodError.")


def check_recovery(recovery: Recovery) -> None:
    """Raise `AssertionError` unless `recovery` is one.

    It is a frozen dataclass. It leaves the snapshot and the global random state alone, keeps every parameter object and
    shape, and gives the same weights for the same generator.

    >>> from sparsewood.recovery import Rewind
    >>> check_recovery(Rewind())
    """
    check_value(recovery, Recovery)
    model = next(toy for toy in ARCHITECTURES if toy.name == "conv_norm").build()
    start = snapshot(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5)
    copies = {name: tensor.clone() for name, tensor in start.items()}
    twin, state = copy.deepcopy(model), torch.get_rng_state()
    before = dict(model.named_parameters())
    recovery(model, start, seeded(1))
    recovery(twin, start, seeded(1))
    expect(torch.equal(state, torch.get_rng_state()), f"{recovery} drew from the global random state")
    expect(all(torch.equal(start[name], tensor) for name, tensor in copies.items()), f"{recovery} changed the snapshot")
    after = dict(model.named_parameters())
    expect(
        after.keys() == before.keys() and all(after[name] is before[name] for name in before),
        f"{recovery} replaced parameters instead of changing them in place",
    )
    same = zip(model.state_dict().values(), twin.state_dict().values(), strict=True)
    expect(all(torch.equal(a, b) for a, b in same), f"{recovery} gave two results for one generator state")
