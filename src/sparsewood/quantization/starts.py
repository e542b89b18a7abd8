"""Where k-means in one dimension begins: at the best clusters, or at one of the published initialisations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from sparsewood.errors import SparsewoodError
from sparsewood.quantization.exact import exact_edges
from sparsewood.quantization.exchange import exchanged
from sparsewood.quantization.points import Edges, Points
from sparsewood.quantization.windows import coarse_edges, density_edges, improved

__all__ = ["DensityBased", "KMeansPlusPlus", "Linear", "Optimal", "Start"]

_EXACT_POINTS, _EXACT_CELLS = 8192, 2**19
_COARSE_CLUSTERS = 32


class Start(Protocol):
    """From points, and a number of clusters of at most as many, the edges at which Lloyd's iteration begins."""

    def __call__(self, points: Points, clusters: int, /) -> Edges: ...


@dataclass(frozen=True)
class Optimal:
    """The best clusters, or clusters that are almost as good.

    Exact, by dynamic programming, for up to 8,192 distinct values with up to 64 clusters, for 2,048 with up to 256.
    Beyond that the best clusters of 256 bins (for more than 32 clusters those that the density of the values suggests)
    are improved by windowed dynamic programming, and clusters go from where they spare little to where they spare more:
    error within 1 % of the least one on the weights it was tried on (see `docs/weight-sharing.md`), and on values in
    clumps, of 143 random sets, half within 0.6 % and all within 6 %, which is not proven.

    Sources: Wu 1991, https://doi.org/10.1016/0196-6774(91)90039-2; Panter & Dite 1951,
    https://doi.org/10.1109/JRPROC.1951.230419.
    """

    def __call__(self, points: Points, clusters: int, /) -> Edges:
        if len(points) <= _EXACT_POINTS and len(points) * clusters <= _EXACT_CELLS:
            return exact_edges(points, clusters)
        begin = coarse_edges if clusters <= _COARSE_CLUSTERS else density_edges
        return exchanged(points, improved(points, begin(points, clusters)))


@dataclass(frozen=True)
class Linear:
    """Centers at equal distances from the least value to the largest, both included.

    Source: Han et al. 2016, "Deep Compression", https://arxiv.org/abs/1510.00149, which found it to keep large weights
    best. For many clusters its error ends more than twice above the least one.
    """

    def __call__(self, points: Points, clusters: int, /) -> Edges:
        return points.edges(np.linspace(points.values[0], points.values[-1], clusters))


@dataclass(frozen=True)
class DensityBased:
    """Centers at equal steps of the cumulative distribution: as many weights in each cluster, at first.

    Source: Han et al. 2016, "Deep Compression", https://arxiv.org/abs/1510.00149.
    """

    def __call__(self, points: Points, clusters: int, /) -> Edges:
        steps = (np.arange(clusters) + 0.5) * (points.weights[-1] / clusters)
        return points.edges(points.values[np.searchsorted(points.weights[1:], steps)])


@dataclass(frozen=True)
class KMeansPlusPlus:
    """Centers drawn one by one, each with probability in proportion to weight * (distance to the nearest center)^2.

    With the same generator state the centers are the same; by default a new generator of seed 0 is taken each time.
    Takes k n steps. Source: Arthur & Vassilvitskii 2007, "k-means++: the advantages of careful seeding".
    """

    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        if self.generator is not None and not isinstance(self.generator, torch.Generator):
            raise SparsewoodError(f"KMeansPlusPlus: generator must be a torch.Generator. Got {self.generator!r:.80}.")

    def __call__(self, points: Points, clusters: int, /) -> Edges:
        generator = self.generator or torch.Generator().manual_seed(0)
        draws = torch.rand(clusters, generator=generator, dtype=torch.float64, device=generator.device).tolist()
        chances, nearest, centers = points.mass, np.full(len(points), np.inf), list[float]()
        for draw in draws:
            sums = np.cumsum(chances)
            at = min(int(np.searchsorted(sums, draw * sums[-1], side="right")), len(points) - 1)
            centers.append(float(points.values[at]))
            nearest = np.minimum(nearest, (points.values - centers[-1]) ** 2)
            chances = points.mass * nearest
        return points.edges(np.sort(np.array(centers)))
