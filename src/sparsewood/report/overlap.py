"""How alike masks are: which share of what any of two keep both keep."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from sparsewood.errors import SparsewoodError

__all__ = ["chance_overlaps", "mask_overlaps", "mean_overlap"]

Matrix = tuple[tuple[float, ...], ...]
Named = Mapping[str, Mapping[str, Tensor]]


def mask_overlaps(masks: Named) -> Matrix:
    """The Jaccard indices of the kept entries of every two masks, in the order in which they are given.

    J(A, B) = |A and B| / |A or B|, over the entries of all layers together. It is 1 for equal masks, also for two that
    keep nothing, and 0 where nothing is kept by both. The matrix is symmetric with ones on its diagonal.

    `masks` are `Masks`, or mappings from parameter names to boolean tensors (True = kept), by the name of whatever they
    belong to. Raises `SparsewoodError` if they are not of the same parameters, or of other shapes.

    >>> one, other = torch.tensor([True, True, False]), torch.tensor([True, False, True])
    >>> mask_overlaps({"magnitude": {"w": one}, "random": {"w": other}})
    ((1.0, 0.333...), (0.333..., 1.0))
    """
    flat = _flat(masks)
    return _matrix(len(flat), lambda i, j: _jaccard(flat[i], flat[j]))


def chance_overlaps(masks: Named) -> Matrix:
    """The Jaccard indices that independent random masks of the same densities of layers have, for every two masks.

    Of layers with n entries each, of which the two masks keep the shares d1 and d2, random masks have

        sum over layers of n d1 d2  /  sum over layers of n (d1 + d2 - d1 d2)

    in expectation of |A and B| over that of |A or B|. (The expectation of the quotient is larger by a term of order
    1 / n, as the counts are fixed.) An index far above it means that both chose the same weights, not only as many of
    them in each layer. Off the diagonal, that is; on it stand ones. Raises as `mask_overlaps` does.

    >>> half, quarter = torch.arange(8) < 4, torch.arange(8) < 2
    >>> chance_overlaps({"a": {"w": half}, "b": {"w": quarter}})[0][1]  # 1 / (4 + 2 - 1)
    0.2
    """
    _flat(masks)
    given = list(masks.values())
    sizes = [mask.numel() for mask in given[0].values()] if given else []
    densities = [[_density(one[name]) for name in given[0]] for one in given]

    def chance(i: int, j: int) -> float:
        layers = list(zip(sizes, densities[i], densities[j], strict=True))
        union = sum(n * (one + other - one * other) for n, one, other in layers)
        return sum(n * one * other for n, one, other in layers) / union if union else 1.0

    return _matrix(len(given), chance)


def mean_overlap(matrix: Matrix) -> float | None:
    """The mean over all pairs, without the diagonal; None where there is no pair.

    >>> mean_overlap(((1.0, 0.25), (0.25, 1.0))), mean_overlap(((1.0,),))
    (0.25, None)
    """
    pairs = [value for number, row in enumerate(matrix) for value in row[:number]]
    return sum(pairs) / len(pairs) if pairs else None


def _flat(masks: Named) -> list[dict[str, Tensor]]:
    """The masks, each as bits in one row; they are of the same parameters."""
    found: list[dict[str, Tensor]] = []
    first: tuple[str, dict[str, torch.Size]] | None = None
    for name, one in masks.items():
        shapes = {parameter: mask.shape for parameter, mask in one.items()}
        for parameter, mask in one.items():
            if mask.dtype != torch.bool:
                raise SparsewoodError(f"Mask {parameter!r} of {name!r} must be boolean. Got {mask.dtype}.")
        if first is None:
            first = name, shapes
        elif shapes != first[1]:
            differing = sorted(k for k in shapes.keys() | first[1].keys() if shapes.get(k) != first[1].get(k))
            other = [tuple(one.get(differing[0], ())) or "none" for one in (first[1], shapes)]
            raise SparsewoodError(
                f"Masks can only be compared if they are of the same parameters. {first[0]!r} and {name!r} differ in "
                f"{differing[0]!r}: {other[0]} and {other[1]}. Compare masks of one network, with the same parameters "
                "included."
            )
        found.append({parameter: mask.detach().cpu().reshape(-1) for parameter, mask in one.items()})
    return found


def _jaccard(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    both = sum(int((mask & other[name]).count_nonzero()) for name, mask in one.items())
    either = sum(int((mask | other[name]).count_nonzero()) for name, mask in one.items())
    return both / either if either else 1.0


def _density(mask: Tensor) -> float:
    return int(mask.count_nonzero()) / mask.numel() if mask.numel() else 0.0


def _matrix(size: int, of: Callable[[int, int], float]) -> Matrix:
    rows = [[1.0] * size for _ in range(size)]
    for i in range(size):
        for j in range(i):
            rows[i][j] = rows[j][i] = of(i, j)
    return tuple(map(tuple, rows))
