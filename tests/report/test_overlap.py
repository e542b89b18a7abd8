"""Overlap of masks: against sets of indices, and by chance against masks drawn at random."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparsewood.errors import SparsewoodError
from sparsewood.report.overlap import chance_overlaps, mask_overlaps, mean_overlap
from sparsewood.types import Masks


def drawn(density: float, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """A random mask with exactly that share kept."""
    mask = torch.zeros(shape, dtype=torch.bool).flatten()
    mask[torch.randperm(mask.numel(), generator=generator)[: round(density * mask.numel())]] = True
    return mask.reshape(shape)


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.integers(1, 4))
def test_indices_are_those_of_the_sets(seed: int, count: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    masks = {
        f"m{number}": Masks(
            {name: torch.rand(shape, generator=generator) < 0.4 for name, shape in (("a", (3, 4)), ("b", (5,)))}
        )
        for number in range(count)
    }
    sets = [
        {(name, tuple(at)) for name, mask in one.items() for at in mask.nonzero().tolist()} for one in masks.values()
    ]
    expected = tuple(tuple(len(a & b) / len(a | b) if a | b else 1.0 for b in sets) for a in sets)
    assert mask_overlaps(masks) == expected


def test_by_chance_is_the_mean_of_random_masks() -> None:
    """The formula, within four standard errors of the mean of what is drawn."""
    generator, shapes = torch.Generator().manual_seed(0), {"a": (20, 30), "b": (40, 50)}
    densities = {"one": {"a": 0.5, "b": 0.1}, "other": {"a": 0.2, "b": 0.3}}

    def masks() -> dict[str, dict[str, Tensor]]:
        return {key: {n: drawn(d[n], shape, generator) for n, shape in shapes.items()} for key, d in densities.items()}

    found = torch.tensor([mask_overlaps(masks())[0][1] for _ in range(400)], dtype=torch.float64)
    both = 600 * 0.5 * 0.2 + 2000 * 0.1 * 0.3
    either = 600 * (0.7 - 0.1) + 2000 * (0.4 - 0.03)
    ((_, chance), _) = chance_overlaps(masks())
    assert chance == pytest.approx(both / either)
    assert abs(float(found.mean()) - chance) < 4 * float(found.std()) / 20


def test_layers_count_by_their_own_densities() -> None:
    """Of the same density overall, masks that keep the same layer overlap by chance, too."""
    full, empty = torch.ones(100, dtype=torch.bool), torch.zeros(100, dtype=torch.bool)
    same = chance_overlaps({"x": {"a": full, "b": empty}, "y": {"a": full, "b": empty}})
    apart = chance_overlaps({"x": {"a": full, "b": empty}, "y": {"a": empty, "b": full}})
    assert (same[0][1], apart[0][1]) == (1.0, 0.0)


def test_nothing_kept_and_no_pairs() -> None:
    nothing = {"w": torch.zeros(3, dtype=torch.bool)}
    assert mask_overlaps({"a": nothing, "b": nothing}) == ((1.0, 1.0), (1.0, 1.0))
    assert chance_overlaps({"a": nothing, "b": nothing}) == ((1.0, 1.0), (1.0, 1.0))
    assert mask_overlaps({}) == ()
    assert mean_overlap(()) is None
    assert mean_overlap(((1, 0.1, 0.2), (0.1, 1, 0.6), (0.2, 0.6, 1))) == pytest.approx(0.3)


def test_masks_of_different_networks_are_refused() -> None:
    one, two = torch.ones(2, dtype=torch.bool), torch.ones(3, dtype=torch.bool)
    for function in (mask_overlaps, chance_overlaps):
        with pytest.raises(SparsewoodError, match=r"'a' and 'b' differ in 'w': \(2,\) and \(3,\)"):
            function({"a": {"w": one}, "b": {"w": two}})
        with pytest.raises(SparsewoodError, match=r"differ in 'v': none and \(2,\)"):
            function({"a": {"w": one}, "b": {"w": one, "v": one}})
        with pytest.raises(SparsewoodError, match="'w' of 'a' must be boolean"):
            function({"a": {"w": torch.ones(2)}})
