"""Elements to units and back: sums over all that goes with a unit, masks of what goes, counts of it."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.structure.counts import (
    buffers_of_units,
    entries_of_groups,
    entries_prunable,
    macs_of_units,
    parameters_of_units,
)
from sparsewood.structure.groups import assemble
from sparsewood.structure.log import Call
from sparsewood.structure.structure import Structure
from sparsewood.structure.tracer import Tracer
from sparsewood.structure.units import to_masks, to_units
from sparsewood.types import Masks


def assembled(
    model: nn.Module, *edges: tuple[str, int, str, int], frozen: tuple[tuple[str, int], ...] = ()
) -> Structure:
    """The structure of a network whose axes are coupled in pairs, position by position."""
    tracer = Tracer()
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    for name, tensor in tensors.items():
        tracer.register(name, tensor)
        tracer.used.add(name)
    rows = {(span.param, span.axis): np.arange(span.start, span.start + span.size) for span in tracer.spans}
    for first, axis, second, other in edges:
        tracer.unite(rows[first, axis], rows[second, other])
        if other == 1:
            tracer.consume(rows[second, other])
    for place in frozen:
        tracer.freeze(rows[place], "it is held")
    return assemble(tracer)


class Holder(nn.Module):
    """Parameters and buffers of given shapes."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], buffers: dict[str, tuple[int, ...]] | None = None) -> None:
        super().__init__()
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.zeros(shape)))
        for name, shape in (buffers or {}).items():
            self.register_buffer(name, torch.zeros(shape))


def two_layers() -> Structure:
    """first[3, 2] and its bias make 3 units that second[2, 3] reads; inputs and outputs stay."""
    model = Holder({"first": (3, 2), "bias": (3,), "second": (2, 3)}, {"mean": (3,)})
    edges = [("first", 0, "bias", 0), ("first", 0, "second", 1), ("first", 0, "mean", 0)]
    return assembled(model, *edges, frozen=(("first", 1), ("second", 0)))


CALL = Call(None, "product", (), {})

SCORES = {
    "first": torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
    "bias": torch.tensor([10.0, 20.0, 30.0]),
    "second": torch.tensor([[100.0, 200.0, 300.0], [1000.0, 2000.0, 3000.0]]),
}


@pytest.mark.parametrize(
    ("reduction", "part", "expected"),
    [
        ("sum", "group", [1113.0, 2227.0, 3341.0]),
        ("sum", "producers", [13.0, 27.0, 41.0]),
        ("mean", "group", [1113 / 5, 2227 / 5, 3341 / 5]),
        ("mean", "producers", [13 / 3, 9.0, 41 / 3]),
        ("max", "group", [1000.0, 2000.0, 3000.0]),
        ("max", "producers", [10.0, 20.0, 30.0]),
        ("l2", "producers", [105**0.5, 425**0.5, 961**0.5]),
    ],
)
def test_two_layers_by_heart(reduction: Any, part: Any, expected: list[float]) -> None:
    units = to_units(two_layers(), SCORES, reduction=reduction, part=part)
    assert list(units) == ["first"]
    assert units["first"].dtype == torch.float64
    torch.testing.assert_close(units["first"], torch.tensor(expected, dtype=torch.float64))


def test_what_has_no_scores_adds_nothing() -> None:
    only = to_units(two_layers(), {"bias": SCORES["bias"]}, reduction="mean")
    assert only["first"].tolist() == [10.0, 20.0, 30.0]
    of_buffer = to_units(two_layers(), {"mean": torch.tensor([1, 2, 3])})
    assert of_buffer["first"].tolist() == [1.0, 2.0, 3.0]


def square() -> Structure:
    """Unit j owns row j and column j of stream[3, 3] and row j of extra[3, 4]."""
    model = Holder({"stream": (3, 3), "extra": (3, 4)})
    return assembled(model, ("stream", 0, "stream", 1), ("stream", 0, "extra", 0), frozen=(("extra", 1),))


def test_an_element_on_two_axes_counts_once() -> None:
    scores = {"stream": torch.arange(1.0, 10.0).reshape(3, 3)}
    assert to_units(square(), scores)["stream"].tolist() == [6 + 12 - 1, 15 + 15 - 5, 24 + 18 - 9]
    mean = to_units(square(), scores, reduction="mean")["stream"]
    assert mean.tolist() == [17 / 5, 5.0, 33 / 5]
    assert to_units(square(), scores, reduction="max")["stream"].tolist() == [7.0, 8.0, 9.0]
    squares = to_units(square(), scores, reduction="l2")["stream"].square()
    assert squares.round().tolist() == [1 + 4 + 9 + 16 + 49, 4 + 16 + 25 + 36 + 64, 9 + 36 + 81 + 49 + 64]
    assert parameters_of_units(square())["stream"].tolist() == [9, 9, 9]


