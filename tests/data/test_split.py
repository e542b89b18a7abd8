"""Splits: disjoint parts, a sealed test part, fair draws. [000-11], [004-13], [004-26], regressions 4 and 24."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from sparsewood.data import HeldOut, Loader, Part, Pixels, Split, batches, digits
from sparsewood.data.assemble import Cut, Labelled, assemble
from sparsewood.data.part import Normalization
from sparsewood.data.sampling import stratified
from sparsewood.data.split import PARTS
from sparsewood.errors import FileFormatError, SparsewoodError
from sparsewood.testing.checks.data import check_data


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labelled(count: int, classes: int = 4, start: int = 0) -> Labelled:
    values = (torch.arange(start, start + count) % 256).to(torch.uint8)
    return Labelled(Pixels(values.reshape(-1, 1, 1, 1)), torch.arange(count) % classes)


def made(validation: Any = 0.25, train_size: int | None = None, seed: int = 0, **given: Any) -> Split:
    arguments: dict[str, Any] = {"normalization": Normalization((0.0,), (1.0,)), "classes": 4} | given
    return assemble("made", labelled(80), labelled(20, start=80), cut=Cut(validation, train_size, seed), **arguments)


# ---------------------------------------------------------------- disjoint parts


def test_a_split_that_overlaps_cannot_be_made() -> None:
    """[000-11] The defect: a test set that is training data."""
    part = Part(Pixels(torch.zeros(2, 1, 1, 1)), torch.tensor([0, 1]), None)
    one, two, three = torch.tensor([0, 1]), torch.tensor([1, 2]), torch.tensor([3, 4])
    indices = {"train": one, "validation": two, "test": three}
    with pytest.raises(AssertionError, match="two parts"):
        Split("x", part, part, HeldOut(part), classes=2, indices=indices)
    with pytest.raises(AssertionError, match="train and its indices differ"):
        Split("x", part, part, HeldOut(part), 2, {**indices, "train": torch.tensor([7]), "validation": one})
    Split("x", part, part, HeldOut(part), 2, {**indices, "validation": torch.tensor([5, 6])})


def test_a_validation_part_that_says_it_is_for_training_is_refused() -> None:
    split = made()
    with pytest.raises(AssertionError, match="validation part says it is for training"):
        replace(split, validation=replace(split.validation, training=True))


def test_validation_is_cut_from_training_and_test_stays_whole() -> None:
    """[004-13], [004-26] 10 % of the training files are for validation; test examples are for the test only."""
    split = made(0.1)
    assert split.sizes == {"train": 72, "validation": 8, "test": 20}
    drawn = {part: set(split.indices[part].tolist()) for part in PARTS}
    assert drawn["train"] | drawn["validation"] == set(range(80))
    assert drawn["test"] == set(range(80, 100))
    for name, part in (("train", split.train), ("validation", split.validation), ("test", split.test.open())):
        values = (part.pixels(torch.arange(len(part))) * 255).round().flatten().tolist()
        assert values == split.indices[name].tolist()
        assert part.training is (name == "train")


def test_validation_files_of_their_own_come_between() -> None:
    split = made(labelled(12))
    assert split.sizes == {"train": 80, "validation": 12, "test": 20}
    assert split.indices["validation"].tolist() == list(range(80, 92))
    assert split.indices["test"].tolist() == list(range(92, 112))


def test_the_cut_follows_from_the_seed_alone() -> None:
    torch.manual_seed(1)
    one = made(20, train_size=12, seed=3)
    torch.manual_seed(2)
    again, other = made(20, train_size=12, seed=3), made(20, train_size=12, seed=4)
    assert torch.equal(one.indices["train"], again.indices["train"])
    assert not torch.equal(one.indices["train"], other.indices["train"])
    assert not torch.equal(one.indices["validation"], other.indices["validation"])
    assert one.train.labels.bincount().tolist() == [3, 3, 3, 3]


def test_a_shorter_training_part_is_noted() -> None:
    assert made(20, train_size=12, notes=["one file only"]).note == (
        "one file only; trained on 12 of 60 training examples"
    )
    assert made(20, train_size=60).note == made(20).note == ""
    assert set(made(20, train_size=12).indices["train"].tolist()) <= set(made(20).indices["train"].tolist())


@pytest.mark.parametrize(
    ("validation", "train_size", "message"),
    [(0.001, None, "0 for validation"), (80, None, "Shares"), (1.0, None, "Shares"), (-1, None, "Shares"),
     (True, None, "Shares"),
     (20, 61, "from 1 to 60, or None. Got 61"), (20, 0, "Got 0"), (20, True, "Got True")],
)  # fmt: skip
def test_impossible_cuts_are_refused(validation: Any, train_size: Any, message: str) -> None:
    with pytest.raises(SparsewoodError, match=message):
        made(validation, train_size)


def test_labels_that_do_not_fit_name_the_file() -> None:
    with pytest.raises(FileFormatError, match=r"'a file' has labels in 0..3; expected 0..2"):
        labelled(8).check_labels("a file", 3)
    with pytest.raises(FileFormatError, match=r"'a file' has 2 images, but 3 labels"):
        Labelled(Pixels(torch.zeros(2, 1, 1, 1)), torch.tensor([0, 1, 2])).check_labels("a file", 3)


def test_without_validation_all_training_examples_are_trained_on() -> None:
    for none in (0, 0.0):
        split = made(none)
        assert split.sizes == {"train": 80, "validation": 0, "test": 20}
        assert list(Loader(split.validation, 4)) == []
        check_data(split)


# ---------------------------------------------------------------- the sealed part


def test_the_test_part_is_opened_and_counted() -> None:
    """[000-11] "Test split touched once at the end" can be shown."""
    split = made()
    assert (len(split.test), split.test.openings) == (20, 0)
    for read in (lambda: split.test[0], lambda: list(split.test), lambda: Loader(split.test, 4)):  # type: ignore[arg-type]
        with pytest.raises(SparsewoodError, match=r"split.test.open\(\)"):
            read()
    assert split.test.openings == 0
    assert len(split.test.open()) == 20
    assert split.test.openings == 1


def test_subsets_of_the_test_part_count_in_the_same_place() -> None:
    split = made()
    subset = split.subsets(4, 8).subset_test
    assert split.test.openings == 0
    subset.open()
    assert (split.test.openings, subset.openings, len(subset)) == (1, 1, 8)
    shorter = replace(split, name="again")
    shorter.test.open()
    assert split.test.openings == 2


# ---------------------------------------------------------------- subsets for pruning


@given(st.integers(1, 10), st.integers(1, 10), st.integers(0, 3))
def test_val_and_val2_are_disjoint_and_in_order(val_size: int, eval_size: int, seed: int) -> None:
    """[003, 4.3] subset_val[val_size], subset_test[eval_size], subset_val2[eval_size]; disjoint and not shuffled."""
    split = made(0.25)
    subsets = split.subsets(val_size, eval_size, seed=seed)
    one, two = (
        (part.pixels(torch.arange(len(part))) * 255).round().flatten().tolist()
        for part in (subsets.subset_val, subsets.subset_val2)
    )
    assert (len(one), len(two), len(subsets.subset_test)) == (val_size, eval_size, eval_size)
    assert not set(one) & set(two)
    assert set(one) | set(two) <= set(split.indices["validation"].tolist())
    assert one == sorted(one)
    assert two == sorted(two)
    again = split.subsets(val_size, eval_size, seed=seed)
    assert torch.equal(again.subset_val.labels, subsets.subset_val.labels)


def test_subsets_represent_classes_alike_even_where_files_are_sorted() -> None:
    sorted_labels = Labelled(Pixels(torch.zeros(40, 1, 1, 1)), torch.arange(40) // 10)
    split = assemble(
        "x", sorted_labels, sorted_labels, cut=Cut(Labelled(sorted_labels.source, sorted_labels.labels)),
        normalization=None, classes=4,
    )  # fmt: skip
    subsets = split.subsets(8, 12)
    assert subsets.subset_val.labels.bincount().tolist() == [2, 2, 2, 2]
    assert subsets.subset_val2.labels.bincount().tolist() == [3, 3, 3, 3]
    assert subsets.subset_test.open().labels.bincount().tolist() == [3, 3, 3, 3]


def test_subsets_may_overlap_if_asked_to() -> None:
    split = made(0.25)
    subsets = split.subsets(20, 20, disjoint=False)
    assert torch.equal(subsets.subset_val.labels, subsets.subset_val2.labels)
    with pytest.raises(SparsewoodError, match=r"need 21 of made's validation part, which has 20"):
        split.subsets(1, 20)
    with pytest.raises(SparsewoodError, match=r"need 21 of made's test part, which has 20"):
        made(labelled(60)).subsets(1, 21)
    with pytest.raises(SparsewoodError, match="Sizes start at 1"):
        split.subsets(0, 5)


# ---------------------------------------------------------------- stratified draws


@pytest.mark.parametrize("counts", [(10, 10), (7, 3, 1), (1,)])
def test_stratified_takes_the_rounded_share_of_each_class(counts: tuple[int, ...]) -> None:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    part, rest = stratified(labels, [0.3], generator(0))
    assert labels[part].bincount(minlength=len(counts)).tolist() == [round(0.3 * n) for n in counts]
    assert sorted([*part.tolist(), *rest.tolist()]) == list(range(len(labels)))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.data())
def test_stratified_counts_are_exact_and_in_proportion(counts: list[int], data: st.DataObject) -> None:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    total = len(labels)
    first = data.draw(st.integers(0, total - 1))
    second = data.draw(st.integers(0, total - 1 - first))
    one, two, rest = stratified(labels, [first, second], generator(0))
    assert (len(one), len(two)) == (first, second)
    assert sorted([*one.tolist(), *two.tolist(), *rest.tolist()]) == list(range(total))
    for label, count in enumerate(counts):
        assert abs(int((labels[one] == label).sum()) - first * count / total) < 1


def test_many_small_shares_of_a_small_class_do_not_take_more_than_there_is() -> None:
    parts = stratified(torch.zeros(2, dtype=torch.int64), [0.3, 0.3, 0.3], generator(0))
    assert [len(part) for part in parts] == [1, 1, 0, 0]


# ---------------------------------------------------------------- loaders of torch


def test_batches_drop_nothing_and_shuffle_by_generator_only() -> None:
    data = TensorDataset(torch.arange(10), torch.arange(10))
    assert [len(labels) for _, labels in batches(data, 4)] == [4, 4, 2]
    shuffled = batches(data, 4, generator=generator(0))
    first, second = ([int(i) for _, labels in shuffled for i in labels] for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second
    before = torch.get_rng_state()
    assert [int(i) for _, labels in batches(data, 4, generator=generator(0)) for i in labels] == first
    assert len(list(batches(data, 4))) == 3
    assert torch.equal(torch.get_rng_state(), before)


def test_parts_are_data_sets_of_torch() -> None:
    part = digits().validation
    (inputs, labels), *_ = batches(part, 4)
    expected, targets = part.batch(torch.arange(4))
    assert torch.equal(inputs, expected)
    assert torch.equal(labels, targets)
    assert torch.equal(part[2][0], expected[2])
    assert sum(1 for index in range(len(part)) if part[index][0].shape == (1, 8, 8)) == len(part)


def test_a_batch_size_below_one_is_refused() -> None:
    with pytest.raises(SparsewoodError, match=r"batch size must be >= 1. Got 0"):
        batches(TensorDataset(torch.arange(2), torch.arange(2)), 0)
