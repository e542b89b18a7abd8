"""Handwritten digits, 8x8 pixels: real data that comes with scikit-learn, so nothing is downloaded."""

from __future__ import annotations

import torch

from sparsewood.data.part import Normalization, Part, Pixels
from sparsewood.data.sampling import stratified
from sparsewood.data.split import PARTS, HeldOut, Split
from sparsewood.errors import SparsewoodError

__all__ = ["digits"]

BRIGHTEST = 16.0  # pixels are counts of set points in 4x4 blocks


def digits(generator: torch.Generator | None = None, *, validation: int | float = 0.2, test: float = 0.2) -> Split:
    """The 1,797 images of scikit-learn's `load_digits`: 10 classes, float32[n, 1, 8, 8], in three disjoint parts.

    `validation` and `test` are shares of each class; training gets the rest. Pixels are scaled to [0, 1]; inputs are
    shifted and scaled by the mean and standard deviation of the training part. Without a `generator` the split is
    the one of seed 0. Raises `SparsewoodError` if scikit-learn is missing. Source: E. Alpaydin, C. Kaynak 1998,
    Optical Recognition of Handwritten Digits, https://doi.org/10.24432/C50P49.

    >>> digits().sizes
    {'train': 1079, 'validation': 359, 'test': 359}
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise SparsewoodError(
            "The digits data set comes with scikit-learn, which is not installed. Run: pip install 'sparsewood[data]'"
        ) from error
    pixels, target = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels).float().reshape(-1, 1, 8, 8) / BRIGHTEST
    labels = torch.from_numpy(target).long()
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    held_out = stratified(labels, [validation, test], generator)
    indices = dict(zip(PARTS, (held_out[2], held_out[0], held_out[1]), strict=True))
    if any(part.numel() == 0 for part in indices.values()):
        raise SparsewoodError(f"A part of the digits split is empty with validation={validation} and test={test}.")
    seen = images[indices["train"]]
    normalization = Normalization((float(seen.mean()),), (float(seen.std()),))
    parts = {
        part: Part(Pixels(images), labels[index], normalization, index, training=part == "train")
        for part, index in indices.items()
    }
    return Split("digits", parts["train"], parts["validation"], HeldOut(parts["test"]), classes=10, indices=indices)
