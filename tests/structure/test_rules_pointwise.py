"""Pointwise operations: what reaches the tracer, what stays 0, which ones are activation functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsewood.structure.axes import Axes, set_axes
from sparsewood.structure.modes import Functions, Operations
from sparsewood.structure.rules import find_rule
from sparsewood.structure.tracer import Tracer


def run(
    function: Callable[..., Any], *shapes: tuple[int, ...], dtype: torch.dtype = torch.float32
) -> tuple[Tracer, Any, list[Tensor]]:
    """Trace a function of parameters, each axis of which has labels: the record, the results, the stand-ins."""
    tracer = Tracer()
    tracer.begin(real=False)
    tensors = [nn.Parameter(torch.zeros(shape, dtype=dtype), requires_grad=False) for shape in shapes]
    for index, tensor in enumerate(tensors):
        tracer.register(str(index), tensor)
    with torch.no_grad(), Operations(tracer), Functions(tracer):
        out = function(*tensors)
    return tracer, out, [tracer.stand_in(tensor) for tensor in tensors]


def labels(tracer: Tracer, tensor: Tensor) -> list[list[int] | None]:
    return [None if row is None else row.tolist() for row in tracer.rows(tensor)]


def frozen(tracer: Tracer) -> set[int]:
    return {one for row, _ in tracer.frozen for one in row.tolist()}


def pairs(tracer: Tracer) -> set[tuple[int, int]]:
    return {pair for a, b, _ in tracer.edges for pair in zip(a.tolist(), b.tolist(), strict=True)}


# ---------------------------------------------------------------- coupling


def test_operands_are_united_position_by_position() -> None:
    tracer, out, _ = run(torch.add, (2, 3), (3,))
    assert labels(tracer, out) == [[1, 2], [3, 4, 5]]
    assert pairs(tracer) == {(3, 6), (4, 7), (5, 8)}
    assert not tracer.frozen


def test_a_single_position_that_is_spread_over_an_axis_stays() -> None:
    tracer, out, _ = run(torch.mul, (2, 3), (2, 1))
    assert labels(tracer, out) == [[1, 2], [3, 4, 5]]
    assert pairs(tracer) == {(1, 6), (2, 7)}
    assert frozen(tracer) == {8}
    assert tracer.reasons[0].why == "its only position is spread over a longer axis"


def test_an_axis_that_meets_activations_without_labels_stays() -> None:
    image = torch.empty(2, 3, device="meta")
    set_axes(image, Axes((None, None), (False, False)))
    tracer, out, _ = run(lambda x: x + image, (3,))
    assert labels(tracer, out) == [None, None]
    assert frozen(tracer) == {1, 2, 3}


def test_one_channel_of_attention_does_not_hold_the_channels_that_it_scales() -> None:
    tracer, out, _ = run(lambda x, gate: x * gate.sigmoid(), (1, 3, 2, 2), (1, 1, 2, 2))
    assert labels(tracer, out)[1] == [2, 3, 4]
    assert not frozen(tracer) & {2, 3, 4}


def test_halves_of_a_gated_unit_go_together() -> None:
    tracer, out, _ = run(lambda x: F.glu(x, -1), (2, 6))
    assert labels(tracer, out) == [[1, 2], [3, 4, 5]]
    assert pairs(tracer) == {(3, 6), (4, 7), (5, 8)}


def test_in_place_operations_change_what_is_known_of_their_target() -> None:
    def shifted(x: Tensor) -> Tensor:
        x = x.clone()
        return x.add_(1)

    tracer, out, _ = run(shifted, (2, 3))
    assert labels(tracer, out) == [[1, 2], [3, 4, 5]]
    assert tracer.zero(out) == (False, False)


def test_results_that_are_given_are_not_operands() -> None:
    def given(x: Tensor) -> Tensor:
        return torch.add(x, x, out=torch.empty_like(x))

    tracer, out, _ = run(given, (2, 3))
    assert labels(tracer, out) == [[1, 2], [3, 4, 5]]
    assert tracer.zero(out) == (True, True)
    assert not tracer.frozen


# ---------------------------------------------------------------- zeros

KEEPS = {
    "relu": torch.relu,
    "gelu": F.gelu,
    "tanh": torch.tanh,
    "hardtanh": F.hardtanh,
    "relu6": F.relu6,
    "clamp below 0": lambda x: x.clamp(min=-1),
    "threshold below 0": lambda x: F.threshold(x, -1.0, 5.0),
    "threshold at 0": lambda x: F.threshold(x, 0.5, 0.0),
    "scaled": lambda x: x * 3 / 2,
    "nothing added": lambda x: x + 0,
    "square": lambda x: x**2,
    "float64": lambda x: x.double(),
    "zeros_like": torch.zeros_like,
    "masked with 0": lambda x: x.masked_fill(x > 1, 0),
    "filled with 0": lambda x: torch.full_like(x, 0.0),
}
LOSES = {
    "sigmoid": torch.sigmoid,
    "cos": torch.cos,
    "exp": torch.exp,
    "softplus": F.softplus,
    "hardtanh above 0": lambda x: F.hardtanh(x, 0.5, 1.0),
    "clamp above 0": lambda x: x.clamp(min=0.1),
    "threshold above 0": lambda x: F.threshold(x, 0.5, 5.0),
    "added": lambda x: x + 1,
    "power 0": lambda x: x**0,
    "equality": lambda x: x == 0,
    "ones_like": torch.ones_like,
    "rand_like": torch.rand_like,
    "masked with 1": lambda x: x.masked_fill(x > 1, 1),
    "filled with 1": lambda x: torch.full_like(x, 1.0),
}


@pytest.mark.parametrize("name", KEEPS)
def test_zeros_that_stay(name: str) -> None:
    tracer, out, _ = run(KEEPS[name], (2, 3))
    assert tracer.zero(out) == (True, True)
    assert not tracer.inexact_rows


@pytest.mark.parametrize("name", LOSES)
def test_zeros_that_are_lost(name: str) -> None:
    tracer, out, _ = run(LOSES[name], (2, 3))
    assert labels(tracer, out) == [[1, 2], [3, 4, 5]]
    assert tracer.zero(out) == (False, False)
    assert not tracer.inexact_rows


def test_the_layout_of_a_copy_does_not_matter() -> None:
    tracer, out, _ = run(lambda x: x.clone(memory_format=torch.channels_last), (2, 3, 4, 4))
    assert tracer.zero(out) == (True,) * 4


def test_a_product_is_0_where_one_factor_is() -> None:
    tracer, out, _ = run(lambda x, y: x.sigmoid() * y, (2, 3), (3,))
    assert tracer.zero(out) == (False, True)


def test_a_sum_is_0_where_every_term_is() -> None:
    tracer, out, _ = run(lambda x, y, z: (x + y, x + z.exp(), x + y - z), (2, 3), (3,), (2, 3))
    assert [tracer.zero(one) for one in out] == [(False, True), (False, False), (False, True)]


def test_a_choice_is_0_where_both_are() -> None:
    tracer, out, _ = run(lambda x, y, z: (torch.where(z > 0, x, y), torch.where(x > 0, y, z.exp())), (3,), (3,), (3,))
    assert [tracer.zero(one) for one in out] == [(True,), (False,)]


@pytest.mark.parametrize("function", [torch.log, torch.rsqrt, torch.reciprocal, lambda x: x / x, lambda x: x**-0.5])
def test_what_is_not_finite_when_masked_is_said(function: Callable[..., Any]) -> None:
    tracer, _, _ = run(function, (3,))
    assert [(row.tolist(), kind) for row, kind, _ in tracer.inexact_rows] == [([1, 2, 3], "not finite where masked")]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool])
def test_zeros_of_every_dtype(dtype: torch.dtype) -> None:
    tracer, out, _ = run(lambda x: x * 2, (3,), dtype=dtype)
    assert tracer.zero(out) == (True,)


# ---------------------------------------------------------------- what is drawn


@pytest.mark.parametrize(
    "module", [nn.Dropout(), nn.Dropout2d(), nn.AlphaDropout(), nn.FeatureAlphaDropout(), nn.RReLU()], ids=repr
)
@pytest.mark.parametrize("training", [False, True])
def test_drawing_leaves_all_axes_free(module: nn.Module, training: bool) -> None:
    module.train(training)
    tracer, out, twins = run(module, (2, 3, 4, 4))
    assert labels(tracer, out) == labels(tracer, twins[0]) or out is twins[0] or not training
    assert not tracer.frozen
    if training and isinstance(module, nn.Dropout | nn.Dropout2d | nn.RReLU):
        assert tracer.zero(out) == (True,) * 4


def test_noise_is_as_long_as_what_it_is_made_for() -> None:
    tracer, out, _ = run(lambda x: x + torch.empty_like(x).exponential_().log().neg(), (2, 3))
    assert labels(tracer, out) == [[1, 2], [3, 4, 5]]
    assert not tracer.frozen
    assert not tracer.inexact_rows


def test_probabilities_are_united_with_what_is_drawn_from_them() -> None:
    tracer, out, _ = run(lambda x, p: torch.empty_like(x).bernoulli_(p), (2, 3), (3,))
    assert labels(tracer, out) == [[1, 2], [3, 4, 5]]
    assert pairs(tracer) == {(3, 6), (4, 7), (5, 8)}


def test_finding_out_about_zeros_draws_nothing() -> None:
    before = torch.get_rng_state()
    run(lambda x: F.rrelu(x, training=False).sigmoid() + 1, (2, 3))
    assert torch.equal(torch.get_rng_state(), before)


# ---------------------------------------------------------------- the table

EXPECTED_ACTIVATIONS = [
    nn.ReLU(), nn.ReLU(inplace=True), nn.GELU(), nn.SiLU(), nn.Sigmoid(), nn.Tanh(), nn.Hardtanh(), nn.Hardswish(),
    nn.Hardswish(inplace=True), nn.Hardsigmoid(), nn.LeakyReLU(), nn.ELU(), nn.SELU(), nn.CELU(), nn.Mish(),
    nn.Softplus(), nn.ReLU6(), nn.PReLU(), nn.PReLU(4), nn.RReLU(), nn.Threshold(0.1, 0.0), nn.LogSigmoid(), nn.GLU(1),
    nn.Softshrink(),
]  # fmt: skip


@pytest.mark.parametrize("module", EXPECTED_ACTIVATIONS, ids=repr)
def test_activation_functions_are_known_as_such(module: nn.Module) -> None:
    def forward(x: Tensor) -> Tensor:
        return module(x * 1)

    tracer, _, _ = run(forward, (2, 4))
    assert {step.family for step in tracer.steps} >= {"pointwise", "activation"}
    assert all(step.family != "barrier" for step in tracer.steps)


def test_every_operation_with_the_tag_has_a_rule() -> None:
    missing = set()
    for name in torch._C._dispatch_get_all_op_names():
        namespace, _, rest = name.partition("::")
        if namespace != "aten":
            continue
        packet, _, overload = rest.partition(".")
        found = torch._C._get_operation_overload(f"aten::{packet}", overload)
        if found and torch.Tag.pointwise in found[2]:
            func = getattr(getattr(torch.ops.aten, packet), overload or "default")
            if find_rule(func) is None:
                missing.add(packet)
    assert missing == {"equal", "rrelu"}  # a truth value of all positions; never reached, and draws


def test_numbers_that_decide_are_the_ones_given() -> None:
    tracer, out, _ = run(lambda x: (x.clamp(-1, 1), x.clamp(0.5, 1), x.clamp(max=-math.inf)), (3,))
    assert [tracer.zero(one) for one in out] == [(True,), (False,), (False,)]
