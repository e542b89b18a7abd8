"""Parts: bytes stay bytes until they are read, and inputs are normalised pixels. [000-12], regression 5."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sparsewood.data import Part, Pixels
from sparsewood.data.part import Normalization, as_pixels
from sparsewood.errors import SparsewoodError


def test_inputs_by_hand(ten: Part) -> None:
    inputs, labels = ten.batch(torch.tensor([9, 0]))
    assert labels.tolist() == [1, 0]
    expected = [[(i / 255 - m) / s for m, s in ((0.5, 0.5), (0.4, 0.25), (0.3, 0.2))] for i in (90, 0)]
    assert torch.allclose(inputs[:, :, 0, 0], torch.tensor(expected))
    assert inputs.dtype == torch.float32
    assert (inputs == inputs[:, :, :1, :1]).all()


def test_normalise_one_half_as_unitmem_does() -> None:
    """[000-12] Normalised .5/.5: pixels in [0, 1] become [-1, 1], exactly once."""
    images = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1)
    part = Part(Pixels(images), torch.tensor([0, 0]), Normalization((0.5,), (0.5,)))
    assert part[[0, 1]][0].flatten().tolist() == [-1.0, 1.0]


def test_pixels_stay_bytes_and_are_shared(ten: Part) -> None:
    subset = ten.subset(torch.tensor([8, 2, 5])).subset(torch.tensor([2, 0]))
    assert subset.source is ten.source
    assert isinstance(subset.source, Pixels)
    assert subset.source.tensor.dtype == torch.uint8
    assert subset.labels.tolist() == [1, 0]
    assert subset.pixels(torch.tensor([0, 1]))[:, 0, 0, 0].mul(255).round().tolist() == [50, 80]
    assert subset.training


def test_reading_gives_new_tensors(ten: Part) -> None:
    first = ten.pixels(torch.tensor([3]))
    first.zero_()
    assert ten.pixels(torch.tensor([3])).mean() > 0


def test_indexing_one_several_and_none(ten: Part) -> None:
    image, label = ten[-1]
    assert image.shape == (3, 4, 4)
    assert (label.shape, int(label)) == ((), 1)
    assert ten[[]][0].shape == (0, 3, 4, 4)
    with pytest.raises(IndexError, match="Example 10 of 10"):
        ten[10]


def test_measured_normalisation_is_that_of_all_pixels() -> None:
    images = torch.randint(256, (37, 3, 5, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    part = Part(Pixels(images), torch.zeros(37, dtype=torch.int64), None)
    measured = Normalization.measured(part, batch_size=8)
    pixels = images.double() / 255
    assert measured.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist())
    assert measured.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist())


@pytest.mark.parametrize(
    ("tensor", "message"),
    [(torch.zeros(2, 3, 4), r"of shape \(2, 3, 4\)"), (torch.zeros(2, 1, 1, 1, dtype=torch.int64), "int64"),
     (torch.full((1, 1, 1, 1), 1.5), r"values in \[1.5, 1.5\]"), (torch.full((1, 1, 1, 1), torch.nan), "nan"),
     (torch.full((1, 1, 1, 1), -0.1), r"before any normalisation")],
)  # fmt: skip
def test_images_that_are_no_pixels_are_refused(tensor: Tensor, message: str) -> None:
    with pytest.raises(SparsewoodError, match=message):
        Pixels(tensor)


@pytest.mark.parametrize(
    "make",
    [lambda: Normalization((0.5,), (0.5, 0.5)), lambda: Normalization((), ()), lambda: Normalization((0.5,), (0.0,)),
     lambda: Normalization((0.5,), (0.5,))(torch.zeros(1, 3, 2, 2)),
     lambda: Part(Pixels(torch.zeros(2, 1, 1, 1)), torch.zeros(3, dtype=torch.int64), None),
     lambda: Part(Pixels(torch.zeros(2, 1, 1, 1)), torch.zeros(2), None)],
)  # fmt: skip
def test_what_does_not_fit_is_refused(make: Any) -> None:
    with pytest.raises(SparsewoodError, match=r"channel|label|Labels"):
        make()


def test_floats_are_not_scaled() -> None:
    pixels = torch.tensor([0.25, 1.0])
    assert as_pixels(pixels) is pixels
