"""Units: what they are, in every direction."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparsewood import granularity as module
from sparsewood.criteria import Magnitude
from sparsewood.errors import SparsewoodError
from sparsewood.granularity import (
    NM,
    Block,
    Channel,
    Column,
    Coupled,
    Element,
    Filter,
    Granularity,
    Kernel,
    Row,
    Units,
    Vector,
    grid,
    to_elements,
    to_units,
)
from sparsewood.pruning import prune
from sparsewood.testing import check_granularity

EXAMPLES: dict[str, list[Granularity]] = {
    "NM": [NM(2, 4), NM(1, 2, axis=0), NM(0, 1), NM(4, 4), NM(1, 2, axis=-1)],
    "Block": [Block((2, 2)), Block((4,)), Block((1, 1))],
    "Units": [Units((0,)), Units((0, 2, 3)), Units((1,))],
    "Vector": [Vector(), Vector((0, 1, 2))],
}


@pytest.mark.parametrize(
    "granularity",
    [g for name in module.__all__ if name != "Coupled" for g in EXAMPLES.get(name) or [getattr(module, name)()]],
    ids=str,
)
def test_contract(granularity: Granularity) -> None:
    check_granularity(granularity)


def test_coupled_units_have_no_shape_in_one_parameter() -> None:
    with pytest.raises(SparsewoodError, match="prune_units"):
        Coupled().tile((4, 4))
    with pytest.raises(SparsewoodError, match="prune_units"):
        prune(torch.nn.Linear(4, 4), Magnitude(), 0.5, granularity=Coupled())


@pytest.mark.parametrize(
    ("granularity", "shape", "tile", "units"),
    [
        (Element(), (8, 4, 3, 3), (1, 1, 1, 1), 288),
        (Filter(), (8, 4, 3, 3), (1, 4, 3, 3), 8),
        (Channel(), (8, 4, 3, 3), (8, 1, 3, 3), 4),
        (Kernel(), (8, 4, 3, 3), (1, 1, 3, 3), 32),
        (Vector(), (8, 4, 3, 3), (1, 4, 1, 3), 24),
        (Vector((0, 1, 2)), (8, 4, 3, 3), (1, 1, 1, 3), 96),
        (Row(), (8, 4), (1, 4), 8),
        (Column(), (8, 4), (8, 1), 4),
        (Block((2, 2)), (8, 4), (2, 2), 8),
        (Block((4, 2)), (8, 4, 3, 3), (4, 2, 3, 3), 4),
        (Filter(), (8,), (1,), 8),
    ],
    ids=str,
)
def test_tiles_by_hand(granularity: Granularity, shape: tuple[int, ...], tile: tuple[int, ...], units: int) -> None:
    """[004-03] (out, kh) and (out, in, kh); [004-04] kernels."""
    assert granularity.tile(shape) == tile
    assert math.prod(grid(shape, tile)) == units


@st.composite
def tilings(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    tile = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    counts = draw(st.lists(st.integers(1, 4), min_size=len(tile), max_size=len(tile)))
    return tuple(n * step for n, step in zip(counts, tile, strict=True)), tuple(tile)


def tiles(elements: Tensor, tile: tuple[int, ...]) -> dict[tuple[int, ...], Tensor]:
    """Each unit's elements, cut out by slicing."""
    counts = grid(elements.shape, tile)
    return {
        place: elements[tuple(slice(i * step, (i + 1) * step) for i, step in zip(place, tile, strict=True))]
        for place in torch.cartesian_prod(*[torch.arange(n) for n in counts]).reshape(-1, len(counts)).tolist()
        for place in [tuple(place)]
    }


@given(tilings(), st.sampled_from(["sum", "amax", "first"]))
def test_reductions_equal_slicing(tiling: tuple[tuple[int, ...], tuple[int, ...]], reduction: str) -> None:
    shape, tile = tiling
    elements = torch.randint(-9, 9, shape, generator=torch.Generator().manual_seed(0)).double()
    units = to_units(elements, tile, reduction)  # type: ignore[arg-type]
    assert units.shape == grid(shape, tile)
    for place, part in tiles(elements, tile).items():
        expected = {"sum": part.sum(), "amax": part.max(), "first": part.reshape(-1)[0]}[reduction]
        assert units[place] == expected


@given(tilings())
def test_spreading_reaches_every_element_of_a_unit_and_no_other(
    tiling: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    shape, tile = tiling
    counts = grid(shape, tile)
    units = torch.arange(math.prod(counts)).reshape(counts)
    for place, part in tiles(to_elements(units, tile), tile).items():
        assert (part == units[place]).all()


def test_non_contiguous_elements() -> None:
    elements = torch.arange(24.0).reshape(4, 6).t()
    assert torch.equal(to_units(elements, (3, 2)), to_units(elements.contiguous(), (3, 2)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NM(5, 4), r"0 <= n <= m.*Got 5:4"),
        (lambda: NM(-1, 4), "Got -1:4"),
        (lambda: NM(0, 0), "Got 0:0"),
        (lambda: NM(1.5, 4), "whole numbers.*Got 1.5:4"),  # type: ignore[arg-type]
        (lambda: NM(2, 4, axis=None), "axis None"),  # type: ignore[arg-type]
        (lambda: Block(()), r"whole numbers >= 1. Got \(\)"),
        (lambda: Block((0, 2)), r"Got \(0, 2\)"),
        (lambda: Block((2.0,)), r"Got \(2.0,\)"),  # type: ignore[arg-type]
        (lambda: Block((True,)), r"Got \(True,\)"),
        (lambda: Units(()), r"Units needs axes, whole numbers >= 0. Got \(\)"),
        (lambda: Units((-1,)), r"Got \(-1,\)"),
        (lambda: Filter(("0",)), r"Filter needs axes"),  # type: ignore[arg-type]
    ],
)
def test_impossible_units(make: object, message: str) -> None:
    with pytest.raises(SparsewoodError, match=message):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    ("granularity", "shape", "message"),
    [
        (NM(2, 4), (8, 6, 3, 3), r"2:4 needs axis 1 divisible by 4. Got 6 in shape \(8, 6, 3, 3\)"),
        (NM(2, 4, axis=3), (8, 4), r"axis 3 does not exist in shape \(8, 4\)"),
        (NM(2, 4, axis=-3), (8, 4), "axis -3 does not exist"),
        (Block((3, 2)), (8, 4), r"Block \(3, 2\) needs axis 0 divisible by 3. Got 8"),
        (Block((2, 2, 2)), (8, 4), "more axes than shape"),
        (Vector(), (8, 4), r"Vector needs axis 2. Shape \(8, 4\) has 2 axes"),
        (Column(), (8,), "Column needs axis 1"),
    ],
    ids=str,
)
def test_shapes_that_do_not_fit(granularity: Granularity, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(SparsewoodError, match=message):
        granularity.tile(shape)


def test_axes_may_be_given_as_a_list() -> None:
    assert Units([0, 1]) == Units((0, 1))  # type: ignore[arg-type]
    assert hash(Block([2, 2])) == hash(Block((2, 2)))  # type: ignore[arg-type]
