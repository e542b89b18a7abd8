"""One part of a data set: images that are read when needed, their labels, and how pixels become inputs."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sparsewood import checkpoint
from sparsewood.errors import SparsewoodError

__all__ = ["Normalization", "Part", "Pixels", "Source", "View", "as_pixels"]

BRIGHTEST = 255.0


@dataclass(frozen=True)
class Normalization:
    """(pixels - mean) / std, with one mean and one standard deviation for each channel, of pixels in [0, 1].

    Raises `SparsewoodError` if there are not as many means as deviations, or a deviation is not above 0.

    >>> Normalization((0.5,), (0.25,))(torch.tensor([[[[0.0, 1.0]]]]))
    tensor([[[[-2.,  2.]]]])
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.std) or not all(deviation > 0 for deviation in self.std):
            raise SparsewoodError(
                f"A normalisation needs one mean and one standard deviation above 0 for each channel. Got {self}."
            )

    def __call__(self, pixels: Tensor) -> Tensor:
        if pixels.ndim != 4 or pixels.shape[1] not in (len(self.mean), 0):
            raise SparsewoodError(
                f"{self} is for images of {len(self.mean)} channels. Got pixels of shape {tuple(pixels.shape)}."
            )
        mean, std = (pixels.new_tensor(values).reshape(1, -1, 1, 1) for values in (self.mean, self.std))
        return pixels.sub(mean).div_(std)

    @classmethod
    def measured(cls, part: Part, batch_size: int = 512) -> Normalization:
        """Mean and standard deviation (of the population) of each channel over all pixels of `part`, read once."""
        total = squares = torch.zeros(part.shape[0], dtype=torch.float64)
        for positions in torch.arange(len(part)).split(batch_size):
            pixels = part.pixels(positions).double()
            total, squares = total + pixels.sum((0, 2, 3)), squares + pixels.square().sum((0, 2, 3))
        count = len(part) * part.shape[1] * part.shape[2]
        mean = total / count
        return cls(tuple(mean.tolist()), tuple((squares / count - mean.square()).clamp(min=0).sqrt().tolist()))


@dataclass(frozen=True)
class View:
    """Which look at the images of a training part this is: what is random for one image follows from it and the image.

    `crop` is cut while an image file is decoded, by sources that `decode`; see `augment.ResizedCrop`.
    """

    seed: int
    epoch: int
    crop: Any = None


class Source(ABC):
    """Where images come from."""

    decodes: bool = False
    """Whether reading is decoding of files: it pays to do it in threads, and it can crop."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Of one image: (channels, height, width)."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, positions: Tensor, view: View | None = None) -> Tensor:
        """The images at `positions` (int64[b]) as uint8 in [0, 255] or float in [0, 1], shape (b, *shape).

        Without a `view` they are the same at every call.
        """

    def digest(self) -> str:
        """SHA-256 of what the images are, as far as that is quick to tell: here of how many and how large."""
        return hashlib.sha256(f"{len(self)} {self.shape}".encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Pixels(Source):
    """Images in memory: uint8[n, c, h, w], converted when read, or float[n, c, h, w] in [0, 1].

    Raises `SparsewoodError` for another shape or type, or values outside [0, 1].

    >>> Pixels(torch.tensor([[[[0, 255]]]], dtype=torch.uint8)).read(torch.tensor([0]))
    tensor([[[[  0, 255]]]], dtype=torch.uint8)
    """

    tensor: Tensor

    def __post_init__(self) -> None:
        tensor = self.tensor
        if tensor.ndim != 4 or tensor.dtype not in (torch.uint8, torch.float32):
            raise SparsewoodError(
                "Images in memory must be uint8 or float32 of shape (images, channels, height, width). "
                f"Got {tensor.dtype} of shape {tuple(tensor.shape)}."
            )
        if tensor.is_floating_point() and tensor.numel():
            low, high = (float(bound) for bound in tensor.aminmax())
            if not (low >= 0 and high <= 1):
                raise SparsewoodError(
                    f"Float images must be pixels in [0, 1], before any normalisation. Got values in [{low}, {high}]."
                )

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape[1:])

    def __len__(self) -> int:
        return len(self.tensor)

    def digest(self) -> str:
        return checkpoint.digest({"pixels": self.tensor}, {})

    def read(self, positions: Tensor, view: View | None = None) -> Tensor:  # noqa: ARG002 - nothing is random here
        return self.tensor.index_select(0, positions)


@dataclass(frozen=True, eq=False)
class Part(Dataset[tuple[Tensor, Tensor]]):
    """A map-style data set of images with labels, in a fixed order.

    `labels` is int64[n]; label i belongs to the image at `positions[i]` of `source` (default: at i). `part[i]` is one
    (input, label), `part[[i, j]]` a batch, both normalised and never augmented. Without a `normalization` inputs are
    what the source gives. Only a part with `training=True` may be augmented by a `Loader`.

    Raises `SparsewoodError` if labels and images do not match.

    >>> images = Pixels(torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(3, 1, 1, 1))
    >>> part = Part(images, torch.tensor([0, 1, 1]), Normalization((0.2,), (0.4,)))
    >>> inputs, labels = part.batch(torch.tensor([1, 2]))
    >>> inputs.flatten(), labels
    (tensor([0., 2.]), tensor([1, 1]))
    """

    source: Source
    labels: Tensor
    normalization: Normalization | None
    positions: Tensor | None = None
    training: bool = False

    def __post_init__(self) -> None:
        if self.labels.dtype != torch.int64 or self.labels.ndim != 1:
            raise SparsewoodError(
                f"Labels must be int64[n]. Got {self.labels.dtype} of shape {tuple(self.labels.shape)}."
            )
        images = len(self.source) if self.positions is None else self.positions.numel()
        if images != len(self.labels):
            raise SparsewoodError(f"Every image has one label. Got {images} images and {len(self.labels)} labels.")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image: (channels, height, width)."""
        return self.source.shape

    def subset(self, indices: Tensor) -> Part:
        """The examples at `indices` of this part, in that order; images are shared, not copied."""
        positions = indices if self.positions is None else self.positions[indices]
        return Part(self.source, self.labels[indices], self.normalization, positions, self.training)

    def read(self, indices: Tensor, view: View | None = None) -> Tensor:
        """The images as the source has them."""
        return self.source.read(indices if self.positions is None else self.positions[indices], view)

    def pixels(self, indices: Tensor) -> Tensor:
        """float32[b, c, h, w] in [0, 1], neither augmented nor normalised."""
        return as_pixels(self.read(indices))

    def normalized(self, pixels: Tensor) -> Tensor:
        """Inputs of a model from pixels."""
        return pixels if self.normalization is None else self.normalization(pixels)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs (normalised) and labels of the examples at `indices`."""
        return self.normalized(self.pixels(indices)), self.labels[indices]

    def __getitem__(self, index: int | Sequence[int] | Tensor) -> tuple[Tensor, Tensor]:
        if not isinstance(index, int):
            return self.batch(torch.as_tensor(index, dtype=torch.int64))
        if not -len(self) <= index < len(self):
            raise IndexError(f"Example {index} of {len(self)}")
        inputs, labels = self.batch(torch.tensor([index % len(self)]))
        return inputs[0], labels[0]


def as_pixels(images: Tensor) -> Tensor:
    """uint8 becomes float32 in [0, 1]; anything else stays as it is.

    >>> as_pixels(torch.tensor([0, 51, 255], dtype=torch.uint8))
    tensor([0.0000, 0.2000, 1.0000])
    """
    return images.float().div_(BRIGHTEST) if images.dtype == torch.uint8 else images
