"""Batches whose order and randomness follow from a seed and the number of the epoch alone."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsewood.data.augment import Augmentation, ResizedCrop
from sparsewood.data.part import Part, View, as_pixels
from sparsewood.errors import SparsewoodError
from sparsewood.seeds import generator_for

__all__ = ["Loader"]

AHEAD = 2  # batches being decoded while one is used


@dataclass(frozen=True, eq=False)
class Loader:
    """Batches of (inputs, labels) of a part, epoch by epoch.

    Nothing random is stored: with a `seed`, epoch e goes through the examples in the order drawn from
    `derive(seed, "order", e)`, and batch b of it is augmented with what is drawn from
    `derive(seed, "augment", e, b, rank)`; what is random in the decoding of one image file is drawn from
    `derive(seed, "image", e, its position)`. So `epoch(e, start)` goes on in the middle of an epoch bit for bit, and
    the global random state is neither read nor changed. Without a seed the order is that of the part.

    `augment` works on pixels in [0, 1]; what it returns is then normalised. It needs a seed, and a part with
    `training=True`.

    With `world` > 1 each global batch of `batch_size` indices is dealt out: rank r gets `indices[r::world]`. A smaller
    last batch is dealt out in the same way; all ranks have the same number of batches, no example is dropped or used
    twice. `workers` threads decode image files two batches ahead, with the same result for any number.

    Raises `SparsewoodError` for settings that do not fit, among them a last batch with fewer examples than ranks when
    there is a seed (without one, ranks with no example get an empty batch).

    >>> from sparsewood.data import digits
    >>> loader = Loader(digits().train, 128, seed=0)
    >>> len(loader), loader.samples
    (9, 1079)
    >>> inputs, labels = next(loader.epoch(3, start=8))
    >>> inputs.shape
    torch.Size([55, 1, 8, 8])
    """

    part: Part
    batch_size: int
    seed: int | None = None
    augment: Augmentation | None = None
    rank: int = 0
    world: int = 1
    workers: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.part, Part):
            raise SparsewoodError(
                f"A Loader reads a Part. Got {type(self.part).__name__}. A held-out part is opened first, after all "
                "training and choosing: split.test.open()."
            )
        for name, least in (("batch_size", 1), ("world", 1), ("rank", 0), ("workers", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise SparsewoodError(f"The '{name}' of a Loader must be a whole number >= {least}. Got {value!r}.")
        if self.rank >= self.world:
            raise SparsewoodError(f"Ranks are counted from 0 to world - 1 = {self.world - 1}. Got {self.rank}.")
        self._check_training()

    def _check_training(self) -> None:
        if self.augment is not None and not self.part.training:
            raise SparsewoodError(
                f"Only a training part is augmented. Got {self.augment} for a part with training=False: leave "
                "'augment' out where a model is evaluated or scored."
            )
        if self.augment is not None and self.seed is None:
            raise SparsewoodError(f"What is random needs a seed. Got {self.augment} and seed=None: pass seed=.")
        if self.seed is not None and len(self) and self.size(len(self) - 1) < self.world:
            raise SparsewoodError(
                f"The last batch has {self.size(len(self) - 1)} of {self.samples} examples, too few for "
                f"{self.world} ranks. Choose another batch size than {self.batch_size}."
            )

    @property
    def samples(self) -> int:
        """Examples of one epoch, of all ranks together."""
        return len(self.part)

    def __len__(self) -> int:
        """Batches of one epoch."""
        return math.ceil(len(self.part) / self.batch_size)

    def size(self, batch: int) -> int:
        """Examples of one batch of an epoch, of all ranks together."""
        return min(self.batch_size, len(self.part) - batch * self.batch_size)

    def order(self, number: int) -> Tensor:
        """Indices of all examples in the order of one epoch."""
        if self.seed is None:
            return torch.arange(len(self.part))
        return torch.randperm(len(self.part), generator=generator_for(self.seed, "order", number))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.epoch(0)

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """(inputs, labels) of epoch `number`, counted from 0, from batch `start` on.

        Raises `SparsewoodError` if the epoch has no such batch (its end, `len(loader)`, is allowed).
        """
        if number < 0 or not 0 <= start <= len(self):
            raise SparsewoodError(
                f"Epochs are counted from 0, and batches from 0 to {len(self)}. Got epoch {number}, batch {start}."
            )
        return self._epoch(number, start)

    def _epoch(self, number: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = self.order(number).split(self.batch_size)
        shares = [indices[self.rank :: self.world] for indices in order[start:]] if len(self) else []
        for batch, (indices, images) in enumerate(zip(shares, self._images(shares, number), strict=True), start):
            pixels = self._augmented(as_pixels(images), number, batch)
            yield self.part.normalized(pixels), self.part.labels[indices]

    def _augmented(self, pixels: Tensor, number: int, batch: int) -> Tensor:
        if self.augment is None or self._crops_files or not len(pixels):
            return pixels
        assert self.seed is not None
        return self.augment(pixels, generator_for(self.seed, "augment", number, batch, self.rank))

    @property
    def _crops_files(self) -> bool:
        return self.part.source.decodes and isinstance(self.augment, ResizedCrop)

    def _images(self, shares: list[Tensor], number: int) -> Iterator[Tensor]:
        crop = self.augment if self._crops_files else None
        view = None if self.seed is None or not self.part.training else View(self.seed, number, crop)
        if not self.workers or not self.part.source.decodes:
            yield from (self.part.read(indices, view) for indices in shares)
            return
        waiting: deque[list[Future[Tensor]]] = deque()
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="sparsewood-decode")
        try:
            for indices in shares:
                pieces = indices.tensor_split(self.workers) if len(indices) else [indices]
                waiting.append([pool.submit(self.part.read, piece, view) for piece in pieces])
                if len(waiting) > AHEAD:
                    yield torch.cat([piece.result() for piece in waiting.popleft()])
            while waiting:
                yield torch.cat([piece.result() for piece in waiting.popleft()])
        finally:
            pool.shutdown(cancel_futures=True)
