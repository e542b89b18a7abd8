"""Drawing examples so that every class is represented alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sparsewood.errors import SparsewoodError

__all__ = ["balanced", "stratified"]


def stratified(labels: Tensor, shares: Sequence[float], generator: torch.Generator) -> tuple[Tensor, ...]:
    """Disjoint index vectors, one for each share and a last one for the rest, alike in their class proportions.

    A float is a share: of n examples of a class, part i gets round(shares[i] * n). An int is how many examples the part
    has in all, to the classes in proportion to what the parts before left of them, by largest remainder. Which ones
    is drawn from `generator`. Indices are ascending. Raises `SparsewoodError` if the shares are negative or leave
    nothing for the rest.

    >>> labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    >>> part, rest = stratified(labels, [0.25], torch.Generator().manual_seed(0))
    >>> labels[part], labels[rest]
    (tensor([0, 1]), tensor([0, 0, 0, 1, 1, 1]))
    >>> [len(part) for part in stratified(labels, [3, 2], torch.Generator().manual_seed(0))]
    [3, 2, 3]
    """
    _check(shares, len(labels))
    classes = labels.unique()
    left = [int((labels == label).sum()) for label in classes]
    whole = list(left)
    sizes: list[list[int]] = []
    for share in shares:
        if isinstance(share, int):
            taken = _apportioned(share, left)
        else:
            taken = [min(round(share * n), free) for n, free in zip(whole, left, strict=True)]
        left = [free - n for free, n in zip(left, taken, strict=True)]
        sizes.append(taken)
    parts: list[list[Tensor]] = [[] for _ in range(len(shares) + 1)]
    for place, label in enumerate(classes):
        members = (labels == label).nonzero().reshape(-1)
        members = members[torch.randperm(members.numel(), generator=generator)]
        cut = [taken[place] for taken in sizes]
        for part, chosen in zip(parts, members.split([*cut, left[place]]), strict=True):
            part.append(chosen)
    return tuple(torch.cat(part).sort().values for part in parts)


def balanced(labels: Tensor, per_class: int, generator: torch.Generator) -> Tensor:
    """Ascending indices of `per_class` examples of each class, drawn from `generator`.

    Raises `SparsewoodError` if a class has fewer.

    >>> labels = torch.tensor([0, 0, 0, 0, 1, 1])
    >>> labels[balanced(labels, 2, torch.Generator().manual_seed(0))]
    tensor([0, 0, 1, 1])
    """
    if isinstance(per_class, bool) or not isinstance(per_class, int) or per_class < 1:
        raise SparsewoodError(f"balanced: per_class must be a whole number >= 1. Got {per_class!r}.")
    found = []
    for label in labels.unique():
        members = (labels == label).nonzero().reshape(-1)
        if len(members) < per_class:
            raise SparsewoodError(
                f"balanced: {per_class} examples of every class are wanted, and class {int(label)} has {len(members)}."
            )
        found.append(members[torch.randperm(len(members), generator=generator)[:per_class]])
    return torch.cat(found).sort().values


def _check(shares: Sequence[float], total: int) -> None:
    fractions = [share for share in shares if not isinstance(share, int)]
    counts = [share for share in shares if isinstance(share, int)]
    unfit = any(isinstance(share, bool) or not share >= 0 for share in shares)
    if unfit or sum(fractions) >= 1 or sum(fractions) * total + sum(counts) >= total:
        raise SparsewoodError(
            f"Shares of a split must be >= 0 and sum to less than 1; whole numbers count examples, of {total} here. "
            f"Got {list(shares)}."
        )


def _apportioned(count: int, available: Sequence[int]) -> list[int]:
    """`count` in proportion to `available`, by largest remainder; of equal remainders the first gets it."""
    total = sum(available)
    count = min(count, total)
    taken = [count * n // total for n in available] if total else [0 for _ in available]
    by_remainder = sorted(range(len(available)), key=lambda i: (-(count * available[i] % total), i)) if total else []
    for place in by_remainder[: count - sum(taken)]:
        taken[place] += 1
    return taken
