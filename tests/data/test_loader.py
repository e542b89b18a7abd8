"""Loaders: order and randomness from seed and epoch alone, cut anywhere, dealt out to ranks. [001-06], regressions 5,
20, 24."""

from __future__ import annotations

from itertools import chain, islice
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparsewood.data import CropFlip, Loader, Part, Pixels, digits
from sparsewood.data.part import Normalization
from sparsewood.errors import SparsewoodError
from sparsewood.seeds import derive


def part_of(count: int) -> Part:
    return Part(Pixels(torch.zeros(count, 1, 2, 2)), torch.arange(count), None, training=True)


def orders(loader: Loader, epoch: int = 0, start: int = 0) -> list[list[int]]:
    return [labels.tolist() for _, labels in loader.epoch(epoch, start)]


def test_without_a_seed_the_order_is_that_of_the_part() -> None:
    loader = Loader(part_of(10), 4)
    assert orders(loader) == orders(loader, 5) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert (len(loader), loader.samples) == (3, 10)
    assert [loader.size(batch) for batch in range(3)] == [4, 4, 2]


def test_the_order_is_drawn_from_seed_and_epoch() -> None:
    loader = Loader(part_of(50), 50, seed=7)
    expected = torch.randperm(50, generator=torch.Generator().manual_seed(derive(7, "order", 3)))
    assert orders(loader, 3) == [expected.tolist()]
    assert orders(loader, 3) != orders(loader, 4)
    assert orders(loader, 3) != orders(Loader(part_of(50), 50, seed=8), 3)
    assert [labels.tolist() for _, labels in loader] == orders(loader, 0)


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 3), st.data())
def test_every_example_once_from_any_batch_on(count: int, size: int, epoch: int, data: st.DataObject) -> None:
    loader = Loader(part_of(count), size, seed=1)
    whole = orders(loader, epoch)
    assert sorted(chain(*whole)) == list(range(count))
    assert [len(batch) for batch in whole] == [loader.size(batch) for batch in range(len(loader))]
    start = data.draw(st.integers(0, len(loader)))
    assert orders(loader, epoch, start) == whole[start:]


def test_an_epoch_goes_on_in_the_middle_bit_for_bit(ten: Part) -> None:
    loader = Loader(ten, 3, seed=0, augment=CropFlip(padding=2))
    whole = [inputs for inputs, _ in loader.epoch(2)]
    for start in range(len(loader) + 1):
        torch.manual_seed(start)  # what others draw does not matter
        rest = [inputs for inputs, _ in loader.epoch(2, start)]
        assert len(rest) == len(whole) - start
        assert all(torch.equal(a, b) for a, b in zip(rest, whole[start:], strict=True))


def test_the_global_random_state_is_neither_read_nor_changed(ten: Part) -> None:
    """Regression 24, also between the batches of an epoch."""
    loader = Loader(ten, 3, seed=0, augment=CropFlip(padding=2))
    before = torch.get_rng_state()
    for _ in loader.epoch(0):
        assert torch.equal(torch.get_rng_state(), before)


# ---------------------------------------------------------------- ranks


@given(st.integers(1, 60), st.integers(1, 16), st.integers(1, 4))
def test_ranks_share_each_batch_as_cards_are_dealt(count: int, size: int, world: int) -> None:
    part = part_of(count)
    whole = orders(Loader(part, size, seed=1), 2)
    if min(size, count % size or size, count) < world:
        with pytest.raises(SparsewoodError, match=rf"too few for {world} ranks"):
            Loader(part, size, seed=1, world=world)
        return
    dealt = [orders(Loader(part, size, seed=1, rank=rank, world=world), 2) for rank in range(world)]
    for batch, together in enumerate(whole):
        assert [hand[batch] for hand in dealt] == [together[rank::world] for rank in range(world)]


def test_in_evaluation_a_rank_without_an_example_gets_an_empty_batch(ten: Part) -> None:
    loaders = [Loader(ten, 9, rank=rank, world=2) for rank in range(2)]
    assert [[len(labels) for _, labels in loader] for loader in loaders] == [[5, 1], [4, 0]]
    *_, (inputs, _) = loaders[1]
    assert inputs.shape == (0, 3, 4, 4)


