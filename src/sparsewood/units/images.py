"""Images, or other examples, as they go into a network: each augmented several times, in full batches."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import RandomSampler

from sparsewood.batches import require_batches, split_batch
from sparsewood.data.part import Part
from sparsewood.errors import SparsewoodError

__all__ = ["Images", "Views"]

logger = logging.getLogger(__name__)

Images = Part | Tensor | Iterable[Any]
"""A `Part`, a tensor whose first axis counts examples, or batches of such tensors (with labels or without)."""

Change = Callable[..., Tensor]
"""`augment(pixels, generator)` or `augment(pixels)`: other pixels, at random, of the same examples."""

Batch = tuple[Tensor, Tensor]
"""The number of each example in the data, and the inputs."""


@dataclass(frozen=True)
class Views:
    """Every example `count` times, each time augmented anew, then normalised.

    Iterating over `batches(images)` gives ceil(N count / batch_size) batches for N examples, all of `batch_size` but
    the last. The draws of an example come shortly after one another: `augment` is called on a few examples at a time,
    once for each draw, so that one that draws once for a whole batch gives every example different draws all the same.
    """

    augment: Change | None
    count: int
    batch_size: int
    normalize: Callable[[Tensor], Tensor] | None
    generator: torch.Generator

    def batches(self, images: Images) -> Iterator[Batch]:
        """(numbers of the examples, inputs); raises `SparsewoodError` for what are no images."""
        waiting: list[Batch] = []
        size = 0
        for batch in self._draws(images):
            waiting.append(batch)
            size += len(batch[0])
            while size >= self.batch_size:
                numbers, inputs = _joined(waiting)
                yield numbers[: self.batch_size], inputs[: self.batch_size]
                waiting = [(numbers[self.batch_size :], inputs[self.batch_size :])]
                size -= self.batch_size
        if size:
            yield _joined(waiting)

    def _draws(self, images: Images) -> Iterator[Batch]:
        normalize = self.normalize
        if normalize is None and isinstance(images, Part):
            normalize = images.normalized
        change = None if self.augment is None else _bound(self.augment, self.generator)
        first, alike = 0, True
        for pixels in _chunks(images, max(1, self.batch_size // self.count)):
            numbers = torch.arange(first, first + len(pixels))
            first += len(pixels)
            before: Tensor | None = None
            for _ in range(self.count):
                view = pixels if change is None else _changed(change(pixels.clone()), pixels)
                alike = alike and (before is None or torch.equal(view, before))
                before = view if alike else None
                yield numbers, view if normalize is None else normalize(view)
        if alike and first and self.count > 1:
            logger.warning(
                "%r gave every example %d times the same: it is not random, and the mean over augmentations means "
                "nothing. Pass augment=None for a measure without augmentation.", self.augment, self.count,
            )  # fmt: skip


def _joined(batches: list[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    return torch.cat([numbers for numbers, _ in batches]), torch.cat([inputs for _, inputs in batches])


def _changed(view: object, pixels: Tensor) -> Tensor:
    if not isinstance(view, Tensor) or len(view) != len(pixels):
        got = tuple(view.shape) if isinstance(view, Tensor) else type(view).__name__
        raise SparsewoodError(
            f"augment must return as many examples as it is given, {len(pixels)} of shape {tuple(pixels.shape[1:])}. "
            f"Got {got}."
        )
    return view


def _bound(augment: Change, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """`augment` as a function of pixels alone."""
    try:
        parameters = inspect.signature(augment).parameters.values()
    except (TypeError, ValueError):  # some builtin functions have none
        return augment
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(positional) > 1 and (positional[1].default is positional[1].empty or positional[1].name == "generator"):
        return lambda pixels: augment(pixels, generator)
    return augment


def _chunks(images: Images, size: int) -> Iterator[Tensor]:
    """The examples, at most `size` at a time, not normalised."""
    if isinstance(images, Part):
        for indices in torch.arange(len(images)).split(size):
            yield images.pixels(indices)
    elif isinstance(images, Tensor):
        if images.ndim < 2:
            raise SparsewoodError(f"images must have an axis of examples and others. Got shape {tuple(images.shape)}.")
        yield from images.split(size) if len(images) else ()
    else:
        require_batches(images)
        if isinstance(getattr(images, "sampler", None), RandomSampler):
            logger.warning(
                "The loader shuffles: numbers of images will count in the order in which it gives them, not in that of "
                "the data set. Pass shuffle=False to have those."
            )
        for number, batch in enumerate(images):
            inputs, _ = split_batch(batch, number)
            if not isinstance(inputs, Tensor):
                raise SparsewoodError(
                    f"Batch {number} must hold one tensor of images. Got {type(inputs).__name__}. Images are a Part, a "
                    "tensor float[n, c, h, w], or batches of such tensors."
                )
            yield from inputs.split(size)
