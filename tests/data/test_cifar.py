"""CIFAR-10 and CIFAR-100: pickles that may hold arrays only, partial sets that say so. [001-07], regression 25."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sparsewood.data import Loader, cifar10, cifar100
from sparsewood.data.part import Normalization
from sparsewood.data.pickles import read_pickle
from sparsewood.errors import FileFormatError, SparsewoodError
from sparsewood.testing.checks.data import check_data

Real = Callable[[str], Path]


def batch(count: int, seed: int, classes: int = 10, key: bytes = b"labels") -> dict[bytes, Any]:
    data = np.random.default_rng(seed).integers(0, 256, (count, 3072), np.uint8)
    labels = [int(label) for label in np.arange(count) % classes]
    return {b"batch_label": b"made", b"data": data, key: labels, b"filenames": [b"x.png"] * count}


def write(path: Path, content: Any, protocol: int = 2) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(1, 6):
        write(tmp_path / "cifar-10-batches-py" / f"data_batch_{number}", batch(40, number))
    write(tmp_path / "cifar-10-batches-py" / "test_batch", batch(40, 6))
    return tmp_path


# ---------------------------------------------------------------- CIFAR-10


def test_values_and_order(root: Path) -> None:
    split = cifar10(root, verify=False)
    assert split.sizes == {"train": 180, "validation": 20, "test": 40}
    assert (split.input_shape, split.classes, split.class_names[3]) == ((3, 32, 32), 10, "cat")
    everything = np.concatenate([batch(40, number)[b"data"] for number in range(1, 6)])
    expected = torch.from_numpy(everything).reshape(-1, 3, 32, 32)[split.indices["train"]]
    assert torch.equal(split.train.pixels(torch.arange(180)), expected.float() / 255)
    assert split.validation.labels.bincount().tolist() == [2] * 10
    assert split.note == "files not verified; 40 of 10,000 test images; 200 of 50,000 training images"
    check_data(split)


@pytest.mark.parametrize(
    ("kept", "named"), [((1,), "data_batch_1"), ((2, 4, 5), "data_batch_2, data_batch_4, data_batch_5")]
)
def test_a_partial_set_says_so(root: Path, kept: tuple[int, ...], named: str) -> None:
    for number in set(range(1, 6)) - set(kept):
        (root / "cifar-10-batches-py" / f"data_batch_{number}").unlink()
    split = cifar10(root, verify=False)
    assert split.note.startswith(f"{named} only, {40 * len(kept)} of 50,000 training images")
    assert len(split.train) + len(split.validation) == 40 * len(kept)


def test_a_set_without_any_training_batch_is_not_found(root: Path) -> None:
    folder = root / "cifar-10-batches-py"
    for number in range(1, 6):
        (folder / f"data_batch_{number}").unlink()
    with pytest.raises(
        SparsewoodError, match=r"lacks data_batch_1 or .*data_batch_5. .*www.cs.toronto.edu/~kriz/cifar"
    ):
        cifar10(root)
    with pytest.raises(SparsewoodError, match=r"CIFAR-100 .* was not found. Looked in .*cifar-100-python'"):
        cifar100(root)


def test_unknown_files_are_refused_before_they_are_unpickled(root: Path) -> None:
    path = root / "cifar-10-batches-py" / "data_batch_1"
    path.write_bytes(malicious(root / "touched"))
    with pytest.raises(FileFormatError, match=r"data_batch_1' is not the published file: the MD5 .* c99cafc152244af"):
        cifar10(root)


@pytest.mark.parametrize(
    ("change", "message"),
    [({b"data": np.zeros((40, 3071), np.uint8)}, r"b'data' of uint8, \(images, 3072\). Got uint8 of shape \(40, 30"),
     ({b"data": np.zeros((40, 3072), np.int64)}, r"Got int64 of shape"), ({b"data": [1]}, "Got list"),
     ({b"labels": [0] * 39}, r"has 40 images, but 39 labels"), ({b"labels": [10] * 40}, r"labels in 10..10; expected"),
     ({b"labels": [-1] * 40}, r"labels in -1..-1"), ({b"labels": None}, r"list b'labels' of whole numbers"),
     ({b"labels": [0.5] * 40}, r"of whole numbers")],
)  # fmt: skip
def test_batches_of_another_form_are_refused(root: Path, change: dict[bytes, Any], message: str) -> None:
    path = root / "cifar-10-batches-py" / "data_batch_3"
    write(path, batch(40, 3) | change)
    with pytest.raises(FileFormatError, match=message) as caught:
        cifar10(root, verify=False)
    assert str(path) in str(caught.value)


# ---------------------------------------------------------------- CIFAR-100


def test_cifar100_has_fine_classes(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    names = [f"class{number}".encode() for number in range(100)]
    write(folder / "meta", {b"fine_label_names": names, b"coarse_label_names": names[:20]})
    for name, count in (("train", 400), ("test", 200)):
        write(folder / name, batch(count, 0, 100, b"fine_labels") | {b"coarse_labels": [0] * count})
    split = cifar100(tmp_path, validation=0.25, verify=False)
    assert split.sizes == {"train": 300, "validation": 100, "test": 200}
    assert (split.classes, split.class_names[99]) == (100, "class99")
    assert split.validation.labels.bincount().tolist() == [1] * 100
    assert split.train.normalization == Normalization((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
    check_data(split)
    with pytest.raises(FileFormatError, match=r"meta' is not the published file"):
        cifar100(tmp_path)
    write(folder / "meta", {b"fine_label_names": [1]})
    with pytest.raises(FileFormatError, match=r"list b'fine_label_names' of names"):
        cifar100(tmp_path, verify=False)


# ---------------------------------------------------------------- pickles


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.path}'",)


def malicious(path: Path) -> bytes:
    return pickle.dumps({b"data": Payload(path), b"labels": []}, 2)


def test_a_malicious_pickle_is_named_and_not_run(root: Path) -> None:
    """Regression 25: unpickling calls what a file names."""
    path, touched = root / "cifar-10-batches-py" / "data_batch_1", root / "touched"
    path.write_bytes(malicious(touched))
    with pytest.raises(FileFormatError, match=r"data_batch_1' wants to load '(posix|nt).system'.* was not loaded"):
        cifar10(root, verify=False)
    assert not touched.exists()
    pickle.loads(malicious(touched))  # it would have worked
    assert touched.exists()


def reading(content: bytes) -> dict[Any, Any]:
    return read_pickle(Path("a-file"), content)


def call(module: bytes, name: bytes, arguments: bytes = b"") -> bytes:
    """The pickle of a dict whose only value is what calling module.name(*arguments) returns."""
    return b"\x80\x02}U\x01xc" + module + b"\n" + name + b"\n(" + arguments + b"tRs."


@pytest.mark.parametrize(
    ("module", "name"),
    [(b"builtins", b"eval"), (b"__builtin__", b"eval"), (b"os", b"system"), (b"numpy", b"load"),
     (b"numpy.core.multiarray", b"fromfile"), (b"_codecs", b"decode"), (b"copy_reg", b"_reconstructor"),
     (b"numpy", b"ndarray.tofile"), (b"torch", b"load")],
)  # fmt: skip
def test_names_that_arrays_do_not_need_are_refused(module: bytes, name: bytes) -> None:
    with pytest.raises(FileFormatError, match=rf"wants to load '{module.decode()}.{name.decode()}'"):
        reading(call(module, name))


def test_other_ways_out_are_closed() -> None:
    with pytest.raises(FileFormatError, match=r"wants to load 'persistent object b'x''"):
        reading(b"\x80\x02U\x01xQ.")
    with pytest.raises(FileFormatError, match=r"wants to load 'codec 'zlib'"):
        reading(call(b"_codecs", b"encode", b"X\x01\0\0\0aX\x04\0\0\0zlib"))
    with pytest.raises(FileFormatError, match=r"wants to load 'numpy.dtype O'"):
        reading(call(b"numpy", b"dtype", b"U\x01OK\0K\1"))
    # Setting attributes on what was named does not reach what the next file is given.
    for _ in range(2):
        text = b"\x80\x02}U\x01xc_codecs\nencode\nq\0}U\x05crackU\x01ysbh\0X\x01\0\0\0a\x85Rs."
        try:
            reading(text)
        except FileFormatError:
            continue
    assert reading(call(b"_codecs", b"encode", b"X\x01\0\0\0aX\x06\0\0\0latin1")) == {b"x": b"a"}


@pytest.mark.parametrize(
    "array",
    [np.arange(6, dtype=np.uint8).reshape(2, 3), np.asfortranarray(np.eye(3)), np.arange(4, dtype=">i4"),
     np.arange(4, dtype="<f4"), np.ones((1, 3), bool)],
)  # fmt: skip
def test_arrays_come_back_as_they_were(array: np.ndarray[Any, Any]) -> None:
    read = reading(pickle.dumps({b"x": array, b"y": [1, 2], b"z": b"\xff\0"}, 2))
    assert np.array_equal(read[b"x"], array)
    assert (read[b"x"].dtype, read[b"y"], read[b"z"]) == (array.dtype, [1, 2], b"\xff\0")


def test_every_truncation_and_many_changes_are_errors_or_other_values() -> None:
    whole = pickle.dumps({b"data": np.arange(12, dtype=np.uint8).reshape(2, 6), b"labels": [1, 2]}, 2)
    for length in range(len(whole)):
        with pytest.raises(FileFormatError, match="a-file"):
            reading(whole[:length])
    random = np.random.default_rng(0)
    errors = 0
    for _ in range(300):
        changed = bytearray(whole)
        changed[random.integers(len(whole))] = random.integers(256)
        try:
            assert isinstance(reading(bytes(changed)), dict)
        except FileFormatError:
            errors += 1
    assert errors > 50
    assert any(op.name == "GLOBAL" for op, _, _ in pickletools.genops(io.BytesIO(whole)))


def test_what_is_no_dict_is_refused() -> None:
    with pytest.raises(FileFormatError, match="it holds no dict but list"):
        reading(pickle.dumps([1], 2))


# ---------------------------------------------------------------- real files


def test_real_subset(real: Real) -> None:
    root = real("cifar-10-batches-py")
    split = cifar10(root)
    present = sorted(path.name for path in (root / "cifar-10-batches-py").glob("data_batch_*"))
    if present == ["data_batch_1"]:
        assert split.note == "data_batch_1 only, 10,000 of 50,000 training images"
        assert split.sizes == {"train": 9000, "validation": 1000, "test": 10_000}
        counts = split.train.labels.bincount() + split.validation.labels.bincount()
        assert counts.tolist() == [1005, 974, 1032, 1016, 999, 937, 1030, 1001, 1025, 981]
    check_data(split)
    test = split.test.open()
    assert test.labels.bincount().tolist() == [1000] * 10
    assert [split.class_names[label] for label in test.labels[:4]] == ["cat", "ship", "ship", "airplane"]
    mean, std = (torch.cat([inputs for inputs, _ in Loader(split.train, 500)]).transpose(0, 1).flatten(1), (1,))
    assert mean.mean(*std).abs().max() < 0.02
    assert (mean.std(*std) - 1).abs().max() < 0.02


def test_real_files_load_without_the_restriction_to_the_same_values(real: Real) -> None:
    path = real("cifar-10-batches-py") / "cifar-10-batches-py" / "test_batch"
    content = path.read_bytes()
    assert hashlib.md5(content).hexdigest() == "40351d587109b95175f43aff81a1287e"
    read = read_pickle(path, content)
    trusted = pickle.loads(content, encoding="bytes")
    assert read.keys() == trusted.keys()
    assert np.array_equal(read[b"data"], trusted[b"data"])
    assert read[b"labels"] == trusted[b"labels"]
