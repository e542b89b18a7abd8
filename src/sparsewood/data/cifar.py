"""CIFAR-10 and CIFAR-100: 32x32 colour photographs in Python pickles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsewood.data.assemble import Cut, Labelled, assemble
from sparsewood.data.locate import Published, Root, check_sum, read_bytes
from sparsewood.data.part import Normalization, Pixels
from sparsewood.data.pickles import read_pickle
from sparsewood.data.split import Split
from sparsewood.errors import FileFormatError

__all__ = ["cifar10", "cifar100"]


SHAPE = (3, 32, 32)
PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
TRAINING_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
TRAINING_IMAGES, TEST_IMAGES = 50_000, 10_000

CIFAR10 = Published(
    "CIFAR-10 (Python version)",
    PAGE,
    ("cifar-10-batches-py", ""),
    "data_batch_1 to data_batch_5 (or some of them) and test_batch",
)
CIFAR10_SUMS = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

CIFAR100 = Published(
    "CIFAR-100 (Python version)", PAGE, ("cifar-100-python", ""), "the files 'train', 'test' and 'meta'"
)
CIFAR100_SUMS = {
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}


def cifar10(
    root: Root = None,
    *,
    validation: int | float = 0.1,
    train_size: int | None = None,
    seed: int = 0,
    normalization: Normalization | None = None,
    verify: bool = True,
) -> Split:
    """CIFAR-10: photographs, 10 classes, 32x32 colour; 45,000 / 5,000 / 10,000 images by default.

    Reads the batches of the Python version from `<root>/cifar-10-batches-py` or `<root>`, where `root` is by default
    what the environment variable SPARSEWOOD_DATA says. Where some of the five training batches are absent, the others
    are used, and the split's `note` says so. `validation` (a share, or how many) is cut from the training batches,
    `train_size` examples of the rest are trained on (default: all); both are drawn from `seed` with the classes
    represented alike. Inputs are normalised by mean (.4914, .4822, .4465) and deviation (.2470, .2435, .2616) unless
    another `normalization` is given. Pixels stay uint8 in memory.

    Raises `SparsewoodError` if files are missing, `FileFormatError` if one is damaged or, with `verify`, not the
    published one; of what a pickle may hold, only arrays are loaded. Source: Krizhevsky 2009, "Learning Multiple Layers
    of Features from Tiny Images", https://www.cs.toronto.edu/~kriz/cifar.html. No licence stated; cite the report.

    >>> cifar10("no/such/directory")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    sparsewood.errors.SparsewoodError: The data root 'no/such/directory' is not a directory. ...
    """
    folder = CIFAR10.folder(root, [TRAINING_BATCHES, ["test_batch"]])
    present = [name for name in TRAINING_BATCHES if (folder / name).exists()]
    sums = CIFAR10_SUMS if verify else {}
    train = _batches(folder, present, b"labels", 10, sums)
    test = _batches(folder, ["test_batch"], b"labels", 10, sums)
    notes = [] if verify else ["files not verified"]
    if len(present) < len(TRAINING_BATCHES):
        notes.insert(0, f"{', '.join(present)} only, {_counted(train, TRAINING_IMAGES, 'training')}")
    return assemble(
        "cifar10",
        train,
        test,
        cut=Cut(validation, train_size, seed),
        normalization=normalization or Normalization((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        classes=CIFAR10_CLASSES,
        notes=notes + _deviations(train, test, len(present) == len(TRAINING_BATCHES)),
    )


def cifar100(
    root: Root = None,
    *,
    validation: int | float = 0.1,
    train_size: int | None = None,
    seed: int = 0,
    normalization: Normalization | None = None,
    verify: bool = True,
) -> Split:
    """CIFAR-100: photographs, 100 classes, 32x32 colour; 45,000 / 5,000 / 10,000 images by default.

    Reads `train`, `test` and `meta` from `<root>/cifar-100-python` or `<root>`; the classes are the 100 fine ones. The
    mean is (.5071, .4865, .4409), the deviation (.2673, .2564, .2762). All else is as in `cifar10`.

    >>> cifar100("no/such/directory")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    sparsewood.errors.SparsewoodError: The data root 'no/such/directory' is not a directory. ...
    """
    folder = CIFAR100.folder(root, [[name] for name in CIFAR100_SUMS])
    sums = CIFAR100_SUMS if verify else {}
    names = _fine_names(folder / "meta", sums)
    train = _batches(folder, ["train"], b"fine_labels", len(names), sums)
    test = _batches(folder, ["test"], b"fine_labels", len(names), sums)
    return assemble(
        "cifar100",
        train,
        test,
        cut=Cut(validation, train_size, seed),
        normalization=normalization or Normalization((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
        classes=names,
        notes=([] if verify else ["files not verified"]) + _deviations(train, test, True),
    )


def _batches(folder: Path, files: Sequence[str], key: bytes, classes: int, sums: Mapping[str, str]) -> Labelled:
    read = [_batch(folder / file, key, classes, sums) for file in files]
    images, labels = (torch.cat(tensors) if len(read) > 1 else tensors[0] for tensors in zip(*read, strict=True))
    return Labelled(Pixels(images), labels)


def _batch(path: Path, key: bytes, classes: int, sums: Mapping[str, str]) -> tuple[Tensor, Tensor]:
    batch = _load(path, sums)
    data, labels = batch.get(b"data"), batch.get(key)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        got = f"{data.dtype} of shape {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise FileFormatError(f"'{path}' must have an array b'data' of uint8, (images, 3072). Got {got}.")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise FileFormatError(f"'{path}' must have a list {key!r} of whole numbers. Got {type(labels).__name__}.")
    images = torch.from_numpy(np.array(data)).reshape(-1, *SHAPE)
    targets = torch.tensor(labels, dtype=torch.int64)
    Labelled(Pixels(images), targets).check_labels(path, classes)
    return images, targets


def _load(path: Path, sums: Mapping[str, str]) -> dict[Any, Any]:
    content = read_bytes(path)
    if path.name in sums:
        check_sum(path, content, [sums[path.name]])
    return read_pickle(path, content)


def _fine_names(path: Path, sums: Mapping[str, str]) -> tuple[str, ...]:
    names = _load(path, sums).get(b"fine_label_names")
    if not isinstance(names, list) or not names or not all(isinstance(name, bytes) for name in names):
        raise FileFormatError(f"'{path}' must have a list b'fine_label_names' of names. Got {type(names).__name__}.")
    return tuple(name.decode("ascii", "replace") for name in names)


def _deviations(train: Labelled, test: Labelled, whole_train: bool) -> list[str]:
    """What to say of files with another number of images than the published ones, which only unverified ones have."""
    counted = [(test, TEST_IMAGES, "test")] + ([(train, TRAINING_IMAGES, "training")] if whole_train else [])
    return [_counted(part, count, what) for part, count, what in counted if len(part.labels) != count]


def _counted(part: Labelled, count: int, what: str) -> str:
    return f"{len(part.labels):,} of {count:,} {what} images"
