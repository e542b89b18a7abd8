"""MNIST and Fashion-MNIST: files in the original format, made and real. [004-26], regressions 4 and 22."""

from __future__ import annotations

import gzip
import hashlib
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparsewood.data import Pixels, fashion_mnist, mnist
from sparsewood.data.mnist import read_idx
from sparsewood.data.part import Normalization
from sparsewood.errors import FileFormatError, SparsewoodError
from sparsewood.testing.checks.data import check_data

Real = Callable[[str], Path]


def idx(array: np.ndarray[Any, Any], kind: int = 8) -> bytes:
    return bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def made_arrays(train: int = 200, test: int = 60, classes: int = 10) -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(0)
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for prefix, count in (("train", train), ("t10k", test)):
        arrays[f"{prefix}-images-idx3-ubyte"] = random.integers(0, 256, (count, 28, 28), np.uint8)
        arrays[f"{prefix}-labels-idx1-ubyte"] = (np.arange(count) % classes).astype(np.uint8)
    return arrays


def write(folder: Path, arrays: dict[str, np.ndarray[Any, Any]], packed: bool = True) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        content = idx(array)
        (folder / f"{name}{'.gz' if packed else ''}").write_bytes(gzip.compress(content, 1) if packed else content)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / "mnist", made_arrays())
    return tmp_path


# ---------------------------------------------------------------- made files


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("load", "folder"),
    [(mnist, "mnist"), (mnist, "MNIST/raw"), (mnist, "."), (fashion_mnist, "fashion-mnist"),
     (fashion_mnist, "FashionMNIST/raw")],
)  # fmt: skip
def test_layouts_and_values(tmp_path: Path, load: Any, folder: str, packed: bool) -> None:
    arrays = made_arrays()
    write(tmp_path / folder, arrays, packed)
    split = load(tmp_path, validation=50, verify=False)
    assert split.sizes == {"train": 150, "validation": 50, "test": 60}
    assert (split.classes, split.input_shape) == (10, (1, 28, 28))
    images = torch.from_numpy(arrays["train-images-idx3-ubyte"])[split.indices["train"]]
    assert torch.equal(split.train.pixels(torch.arange(150))[:, 0] * 255, images.float())
    labels = torch.from_numpy(arrays["train-labels-idx1-ubyte"])[split.indices["validation"]].long()
    assert torch.equal(split.validation.labels, labels)
    test = split.test.open()
    assert torch.equal(test.labels, torch.from_numpy(arrays["t10k-labels-idx1-ubyte"]).long())
    check_data(split)


def test_a_set_that_is_not_the_published_one_says_so(root: Path) -> None:
    assert mnist(root, validation=50, verify=False).note == (
        "200 of 60,000 training images; 60 of 10,000 test images; files not verified"
    )
    image = gzip.decompress((root / "mnist" / "train-images-idx3-ubyte.gz").read_bytes())
    expected = (
        rf"train-images-idx3-ubyte.gz' is not the published file: the MD5 of its content is "
        rf"{hashlib.md5(image).hexdigest()}, expected 6bbc9ace898e44ae57da46a324031adb. .*verify=False"
    )
    with pytest.raises(FileFormatError, match=expected):
        mnist(root)


def test_the_root_comes_from_the_environment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSEWOOD_DATA", str(root))
    assert mnist(validation=50, verify=False).sizes["train"] == 150


