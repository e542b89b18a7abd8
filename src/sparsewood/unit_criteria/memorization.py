"""UnitMem and outlier selectivity as criteria."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from sparsewood.batches import require_batches, split_batch
from sparsewood.data.augment import NormalViews
from sparsewood.data.part import Part
from sparsewood.errors import SparsewoodError
from sparsewood.marks import OfKind
from sparsewood.statistics import Loss
from sparsewood.structure import Structure
from sparsewood.unit_criteria.base import UnitCriterion
from sparsewood.units.memorization import Center, Negative, UnitMemorization, unit_memorization

__all__ = ["OutlierSelectivity", "UnitMem"]

_NORMAL = NormalViews()


@dataclass(frozen=True)
class UnitMem(UnitCriterion):
    """score_j = (mu_j(x_k) - m_j) / (mu_j(x_k) + m_j), k the image that excites unit j most.

    m_j is the mean of mu_j(x_i) over the other images, or their median with center="median".
    See `units.unit_memorization`. Units that memorize single images stay; to prune those instead, select the highest.
    `data` are training images, not augmented: a `Part` or float[n, c, h, w]; the first `images` of them count.
    `augment` may be None.

    Source: Wang et al. 2024, "Localizing Memorization in SSL Vision Encoders", https://arxiv.org/abs/2409.19069.

    >>> UnitMem(augmentations=5, images=100).augmentations
    5
    """

    augment: Annotated[Any, OfKind("augmentations")] | None = _NORMAL
    augmentations: int = 10
    images: int | None = 1000
    batch_size: int = 500
    center: Center = "mean"
    negative: Negative = "error"
    reads_images: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _require_images(self.images)

    def measure(
        self, model: nn.Module, structure: Structure, images: Any, generator: torch.Generator
    ) -> UnitMemorization:
        """The measure itself: scores, images and dead units by layer."""
        return unit_memorization(
            model, _first(images, self.images), self.augment, self.augmentations, batch_size=self.batch_size,
            center=self.center, negative=self.negative, structure=structure, generator=generator,
        )  # fmt: skip

    def of(self, found: UnitMemorization) -> dict[str, Tensor]:
        """Scores of every group from the measure."""
        return found.of_groups()

    def __call__(
        self,
        model: nn.Module,
        structure: Structure,
        *,
        data: Iterable[Any] | None,
        loss: Loss | None,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        self.require(data, loss)
        return self.of(self.measure(model, structure, data, generator))


@dataclass(frozen=True)
class OutlierSelectivity(UnitCriterion):
    """score_j = (mu_j(x_k) - s_j) / (mu_j(x_k) + s_j), s_j the second largest of mu_j(x_i) instead of the others' mean.

    Everything else is as in `UnitMem`.

    Source: the outlier-neuron pruner beside Wang et al. 2024, https://arxiv.org/abs/2409.19069.

    >>> OutlierSelectivity(augment=None).reads_images
    True
    """

    augment: Annotated[Any, OfKind("augmentations")] | None = _NORMAL
    augmentations: int = 10
    images: int | None = 1000
    batch_size: int = 500
    negative: Negative = "error"
    reads_images: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _require_images(self.images)

    def measure(
        self, model: nn.Module, structure: Structure, images: Any, generator: torch.Generator
    ) -> UnitMemorization:
        """The measure itself; the scores are its `outlier`."""
        return unit_memorization(
            model, _first(images, self.images), self.augment, self.augmentations, batch_size=self.batch_size,
            negative=self.negative, structure=structure, generator=generator,
        )  # fmt: skip

    def of(self, found: UnitMemorization) -> dict[str, Tensor]:
        """Scores of every group from the measure."""
        return found.statistics.of_groups(found.outlier_at_sites)

    def __call__(
        self,
        model: nn.Module,
        structure: Structure,
        *,
        data: Iterable[Any] | None,
        loss: Loss | None,
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        self.require(data, loss)
        return self.of(self.measure(model, structure, data, generator))


def _require_images(images: object) -> None:
    if images is not None and (isinstance(images, bool) or not isinstance(images, int) or images < 2):
        raise SparsewoodError(f"'images' must be a whole number >= 2, or None for all. Got {images!r}.")


def _first(images: Any, count: int | None) -> Any:
    """The first `count` images."""
    if count is None:
        return images
    if not isinstance(images, Part | Tensor):
        require_batches(images)
        return _few(images, count)
    if len(images) <= count:
        return images
    return images.subset(torch.arange(count)) if isinstance(images, Part) else images[:count]


def _few(batches: Iterable[Any], count: int) -> Iterator[Tensor]:
    for number, batch in enumerate(batches):
        inputs = split_batch(batch, number)[0]
        yield inputs[:count]
        count -= len(inputs)
        if count <= 0:
            return