def test_masks_of_two_layers() -> None:
    masks = to_masks(two_layers(), {"first": [True, False, True]})
    assert isinstance(masks, Masks)
    assert list(masks) == ["first", "bias", "second"]
    assert masks["first"].tolist() == [[True, True], [False, False], [True, True]]
    assert masks["bias"].tolist() == [True, False, True]
    assert masks["second"].tolist() == [[True, False, True], [True, False, True]]


def test_decisions_as_tensors_arrays_and_lists_are_the_same() -> None:
    expected = to_masks(two_layers(), {"first": [True, False, True]})
    assert to_masks(two_layers(), {"first": np.array([True, False, True])}) == expected
    assert to_masks(two_layers(), {"first": torch.tensor([True, False, True])}) == expected


def frozen_name(structure: Structure) -> str:
    return next(group.name for group in structure.groups if group.frozen_by)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"first": [0, 2]}, r"keep\['first'\] must be 3 truth values.*Got int64\[2\].*mask\[numbers\] = True"),
        ({"first": [True, False]}, r"Got bool\[2\]"),
        ({"first": torch.ones(3)}, r"Got float32\[3\]"),
        ({"firts": [True] * 3}, "Unknown group 'firts'. Did you mean 'first'"),
        ([True], "'keep' must map names of groups"),
    ],
)
def test_decisions_that_are_refused(keep: Any, message: str) -> None:
    with pytest.raises(SparsewoodError, match=message):
        to_masks(two_layers(), keep)


def test_frozen_groups_say_why() -> None:
    structure = two_layers()
    name = frozen_name(structure)
    with pytest.raises(SparsewoodError, match=f"The units of group '{name}' cannot be removed: it is held"):
        to_masks(structure, {name: [True] * structure.group(name).units})


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"frist": torch.ones(3, 2)}, "Unknown parameter 'frist'. Did you mean 'first'"),
        ({"first": torch.ones(2, 3)}, r"'first' have shape \(2, 3\), the parameter has \(3, 2\)"),
        ({"first": [1.0]}, "must be a tensor of real numbers. Got list"),
        ({}, r"of the empty mapping, none has units that can be removed. Those that have: 'first', 'bias'"),
        (torch.ones(3), "must map names of parameters to tensors. Got Tensor"),
    ],
)
def test_scores_that_are_refused(scores: Any, message: str) -> None:
    with pytest.raises(SparsewoodError, match=message):
        to_units(two_layers(), scores)


def test_settings_that_are_refused() -> None:
    with pytest.raises(SparsewoodError, match="'reduction' parameter of to_units must be 'sum', 'mean', 'max' or 'l2'"):
        to_units(two_layers(), SCORES, reduction="average")  # pyright: ignore
    with pytest.raises(SparsewoodError, match=r"'part' .* must be 'group' or 'producers'. Got 'all'"):
        to_units(two_layers(), SCORES, part="all")  # pyright: ignore
    with pytest.raises(SparsewoodError, match="none has elements that make units"):
        to_units(two_layers(), {"second": SCORES["second"]}, part="producers")
    everything = tuple((name, axis) for name, axis in [("first", 0), ("first", 1), ("second", 0)])
    held = assembled(Holder({"first": (3, 2), "second": (2, 3)}), ("first", 0, "second", 1), frozen=everything)
    with pytest.raises(SparsewoodError, match="No unit of this structure can be removed"):
        to_units(held, {"first": torch.ones(3, 2)})


def test_unknown_names_have_their_own_error() -> None:
    with pytest.raises(UnknownName):
        to_units(two_layers(), {"nothing": torch.ones(1)})
    with pytest.raises(UnknownName):
        to_masks(two_layers(), {"nothing": [True]})


# ---------------------------------------------------------------- any structure


@st.composite
def structures(draw: st.DrawFn) -> tuple[Structure, dict[str, Tensor]]:
    """Tensors whose positions are coupled and frozen at random, and integer scores for them."""
    shape = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)
    shapes = draw(st.lists(shape, min_size=1, max_size=4))
    model = Holder({f"p{i}": one for i, one in enumerate(shapes)}, {"b": draw(shape)})
    tracer = Tracer()
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        tracer.register(name, tensor)
        tracer.used.add(name)
    label = st.integers(1, tracer.count - 1)
    for first, second in draw(st.lists(st.tuples(label, label), max_size=12)):
        tracer.unite(np.array([first]), np.array([second]))
    frozen = draw(st.sets(label, max_size=4))
    tracer.freeze(np.array(sorted(frozen), np.int64), "it is held")
    rows = st.lists(st.integers(0, tracer.count - 1), min_size=1, max_size=5).map(np.array) | st.none()
    for factors in draw(st.lists(st.lists(rows, min_size=1, max_size=3), max_size=3)):
        tracer.calls.append(CALL)
        tracer.cost(*((3 if row is None else len(row), row) for row in factors))
    structure = assemble(tracer)
    seed = draw(st.integers(0, 999))
    generator = torch.Generator().manual_seed(seed)
    scores = {
        name: torch.randint(-9, 9, shape, generator=generator).float() for name, shape in structure.shapes.items()
    }
    return structure, scores


