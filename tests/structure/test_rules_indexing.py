"""What indexing rules promise: axes that are indexed stay, the others keep their labels, in the order of NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sparsewood.structure import trace
from sparsewood.structure.modes import Functions, Operations
from sparsewood.structure.tracer import Tracer


class Indexed:
    """What the tracer says of a function of tensors that have labels on all axes."""

    def __init__(self, function: Callable[..., Tensor], *tensors: Tensor, real: bool = False) -> None:
        self.tracer = Tracer()
        self.tensors = [tensor if isinstance(tensor, nn.Parameter) else tensor.clone() for tensor in tensors]
        for number, tensor in enumerate(self.tensors):
            self.tracer.register(str(number), tensor)
        self.tracer.begin(real=real)
        with torch.no_grad(), Operations(self.tracer), Functions(self.tracer):
            self.out = self.tracer.stand_in(function(*self.tensors))

    @property
    def rows(self) -> list[list[int] | None]:
        return [None if row is None else row.tolist() for row in self.tracer.rows(self.out)]

    @property
    def zero(self) -> tuple[bool, ...]:
        return self.tracer.zero(self.out)

    def axis(self, number: int, axis: int) -> list[int]:
        span = next(one for one in self.tracer.spans if (one.param, one.axis) == (str(number), axis))
        return list(range(span.start, span.start + span.size))

    def stays(self, number: int, axis: int) -> bool:
        frozen = {label for row, _ in self.tracer.frozen for label in row.tolist()}
        return set(self.axis(number, axis)) <= frozen

    def tied(self, first: list[int], second: list[int]) -> bool:
        pairs = {frozenset(pair) for a, b, _ in self.tracer.edges for pair in zip(a.tolist(), b.tolist(), strict=True)}
        return all(frozenset(pair) in pairs for pair in zip(first, second, strict=True))

    def why(self) -> list[str]:
        return [reason.why for reason in self.tracer.reasons]


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape))


I2 = torch.tensor([[0, 1], [1, 0], [1, 1]])
I1 = torch.tensor([0, 1])
INDICES: list[tuple[Any, ...]] = [
    (I1,),
    (slice(None), I1),
    (slice(None), I2),
    (slice(None), I2, I1),
    (I1, slice(None), I1),
    (I1, slice(None), I2),
    (slice(None), I1, slice(None), I1),
    (slice(None), slice(None), I1, I2),
    (0, I1),
    (0, slice(None), I1),
    (I1, None, I1),
    (None, I2, slice(None), I1),
    (Ellipsis, I2),
    (I1, 0),
    (slice(None), torch.tensor([True, False, True])),
    (slice(None), torch.tensor([[True, False, True, False]] * 3)),
    (torch.tensor(1), slice(None), I1),
]


@pytest.mark.parametrize("index", INDICES, ids=lambda index: " ".join(map(_name, index)))
def test_axes_that_are_not_indexed_keep_their_labels_where_torch_puts_them(index: tuple[Any, ...]) -> None:
    x = weight(2, 3, 4, 5)
    mask = any(isinstance(item, Tensor) and item.dtype == torch.bool for item in index)
    traced = Indexed(lambda x: x[index], x, real=mask)
    for axis, size in enumerate(x.shape):
        # Along one axis the values are its labels, so that indexing shows where the axis goes.
        labels = traced.axis(0, axis)
        values = torch.tensor(labels).reshape([-1 if one == axis else 1 for one in range(4)]).expand(x.shape)
        moved = values[index]
        found = [place for place, row in enumerate(traced.rows) if row is not None and set(row) <= set(labels)]
        if traced.stays(0, axis):
            assert not found
            continue
        assert len(found) == 1
        assert moved.shape == traced.out.shape
        row = torch.tensor(traced.rows[found[0]]).reshape([-1 if one == found[0] else 1 for one in range(moved.dim())])
        assert torch.equal(moved, row.expand(moved.shape))
        assert traced.zero[found[0]]
        assert len(labels) == size


LISTS: list[Any] = [
    [1, 0],
    (slice(None), [2, 1, 0]),
    (slice(None), (2, 1, 0)),
    (slice(None), range(2)),
    (slice(None), np.array([2, 1, 0])),
    (slice(None), []),
    (slice(None), [[0, 1], [2, 2]]),
    ([1, 0], slice(None), [0, 1]),
    (Ellipsis, [True, False, True, False, True]),
    (Ellipsis, [[True, False, True, False]] * 3, slice(1, 3)),
]


@pytest.mark.parametrize("index", LISTS, ids=repr)
def test_lists_of_numbers_are_indices_like_tensors(index: Any) -> None:
    def as_tensors(x: Tensor) -> Tensor:
        items = index if isinstance(index, tuple) else (index,)
        return x[tuple(item if isinstance(item, slice | type(...)) else torch.tensor(item).to(kind) for item in items)]

    def facts(function: Callable[[Tensor], Tensor]) -> tuple[Any, ...]:
        traced = Indexed(function, weight(2, 3, 4, 5), real=kind == torch.bool)
        stays = [traced.stays(0, axis) for axis in range(4)]
        return traced.tracer.escaped, traced.out.shape, traced.rows, traced.zero, stays

    kind = torch.bool if "True" in repr(index) else torch.long
    listed = facts(lambda x: (2 * x)[index])
    assert listed == facts(lambda x: as_tensors(2 * x))
    assert not listed[0]


def test_a_list_of_numbers_is_written_to() -> None:
    def run(x: Tensor, y: Tensor) -> Tensor:
        x = 2 * x
        x[:, [0, 2]] = y
        return x

    traced = Indexed(run, weight(4, 3, 5), weight(4, 2, 5))
    assert not traced.tracer.escaped
    assert [traced.stays(0, axis) for axis in range(3)] == [False, True, False]
    assert traced.tied(traced.axis(0, 0), traced.axis(1, 0))


def test_an_attribute_in_a_list_of_numbers_has_to_stay() -> None:
    def group_of_first(index: Callable[[Any], Any]) -> Any:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 3)

            def forward(self, x: Tensor) -> Tensor:
                return self.second(self.first(x)[index(self.first.out_features)].relu())

        return next((one for one in trace(Net(), torch.zeros(9, 4)).prunable if one.name == "first"), None)

    assert group_of_first(lambda _: [0, 8]) is not None
    assert group_of_first(lambda width: [0, width]) is None


def _name(item: Any) -> str:
    return f"{item.dtype}{list(item.shape)}" if isinstance(item, Tensor) else repr(item)


@pytest.mark.parametrize("axis", [0, 1])
def test_index_select_keeps_the_other_axis(axis: int) -> None:
    traced = Indexed(lambda x: x.index_select(axis, I1), weight(2, 3))
    assert traced.stays(0, axis)
    assert not traced.stays(0, 1 - axis)
    assert traced.rows[1 - axis] == traced.axis(0, 1 - axis)
    assert traced.rows[axis] is None


def test_a_buffer_that_indexes_is_named() -> None:
    traced = Indexed(lambda x, order: x[:, order], weight(2, 3), torch.tensor([2, 0, 1]))
    assert traced.stays(0, 1)
    assert traced.stays(1, 0)
    assert not traced.stays(0, 0)
    assert "its positions are chosen by the index buffer 1, whose values would have to change" in traced.why()


def test_take_keeps_everything() -> None:
    traced = Indexed(lambda x: x.take(I1), weight(2, 3))
    assert traced.stays(0, 0)
    assert traced.stays(0, 1)


def test_gather_with_an_index_that_is_expanded_to_the_size() -> None:
    traced = Indexed(lambda x: x.gather(1, I1[None, :, None].expand(2, 2, x.shape[2])), weight(2, 3, 4))
    assert traced.stays(0, 0)  # 2 is written in the forward
    assert traced.stays(0, 1)


def test_gather_frees_what_the_index_is_made_for() -> None:
    index = nn.Parameter(torch.zeros(2, 2, 4))
    traced = Indexed(lambda x, y: x.gather(1, (y > 0).long()), weight(2, 3, 4), index)
    assert traced.stays(0, 1)
    assert not traced.stays(0, 0)
    assert traced.tied(traced.axis(0, 2), traced.axis(1, 2))
    assert traced.rows == [traced.axis(0, 0), traced.axis(1, 1), traced.axis(0, 2)]
    assert traced.zero == (True, False, True)


def test_gather_from_the_first_positions() -> None:
    traced = Indexed(lambda x: x.gather(0, torch.zeros(1, 2, dtype=torch.long)), weight(2, 3))
    assert traced.stays(0, 0)
    assert traced.stays(0, 1)


@pytest.mark.parametrize("name", ["scatter", "scatter_add"])
def test_scatter_unites_the_other_axes(name: str) -> None:
    def run(x: Tensor, y: Tensor) -> Tensor:
        return getattr(x, name)(1, (y > 0).long(), y)

    traced = Indexed(run, weight(2, 3), weight(2, 3))
    assert traced.stays(0, 1)
    assert traced.stays(1, 1)
    assert not traced.stays(0, 0)
    assert traced.tied(traced.axis(0, 0), traced.axis(1, 0))
    assert traced.zero == (True, False)


@pytest.mark.parametrize(("value", "zero"), [(0.0, True), (1.0, False)])
def test_scatter_of_a_number(value: float, zero: bool) -> None:
    traced = Indexed(lambda x, y: x.scatter(1, (y > 0).long(), value), weight(2, 3), weight(2, 3))
    assert traced.zero == (zero, False)


@pytest.mark.parametrize("name", ["index_add", "index_copy"])
def test_index_add_unites_the_other_axes(name: str) -> None:
    traced = Indexed(lambda x, y: getattr(x, name)(0, I1, y), weight(4, 3), weight(2, 3))
    assert traced.stays(0, 0)
    assert traced.stays(1, 0)
    assert traced.tied(traced.axis(0, 1), traced.axis(1, 1))
    assert not traced.stays(0, 1)
    assert traced.zero == (False, True)


def test_index_fill_is_zero_with_zero() -> None:
    assert Indexed(lambda x: x.index_fill(0, I1, 0.0), weight(4, 3)).zero == (True, True)
    assert Indexed(lambda x: x.index_fill(0, I1, 1.0), weight(4, 3)).zero == (False, False)


@pytest.mark.parametrize("accumulate", [False, True])
def test_index_put_unites_the_axes_that_are_not_indexed(accumulate: bool) -> None:
    def run(x: Tensor, y: Tensor) -> Tensor:
        return x.index_put((I2,), y, accumulate=accumulate)

    traced = Indexed(run, weight(4, 5), weight(3, 2, 5))
    assert traced.stays(0, 0)
    assert traced.stays(1, 0)
    assert traced.stays(1, 1)
    assert traced.tied(traced.axis(0, 1), traced.axis(1, 2))
    assert not traced.stays(0, 1)
    assert traced.zero == (False, True)


def test_index_put_of_repeated_values() -> None:
    traced = Indexed(lambda x, y: x.index_put((I1,), y), weight(4, 5), weight(2, 1))
    assert traced.stays(1, 1)
    assert not traced.stays(0, 1)
    assert traced.zero == (False, False)


def test_index_put_of_nobodys_values_keeps_the_axis() -> None:
    traced = Indexed(lambda x: x.index_put((I1,), torch.ones(2, 5)), weight(4, 5))
    assert traced.stays(0, 1)


def test_index_put_apart() -> None:
    def run(x: Tensor, y: Tensor) -> Tensor:
        x = x.clone()
        x[I1, :, I1] = y
        return x

    traced = Indexed(run, weight(4, 5, 6), weight(2, 5))
    assert [traced.stays(0, axis) for axis in range(3)] == [True, False, True]
    assert traced.tied(traced.axis(0, 1), traced.axis(1, 1))


def test_masks_that_depend_on_values_keep_everything() -> None:
    x = weight(2, 3)
    tracer = Tracer()
    tracer.register("x", x)
    tracer.begin(real=True)
    with torch.no_grad(), Operations(tracer), Functions(tracer):
        out = x.masked_select(x > -1)
        places = x.nonzero()
    assert tracer.rows(out) == (None,)
    assert tracer.rows(places) == (None, None)
    frozen = {label for row, _ in tracer.frozen for label in row.tolist()}
    assert frozen >= set(np.arange(1, 6).tolist())


def test_take_along_dim_is_a_gather() -> None:
    traced = Indexed(lambda x, y: (2 * x).take_along_dim((y > 0).long(), 1), weight(2, 3), weight(2, 1))
    assert traced.stays(0, 1)
    assert traced.rows[0] == traced.axis(0, 0)
