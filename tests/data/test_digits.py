"""The embedded digits: real data, three disjoint parts. Requirements 8.3 (data stated), regressions 4, 5, 24."""

from __future__ import annotations

import sys

import pytest
import torch
from torch.utils.data import TensorDataset

from sparsewood.data import digits
from sparsewood.data.split import PARTS, Split, batches, stratified
from sparsewood.errors import SparsewoodError


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_parts_are_disjoint_and_together_the_whole() -> None:
    split = digits()
    drawn = torch.cat([split.indices[part] for part in PARTS])
    assert drawn.sort().values.tolist() == list(range(1797))
    assert split.sizes == {"train": 1079, "validation": 359, "test": 359}


def test_images_and_labels_are_those_of_the_source() -> None:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    split = digits()
    images, targets = split.test.tensors
    index = split.indices["test"].numpy()
    assert torch.equal(targets, torch.from_numpy(labels[index]))
    source = torch.from_numpy(pixels[index]).float().reshape(-1, 1, 8, 8)
    flat = torch.stack([source.flatten(), images.flatten()]).double()
    assert torch.corrcoef(flat)[0, 1] > 1 - 1e-6  # scaled and shifted, nothing else


def test_statistics_come_from_the_training_part_alone() -> None:
    split = digits()
    images = split.train.tensors[0]
    assert images.mean().abs() < 1e-5
    assert (images.std() - 1).abs() < 1e-5
    assert split.test.tensors[0].mean().abs() > 1e-4


def test_classes_are_spread_alike() -> None:
    split = digits()
    shares = [getattr(split, part).tensors[1].bincount(minlength=10) / split.sizes[part] for part in PARTS]
    for share in shares[1:]:
        assert (share - shares[0]).abs().max() < 0.005


def test_seeded_by_its_generator_only() -> None:
    torch.manual_seed(1)
    first = digits(generator(3))
    torch.manual_seed(2)
    again, other = digits(generator(3)), digits(generator(4))
    assert torch.equal(first.indices["test"], again.indices["test"])
    assert torch.equal(first.test.tensors[0], again.test.tensors[0])
    assert not torch.equal(first.indices["test"], other.indices["test"])


def test_missing_scikit_learn_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(SparsewoodError, match=r"pip install 'sparsewood\[data\]'"):
        digits()


@pytest.mark.parametrize(("validation", "test"), [(0.5, 0.5), (-0.1, 0.2), (0.0, 0.2)])
def test_impossible_shares_are_refused(validation: float, test: float) -> None:
    with pytest.raises(SparsewoodError, match=r"validation|Shares"):
        digits(validation=validation, test=test)


def test_a_split_that_overlaps_cannot_be_made() -> None:
    data = TensorDataset(torch.zeros(2), torch.zeros(2))
    one, two = torch.tensor([0, 1]), torch.tensor([1, 2])
    with pytest.raises(AssertionError, match="two parts"):
        Split("x", data, data, data, classes=2, indices={"train": one, "validation": two, "test": torch.tensor([3, 4])})


@pytest.mark.parametrize("counts", [(10, 10), (7, 3, 1), (1,)])
def test_stratified_takes_the_rounded_share_of_each_class(counts: tuple[int, ...]) -> None:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    part, rest = stratified(labels, [0.3], generator(0))
    assert labels[part].bincount(minlength=len(counts)).tolist() == [round(0.3 * n) for n in counts]
    assert sorted([*part.tolist(), *rest.tolist()]) == list(range(len(labels)))


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


def test_a_batch_size_below_one_is_refused() -> None:
    with pytest.raises(SparsewoodError, match=r"batch size must be >= 1. Got 0"):
        batches(TensorDataset(torch.arange(2), torch.arange(2)), 0)
