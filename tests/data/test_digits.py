"""The embedded digits: real data, three disjoint parts. Requirements 8.3 (data stated), regressions 4, 5, 24."""

from __future__ import annotations

import sys

import pytest
import torch

from sparsewood.data import digits
from sparsewood.data.split import PARTS
from sparsewood.errors import SparsewoodError


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_parts_are_disjoint_and_together_the_whole() -> None:
    split = digits()
    drawn = torch.cat([split.indices[part] for part in PARTS])
    assert drawn.sort().values.tolist() == list(range(1797))
    assert split.sizes == {"train": 1079, "validation": 359, "test": 359}
    assert split.input_shape == (1, 8, 8)


def test_images_and_labels_are_those_of_the_source() -> None:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    split = digits()
    test = split.test.open()
    index = split.indices["test"].numpy()
    assert torch.equal(test.labels, torch.from_numpy(labels[index]))
    source = torch.from_numpy(pixels[index]).float().reshape(-1, 1, 8, 8) / 16
    assert torch.equal(test.pixels(torch.arange(len(test))), source)


def test_inputs_are_those_of_the_whole_normalised_at_once() -> None:
    from sklearn.datasets import load_digits

    pixels, _ = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float().reshape(-1, 1, 8, 8) / 16
    split = digits()
    seen = images[split.indices["train"]]
    images = (images - seen.mean()) / seen.std()
    for part, data in (("train", split.train), ("validation", split.validation), ("test", split.test.open())):
        assert torch.equal(data[range(len(data))][0], images[split.indices[part]])  # bit for bit


def test_statistics_come_from_the_training_part_alone() -> None:
    split = digits()
    images, _ = split.train[range(len(split.train))]
    assert images.mean().abs() < 1e-5
    assert (images.std() - 1).abs() < 1e-5
    test = split.test.open()
    assert test[range(len(test))][0].mean().abs() > 1e-4


def test_classes_are_spread_alike() -> None:
    split = digits()
    parts = (split.train, split.validation, split.test.open())
    shares = [part.labels.bincount(minlength=10) / len(part) for part in parts]
    for share in shares[1:]:
        assert (share - shares[0]).abs().max() < 0.005


def test_seeded_by_its_generator_only() -> None:
    torch.manual_seed(1)
    first = digits(generator(3))
    torch.manual_seed(2)
    again, other = digits(generator(3)), digits(generator(4))
    assert torch.equal(first.indices["test"], again.indices["test"])
    assert torch.equal(first.train[[0, 5]][0], again.train[[0, 5]][0])
    assert not torch.equal(first.indices["test"], other.indices["test"])


def test_missing_scikit_learn_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(SparsewoodError, match=r"pip install 'sparsewood\[data\]'"):
        digits()


@pytest.mark.parametrize(("validation", "test"), [(0.5, 0.5), (-0.1, 0.2), (0.0, 0.2)])
def test_impossible_shares_are_refused(validation: float, test: float) -> None:
    with pytest.raises(SparsewoodError, match=r"validation|Shares"):
        digits(validation=validation, test=test)
