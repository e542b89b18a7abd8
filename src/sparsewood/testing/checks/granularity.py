"""The contract of a granularity."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from sparsewood.criteria import Magnitude
from sparsewood.errors import SparsewoodError
from sparsewood.granularity import NM, Granularity, grid, to_elements, to_units
from sparsewood.pruning import prune
from sparsewood.testing.checks.shared import SPARSITIES, check_value, expect, seeded

SHAPES = ((8, 4, 3, 3), (8, 4), (12, 8, 3), (4, 6, 2, 2), (8,), (1, 4, 1, 1))
"""Parameter shapes that granularities are tried on: two- and one-dimensional convolutions, a matrix, a vector."""


def check_granularity(granularity: Granularity) -> None:
    """The contract of a granularity.

    It is a frozen dataclass whose repr rebuilds it. On each of `SHAPES` it either raises `SparsewoodError` or gives a
    tile that divides the shape; each element then belongs to exactly one unit, units of one value come back from the
    elements they were spread over, and pruning keeps exactly as many units as asked and whole ones only.
    """
    check_value(granularity, Granularity)
    fitting = [shape for shape in SHAPES if _fits(granularity, shape)]
    expect(bool(fitting), f"{granularity} fits none of the shapes {SHAPES}")
    for shape in fitting:
        tile = granularity.tile(shape)
        divides = len(tile) == len(shape) and all(
            step > 0 and n % step == 0 for n, step in zip(shape, tile, strict=True)
        )
        expect(divides, f"{granularity}: tile {tile} does not divide shape {shape}")
        units = torch.arange(float(math.prod(grid(shape, tile)))).reshape(grid(shape, tile))
        spread = to_elements(units, tile)
        expect(spread.shape == shape, f"{granularity}: units of {shape} spread to {tuple(spread.shape)}")
        counts = torch.bincount(spread.reshape(-1).long(), minlength=units.numel())
        expect(bool((counts == math.prod(tile)).all()), f"{granularity}: units of shape {shape} differ in size")
        expect(
            torch.equal(to_units(spread, tile, "amax"), units), f"{granularity}: spread and reduced, {shape} differs"
        )
        _check_whole_units(granularity, shape, tile)


def _check_whole_units(granularity: Granularity, shape: tuple[int, ...], tile: tuple[int, ...]) -> None:
    layer = nn.Module()
    layer.weight = nn.Parameter(torch.randn(shape, generator=seeded()))
    amounts = [None] if isinstance(granularity, NM) else SPARSITIES
    for sparsity in amounts:
        given: dict[str, Any] = {} if sparsity is None else {"sparsity": sparsity}
        mask = prune(layer, Magnitude(), granularity=granularity, include="weight", min_units=0, **given)["weight"]
        counts = to_units(mask.long(), tile)
        whole = (counts == 0) | (counts == math.prod(tile))
        expect(bool(whole.all()), f"{granularity}: a unit of shape {shape} was cut")
        kept, total = int((counts > 0).sum()), counts.numel()
        removed = _nm_removed(granularity, total) if sparsity is None else round(sparsity * total)
        expect(kept == total - removed, f"{granularity} at {sparsity}: {kept} of {total} units of {shape} are kept")


def _nm_removed(granularity: Granularity, total: int) -> int:
    assert isinstance(granularity, NM)
    return total * (granularity.m - granularity.n) // granularity.m


def _fits(granularity: Granularity, shape: tuple[int, ...]) -> bool:
    try:
        granularity.tile(shape)
    except SparsewoodError:
        return False
    return True
