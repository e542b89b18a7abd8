"""Learning-rate schedules against PyTorch's. Requirements 000-11, 001-06, 002-10, 003-20, 004-10, 004-13."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import Optimizer, lr_scheduler

from sparsewood.errors import SparsewoodError
from sparsewood.train import rates
from sparsewood.train.rates import (
    Constant,
    Cosine,
    CosineRestarts,
    MultiStep,
    OneCycle,
    Piecewise,
    Rate,
    Step,
    Warmup,
)

EPOCHS, PER_EPOCH = 12, 7
STEPS = EPOCHS * PER_EPOCH


def ours(rate: Rate) -> list[float]:
    return [rate(step, STEPS, PER_EPOCH) for step in range(STEPS)]


def theirs(make: Callable[[Optimizer], Any]) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    seen = []
    for step in range(STEPS):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step < STEPS - 1:
            scheduler.step()
    return seen


def warm(optimizer: Optimizer) -> Any:
    first = lr_scheduler.LinearLR(optimizer, start_factor=0.2, total_iters=2 * PER_EPOCH)
    then = lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS - 2 * PER_EPOCH)
    return lr_scheduler.SequentialLR(optimizer, [first, then], milestones=[2 * PER_EPOCH])


PAIRS: dict[str, tuple[Rate, Callable[[Optimizer], Any]]] = {
    "Constant": (Constant(), lambda o: lr_scheduler.ConstantLR(o, 1.0)),
    "Cosine": (Cosine(), lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=STEPS)),
    # [000-11] T_max shorter than the training: the rate rises again.
    "Cosine again": (
        Cosine(epochs=5, floor=0.1),
        lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=5 * PER_EPOCH, eta_min=0.1),
    ),
    "CosineRestarts": (CosineRestarts(), lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 5 * PER_EPOCH)),
    "CosineRestarts longer": (
        CosineRestarts(first=2, multiply=2, floor=0.25),
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2 * PER_EPOCH, T_mult=2, eta_min=0.25),
    ),
    # [001-06]
    "Step": (Step(every=3, factor=0.5), lambda o: lr_scheduler.StepLR(o, 3 * PER_EPOCH, 0.5)),
    # [004-13] a tenth at one half and at three quarters of the training
    "MultiStep": (MultiStep(), lambda o: lr_scheduler.MultiStepLR(o, [STEPS // 2, 3 * STEPS // 4], 0.1)),
    "MultiStep epochs": (
        MultiStep(at=(2, 9), factor=0.2),
        lambda o: lr_scheduler.MultiStepLR(o, [2 * PER_EPOCH, 9 * PER_EPOCH], 0.2),
    ),
    # [003-20]
    "Piecewise": (
        Piecewise(),
        lambda o: lr_scheduler.LambdaLR(o, lambda t: 1.0 if t < 3 * PER_EPOCH else 0.5 if t < 6 * PER_EPOCH else 0.1),
    ),
    # [002-10]
    "OneCycle": (
        OneCycle(),
        lambda o: lr_scheduler.OneCycleLR(o, max_lr=10.0, total_steps=STEPS, cycle_momentum=False),
    ),
    "OneCycle otherwise": (
        OneCycle(peak=4.0, share=0.5, divide=8.0, final_divide=100.0),
        lambda o: lr_scheduler.OneCycleLR(
            o, 4.0, total_steps=STEPS, pct_start=0.5, div_factor=8.0, final_div_factor=100.0, cycle_momentum=False
        ),
    ),
    "Warmup": (Warmup(epochs=2, start=0.2), warm),
}


@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.parametrize("name", PAIRS)
def test_factors_are_those_of_pytorch(name: str) -> None:
    rate, make = PAIRS[name]
    assert ours(rate) == pytest.approx(theirs(make), abs=1e-9)


def test_every_schedule_is_compared() -> None:
    assert {type(rate).__name__ for rate, _ in PAIRS.values()} == set(rates.__all__)


@pytest.mark.parametrize("name", rates.__all__)
def test_defaults_are_finite_frozen_values(name: str) -> None:
    kind = getattr(rates, name)
    assert kind() == kind()
    assert hash(kind()) == hash(kind())
    for steps, per_epoch in ((1, 1), (2, 1), (1000, 100)):
        factors = [kind()(step, steps, per_epoch) for step in range(steps)]
        assert all(math.isfinite(factor) and factor >= 0 for factor in factors)


def test_a_boundary_is_met_whatever_the_rounding() -> None:
    """[004-10] An epoch that equals the mark up to rounding counts: 0.07 * 100 is 7.000000000000001 in floats."""
    for share in range(1, 100):
        rate = MultiStep(at=(share / 100,), factor=0.5)
        assert [rate(step, 100, 10) for step in (share - 1, share)] == [1.0, 0.5]
    for tenths in range(1, 30):
        rate = Step(every=tenths / 10, factor=0.5)
        assert [rate(step, 100, 10) for step in (tenths - 1, tenths)] == [1.0, 0.5]
        restarts = CosineRestarts(first=tenths / 10)
        assert restarts(3 * tenths, 100, 10) == pytest.approx(1.0, abs=1e-6)


def test_epochs_may_be_fractions() -> None:
    assert [Step(every=0.5, factor=0.1)(step, 4, 4) for step in range(4)] == pytest.approx([1, 1, 0.1, 0.1])
    assert Warmup(epochs=0.5, then=Constant())(1, 8, 4) == 0.5
    assert Piecewise(((0.5, 0.3),))(2, 8, 4) == 0.3


def test_what_follows_a_warmup_counts_from_its_end() -> None:
    rate = Warmup(epochs=2, then=Step(every=1, factor=0.5))
    assert [rate(10 * epoch, 50, 10) for epoch in range(5)] == [0.0, 0.5, 1.0, 0.5, 0.25]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Cosine(epochs=0), r"Cosine: epochs must be a finite number > 0\. Got 0"),
        (lambda: Cosine(floor=-0.1), "Cosine: floor.*>= 0"),
        (lambda: CosineRestarts(first=float("inf")), "CosineRestarts: first.*Got inf"),
        (lambda: CosineRestarts(multiply=1.5), "multiply must be a whole number"),
        (lambda: Step(every=0), "Step: every"),
        (lambda: Step(factor="0.1"), r"Step: factor.*Got '0\.1'"),
        (lambda: MultiStep(at=(0.5, 3)), "shares of the training .*or epochs.*not both"),
        (lambda: MultiStep(at=0.5), "at must be a list"),
        (lambda: Piecewise(((6, 0.1), (3, 0.5))), r"must rise\. Got \[6, 3\]"),
        (lambda: Piecewise((3, 0.5)), "pairs of"),
        (lambda: OneCycle(share=1.5), r"share must be a part.*Got 1\.5"),
        (lambda: OneCycle(divide=0), "divide"),
        (lambda: Warmup(then=0.5), r"then must be a learning-rate schedule\. Got 0\.5"),
        (lambda: Warmup(epochs=True), "Got True"),
    ],
)
def test_values_that_mean_nothing_are_refused(make: Any, said: str) -> None:
    with pytest.raises(SparsewoodError, match=said):
        make()
