"""Amounts, statistics, masks."""

from __future__ import annotations

import copy
import hashlib
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.testing import strategies
from sparsewood.types import Compression, Count, Density, Masks, Remaining, Sparsity, Statistics, as_amount

SHAPES = {"a": (3, 5), "b": (7,), "c.weight": (2, 2, 1, 3)}
some_masks = strategies.masks(SHAPES)


def mask(*bits: int) -> torch.Tensor:
    return torch.tensor(bits, dtype=torch.bool)


# ---------------------------------------------------------------- amounts


@pytest.mark.parametrize("kind", [Sparsity, Density, Remaining])
@pytest.mark.parametrize("value", [-0.1, 1.0001, math.nan, math.inf, True, False, "0.5", None, 50])
def test_fractions_outside_0_1(kind: type, value: object) -> None:
    with pytest.raises(SparsewoodError, match=rf"{kind.__name__} must be a number in \[0, 1\]. Got {value!r} instead"):
        kind(value)


@pytest.mark.parametrize("value", [-1, 1.5, True, "3", None, math.nan])
def test_counts_that_are_none(value: object) -> None:
    with pytest.raises(SparsewoodError, match=rf"Count must be a whole number >= 0. Got {value!r} instead"):
        Count(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0.5, 0, -2, math.inf, math.nan, True, "4"])
def test_compressions_below_1(value: object) -> None:
    with pytest.raises(SparsewoodError, match=rf"Compression must be a finite ratio >= 1. Got {value!r} instead"):
        Compression(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [True, False, np.bool_(True), "0.5", None, [0.5], 1j, torch.tensor(0.5)])
def test_amounts_that_are_none(value: object) -> None:
    """[7.19] A bool is not a count."""
    with pytest.raises(SparsewoodError, match=r"An amount must be an int .count., a float in .0, 1. .sparsity."):
        as_amount(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "amount"),
    [
        (0, Count(0)),
        (3, Count(3)),
        (1, Count(1)),
        (1.0, Sparsity(1.0)),
        (0.25, Sparsity(0.25)),
        (np.int64(3), Count(3)),
        (np.float32(0.5), Sparsity(0.5)),
        (Density(0.1), Density(0.1)),
    ],
)
def test_ints_are_counts_and_floats_fractions(value: object, amount: object) -> None:
    """[002-02]"""
    assert as_amount(value) == amount  # type: ignore[arg-type]


def test_amounts_out_of_range_are_refused_when_given_plainly() -> None:
    with pytest.raises(SparsewoodError, match=r"Sparsity .*Got 1.5"):
        as_amount(1.5)
    with pytest.raises(SparsewoodError, match=r"Count .*Got -3"):
        as_amount(-3)


# ---------------------------------------------------------------- statistics


def statistics(value: float, samples: int, name: str = "w") -> Statistics:
    return Statistics({"gradient": {name: torch.tensor([value, 2 * value])}}, samples)


def test_statistics_add_up() -> None:
    a, b, c = statistics(1, 2), statistics(10, 3), statistics(100, 4)
    left, right = (a + b) + c, a + (b + c)
    assert left.samples == right.samples == 9
    assert left.get("gradient", "w").tolist() == right.get("gradient", "w").tolist() == [111.0, 222.0]
    assert a.get("gradient", "w").tolist() == [1.0, 2.0]


def test_statistics_of_other_parameters_do_not_add() -> None:
    with pytest.raises(SparsewoodError, match=r"same kinds over the same parameters"):
        statistics(1, 1) + statistics(1, 1, name="v")


def test_statistics_that_were_not_collected() -> None:
    with pytest.raises(UnknownName, match=r"Unknown statistic 'gradeint'. Did you mean 'gradient'"):
        statistics(1, 1).get("gradeint", "w")
    with pytest.raises(UnknownName, match="Unknown parameter with statistic 'gradient' 'v'"):
        statistics(1, 1).get("gradient", "v")


# ---------------------------------------------------------------- masks


def test_masks_count() -> None:
    """[002-08] zeros / numel over the masked parameters."""
    masks = Masks({"a": mask(1, 0, 0, 1), "b": mask(0, 0)})
    assert (masks.total, masks.removed, masks.sparsity) == (6, 4, 4 / 6)
    assert masks.layer_sparsity() == {"a": 0.5, "b": 1.0}
    assert repr(masks) == "Masks(2 tensors, 4 of 6 removed, sparsity 0.6667)"


