"""CUB-200-2011: photographs of birds, 200 species."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch

from sparsewood.data.assemble import Cut, Labelled, assemble
from sparsewood.data.images import IMAGENET, Box, ImageFiles, require_pillow
from sparsewood.data.locate import Published, Root, read_bytes
from sparsewood.data.part import Normalization
from sparsewood.data.split import Split
from sparsewood.errors import FileFormatError

__all__ = ["cub200"]

T = TypeVar("T")

LISTS = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "classes.txt")
CUB = Published(
    "CUB-200-2011",
    "https://www.vision.caltech.edu/datasets/cub_200_2011/",
    ("CUB_200_2011", "cub200", ""),
    f"{', '.join(LISTS)} and the folder 'images'",
)
TRAINING_IMAGES, TEST_IMAGES, CLASSES = 5_994, 5_794, 200


def cub200(
    root: Root = None,
    *,
    size: int = 224,
    central: float = 0.875,
    boxes: bool = False,
    validation: int | float = 0.1,
    train_size: int | None = None,
    seed: int = 0,
    normalization: Normalization | None = None,
) -> Split:
    """CUB-200-2011: 11,788 photographs of birds, 200 species; 5,994 training and 5,794 test images.

    Reads the lists and the folder `images` from `<root>/CUB_200_2011`, `<root>/cub200` or `<root>`. `validation` (a
    share, or how many) is cut from the training images. With `boxes` each image is its bounding box (of
    `bounding_boxes.txt`). Decoding and normalisation are those of `image_folder`.

    Raises `SparsewoodError` if files are missing, `FileFormatError` if the lists do not fit together. Source: Wah
    et al. 2011, Caltech technical report CNS-TR-2011-001, https://www.vision.caltech.edu/datasets/cub_200_2011/;
    non-commercial research and education only.

    >>> cub200("no/such/directory")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    sparsewood.errors.SparsewoodError: The data root 'no/such/directory' is not a directory. ...
    """
    require_pillow()
    folder = CUB.folder(root, [[name] for name in (*LISTS, "images", *(["bounding_boxes.txt"] if boxes else []))])
    names = _table(folder / "classes.txt", str)
    paths = {number: folder / "images" / path for number, path in _table(folder / "images.txt", str).items()}
    labels = _table(folder / "image_class_labels.txt", int, paths)
    training = _table(folder / "train_test_split.txt", int, paths)
    around = _table(folder / "bounding_boxes.txt", _box, paths) if boxes else None
    ids = {flag: [number for number in paths if training[number] == flag] for flag in (1, 0)}
    if sum(map(len, ids.values())) != len(paths):
        raise FileFormatError(f"'{folder / 'train_test_split.txt'}' must hold 1 for training and 0 for test images.")
    order = {number: place for place, number in enumerate(names)}
    parts: dict[int, Labelled] = {}
    for flag, chosen in ids.items():
        unknown = [number for number in chosen if labels[number] not in order]
        if unknown:
            raise FileFormatError(
                f"'{folder / 'image_class_labels.txt'}' gives image {unknown[0]} the class {labels[unknown[0]]}, which "
                "is not in classes.txt."
            )
        source = ImageFiles(
            [paths[i] for i in chosen], size, central, None if around is None else [around[i] for i in chosen]
        )
        parts[flag] = Labelled(source, torch.tensor([order[labels[i]] for i in chosen], dtype=torch.int64))
    return assemble(
        "cub200",
        parts[1],
        parts[0],
        cut=Cut(validation, train_size, seed),
        normalization=normalization or Normalization(*IMAGENET),
        classes=list(names.values()),
        notes=_notes(parts, len(names)) + (["cut to bounding boxes"] if boxes else []),
    )


def _notes(parts: Mapping[int, Labelled], classes: int) -> list[str]:
    counted = (
        (len(parts[1].labels), TRAINING_IMAGES, "training images"),
        (len(parts[0].labels), TEST_IMAGES, "test images"),
        (classes, CLASSES, "classes"),
    )
    return [f"{got:,} of {published:,} {what}" for got, published, what in counted if got != published]


def _table(path: Path, convert: Callable[[str], T], keys: Mapping[int, object] | None = None) -> dict[int, T]:
    """Lines of a number and a value, in the order of the file; `keys` are the numbers that must be there."""
    rows: dict[int, T] = {}
    for number, line in enumerate(read_bytes(path).decode("utf-8", "replace").splitlines(), start=1):
        if not line.strip():
            continue
        key, _, value = line.strip().partition(" ")
        try:
            rows[int(key)] = convert(value)
        except ValueError as error:
            raise FileFormatError(f"'{path}', line {number}: expected a number and a value. Got {line!r}.") from error
    missing = [key for key in keys or () if key not in rows]
    if missing:
        raise FileFormatError(f"'{path}' says nothing of {len(missing)} images in images.txt, first {missing[0]}.")
    return rows


def _box(text: str) -> Box:
    left, top, across, down = map(float, text.split())
    return left, top, across, down
