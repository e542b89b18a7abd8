"""Prune, recover, train, repeat."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import sparsewood as sw
from sparsewood import allocation, criteria, recovery, schedules
from sparsewood.errors import SparsewoodError
from sparsewood.recipes import prune_iteratively
from sparsewood.recovery import Rewind
from sparsewood.schedules import Event, Geometric, OneShot


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))


def train(model: nn.Module, masks: sw.Masks) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    x, y = torch.randn(16, 1, 8, 8), torch.arange(16) % 4
    with sw.enforce(model, masks, optimizer):
        for _ in range(2):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()


def test_iterative_magnitude_golden_log() -> None:
    """[004-01] Stops when less than 15 % is left; each layer loses a quarter of what it has left."""
    model = nn.Sequential(nn.Linear(4, 1000, bias=False), nn.Linear(1000, 1, bias=False))
    left: list[int] = []

    def record(model: nn.Module, _: sw.Masks) -> None:
        left.append(sum(int(p.count_nonzero()) for p in model.parameters()))

    prune_iteratively(
        model,
        sw.Magnitude(),
        Geometric(0.25)(100),
        record,
        recovery=Rewind(),
        until=lambda _, masks: 1 - masks.sparsity < 0.15,
        options={"scope": sw.PerLayer({"*": None}), "protect_classifier": False},
    )
    assert left == [3750, 2812, 2110, 1582, 1187, 890, 668]
    assert [f"{n / 50:.2f}" for n in left] == ["75.00", "56.24", "42.20", "31.64", "23.74", "17.80", "13.36"]


GRANULARITIES = [sw.Element(), sw.Row(), sw.Block((2,))]
CRITERIA = [sw.Random(), sw.Magnitude(), sw.LpNorm(2, normalized=True), sw.WeightTimesGradient()]
SCHEDULES = [schedules.OneShot(0.5), schedules.Linear(0.5), schedules.Cubic(0.5), schedules.Geometric(0.2929)]
RECOVERIES = [getattr(recovery, name)() for name in recovery.__all__]


@pytest.mark.parametrize(
    ("granularity", "criterion", "schedule", "recover"),
    list(itertools.product(GRANULARITIES, CRITERIA, SCHEDULES, RECOVERIES)),
    ids=lambda part: type(part).__name__,
)
def test_structure_scoring_scheduling_and_fine_tuning_combine_freely(
    granularity: sw.Element, criterion: criteria.Criterion, schedule: schedules.Schedule, recover: recovery.Recovery
) -> None:
    """[002-01] The four axes of the taxonomy are independent of one another."""
    torch.manual_seed(0)
    model = network()
    data = [(torch.randn(8, 1, 8, 8), torch.arange(8) % 4)]
    options = {
        "granularity": granularity,
        "scope": allocation.PerLayer(),
        "protect_classifier": False,
        "data": data,
        "loss": nn.functional.cross_entropy,
    }
    masks = prune_iteratively(model, criterion, schedule(2), train, recovery=recover, options=options)
    expected = 1224 if granularity == sw.Element() else None
    zeros = sum(int((model.get_parameter(name) == 0).sum()) for name in masks)
    assert zeros == masks.removed
    if expected is not None:
        assert masks.removed == pytest.approx(masks.total / 2, abs=1)
    else:
        units = [granularity.tile(mask.shape) for mask in masks.values()]
        assert len(units) == 2
        assert 0.3 < masks.sparsity < 0.6


@pytest.mark.parametrize(
    ("plan", "options", "message"),
    [
        ((), {}, "plan is empty"),
        ((Event(0, sw.Sparsity(0.1)), Event(0, sw.Sparsity(0.2))), {}, r"different steps.*\[0, 0\]"),
        (Geometric(0.5)(3), {"rounds": 2}, "last event is at step 2.*Got 2"),
        (Geometric(0.5)(3), {"options": {"masks": None}}, "decides masks itself"),
    ],
)
def test_plans_that_cannot_be_carried_out_are_refused(plan: schedules.Plan, options: dict, message: str) -> None:
    with pytest.raises(SparsewoodError, match=message):
        prune_iteratively(network(), sw.Magnitude(), plan, train, **options)


def test_rounds_without_an_event_train_all_the_same() -> None:
    seen: list[float] = []

    def record(_: nn.Module, masks: sw.Masks) -> None:
        seen.append(masks.sparsity)

    plan = (Event(1, sw.Sparsity(0.5)),)
    prune_iteratively(network(), sw.Magnitude(), plan, record, rounds=4)
    assert seen == [0.0, 0.5, 0.5, 0.5]
    seen.clear()
    prune_iteratively(network(), sw.Magnitude(), OneShot(0.5)(3), record)
    assert seen == [0.5]


def test_weights_once_removed_stay_removed_though_recovery_brings_them_back() -> None:
    """[7.10] Rewinding restores the values of all weights; the masks still hold."""
    model = network()
    seen: list[sw.Masks] = []
    prune_iteratively(
        model, sw.Random(), Geometric(0.3)(4), lambda _, masks: seen.append(masks), recovery=Rewind(),
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    for before, after in itertools.pairwise(seen):
        assert (before & after) == after
        assert after.removed > before.removed
    assert OneShot(0.5)(1)[0].amount == sw.Sparsity(0.5)