def alone(structure: Structure, group: str, unit: int) -> dict[str, np.ndarray]:
    keep = np.ones(structure.group(group).units, bool)
    keep[unit] = False
    return {group: keep}


def elements_of(structure: Structure, group: str, unit: int, name: str) -> Tensor:
    """Which elements of a tensor go with a unit, by marking them one by one."""
    marked = torch.zeros(structure.shapes[name], dtype=torch.bool)
    for one in structure.group(group).slices:
        if one.param == name:
            for position in np.flatnonzero(one.owner == unit).tolist():
                marked.select(one.axis, position).fill_(True)
    return marked


@given(structures())
def test_scores_and_counts_are_those_of_the_elements_that_go(made: tuple[Structure, dict[str, Tensor]]) -> None:
    structure, scores = made
    if not structure.prunable:
        return
    found = {how: to_units(structure, scores, reduction=how) for how in ("sum", "mean", "max", "l2")}  # pyright: ignore
    parameters, buffers = parameters_of_units(structure), buffers_of_units(structure)
    for group in structure.prunable:
        for unit in range(group.units):
            parts = {name: scores[name][elements_of(structure, group.name, unit, name)] for name in scores}
            every = torch.cat(list(parts.values())).double()
            assert found["sum"][group.name][unit] == every.sum()
            assert found["max"][group.name][unit] == every.max()
            torch.testing.assert_close(found["mean"][group.name][unit], every.mean())
            torch.testing.assert_close(found["l2"][group.name][unit], every.norm())
            assert buffers[group.name][unit] == len(parts.pop("b"))
            assert parameters[group.name][unit] == sum(map(len, parts.values()))


@given(structures())
def test_masks_remove_as_many_entries_as_are_counted(made: tuple[Structure, dict[str, Tensor]]) -> None:
    structure, _ = made
    everything = {group.name: np.ones(group.units, bool) for group in structure.prunable}
    assert to_masks(structure, everything).removed == 0
    gone: dict[str, Tensor] = {}
    counts, entries = parameters_of_units(structure), entries_of_groups(structure)
    for group in structure.prunable:
        with pytest.raises(SparsewoodError, match="at least one unit must stay"):
            to_masks(structure, {group.name: ~everything[group.name]})
        mine: dict[str, Tensor] = {}
        for unit in range(group.units if group.units > 1 else 0):
            masks = to_masks(structure, alone(structure, group.name, unit))
            assert masks.removed == counts[group.name][unit]
            for name, mask in masks.items():
                mine[name] = mine.get(name, torch.zeros_like(mask)) | ~mask
                gone[name] = gone.get(name, torch.zeros_like(mask)) | ~mask
        assert group.units == 1 or sum(int(one.sum()) for one in mine.values()) == entries[group.name]
    if all(group.units > 1 for group in structure.prunable):
        prunable = entries_prunable(structure)
        assert {name: int(one.sum()) for name, one in gone.items()} == {name: prunable[name] for name in gone}


def test_scores_that_are_no_numbers_are_refused() -> None:
    structure = two_layers()
    scores = {name: torch.ones(structure.shapes[name]) for name in structure.shapes}
    name = next(iter(scores))
    scores[name].view(-1)[0] = torch.nan
    with pytest.raises(SparsewoodError, match=rf"1 of \d+ scores of '{name}' are NaN: selecting by them would mean"):
        to_units(structure, scores)


@given(structures())
def test_multiply_adds_that_go_are_those_of_the_shorter_factors(made: tuple[Structure, dict[str, Tensor]]) -> None:
    structure, _ = made
    record, counts = structure.record, macs_of_units(structure)
    assert counts.keys() == {group.name for group in structure.prunable}
    for number, group in enumerate(structure.prunable):
        for unit in range(group.units):
            expected = 0
            for cost in record.costs:
                left = [
                    sum(
                        not (
                            label
                            and (record.group_of[record.component[label]], record.unit_of[record.component[label]])
                            == (number, unit)
                        )
                        for label in (row if row is not None else np.zeros(size, int)).tolist()
                    )
                    for size, row in zip(cost.sizes, cost.rows, strict=True)
                ]
                expected += prod(cost.sizes) - prod(left)
            assert counts[group.name][unit] == expected


# ---------------------------------------------------------------- size


def test_large_tensors_are_summed_piece_by_piece() -> None:
    model = Holder({"wide": (3000, 1000), "next": (2, 3000)})
    structure = assembled(model, ("wide", 0, "next", 1), frozen=(("wide", 1), ("next", 0)))
    assert torch.equal(
        to_units(structure, {"wide": torch.ones(3000, 1000)})["wide"], torch.full((3000,), 1000.0).double()
    )
    turned = assembled(model, ("wide", 0, "next", 1), frozen=(("wide", 0), ("next", 0)))
    largest = torch.zeros(3000, 1000)
    largest[2999, 7] = 5.0
    assert int(to_units(turned, {"wide": largest}, reduction="max")["wide"].argmax()) == 7
