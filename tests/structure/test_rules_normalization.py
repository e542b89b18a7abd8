"""Normalisations: what belongs to a channel, what is only approximately removable, what is 0 when masked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from sparsewood.structure.axes import Axes, set_axes
from sparsewood.structure.integers import attributes_tracked
from sparsewood.structure.log import Op
from sparsewood.structure.modes import Functions, Operations
from sparsewood.structure.rules import find_rule
from sparsewood.structure.solve import _components as _solve
from sparsewood.structure.tracer import Tracer


class Traced:
    """A module run on an activation whose axes have labels (of a parameter called x)."""

    def __init__(
        self, module: nn.Module, *shape: int, real: bool = False, run: Callable[[Tensor], Any] | None = None
    ) -> None:
        self.tracer = Tracer()
        self.tracer.begin(real=real)
        self.x = nn.Parameter(torch.randn(shape), requires_grad=False)
        self.named = {"x": self.x, **dict(module.named_parameters()), **dict(module.named_buffers())}
        for name, tensor in self.named.items():
            self.tracer.register(name, tensor)
        with torch.no_grad(), attributes_tracked(module, self.tracer), Operations(self.tracer), Functions(self.tracer):
            out = (run or module)(self.x * 1)
        self.out: Tensor = out[0] if isinstance(out, tuple) else out
        self.component = _solve(self.tracer.count, self.tracer.edges)

    def axis(self, name: str, axis: int = 0) -> list[int]:
        """The components of the positions of an axis."""
        span = next(one for one in self.tracer.spans if (one.param, one.axis) == (name, axis))
        return self.component[span.start : span.start + span.size].tolist()

    def row(self, axis: int) -> list[int] | None:
        row = self.tracer.rows(self.out)[axis]
        return None if row is None else self.component[row].tolist()

    @property
    def zero(self) -> tuple[bool, ...]:
        return self.tracer.zero(self.out)

    @property
    def kinds(self) -> dict[str, set[int]]:
        """For every kind of difference the components that it concerns."""
        kinds: dict[str, set[int]] = {}
        for row, kind, _ in self.tracer.inexact_rows:
            kinds.setdefault(kind, set()).update(self.component[row].tolist())
        return kinds

    @property
    def frozen(self) -> set[int]:
        return {one for row, _ in self.tracer.frozen for one in self.component[row].tolist()}

    def barriers(self) -> list[str]:
        return [step.op for step in self.tracer.steps if step.family == "barrier"]


# ---------------------------------------------------------------- batch norm


@pytest.mark.parametrize("real", [False, True], ids=["meta", "real"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_batch_norm_binds_four_vectors_to_the_channel(training: bool, real: bool) -> None:
    traced = Traced(nn.BatchNorm2d(3).train(training), 2, 3, 4, 4, real=real)
    channel = traced.axis("x", 1)
    for name in ("weight", "bias", "running_mean", "running_var"):
        assert traced.axis(name) == channel
    assert traced.row(1) == channel
    assert traced.zero[1]
    assert not traced.frozen
    assert not traced.barriers()


def test_running_statistics_scale_every_place_alike() -> None:
    traced = Traced(nn.BatchNorm2d(3).eval(), 2, 3, 4, 4)
    assert not traced.kinds
    assert traced.zero == (False, True, False, False)  # behind the bias nothing but the channel is 0


def test_batch_statistics_are_taken_over_the_other_axes() -> None:
    traced = Traced(nn.BatchNorm2d(3).train(), 2, 3, 4, 5)
    assert traced.kinds == {
        "normalised over units": {one for axis in (0, 2, 3) for one in traced.axis("x", axis)},
    }


def test_without_weight_the_running_mean_is_left() -> None:
    assert not Traced(nn.BatchNorm2d(3, affine=False).eval(), 2, 3, 4, 4).zero[1]
    assert Traced(nn.BatchNorm2d(3, affine=False).train(), 2, 3, 4, 4).zero[1]
    assert Traced(nn.BatchNorm2d(3, affine=False, track_running_stats=False), 2, 3, 4, 4).zero[1]


def test_channels_of_the_input_image_hold_the_batch_norm() -> None:
    image = torch.empty(2, 3, 4, 4, device="meta")
    set_axes(image, Axes((None,) * 4, (False,) * 4))
    norm = nn.BatchNorm2d(3).eval()
    traced = Traced(norm, 1, run=lambda _: norm(image))
    assert traced.frozen == {
        one for name in ("weight", "bias", "running_mean", "running_var") for one in traced.axis(name)
    }


# ---------------------------------------------------------------- instance norm


@pytest.mark.parametrize("real", [False, True], ids=["meta", "real"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("track", [False, True], ids=["instance", "running"])
def test_instance_norm_binds_its_vectors_to_the_channel(track: bool, training: bool, real: bool) -> None:
    norm = nn.InstanceNorm2d(3, affine=True, track_running_stats=track).train(training)
    images = torch.randn(2, 1, 4, 4) if real else torch.empty(2, 1, 4, 4, device="meta")
    set_axes(images, Axes((None,) * 4, (False,) * 4))
    traced = Traced(norm, 3, 1, 1, real=real, run=lambda x: norm(images * x))
    channel = traced.axis("x")
    assert len(set(channel)) == 3
    for name in ("weight", "bias", *(("running_mean", "running_var") if track else ())):
        assert traced.axis(name) == channel
    assert traced.row(1) == channel
    assert traced.zero[1]
    assert not traced.frozen & set(channel)
    assert not traced.kinds
    assert not traced.barriers()


# ---------------------------------------------------------------- layer norm, group norm


def test_layer_norm_binds_the_last_axes() -> None:
    traced = Traced(nn.LayerNorm([3, 4]), 2, 3, 4)
    for axis in range(2):
        assert traced.axis("weight", axis) == traced.axis("bias", axis) == traced.axis("x", axis + 1)
    assert traced.zero == (False, True, True)
    assert traced.kinds == {"normalised over units": {*traced.axis("x", 1), *traced.axis("x", 2)}}
    assert not traced.frozen


def test_layer_norm_without_affine_leaves_nothing_at_0() -> None:
    traced = Traced(nn.LayerNorm(4, elementwise_affine=False), 2, 4)
    assert traced.zero == (True, False)
    assert traced.kinds == {"normalised over units": set(traced.axis("x", 1))}


@pytest.mark.parametrize("affine", [True, False])
def test_rms_norm_is_a_mean_over_units_that_are_0(affine: bool) -> None:
    traced = Traced(nn.RMSNorm(4, elementwise_affine=affine), 2, 4)
    assert traced.kinds == {"mean over units": set(traced.axis("x", 1))}
    assert traced.row(1) == traced.axis("x", 1)
    assert traced.zero == (True, True)
    if affine:
        assert traced.axis("weight") == traced.axis("x", 1)


def test_fused_rms_norm_is_the_same() -> None:
    fused = getattr(torch.ops.aten, "_fused_rms_norm", None)
    if fused is None:
        pytest.skip("this PyTorch has no fused RMSNorm")
    tracer, twins = Tracer(), {}
    for name, shape in (("x", (2, 4)), ("weight", (4,))):
        tracer.register(name, parameter := nn.Parameter(torch.zeros(shape)))
        twins[name] = tracer.stand_in(parameter)
    out, scale = torch.empty(2, 4), torch.empty(2, 1)
    rule = find_rule(fused.default)
    assert rule is not None
    rule.apply(tracer, Op(fused.default, (twins["x"], [4], twins["weight"], 1e-6), {}, (out, scale)))
    assert [(row.tolist(), kind) for row, kind, _ in tracer.inexact_rows] == [([3, 4, 5, 6], "mean over units")]
    assert [(a.tolist(), b.tolist()) for a, b, _ in tracer.edges] == [([3, 4, 5, 6], [7, 8, 9, 10])]
    assert tracer.zero(out) == (True, True)
    assert tracer.rows(scale)[1] is None


def test_group_norm_is_a_rectangle_of_groups_and_places_in_a_group() -> None:
    traced = Traced(nn.GroupNorm(2, 6), 2, 6, 4)
    (split,) = traced.tracer.splits
    assert (
        traced.component[split.parent].tolist() == traced.axis("x", 1) == traced.axis("weight") == traced.axis("bias")
    )
    assert (len(split.left), len(split.right)) == (2, 3)
    assert traced.kinds == {"normalised over units": {*traced.component[split.right].tolist(), *traced.axis("x", 2)}}
    assert traced.zero == (False, True, False)


@pytest.mark.parametrize(("groups", "exact"), [(1, False), (6, True)])
def test_one_group_or_single_channels_need_no_rectangle(groups: int, exact: bool) -> None:
    traced = Traced(nn.GroupNorm(groups, 6), 2, 6)
    assert not traced.tracer.splits
    assert ("normalised over units" not in traced.kinds) is exact


# ---------------------------------------------------------------- norms of weights, normalised activations


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_weight_norm_binds_direction_and_length(dim: int) -> None:
    module = parametrizations.weight_norm(nn.Conv1d(3, 4, 2), dim=dim)
    traced = Traced(module, 1, run=lambda _: module.weight)
    length, direction = "parametrizations.weight.original0", "parametrizations.weight.original1"
    assert traced.axis(length, dim) == traced.axis(direction, dim)
    assert [traced.row(axis) for axis in range(3)] == [traced.axis(direction, axis) for axis in range(3)]
    assert traced.kinds == {"not finite where masked": set(traced.axis(direction, dim))}
    assert all(traced.zero[axis] for axis in range(3) if axis != dim)
    assert traced.frozen == {traced.axis(length, axis)[0] for axis in range(3) if axis != dim}


def test_a_shift_before_a_weight_norm_makes_a_sum_of_what_is_not_0() -> None:
    module = nn.Module()
    module.g = nn.Parameter(torch.ones(3, 1))
    traced = Traced(module, 3, 4, run=lambda x: torch.ops.aten._weight_norm_interface(x + 1, module.g, 0))
    assert traced.kinds["sum of non-zero entries"] == set(traced.axis("x", 1))


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_normalised_features_can_shrink(p: float) -> None:
    traced = Traced(nn.Identity(), 2, 4, run=lambda x: F.normalize(x, p, 1))
    assert traced.row(1) == traced.axis("x", 1)
    assert not traced.frozen
    assert not traced.kinds
    assert traced.zero == (True, True)


def test_normalising_gives_the_same_values() -> None:
    x = torch.randn(3, 4)
    tracer = Tracer()
    tracer.begin(real=True)
    with torch.no_grad(), Operations(tracer), Functions(tracer):
        got = [
            F.normalize(x),
            F.normalize(x, 1.0, dim=-1),
            F.normalize(x, eps=10.0),
            F.normalize(x, out=x.new_empty(3, 4)),
        ]
    expected = [F.normalize(x), F.normalize(x, 1.0, dim=-1), F.normalize(x, eps=10.0), F.normalize(x)]
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("function", [F.softmax, F.log_softmax, F.softmin])
def test_softmax_holds_its_axis(function: Callable[..., Tensor]) -> None:
    traced = Traced(nn.Identity(), 2, 4, run=lambda x: function(x, dim=-1))
    assert traced.frozen == set(traced.axis("x", 1))
    assert traced.row(0) == traced.axis("x", 0)
    assert traced.zero == (False, False)


def test_normalisation_over_neighbouring_channels_holds_them() -> None:
    traced = Traced(nn.LocalResponseNorm(3), 2, 6, 4, 4)
    assert traced.frozen >= set(traced.axis("x", 1))
    assert not traced.barriers()


def test_standardised_weights_lose_inputs_inexactly() -> None:
    def standardised(x: Tensor) -> Tensor:
        return F.batch_norm(x.reshape(1, 4, -1), None, None, training=True).reshape_as(x)

    traced = Traced(nn.Identity(), 4, 3, 1, run=standardised)
    assert traced.row(0) == traced.axis("x", 0)
    assert traced.zero[0]
    assert not traced.zero[1]
    assert set(traced.axis("x", 1)) <= traced.kinds["normalised over units"] | traced.frozen