def test_no_masks_at_all() -> None:
    masks = Masks({})
    assert (masks.total, masks.removed, masks.sparsity, masks.layer_sparsity()) == (0, 0, 0.0, {})
    assert Masks({"e": torch.ones(0, dtype=torch.bool)}).layer_sparsity() == {"e": 0.0}


@pytest.mark.parametrize(
    ("bad", "got"),
    [(torch.ones(2), "torch.float32"), ([True], "list"), (torch.ones(2, dtype=torch.uint8), "torch.uint8")],
)
def test_masks_are_boolean_tensors(bad: object, got: str) -> None:
    with pytest.raises(SparsewoodError, match=f"Mask 'w' must be a boolean tensor. Got {got}"):
        Masks({"w": bad})  # type: ignore[dict-item]


def test_later_writes_of_the_caller_change_nothing() -> None:
    tensor = mask(1, 1, 0)
    source = {"w": tensor}
    masks = Masks(source)
    before = masks.fingerprint()
    tensor[0] = False
    source["v"] = tensor
    assert masks.fingerprint() == before
    with pytest.raises(TypeError):
        masks.tensors["w"] = tensor  # type: ignore[index]
    with pytest.raises(AttributeError):
        masks.tensors = {}  # type: ignore[misc]


@given(some_masks, some_masks, some_masks)
def test_and_is_a_semilattice(a: Masks, b: Masks, c: Masks) -> None:
    assert a & b == b & a
    assert (a & b) & c == a & (b & c)
    assert a & a == a
    assert (a & b).removed >= max(a.removed, b.removed)


def test_and_keeps_masks_that_only_one_has() -> None:
    both = Masks({"a": mask(1, 0)}) & Masks({"b": mask(0, 1)})
    assert both == Masks({"a": mask(1, 0), "b": mask(0, 1)})


def test_and_of_other_shapes() -> None:
    with pytest.raises(SparsewoodError, match=r"Masks of 'a' have different shapes: \(2,\) and \(3,\)"):
        Masks({"a": mask(1, 0)}) & Masks({"a": mask(1, 0, 1)})


@given(some_masks)
def test_copies_are_equal(masks: Masks) -> None:
    for other in (pickle.loads(pickle.dumps(masks)), copy.deepcopy(masks), copy.copy(masks), Masks(masks)):
        assert other == masks
        assert hash(other) == hash(masks)
        assert other.fingerprint() == masks.fingerprint()


@given(some_masks, st.data())
def test_fingerprint_sees_every_bit(masks: Masks, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(SHAPES)))
    place = data.draw(st.integers(0, masks[name].numel() - 1))
    flipped = masks[name].clone()
    flipped.view(-1)[place] ^= True
    other = Masks(dict(masks) | {name: flipped})
    assert other.fingerprint() != masks.fingerprint()
    assert other != masks


def test_fingerprint_is_fixed() -> None:
    """The same on any machine and in any version: files carry it."""
    masks = Masks({"b": mask(1, 0, 1), "a": torch.ones(2, 2, dtype=torch.bool)})
    reordered = Masks({"a": torch.ones(2, 2, dtype=torch.bool), "b": mask(1, 0, 1)})
    assert masks.fingerprint() == reordered.fingerprint() == GOLDEN
    assert masks.fingerprint() != Masks({"b": mask(1, 0, 1), "a": torch.ones(4, dtype=torch.bool)}).fingerprint()
    assert masks.fingerprint() != Masks({"c": mask(1, 0, 1), "a": torch.ones(2, 2, dtype=torch.bool)}).fingerprint()


GOLDEN = hashlib.sha256(b"a(2, 2)\xf0b(3,)\xa0").hexdigest()


def test_memory_format_does_not_matter() -> None:
    dense = torch.rand(2, 3, 4, 5) < 0.5
    assert Masks({"w": dense}) == Masks({"w": dense.to(memory_format=torch.channels_last)})
    assert Masks({"w": dense}).fingerprint() == Masks({"w": dense.to(memory_format=torch.channels_last)}).fingerprint()


def test_packed_bits() -> None:
    assert Masks({"w": mask(1, 0, 0, 0, 0, 0, 0, 1, 1)}).packed()["w"].tolist() == [0b10000001, 0b10000000]


def test_masks_are_not_equal_to_other_things() -> None:
    assert Masks({"w": mask(1)}) != {"w": mask(1)}
    assert Masks({"w": mask(1)}) != Masks({"w": mask(1, 1)})
    assert Masks({"w": mask(1)}) != Masks({})
