"""Disjoint parts of one data set, and batches of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, TensorDataset

from sparsewood.errors import SparsewoodError

__all__ = ["Split", "batches", "stratified"]

PARTS: tuple[str, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Split:
    """Three data sets of (inputs, labels), and which examples of the whole each holds.

    `indices[part]` are int64 positions in the whole data set; that they are disjoint is asserted.
    """

    name: str
    train: TensorDataset
    validation: TensorDataset
    test: TensorDataset
    classes: int
    indices: Mapping[str, Tensor] = field(repr=False)

    def __post_init__(self) -> None:
        drawn = torch.cat([self.indices[part] for part in PARTS])
        assert drawn.unique().numel() == drawn.numel(), f"{self.name}: an example is in two parts of the split"
        for part in PARTS:
            assert len(getattr(self, part)) == self.indices[part].numel(), f"{self.name}: {part} and its indices differ"

    @property
    def sizes(self) -> dict[str, int]:
        """Number of examples of each part."""
        return {part: self.indices[part].numel() for part in PARTS}


def stratified(labels: Tensor, shares: Sequence[float], generator: torch.Generator) -> tuple[Tensor, ...]:
    """Disjoint index vectors, one for each share and a last one for the rest, alike in their class proportions.

    Of n examples of a class, part i gets round(shares[i] * n); which ones is drawn from `generator`. Indices are
    ascending. Raises `SparsewoodError` if the shares are negative or leave nothing for the rest.

    >>> labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    >>> part, rest = stratified(labels, [0.25], torch.Generator().manual_seed(0))
    >>> labels[part], labels[rest]
    (tensor([0, 1]), tensor([0, 0, 0, 1, 1, 1]))
    """
    if any(share < 0 for share in shares) or sum(shares) >= 1:
        raise SparsewoodError(f"Shares of a split must be >= 0 and sum to less than 1. Got {list(shares)}.")
    parts: list[list[Tensor]] = [[] for _ in range(len(shares) + 1)]
    for label in labels.unique():
        members = (labels == label).nonzero().reshape(-1)
        members = members[torch.randperm(members.numel(), generator=generator)]
        sizes = [round(share * members.numel()) for share in shares]
        for part, chosen in zip(parts, members.split([*sizes, members.numel() - sum(sizes)]), strict=True):
            part.append(chosen)
    return tuple(torch.cat(part).sort().values for part in parts)


def batches(
    data: TensorDataset, batch_size: int, *, generator: torch.Generator | None = None
) -> DataLoader[tuple[Tensor, ...]]:
    """A loader of whole batches: in order, or in a new order each pass drawn from `generator` if one is given.

    The last batch is smaller when `batch_size` does not divide the number of examples; none is dropped.

    >>> data = TensorDataset(torch.arange(5), torch.arange(5))
    >>> [labels.tolist() for _, labels in batches(data, 2)]
    [[0, 1], [2, 3], [4]]
    """
    if batch_size < 1:
        raise SparsewoodError(f"The batch size must be >= 1. Got {batch_size}.")
    sampler = SequentialSampler(data) if generator is None else RandomSampler(data, generator=generator)
    # batch_size=None hands the sampler's whole list of indices to the data set: one indexing per batch, not per image.
    # Without a generator of its own a loader draws from the global random state, even where nothing is random.
    return DataLoader(
        data,
        batch_size=None,
        sampler=BatchSampler(sampler, batch_size, drop_last=False),
        generator=torch.Generator() if generator is None else generator,
    )
