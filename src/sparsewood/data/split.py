"""Disjoint parts of one data set; the one that is read last is sealed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler

from sparsewood import checkpoint
from sparsewood.data.part import Part
from sparsewood.data.sampling import stratified
from sparsewood.errors import SparsewoodError
from sparsewood.seeds import generator_for

__all__ = ["PARTS", "HeldOut", "Split", "Subsets", "batches"]

PARTS: tuple[str, ...] = ("train", "validation", "test")


class HeldOut:
    """A part that nothing may be chosen on: it has to be opened to be read, and that is counted.

    A run that reports on it opens it once, after all training and choosing, and can show `openings == 1`.

    >>> from sparsewood.data.part import Pixels
    >>> test = HeldOut(Part(Pixels(torch.zeros(2, 1, 1, 1)), torch.tensor([0, 1]), None))
    >>> len(test), test.openings
    (2, 0)
    >>> test.open().labels, test.openings
    (tensor([0, 1]), 1)
    """

    def __init__(self, part: Part) -> None:
        self._part = part
        self._openings = [0]  # a list, so that subsets count in the same place

    @property
    def openings(self) -> int:
        """How many times this part, or a subset of it, was opened."""
        return self._openings[0]

    def open(self) -> Part:
        """The part itself."""
        self._openings[0] += 1
        return self._part

    def subset(self, indices: Tensor) -> HeldOut:
        """The examples at `indices`, sealed as well; opening either counts for both."""
        subset = HeldOut(self._part.subset(indices))
        subset._openings = self._openings
        return subset

    def __len__(self) -> int:
        return len(self._part)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image: (channels, height, width)."""
        return self._part.shape

    def __iter__(self) -> Any:
        raise SparsewoodError(
            "The test part is held out. After all training and choosing, open it once: split.test.open()."
        )

    def __getitem__(self, index: object) -> Any:
        return iter(self)


@dataclass(frozen=True)
class Subsets:
    """Small parts for scores and losses during pruning, each in the order of the whole data set.

    `subset_val` and `subset_val2` are of the validation part, `subset_test` of the test part.
    """

    subset_val: Part
    subset_val2: Part
    subset_test: HeldOut


@dataclass(frozen=True)
class Split:
    """Training, validation and test examples of one data set, and which examples of the whole each part holds.

    `indices[part]` are int64 positions in the whole data set; that they are disjoint is asserted. `note` says in what
    the data differ from the published set ("data_batch_1 only, 10,000 of 50,000 training images"); it belongs beside
    every number measured on them. `class_names` is empty where classes have no names.
    """

    name: str
    train: Part
    validation: Part
    test: HeldOut
    classes: int
    indices: Mapping[str, Tensor] = field(repr=False)
    note: str = ""
    class_names: tuple[str, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        drawn = torch.cat([self.indices[part] for part in PARTS])
        assert drawn.unique().numel() == drawn.numel(), f"{self.name}: an example is in two parts of the split"
        for part in PARTS:
            assert len(getattr(self, part)) == self.indices[part].numel(), f"{self.name}: {part} and its indices differ"
            assert getattr(self, part).shape == self.input_shape, f"{self.name}: {part} has images of another shape"
        assert not self.validation.training, f"{self.name}: the validation part says it is for training"
        assert not self.class_names or len(self.class_names) == self.classes, f"{self.name}: {self.classes} class names"

    @property
    def sizes(self) -> dict[str, int]:
        """Number of examples of each part."""
        return {part: self.indices[part].numel() for part in PARTS}

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one input: (channels, height, width)."""
        return self.train.shape

    def digest(self) -> str:
        """SHA-256 of all parts: their labels, their order, and their images as far as `Source.digest` goes.

        The test part is not opened for it: nothing about it comes out but whether it is the same.
        """
        sources: dict[int, str] = {}
        found = hashlib.sha256(f"{self.classes} {self.note}".encode())
        for part in (self.train, self.validation, self.test._part):
            key = id(part.source)
            sources[key] = sources.get(key) or part.source.digest()
            positions = torch.empty(0) if part.positions is None else part.positions
            rest = checkpoint.digest({"labels": part.labels, "positions": positions}, {"norm": str(part.normalization)})
            found.update(f"{sources[key]} {rest}".encode())
        return found.hexdigest()

    def subsets(self, val_size: int, eval_size: int, *, seed: int = 0, disjoint: bool = True) -> Subsets:
        """`subset_val` of `val_size` examples, `subset_val2` and `subset_test` of `eval_size`.

        The first two come from the validation part and have no example in common; with `disjoint=False` they are
        drawn independently. Classes are represented alike, examples keep their order, and nothing is shuffled:
        which examples they are depends on `seed` and the sizes only. Raises `SparsewoodError` if the validation or
        the test part is too small.
        """
        needed = {"validation": val_size + eval_size if disjoint else max(val_size, eval_size), "test": eval_size}
        for part, count in needed.items():
            if min(val_size, eval_size) < 1 or count > self.sizes[part]:
                raise SparsewoodError(
                    f"Subsets of {val_size} and {eval_size} examples need {count} of {self.name}'s {part} part, which "
                    f"has {self.sizes[part]}. Sizes start at 1."
                )
        labels = self.validation.labels
        first, rest = _drawn(labels, val_size, generator_for(seed, "subset_val"))
        if disjoint:
            second = rest[_drawn(labels[rest], eval_size, generator_for(seed, "subset_val2"))[0]]
        else:
            second = _drawn(labels, eval_size, generator_for(seed, "subset_val2"))[0]
        # Labels alone are looked at, to represent classes alike: that is cutting the data, not measuring on them.
        test = _drawn(self.test._part.labels, eval_size, generator_for(seed, "subset_test"))[0]
        return Subsets(self.validation.subset(first), self.validation.subset(second), self.test.subset(test))


def _drawn(labels: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    if count == len(labels):
        return torch.arange(count), torch.arange(0)
    part, rest = stratified(labels, [count], generator)
    return part, rest


def batches(
    data: Dataset[tuple[Tensor, ...]], batch_size: int, *, generator: torch.Generator | None = None
) -> DataLoader[tuple[Tensor, ...]]:
    """A loader of whole batches: in order, or in a new order each pass drawn from `generator` if one is given.

    `data` is a `Part` or a `TensorDataset`. The last batch is smaller when `batch_size` does not divide the number of
    examples; none is dropped. For training that can be cut and resumed, see `Loader`.

    >>> from torch.utils.data import TensorDataset
    >>> data = TensorDataset(torch.arange(5), torch.arange(5))
    >>> [labels.tolist() for _, labels in batches(data, 2)]
    [[0, 1], [2, 3], [4]]
    """
    if batch_size < 1:
        raise SparsewoodError(f"The batch size must be >= 1. Got {batch_size}.")
    sampler: Any = SequentialSampler(data) if generator is None else RandomSampler(data, generator=generator)  # type: ignore[arg-type]
    # batch_size=None hands the sampler's whole list of indices to the data set: one indexing per batch, not per image.
    # Without a generator of its own a loader draws from the global random state, even where nothing is random.
    return DataLoader(
        data,
        batch_size=None,
        sampler=BatchSampler(sampler, batch_size, drop_last=False),
        generator=torch.Generator() if generator is None else generator,
    )
