"""Reductions, pooling and resampling: which axes are left, and what reducing over units means."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsewood.structure.axes import Axes, set_axes, tensors_in
from sparsewood.structure.modes import Functions, Operations
from sparsewood.structure.tracer import Tracer


class Traced:
    """A function of one parameter: labels 1, 2, ... along its first axis, then along the second one, and so on."""

    def __init__(self, function: Callable[..., Any], *shape: int, others: tuple[Tensor, ...] = ()) -> None:
        self.tracer = Tracer()
        self.tracer.begin(real=False)
        x = nn.Parameter(torch.zeros(shape), requires_grad=False)
        self.tracer.register("x", x)
        with torch.no_grad(), Operations(self.tracer), Functions(self.tracer):
            self.results = list(tensors_in((function(x, *others),)))

    def rows(self, result: int = 0) -> list[list[int] | None]:
        return [None if row is None else row.tolist() for row in self.tracer.rows(self.results[result])]

    def zero(self, result: int = 0) -> tuple[bool, ...]:
        return self.tracer.zero(self.results[result])

    @property
    def frozen(self) -> set[int]:
        return {one for row, _ in self.tracer.frozen for one in row.tolist()}

    @property
    def kinds(self) -> list[tuple[list[int], str]]:
        return [(row.tolist(), kind) for row, kind, _ in self.tracer.inexact_rows]


# ---------------------------------------------------------------- which axes are left


@pytest.mark.parametrize(
    ("function", "rows"),
    [
        (lambda x: x.sum(1), [[1, 2], [6, 7, 8, 9]]),
        (lambda x: x.sum(-2), [[1, 2], [6, 7, 8, 9]]),
        (lambda x: x.sum(1, keepdim=True), [[1, 2], None, [6, 7, 8, 9]]),
        (lambda x: x.sum((0, -1)), [[3, 4, 5]]),
        (lambda x: x.sum((0, -1), keepdim=True), [None, [3, 4, 5], None]),
        (lambda x: x.sum(), []),
        (lambda x: x.sum(()), []),
        (lambda x: x.amax(()), []),
        (lambda x: x.amax((1, 2)), [[1, 2]]),
        (lambda x: x.argmin(), []),
        (lambda x: x.var(dim=0), [[3, 4, 5], [6, 7, 8, 9]]),
        (lambda x: x.norm(dim=(0, 1)), [[6, 7, 8, 9]]),
        (lambda x: x.norm(keepdim=True), [None, None, None]),
        (lambda x: torch.linalg.vector_norm(x, 3, -1, keepdim=True), [[1, 2], [3, 4, 5], None]),
        (lambda x: x.any(), []),
        (lambda x: torch.any(x, dim=(0, 2)), [[3, 4, 5]]),
        (lambda x: x.logsumexp((1, 2), keepdim=True), [[1, 2], None, None]),
        (lambda x: x.prod(-1), [[1, 2], [3, 4, 5]]),
        (lambda x: torch.sum(x, 1, out=x.new_empty(2, 4)), [[1, 2], [6, 7, 8, 9]]),
    ],
)  # fmt: skip
def test_reduced_axes_go_and_others_stay(function: Callable[..., Any], rows: list[list[int] | None]) -> None:
    traced = Traced(function, 2, 3, 4)
    assert traced.rows() == rows


def test_both_results_have_the_rows_that_are_left() -> None:
    traced = Traced(lambda x: torch.std_mean(x, 1, keepdim=True), 2, 3)
    assert traced.rows(0) == traced.rows(1) == [[1, 2], None]
    assert traced.zero(0) == traced.zero(1) == (True, False)


def test_a_number_has_no_axes_to_reduce() -> None:
    traced = Traced(lambda x: x.sum().sum(0).mean(-1), 3)
    assert traced.rows() == []
    assert not traced.frozen


def test_activations_without_labels_along_the_axis_are_reduced_exactly() -> None:
    batch = torch.empty(5, 1, device="meta")
    set_axes(batch, Axes((None, None), (False, False)))
    traced = Traced(lambda x, y: (x * y).sigmoid().mean(0), 3, others=(batch,))
    assert traced.rows() == [[1, 2, 3]]
    assert not traced.kinds
    assert not traced.frozen


# ---------------------------------------------------------------- what it means to reduce over units


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (lambda x: x.sum(1), None),
        (lambda x: x.sigmoid().sum(1), "sum of non-zero entries"),
        (lambda x: x.mean(1), "mean over units"),
        (lambda x: x.sigmoid().mean(1), "sum of non-zero entries"),
        (lambda x: x.var(1), "normalised over units"),
        (lambda x: x.amax(1), "maximum over units"),
        (lambda x: x.aminmax(dim=1), "maximum over units"),
        (lambda x: x.logsumexp(1), "sum of non-zero entries"),
        (lambda x: x.norm(dim=1), None),
        (lambda x: x.norm(p=float("inf"), dim=1), None),
        (lambda x: x.exp().norm(p=float("inf"), dim=1), "maximum over units"),
        (lambda x: x.norm(p=-1, dim=1), "maximum over units"),
        (lambda x: x.norm(p=0, dim=1), None),
    ],
)
def test_reducing_over_units(function: Callable[..., Any], kind: str | None) -> None:
    traced = Traced(function, 2, 3)
    assert traced.kinds == ([] if kind is None else [([3, 4, 5], kind)])
    assert not traced.frozen


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.argmax(1),
        lambda x: x.cumsum(1),
        lambda x: x.cumprod(-1),
        lambda x: x.cummin(1),
        lambda x: x.sort(),
        lambda x: x.argsort(1),
        lambda x: torch.sort(x, stable=True, dim=1),
        lambda x: x.topk(2),
        lambda x: x.kthvalue(1),
        lambda x: x.median(1),
        lambda x: x.mode(1),
        lambda x: x.prod(1),
        lambda x: x.all(1),
    ],
)
def test_order_and_products_hold_their_axis(function: Callable[..., Any]) -> None:
    traced = Traced(function, 2, 3)
    assert traced.frozen == {3, 4, 5}
    for index, result in enumerate(traced.results):
        assert traced.rows(index) == [[1, 2], None][: result.dim()]


# ---------------------------------------------------------------- pooling and resampling


@pytest.mark.parametrize(
    "module",
    [
        nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(2), nn.AdaptiveMaxPool2d(2), nn.LPPool2d(2, 2),
        nn.Upsample(scale_factor=2), nn.Upsample(size=(3, 5), mode="bilinear"),
        nn.Upsample(scale_factor=2, mode="bicubic"),
    ],
    ids=repr,
)  # fmt: skip
def test_windows_leave_channels_free_and_zero(module: nn.Module) -> None:
    traced = Traced(module, 2, 3, 4, 4)
    assert traced.rows() == [[1, 2], [3, 4, 5], None, None]
    assert traced.zero()[1]
    assert traced.frozen == set(range(6, 14))
    assert not traced.kinds


def test_pooling_the_whole_image_is_a_mean() -> None:
    traced = Traced(nn.AdaptiveAvgPool2d(1), 2, 3, 4, 4)
    assert traced.rows() == [[1, 2], [3, 4, 5], None, None]
    assert traced.kinds == [([6, 7, 8, 9], "mean over units"), ([10, 11, 12, 13], "mean over units")]


def test_unfolding_repeats_a_channel_for_every_place_of_a_window() -> None:
    traced = Traced(lambda x: F.unfold(x, (1, 2)), 1, 3, 4, 4)
    assert traced.rows() == [[1], [2, 2, 3, 3, 4, 4], None]
    assert traced.zero()[1]


def test_folding_undoes_it() -> None:
    traced = Traced(lambda x: F.fold(F.unfold(x, 2), (4, 4), 2), 1, 3, 4, 4)
    assert traced.rows() == [[1], [2, 3, 4], None, None]
    assert traced.frozen == set(range(5, 13))


def test_folding_what_was_never_unfolded_keeps_the_places() -> None:
    traced = Traced(lambda x: F.fold(x, (4, 4), 2, stride=2), 1, 12, 4)
    (split,) = traced.tracer.splits
    assert split.parent.tolist() == list(range(2, 14))
    assert traced.rows() == [[1], split.left.tolist(), None, None]
    assert traced.frozen == {*split.right.tolist(), *range(14, 18)}


def test_sampling_at_coordinates_keeps_the_channel() -> None:
    grid = torch.empty(1, 5, 5, 2, device="meta")
    set_axes(grid, Axes((None,) * 4, (False,) * 4))
    traced = Traced(lambda x, g: F.grid_sample(x, g, align_corners=False), 1, 3, 4, 4, others=(grid,))
    assert traced.rows() == [None, [2, 3, 4], None, None]
    assert traced.zero()[1]
    assert traced.frozen == {1, *range(5, 13)}
