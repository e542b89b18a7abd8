"""Weight sharing: all weights of a ResNet-50 clustered layer by layer, beside scikit-learn's KMeans and exact solvers.

    python benchmarks/sharing.py                  # 5, 32 and 256 clusters
    python benchmarks/sharing.py --clusters 16

The weights are those that the network is initialised with. sparsewood: `share_weights` on the whole network, from the
model to the model, the median of three. scikit-learn: KMeans with one start, its other settings as they are, on the
weights as float32, without writing anything back. It is timed on the layers with weights * clusters up to `--work`; for
the others the time of the largest layers timed, for each weight, is taken. Times are seconds of the processor, on one
thread.

Errors are squared errors over the least there can be, of the worst layer. That is known from kmeans1d (exact, in C++)
for small layers, and from below for one layer of each size. With x the weights, in 131,072 cells of equal width, and b
the means of their cells, no codebook comes nearer to x than to b by more than |x - b|, so that the least error of x is
at least (root of the least error of b - |x - b|)^2. That of b is found by dynamic programming; for up to 65,536
different weights that of x itself is.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable

import kmeans1d
import numpy as np
import torch
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch import nn

import sparsewood as sw
from sparsewood.quantization.exact import exact_edges
from sparsewood.quantization.points import points_of

CELLS = 1 << 17
MOST_POINTS = 1 << 16
EXACT = 4_000_000


def timed(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def ours(model: nn.Module, clusters: int, layers: list[str]) -> tuple[float, dict[str, float]]:
    """Seconds, and the squared error of each layer."""
    times, told = [], None
    for _ in range(3):
        fresh = copy.deepcopy(model)
        began = time.process_time()
        told = sw.share_weights(fresh, clusters=clusters, include=layers)
        times.append(time.process_time() - began)
    assert told is not None
    return statistics.median(times), {name: one.squared_error for name, one in told.weights.items()}


def least_error(weight: np.ndarray, clusters: int) -> float:
    """What no clusters come below."""
    points = points_of(weight)
    if len(points) <= MOST_POINTS:
        return points.error(exact_edges(points, clusters))
    borders = np.searchsorted(points.values, np.linspace(points.values[0], points.values[-1], CELLS + 1)[1:-1])
    cells = np.unique(np.concatenate([[0], borders, [len(points)]]))
    within = points.error(cells)
    means = points_of(points.means(cells), np.diff(points.weights[cells]))
    return (means.error(exact_edges(means, clusters)) ** 0.5 - within**0.5) ** 2


def exact_error(weight: np.ndarray, clusters: int) -> float:
    found = kmeans1d.cluster(weight.tolist(), clusters)
    return float(((weight - np.array(found.centroids)[found.clusters]) ** 2).sum())


def row(model: nn.Module, clusters: int, work: int) -> str:
    weights = {name: p.detach().double().numpy().ravel() for name, p in model.named_parameters() if p.ndim > 1}
    total = sum(weight.size for weight in weights.values())
    seconds, errors = ours(model, clusters, list(weights))
    small = [name for name, weight in weights.items() if weight.size * clusters <= work]
    theirs, worse = dict[str, float](), list[float]()
    for name in small:
        column = weights[name].astype(np.float32)[:, None]
        estimator = KMeans(clusters, n_init=1, random_state=0)  # pyright: ignore[reportArgumentType]
        theirs[name] = timed(lambda column=column, estimator=estimator: estimator.fit(column))
        centers = np.asarray(estimator.cluster_centers_, dtype=np.float64).ravel()  # its inertia is added up in float32
        worse.append(float(((weights[name] - centers[estimator.labels_]) ** 2).sum()) / errors[name])
        print(f"# {clusters}: {name}, {len(column):,}: {theirs[name]:.2f} s, {worse[-1]:.4f}", flush=True)
    largest = max(weights[name].size for name in small)
    rates = [theirs[name] / weights[name].size for name in small if weights[name].size == largest]
    rest = total - sum(weights[name].size for name in small)
    extrapolated = sum(theirs.values()) + rest * statistics.mean(rates)
    seconds_small, _ = ours(model, clusters, small)

    exact, bound = list[float](), list[float]()
    for name in {weight.size: name for name, weight in reversed(weights.items())}.values():
        if weights[name].size * clusters <= EXACT:
            exact.append(errors[name] / exact_error(weights[name], clusters))
        bound.append(errors[name] / least_error(weights[name], clusters))
        print(f"# {clusters}: {name}, {weights[name].size:,}: {exact[-1:]}, {bound[-1]:.5f}", flush=True)
    return (
        f"| {clusters} | {seconds:.2f} | {sum(theirs.values()):.1f} ({len(small)} of {len(weights)} layers) | "
        f"{sum(theirs.values()) / seconds_small:.0f}x | {extrapolated:.0f} | {extrapolated / seconds:.0f}x | "
        f"{min(worse):.3f} - {max(worse):.3f} | {max(exact):.4f} ({len(exact)}) | {max(bound):.4f} ({len(bound)}) |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clusters", type=int, nargs="+", default=[5, 32, 256])
    parser.add_argument("--work", type=float, default=4e7, help="weights * clusters up to which scikit-learn is timed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = sw.models.resnet50(1000, generator=torch.Generator().manual_seed(0))
    sw.share_weights(copy.deepcopy(model), clusters=2)  # what is loaded or compiled at first use
    began = time.perf_counter()
    with threadpool_limits(1):
        rows = [row(model, clusters, options.work) for clusters in options.clusters]
    print(f"\n`python {' '.join(sys.argv)}`: {time.perf_counter() - began:.0f} s, PyTorch {torch.__version__}\n")
    heads = ("clusters", "sparsewood [s]", "scikit-learn [s]", "there", "all layers [s]", "everywhere")
    heads += ("scikit-learn's error over ours", "error over the least, kmeans1d", "at most")
    print(f"| {' | '.join(heads)} |\n|{'---:|' * len(heads)}")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