def test_ranks_are_augmented_differently() -> None:
    alike = Part(Pixels(torch.rand(1, 3, 8, 8)), torch.zeros(64, dtype=torch.int64), None, torch.zeros(64).long(), True)
    first, second = (
        torch.cat([inputs for inputs, _ in Loader(alike, 64, seed=0, augment=CropFlip(), rank=rank, world=2)])
        for rank in range(2)
    )
    assert not torch.equal(first, second)


# ---------------------------------------------------------------- augmentation


class Spy:
    """Inverts pixels, and keeps what it is given."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []
        self.drawn: list[float] = []

    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        self.seen.append(pixels.clone())
        self.drawn.append(float(torch.rand((), generator=generator)))
        return 1 - pixels


def test_augmentation_comes_before_normalisation_and_its_result_is_used(ten: Part) -> None:
    """Regression 5: the augmentation sees pixels in [0, 1], once, and the model gets what it returns, normalised."""
    spy = Spy()
    loader = Loader(ten, 4, seed=0, augment=spy)
    batches = list(loader.epoch(1))
    order = loader.order(1).split(4)
    assert len(spy.seen) == len(batches) == 3
    for seen, (inputs, labels), indices in zip(spy.seen, batches, order, strict=True):
        assert torch.equal(seen, ten.pixels(indices))
        assert torch.equal(inputs, ten.normalized(1 - seen))
        assert torch.equal(labels, ten.labels[indices])


def test_augmentation_draws_differ_by_batch_epoch_and_rank_and_follow_from_the_seed(ten: Part) -> None:
    def drawn(seed: int, epoch: int, rank: int) -> list[float]:
        spy = Spy()
        list(Loader(ten, 5, seed=seed, augment=spy, rank=rank, world=2).epoch(epoch))
        return spy.drawn

    cases = [drawn(seed, epoch, rank) for seed in (0, 1) for epoch in (0, 1) for rank in (0, 1)]
    assert len(set(chain(*cases))) == 16
    assert drawn(1, 1, 1) == cases[-1]
    expected = torch.rand((), generator=torch.Generator().manual_seed(derive(1, "augment", 1, 0, 1)))
    assert cases[-1][0] == float(expected)


def test_only_training_parts_are_augmented(ten: Part) -> None:
    """[001-06] The defect: RandomCrop on the test set."""
    split = digits()
    for part in (split.validation, split.test.open()):
        with pytest.raises(SparsewoodError, match=r"Only a training part is augmented. Got CropFlip"):
            Loader(part, 4, seed=0, augment=CropFlip())
    with pytest.raises(SparsewoodError, match="needs a seed"):
        Loader(ten, 4, augment=CropFlip())


def test_evaluating_twice_gives_the_same_inputs(ten: Part) -> None:
    """[001-06]"""
    loader = Loader(ten, 3)
    first, second = (torch.cat([inputs for inputs, _ in loader]) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(first, torch.cat([inputs for inputs, _ in Loader(ten, 7)]))


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("given", "message"),
    [({"batch_size": 0}, "'batch_size' of a Loader must be a whole number >= 1. Got 0"),
     ({"batch_size": 2.0}, "Got 2.0"), ({"batch_size": True}, "Got True"), ({"world": 0}, "'world'"),
     ({"rank": -1}, "'rank'"), ({"rank": 2, "world": 2}, "counted from 0 to world - 1 = 1. Got 2"),
     ({"workers": -1}, "'workers'"), ({"seed": -1, "batch_size": 3}, "seed must be a whole number >= 0")],
)  # fmt: skip
def test_impossible_settings_are_refused(ten: Part, given: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {"batch_size": 4, **given}
    with pytest.raises(SparsewoodError, match=message):
        list(Loader(ten, **settings))


def test_batches_that_do_not_exist_are_refused(ten: Part) -> None:
    loader = Loader(ten, 4, seed=0)
    for number, start in ((0, 4), (0, -1), (-1, 0)):
        with pytest.raises(SparsewoodError, match=rf"Got epoch {number}, batch {start}"):
            loader.epoch(number, start)
    assert list(loader.epoch(0, 3)) == []


def test_a_normalisation_is_applied_to_the_last_batch_too() -> None:
    part = Part(Pixels(torch.ones(5, 1, 1, 1)), torch.zeros(5).long(), Normalization((0.5,), (0.25,)))
    assert torch.cat([inputs for inputs, _ in islice(Loader(part, 2), 3)]).flatten().tolist() == [2.0] * 5
