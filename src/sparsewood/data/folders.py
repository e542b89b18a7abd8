"""Folders of image files, one folder for each class, as ImageNet is laid out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from sparsewood.data.assemble import Cut, Labelled, assemble
from sparsewood.data.images import IMAGENET, ImageFiles, images_below, require_pillow
from sparsewood.data.locate import Published
from sparsewood.data.part import Normalization
from sparsewood.data.split import Split
from sparsewood.errors import SparsewoodError

__all__ = ["image_folder"]

FOLDERS = Published(
    "A folder of images",
    "https://image-net.org (ILSVRC 2012) or any source",
    ("",),
    "the folders train/<class>/<image> and val/<class>/<image>",
)


def image_folder(
    root: str | os.PathLike[str] | None = None,
    *,
    size: int = 224,
    central: float = 0.875,
    validation: int | float = 0.1,
    train_size: int | None = None,
    seed: int = 0,
    normalization: Normalization | None = None,
) -> Split:
    """Images in folders: `<root>/train/<class>/...` and `<root>/val/<class>/...`, as ImageNet is laid out.

    Without a `test` folder, `val` is the test part (as usual for ImageNet, whose test labels are not published), and
    `validation` (a share, or how many) is cut from the training images. With a labelled `<root>/test/<class>/...`, that
    is the test part and `val` the validation part. Nothing is ever chosen on the test part. Classes are the names of
    the folders in `train`, in order. `train_size` images are trained on (default: all).

    Images are decoded when they are read: RGB, `size` x `size`, the middle square with `central` of the shorter side
    (`Loader(augment=ResizedCrop())` for training). They are normalised with ImageNet's mean (.485, .456, .406) and
    deviation (.229, .224, .225) unless another `normalization` is given, such as `Normalization.measured(part)`.

    Raises `SparsewoodError` if folders are missing or their classes do not match. Source: Russakovsky et al. 2015,
    https://arxiv.org/abs/1409.0575, https://image-net.org; non-commercial research use only.

    >>> image_folder("no/such/directory")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    sparsewood.errors.SparsewoodError: The data root 'no/such/directory' is not a directory. ...
    """
    require_pillow()
    folder = FOLDERS.folder(root, [["train"], ["val", "test"]])
    classes = _classes(folder / "train")
    numbers = {name: number for number, name in enumerate(classes)}
    if not classes:
        raise SparsewoodError(f"'{folder / 'train'}' has no class: it must hold one folder of images for each class.")
    held = {part: folder / part for part in ("val", "test") if _classes(folder / part)}
    if not held:
        raise SparsewoodError(f"Neither 'val' nor 'test' in '{folder}' has a folder for each class.")
    found = {
        part: _labelled(path, numbers, size, central) for part, path in {"train": folder / "train", **held}.items()
    }
    empty = set(range(len(classes))) - set(found["train"].labels.tolist())
    if empty:
        raise SparsewoodError(f"Class folder '{folder / 'train' / classes[min(empty)]}' has no image.")
    unlabelled = "test" not in held and (folder / "test").exists()
    return assemble(
        "image_folder",
        found["train"],
        found.get("test") or found["val"],
        cut=Cut(found["val"] if len(held) == 2 else validation, train_size, seed),
        normalization=normalization or Normalization(*IMAGENET),
        classes=classes,
        notes=["folder 'test' has no classes and is not used"] if unlabelled else [],
    )


def _classes(folder: Path) -> Sequence[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _labelled(folder: Path, numbers: Mapping[str, int], size: int, central: float) -> Labelled:
    paths: list[Path] = []
    labels: list[int] = []
    for name in _classes(folder):
        if name not in numbers:
            raise SparsewoodError(
                f"'{folder / name}' is a class that the training images do not have. Theirs: "
                f"{', '.join(list(numbers)[:8])}{' ...' if len(numbers) > 8 else ''}. Remove it, or add it to 'train'."
            )
        images = images_below(folder / name)
        paths += images
        labels += [numbers[name]] * len(images)
    return Labelled(ImageFiles(paths, size, central), torch.tensor(labels, dtype=torch.int64))
