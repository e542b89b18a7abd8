"""MNIST and Fashion-MNIST: 28x28 grey images in IDX files."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sparsewood.data.assemble import Cut, Labelled, assemble
from sparsewood.data.locate import Published, Root, check_sum, read_bytes
from sparsewood.data.part import Normalization, Pixels
from sparsewood.data.split import Split
from sparsewood.errors import FileFormatError

__all__ = ["fashion_mnist", "mnist", "read_idx"]


IMAGES, LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"
SIDE = 28
CLASSES = 10
TRAINING_IMAGES, TEST_IMAGES = 60_000, 10_000
UINT8 = 8  # IDX's code for unsigned bytes

# Of the uncompressed content, so that it does not matter how the files were packed.
MNIST_SUMS = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
FASHION_SUMS = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}
PREFIXES = ("train", "t10k")
ALTERNATIVES = [(name, f"{name}.gz") for name in MNIST_SUMS]
FILES = ", ".join(f"{name}.gz" for name in MNIST_SUMS)
MNIST = Published("MNIST", "http://yann.lecun.com/exdb/mnist/", ("mnist", "MNIST/raw", ""), FILES)
FASHION = Published(
    "Fashion-MNIST",
    "https://github.com/zalandoresearch/fashion-mnist",
    ("fashion-mnist", "FashionMNIST/raw", ""),
    FILES,
)
FASHION_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
DIGITS = tuple(str(digit) for digit in range(10))


def mnist(
    root: Root = None,
    *,
    validation: int | float = 5000,
    train_size: int | None = None,
    seed: int = 0,
    normalization: Normalization | None = None,
    verify: bool = True,
) -> Split:
    """MNIST: handwritten digits, 10 classes, 28x28 grey; 55,000 / 5,000 / 10,000 images by default.

    Reads the four IDX files, packed with gzip or not, from `<root>/mnist`, `<root>/MNIST/raw` or `<root>`, where `root`
    is by default what the environment variable SPARSEWOOD_DATA says. `validation` (a share, or how many) is cut from
    the training files, `train_size` examples of the rest are trained on (default: all); both are drawn from `seed` with
    the classes represented alike. Inputs are (pixels - .1307) / .3081 unless another `normalization` is given. Pixels
    stay uint8 in memory.

    Raises `SparsewoodError` if files are missing, `FileFormatError` if one is damaged or, with `verify`, not the
    published one. Source: LeCun, Cortes, Burges, http://yann.lecun.com/exdb/mnist/. The page states no licence; usually
    redistributed under CC BY-SA 3.0.

    >>> mnist("no/such/directory")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    sparsewood.errors.SparsewoodError: The data root 'no/such/directory' is not a directory. ...
    """
    folder = MNIST.folder(root, ALTERNATIVES)
    train, test = (_labelled(folder, prefix, MNIST_SUMS if verify else {}) for prefix in PREFIXES)
    return assemble(
        "mnist",
        train,
        test,
        cut=Cut(validation, train_size, seed),
        normalization=normalization or Normalization((0.1307,), (0.3081,)),
        classes=DIGITS,
        notes=_notes(train, test, verify),
    )


def fashion_mnist(
    root: Root = None,
    *,
    validation: int | float = 5000,
    train_size: int | None = None,
    seed: int = 0,
    normalization: Normalization | None = None,
    verify: bool = True,
) -> Split:
    """Fashion-MNIST: clothing, 10 classes, 28x28 grey; 55,000 / 5,000 / 10,000 images by default.

    Files are looked for in `<root>/fashion-mnist`, `<root>/FashionMNIST/raw` and `<root>`; inputs are
    (pixels - .2860) / .3530. All else is as in `mnist`. Source: Xiao, Rasul, Vollgraf 2017,
    https://arxiv.org/abs/1708.07747, https://github.com/zalandoresearch/fashion-mnist. MIT licence.

    >>> fashion_mnist("no/such/directory")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    sparsewood.errors.SparsewoodError: The data root 'no/such/directory' is not a directory. ...
    """
    folder = FASHION.folder(root, ALTERNATIVES)
    train, test = (_labelled(folder, prefix, FASHION_SUMS if verify else {}) for prefix in PREFIXES)
    return assemble(
        "fashion_mnist",
        train,
        test,
        cut=Cut(validation, train_size, seed),
        normalization=normalization or Normalization((0.2860,), (0.3530,)),
        classes=FASHION_CLASSES,
        notes=_notes(train, test, verify),
    )


def read_idx(path: Path, dimensions: int, md5: str | None = None) -> Tensor:
    """The uint8 tensor of `dimensions` axes in an IDX file, packed with gzip if its name ends in ".gz".

    The format: two zero bytes, the type (8 = uint8), the number of axes, each axis' size in 4 bytes, most significant
    first; then the values, row-major. Raises `FileFormatError` that names the file and what is wrong, also where the
    uncompressed content has another MD5 than the one given.
    """
    content = read_bytes(path)
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise FileFormatError(f"'{path}' is no complete gzip file: {error}. Get it again.") from error
    header = 4 + 4 * dimensions
    magic = int.from_bytes(content[:4], "big")
    expected = UINT8 << 8 | dimensions
    if len(content) < header or magic != expected:
        raise FileFormatError(
            f"'{path}' is no IDX file of {dimensions} axes of bytes: it starts with the number {magic}, expected "
            f"{expected}, in a header of {header} bytes. It has {len(content)} bytes."
        )
    shape = [int.from_bytes(content[start : start + 4], "big") for start in range(4, header, 4)]
    if len(content) != header + math.prod(shape):
        raise FileFormatError(
            f"'{path}' has {len(content) - header:,} bytes of values; its header says {' x '.join(map(str, shape))} = "
            f"{math.prod(shape):,}. It is truncated or damaged: get it again."
        )
    if md5 is not None:
        check_sum(path, content, [md5])
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy())


def _notes(train: Labelled, test: Labelled, verify: bool) -> list[str]:
    counted = ((train, TRAINING_IMAGES, "training"), (test, TEST_IMAGES, "test"))
    return [
        f"{len(part.labels):,} of {count:,} {what} images" for part, count, what in counted if len(part.labels) != count
    ] + ([] if verify else ["files not verified"])


def _labelled(folder: Path, prefix: str, sums: Mapping[str, str]) -> Labelled:
    images, labels = (
        read_idx(_present(folder, f"{prefix}-{kind}"), axes, sums.get(f"{prefix}-{kind}"))
        for kind, axes in ((IMAGES, 3), (LABELS, 1))
    )
    where = _present(folder, f"{prefix}-{IMAGES}")
    if images.shape[1:] != (SIDE, SIDE):
        raise FileFormatError(f"'{where}' has images of {tuple(images.shape[1:])} pixels; expected ({SIDE}, {SIDE}).")
    return Labelled(Pixels(images.unsqueeze(1)), labels.long()).check_labels(where, CLASSES)


def _present(folder: Path, file: str) -> Path:
    return folder / file if (folder / file).exists() else folder / f"{file}.gz"
