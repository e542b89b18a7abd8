"""k-means of the entries of a tensor: many of them are counted on a fine grid first, which is quicker than sorting."""

from __future__ import annotations

import torch
from torch import Tensor

from sparsewood.quantization.kmeans import assign, kmeans
from sparsewood.quantization.starts import Start

__all__ = ["cluster"]

_MANY = 1 << 17
_CELLS = 1 << 16
_SHARE = 1e-3
"""Of the clusters' error, at most so much may be due to the width of a cell."""


def cluster(values: Tensor, clusters: int, start: Start) -> tuple[Tensor, Tensor]:
    """The cluster of each of the values [n], int32, and the means of the clusters, float64, ascending.

    `values` are finite, on the CPU, and of type float32 or float64. As `kmeans`; more than 131,072 values are counted
    in 65,536 cells, unless these are too wide for the clusters that come out: a border between clusters is then that
    between two cells, which raises the error by about 1 / 1,000 at most.

    >>> from sparsewood.quantization.starts import Optimal
    >>> cluster(torch.tensor([3.0, 0.0, 1.0, 3.0]), 2, Optimal())
    (tensor([1, 0, 0, 1], dtype=torch.int32), tensor([0.5000, 3.0000], dtype=torch.float64))
    """
    if not values.numel():
        return torch.zeros(0, dtype=torch.int32), torch.zeros(0, dtype=torch.float64)
    found = _on_grid(values, clusters, start) if values.numel() > _MANY else None
    if found is not None:
        return found
    exact = kmeans(values.numpy(), clusters, start=start)
    return assign(values, torch.from_numpy(exact.first).to(values.dtype)), torch.from_numpy(exact.centers)


def _on_grid(values: Tensor, clusters: int, start: Start) -> tuple[Tensor, Tensor] | None:
    """None where the cells are too wide."""
    low, high = values.aminmax()
    scale = (_CELLS - 1) / (high - low)
    if not 0 < float(scale) < torch.inf:  # 0 where high - low is not finite
        return None
    # Rounding is monotone: what is larger is in no earlier cell.
    cells = values.sub(low).mul_(scale).int()
    counts = torch.bincount(cells, minlength=_CELLS)
    occupied = counts.nonzero().flatten()
    if len(occupied) <= clusters:
        return None
    places = occupied.double()
    found = kmeans(places.numpy(), clusters, weights=counts[occupied].numpy(), start=start)
    if values.numel() / 12 > _SHARE * found.error:  # the variance of a cell is 1 / 12 of its width squared
        return None
    table = torch.zeros(_CELLS, dtype=torch.int32)
    table[occupied] = assign(places, torch.from_numpy(found.first))
    codes = table.index_select(0, cells)
    sums = torch.bincount(codes, weights=values.double(), minlength=clusters)
    return codes, sums / torch.from_numpy(found.weights)
