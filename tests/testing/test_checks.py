"""The contracts catch what they say they do."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from sparsewood.allocation.budgets import Layer
from sparsewood.allocation.scopes import Everywhere, PerLayer, Pool, Request, Scope
from sparsewood.criteria import Criterion, Inputs, Magnitude
from sparsewood.granularity import Granularity, Shape
from sparsewood.recovery import Orthogonal, Reinitialize
from sparsewood.schedules import OneShot, Soft
from sparsewood.testing import (
    ARCHITECTURES,
    Architecture,
    check_allocation,
    check_criterion,
    check_granularity,
    check_recovery,
    check_schedule,
    check_scope,
    counting_linear,
)
from sparsewood.testing.checks.shared import check_value, fingerprint
from sparsewood.types import Compression

DOCUMENTED = "score = |w|. Source: https://example.org."


def criterion(
    call: Callable[[Inputs], Tensor], *, pointwise: bool = False, documentation: str = DOCUMENTED
) -> Criterion:
    @dataclass(frozen=True)
    class Made(Criterion):
        def __call__(self, inputs: Inputs) -> Tensor:
            return call(inputs)

        def __repr__(self) -> str:
            return "Made()"

    Made.__doc__ = documentation
    Made.pointwise = pointwise  # type: ignore[misc]
    return Made()


def in_place(inputs: Inputs) -> Tensor:
    return inputs.weight.abs_()


def uses_the_global_generator(inputs: Inputs) -> Tensor:
    return torch.rand(inputs.weight.shape)


def by_position(inputs: Inputs) -> Tensor:
    return torch.arange(float(inputs.weight.numel())).reshape(inputs.weight.shape)


BROKEN: list[tuple[Criterion, str]] = [
    (criterion(in_place), "scoring changed .*weight"),
    (criterion(lambda i: i.weight.abs() / 0), "NaN or infinite"),
    (criterion(lambda i: i.weight.abs().sum(0)), "gave scores of shape"),
    (criterion(uses_the_global_generator), "differ between two calls"),
    (criterion(by_position), "permuting the output units of 0.weight does not permute its scores"),
    (criterion(lambda i: i.weight / i.weight.sum(), pointwise=True), "pointwise, but row 0 of 0.weight by itself"),
    (criterion(lambda i: i.weight, documentation="Nothing."), "must say what the score is"),
    (criterion(lambda i: i.weight, documentation="score = w."), "must name its source"),
    (criterion(lambda i: i.weight, documentation="score. Source: me."), "must give a formula"),
]


@pytest.mark.parametrize(("broken", "message"), BROKEN, ids=[message[:20] for _, message in BROKEN])
def test_broken_criteria_are_found(broken: Criterion, message: str) -> None:
    with pytest.raises((AssertionError, ValueError), match=message):
        check_criterion(broken)


def test_a_correct_criterion_of_ones_own_passes() -> None:
    check_criterion(criterion(lambda inputs: inputs.weight.abs(), pointwise=True))


@dataclass
class Thawed(Criterion):
    """score = 1, https://example.org."""

    def __call__(self, inputs: Inputs) -> Tensor:
        return torch.ones_like(inputs.weight)


@dataclass(frozen=True)
class Forgetful:
    """Its repr leaves out what matters."""

    secret: int = field(default=0, repr=False)


@dataclass(frozen=True)
class Holds:
    """A value around another one, which may come from elsewhere."""

    inner: object


@dataclass(frozen=True)
class Named:
    def __repr__(self) -> str:
        return "Elsewhere()"


def test_values_must_be_frozen_and_rebuild() -> None:
    with pytest.raises(AssertionError, match="Thawed must be a frozen dataclass"):
        check_criterion(Thawed())
    with pytest.raises(AssertionError, match="does not rebuild the value"):
        check_value(Forgetful(3), object)
    check_value(Holds(Magnitude()), Holds)
    with pytest.raises(NameError, match="Elsewhere"):
        check_value(Holds(Named()), Holds)
    check_value(Holds(Named()), Holds, {"Elsewhere": Named})
    with pytest.raises(AssertionError, match=r"must be a Criterion"):
        check_criterion("magnitude")  # type: ignore[arg-type]


@dataclass(frozen=True)
class Halves(Granularity):
    """Cuts odd axes in two."""

    def tile(self, shape: Shape) -> tuple[int, ...]:
        return tuple((size + 1) // 2 for size in shape)


@dataclass(frozen=True)
class Nothing(Granularity):
    def tile(self, shape: Shape) -> tuple[int, ...]:
        raise ValueError(f"no {shape}")


def test_broken_granularities_are_found() -> None:
    with pytest.raises(AssertionError, match="does not divide shape"):
        check_granularity(Halves())
    with pytest.raises(ValueError, match=r"no .8, 4"):
        check_granularity(Nothing())


@dataclass(frozen=True)
class OneMore(Scope):
    """Keeps one too many."""

    def pools(self, request: Request) -> list[Pool]:
        return [Pool(p.members, min(p.keep + 1, sum(x.alive for x in request.layers)), p.floors)
                for p in Everywhere().pools(request)]  # fmt: skip


@dataclass(frozen=True)
class Emptying(Scope):
    """Takes everything from the first layer."""

    shares_total: ClassVar[bool] = False  # type: ignore[misc]

    def pools(self, request: Request) -> list[Pool]:
        return [Pool((0,), 0 * len(request.layers), (0,))]


def test_broken_scopes_are_found() -> None:
    with pytest.raises(AssertionError, match=r"OneMore\(\) keeps \d+ of \d+ units at"):
        check_scope(OneMore())
    with pytest.raises(AssertionError, match=r"Emptying\(\) empties a layer"):
        check_scope(Emptying())


@dataclass(frozen=True)
class Negative:
    def weights(self, layers: list[Layer]) -> list[int]:
        return [-1 for _ in layers]


def test_broken_allocations_are_found() -> None:
    with pytest.raises(AssertionError, match=r"whole numbers >= 0. Got \[-1"):
        check_allocation(Negative())


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_architectures_run_and_are_reproducible(architecture: Architecture) -> None:
    state = torch.get_rng_state()
    first, second = architecture.build(), architecture.build()
    assert torch.equal(torch.get_rng_state(), state)
    x = architecture.inputs(2)
    assert torch.equal(x, architecture.inputs(2))
    assert torch.equal(first.eval()(x), second.eval()(x))
    assert len({str(a) for a in ARCHITECTURES}) == len(ARCHITECTURES)


def test_fingerprint_sees_what_scoring_could_change() -> None:
    layer = counting_linear(2, 2)
    before = fingerprint(layer)
    layer.weight.data[0, 0] += 1
    assert fingerprint(layer) != before
    layer.weight.data[0, 0] -= 1
    assert fingerprint(layer) == before
    handle = layer.register_forward_hook(lambda *_: None)
    assert fingerprint(layer) != before
    handle.remove()
    layer.eval()
    assert fingerprint(layer) != before


def test_hypothesis_is_needed_for_strategies_only() -> None:
    code = "import sparsewood.testing, sys; assert 'hypothesis' not in sys.modules and 'pytest' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_parts_pass() -> None:
    check_schedule(Soft(OneShot(Compression(4))))  # schedules of values that its own module does not know
    check_recovery(Reinitialize(Orthogonal(gain=2.0)))
    check_scope(PerLayer())
    check_criterion(Magnitude())