def test_missing_files_say_which_where_and_from_where(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression 22: nothing is downloaded, and no path is assumed."""
    with pytest.raises(SparsewoodError, match=r"No root was given and SPARSEWOOD_DATA is not set. Get train-images"):
        mnist()
    with pytest.raises(
        SparsewoodError, match=r"Fashion-MNIST was not found. Looked in .*zalandoresearch/fashion-mnist"
    ):
        fashion_mnist(root)
    monkeypatch.setenv("SPARSEWOOD_DATA", str(root / "absent"))
    with pytest.raises(SparsewoodError, match=r"absent' \(from SPARSEWOOD_DATA\) is not a directory"):
        mnist()
    (root / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(
        SparsewoodError,
        match=r"mnist' lacks t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte.gz. Get .*http://yann.lecun.com/exdb/mnist/"
        r", put them into '<root>/mnist'",
    ):
        mnist(root)


def test_another_normalisation_can_be_given(root: Path) -> None:
    split = mnist(root, validation=50, verify=False, normalization=Normalization((0.0,), (1.0,)))
    assert torch.equal(split.train[[3]][0], split.train.pixels(torch.tensor([3])))


# ---------------------------------------------------------------- damaged files


def damaged(root: Path, name: str, change: Callable[[bytes], bytes], packed: bool = True) -> Path:
    path = root / "mnist" / f"{name}.gz"
    content = path.read_bytes()
    path.write_bytes(gzip.compress(change(gzip.decompress(content)), 1) if packed else change(content))
    return path


@pytest.mark.parametrize(
    ("change", "packed", "message"),
    [(lambda data: data[:-5], True, r"has 156,795 bytes of values; its header says 200 x 28 x 28 = 156,800"),
     (lambda data: data + b"x", True, r"has 156,801 bytes of values"),
     (lambda data: data[:7], True, r"expected 2051, in a header of 16 bytes. It has 7 bytes"),
     (lambda _: b"", True, r"It has 0 bytes"),
     (lambda data: data[:3] + b"\1" + data[4:], True, r"starts with the number 2049, expected 2051"),
     (lambda data: b"\1" + data[1:], True, r"starts with the number 16779267, expected 2051"),
     (lambda data: data[:2] + b"\x0d" + data[3:], True, r"expected 2051"),
     (lambda data: data[:100], False, "is no complete gzip file"),
     (lambda data: data[:-1], False, "is no complete gzip file"),
     (lambda _: b"not gzip", False, "is no complete gzip file"),
     (lambda data: data[:200] + bytes([data[200] ^ 255]) + data[201:], False, "is no complete gzip file|header says")],
)  # fmt: skip
def test_damaged_images_name_file_and_damage(root: Path, change: Any, packed: bool, message: str) -> None:
    path = damaged(root, "train-images-idx3-ubyte", change, packed)
    with pytest.raises(FileFormatError, match=message) as caught:
        mnist(root, verify=False)
    assert str(path) in str(caught.value)


def test_labels_out_of_range_or_of_another_number_are_refused(root: Path) -> None:
    arrays = made_arrays(classes=11)
    write(root / "mnist", arrays)
    with pytest.raises(FileFormatError, match=r"has labels in 0..10; expected 0..9"):
        mnist(root, verify=False)
    arrays = made_arrays()
    arrays["train-labels-idx1-ubyte"] = arrays["train-labels-idx1-ubyte"][:199]
    write(root / "mnist", arrays)
    with pytest.raises(FileFormatError, match=r"has 200 images, but 199 labels"):
        mnist(root, verify=False)
    arrays = made_arrays() | {"t10k-images-idx3-ubyte": np.zeros((60, 27, 28), np.uint8)}
    write(root / "mnist", arrays)
    with pytest.raises(FileFormatError, match=r"images of \(27, 28\) pixels; expected \(28, 28\)"):
        mnist(root, verify=False)


def test_a_directory_in_place_of_a_file_is_said(root: Path) -> None:
    (root / "mnist" / "train-images-idx3-ubyte").mkdir()
    with pytest.raises(FileFormatError, match=r"Cannot read .*train-images-idx3-ubyte': Is a directory"):
        mnist(root, verify=False)


def test_read_idx_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes([0, 0, 8, 2, 0, 0, 0, 1, 0, 0, 0, 2, 7, 9]))
    read = read_idx(path, 2)
    assert read.tolist() == [[7, 9]]
    read[0, 0] = 1  # memory of its own, which may be written to


# ---------------------------------------------------------------- real files


@pytest.mark.parametrize(
    ("load", "folder", "first", "mean", "std"),
    [(mnist, "mnist", [7, 2, 1, 0, 4, 1, 4, 9], 0.1307, 0.3081),
     (fashion_mnist, "fashion-mnist", [9, 2, 1, 1, 6, 1, 4, 6], 0.2860, 0.3530)],
)  # fmt: skip
def test_real_files(real: Real, load: Any, folder: str, first: list[int], mean: float, std: float) -> None:
    root = real(folder)
    start = time.perf_counter()
    split = load(root)
    assert time.perf_counter() - start < 5  # well below one second on an idle machine
    assert split.sizes == {"train": 55_000, "validation": 5_000, "test": 10_000}
    assert split.note == ""
    check_data(split)
    assert isinstance(split.train.source, Pixels)
    assert split.train.source is split.validation.source
    assert split.train.source.tensor.dtype == torch.uint8
    test = split.test.open()
    assert test.labels[:8].tolist() == first
    counted = split.train.labels.bincount() + split.validation.labels.bincount()
    assert (counted.sum(), test.labels.bincount().sum()) == (60_000, 10_000)
    shares = split.validation.labels.bincount() / 5000 - counted / 60_000
    assert shares.abs().max() < 1 / 5000
    whole = Normalization.measured(split.train)
    assert (whole.mean[0], whole.std[0]) == pytest.approx((mean, std), abs=3e-4)


def test_real_fashion_under_the_name_of_mnist_is_refused(real: Real) -> None:
    with pytest.raises(FileFormatError, match="is not the published file"):
        mnist(real("fashion-mnist") / "fashion-mnist")
