"""k-means in one dimension: against all partitions, against dynamic programming, and what must hold (001-10)."""

from __future__ import annotations

from itertools import combinations, pairwise
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsewood.errors import SparsewoodError
from sparsewood.quantization import DensityBased, KMeansPlusPlus, Linear, Optimal, Start, assign, kmeans
from sparsewood.quantization.exact import dense_edges, divided_edges, exact_edges
from sparsewood.quantization.exchange import exchanged
from sparsewood.quantization.grid import cluster
from sparsewood.quantization.points import Points, apart, lloyd, points_of
from sparsewood.quantization.windows import coarse_edges, density_edges, improved

STARTS: dict[str, Start] = {
    "optimal": Optimal(),
    "linear": Linear(),
    "density": DensityBased(),
    "plusplus": KMeansPlusPlus(),
}
numbers = st.floats(-1e6, 1e6, width=32)


def squared_error(values: np.ndarray, weights: np.ndarray) -> float:
    return float((weights * (values - np.average(values, weights=weights)) ** 2).sum())


def brute(points: Points, clusters: int) -> float:
    """The least error over all ways to cut the sorted values into runs."""
    cuts = combinations(range(1, len(points)), clusters - 1)
    errors = []
    for cut in cuts:
        parts = list(pairwise([0, *cut, len(points)]))
        errors.append(sum(squared_error(points.values[a:b], points.mass[a:b]) for a, b in parts))
    return min(errors)


def plain_programme(values: np.ndarray, clusters: int) -> float:
    """The least error by the recurrence as it is written down: k n^2 steps, and no prefix sums."""
    values = np.sort(values)
    count = len(values)
    cost = np.zeros((count + 1, count + 1))
    for i in range(count):
        for j in range(i + 1, count + 1):
            cost[i, j] = ((values[i:j] - values[i:j].mean()) ** 2).sum()
    best = cost[0].copy()
    best[0] = np.inf
    for _ in range(clusters - 1):
        best = np.array([np.inf, *(min(best[m] + cost[m, i] for m in range(i)) for i in range(1, count + 1))])
    return float(best[count])


def draw(name: str, count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    drawn = {
        "normal": lambda: rng.standard_normal(count) * 0.02,
        "laplace": lambda: rng.laplace(size=count),
        "heavy": lambda: rng.standard_cauchy(count),
        "far": lambda: np.concatenate([rng.standard_normal(count // 2), rng.standard_normal(count // 2) * 0.01 + 50]),
        "uniform": lambda: rng.random(count),
        "few": lambda: rng.integers(-300, 300, count) / 7.0,
    }
    return drawn[name]().astype(np.float32)


# ---------------------------------------------------------------- closed forms


def test_two_groups_of_equal_values() -> None:
    found = kmeans(np.array([5.0, 1.0, 5.0, 1.0, 1.0]), 2)
    assert found.centers.tolist() == [1.0, 5.0]
    assert found.weights.tolist() == [3.0, 2.0]
    assert found.error == pytest.approx(0, abs=1e-14)


def test_one_cluster_is_the_mean_and_its_error_the_variance() -> None:
    values = draw("laplace", 1000).astype(np.float64)
    found = kmeans(values, 1)
    assert found.centers[0] == pytest.approx(values.mean(), rel=1e-12)
    assert found.error == pytest.approx(((values - values.mean()) ** 2).sum(), rel=1e-12)


@pytest.mark.parametrize("count", [64, 6400])
def test_equal_distances_are_cut_into_equal_runs(count: int) -> None:
    """k runs of m of the numbers 0, 1, ... have the error k m (m^2 - 1) / 12, whichever way they are found."""
    m = count // 16
    found = kmeans(np.arange(count, dtype=np.float64), 16)
    assert found.error == pytest.approx(16 * m * (m * m - 1) / 12, rel=1e-9)
    assert found.first.tolist() == list(range(0, count, m))


def test_weights_count_like_copies() -> None:
    values, copies = np.array([0.0, 1.0, 4.0, 9.0, 10.0]), np.array([3, 1, 2, 1, 5])
    weighted, repeated = kmeans(values, 3, weights=copies), kmeans(np.repeat(values, copies), 3)
    assert weighted.centers.tolist() == repeated.centers.tolist()
    assert weighted.error == repeated.error
    assert kmeans(values, 3).first.tolist() == [0.0, 4.0, 9.0]
    assert kmeans(values, 3, weights=np.array([99, 99, 1, 1, 1])).first.tolist() == [0.0, 1.0, 9.0]


def test_of_five_values_the_middle_one_goes_where_it_costs_less() -> None:
    assert kmeans(np.array([0.0, 1.0, 2.4, 4.0, 5.0]), 2).first.tolist() == [0.0, 4.0]
    assert kmeans(np.array([0.0, 1.0, 2.6, 4.0, 5.0]), 2).first.tolist() == [0.0, 2.6]


# ---------------------------------------------------------------- exact


@given(st.lists(numbers, min_size=1, max_size=9), st.integers(1, 9), st.integers(0, 10))
def test_001_10_exact_is_the_best_of_all_partitions(values: list[float], clusters: int, seed: int) -> None:
    weights = np.random.default_rng(seed).integers(1, 5, len(values)) if seed else None
    points = points_of(np.array(values), weights)
    clusters = min(clusters, len(points))
    for edges in (dense_edges(points, clusters), divided_edges(points, clusters)):
        assert edges[0] == 0
        assert edges[-1] == len(points)
        assert (np.diff(edges) > 0).all()
        assert points.error(edges) == pytest.approx(brute(points, clusters), rel=1e-9, abs=1e-12 * (1 + points.squares))


@pytest.mark.parametrize("name", ["normal", "heavy", "few"])
@pytest.mark.parametrize("clusters", [2, 7, 40])
def test_001_10_exact_is_dynamic_programming(name: str, clusters: int) -> None:
    values = draw(name, 120).astype(np.float64)
    expected, points = plain_programme(values, clusters), points_of(values)
    assert kmeans(values, clusters).error == pytest.approx(expected, rel=1e-9)
    assert points.error(divided_edges(points, clusters)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", ["normal", "laplace", "heavy", "far", "uniform", "few"])
@pytest.mark.parametrize(("count", "clusters"), [(3000, 5), (6000, 32), (2500, 256)])
def test_many_values_end_within_one_percent_of_the_best(name: str, count: int, clusters: int) -> None:
    kmeans1d = pytest.importorskip("kmeans1d")
    values = draw(name, count)
    best = kmeans1d.cluster(values.tolist(), clusters)
    expected = float(((values - np.array(best.centroids)[best.clusters]).astype(np.float64) ** 2).sum())
    found = kmeans(values, clusters).error
    assert expected * (1 - 1e-6) <= found <= 1.01 * expected


@pytest.mark.parametrize("name", ["normal", "heavy", "far"])
def test_windows_alone_come_as_near_where_the_exact_answer_is_taken(name: str) -> None:
    points = points_of(draw(name, 1500))
    for clusters, begin in ((8, coarse_edges), (100, density_edges)):
        best = points.error(exact_edges(points, clusters))
        begun = begin(points, clusters)
        found = improved(points, begun)
        assert points.error(found) <= points.error(begun)
        assert best * (1 - 1e-9) <= points.error(found) <= 1.02 * best


def clumps(count: int, each: int, width: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.standard_normal((count, 1)) + rng.standard_normal((count, each)) * width).ravel()


@pytest.mark.parametrize("width", [1e-2, 1e-3, 1e-5])
@pytest.mark.parametrize(("count", "each", "clusters"), [(20, 300, 20), (64, 80, 64), (60, 80, 90)])
def test_values_in_clumps_end_within_five_percent_of_the_best(
    count: int, each: int, clusters: int, width: float
) -> None:
    """As of weights that were shared once and then disturbed a little: each clump needs a cluster of its own."""
    points = points_of(clumps(count, each, width))
    best = points.error(divided_edges(points, clusters))
    found = points.error(exchanged(points, improved(points, density_edges(points, clusters))))
    assert best * (1 - 1e-6) <= found <= 1.05 * best


@pytest.mark.parametrize("clusters", [30, 256])
def test_clumps_of_many_values_have_a_cluster_each(clusters: int) -> None:
    """Known in advance: with as many clusters as clumps, the centers are the means of the clumps."""
    values = np.arange(clusters)[:, None] ** 2 + np.random.default_rng(0).uniform(-1e-3, 1e-3, (clusters, 800))
    means = pytest.approx(values.mean(1), rel=1e-9, abs=1e-9)
    found = kmeans(values.ravel(), clusters)
    assert found.weights.tolist() == [800] * clusters
    assert found.centers == means
    codes, centers = cluster(torch.from_numpy(values.ravel()), clusters, Optimal())
    assert torch.bincount(codes).tolist() == [800] * clusters
    assert centers.numpy() == means


@given(st.lists(numbers, min_size=2, max_size=60, unique=True), st.integers(1, 59), st.randoms(use_true_random=False))
def test_001_10_exchanges_keep_the_number_and_never_raise_the_error(
    values: list[float], clusters: int, random: Random
) -> None:
    points = points_of(np.array(values), np.random.default_rng(len(values)).integers(1, 9, len(values)))
    clusters = min(clusters, len(points))
    edges = np.array([0, *sorted(random.sample(range(1, len(points)), clusters - 1)), len(points)])
    moved = exchanged(points, edges)
    assert len(moved) == len(edges)
    assert (moved[0], moved[-1]) == (0, len(points))
    assert (np.diff(moved) > 0).all()
    assert points.error(moved) <= points.error(edges) + 1e-12 * (1 + points.squares)


# ---------------------------------------------------------------- what must hold for any values


@given(st.lists(numbers, min_size=1, max_size=60), st.integers(1, 70), st.sampled_from(list(STARTS)))
def test_what_holds_for_any_values_and_any_start(values: list[float], clusters: int, start: str) -> None:
    array = np.array(values, dtype=np.float64)
    found = kmeans(array, clusters, start=STARTS[start])
    distinct = np.unique(array)
    assert len(found) == min(clusters, len(distinct))
    assert (np.diff(found.centers) > 0).all()
    assert (found.weights > 0).all()
    assert found.weights.sum() == len(array)
    codes = assign(torch.from_numpy(array), torch.from_numpy(found.first)).numpy()
    assert np.bincount(codes, minlength=len(found)).tolist() == found.weights.tolist()
    direct = float(((array - found.centers[codes]) ** 2).sum())
    scale = float((array**2).sum()) + 1e-300
    assert found.error == pytest.approx(direct, rel=1e-6, abs=1e-12 * scale)
    nearest = np.abs(array[:, None] - found.centers).min(1)
    assert np.abs(array - found.centers[codes]) == pytest.approx(nearest, rel=1e-6, abs=1e-6 * scale**0.5)
    if clusters >= len(distinct):
        assert found.centers.tolist() == distinct.tolist()
        assert found.error == 0


@given(st.lists(numbers, min_size=2, max_size=60, unique=True), st.integers(1, 59), st.randoms(use_true_random=False))
def test_001_10_lloyd_steps_never_raise_the_error(values: list[float], clusters: int, random: Random) -> None:
    points = points_of(np.array(values))
    clusters = min(clusters, len(points))
    cuts = sorted(random.sample(range(1, len(points)), clusters - 1))
    edges = np.array([0, *cuts, len(points)])
    for _ in range(5):
        moved = lloyd(points, edges, iterations=1)
        assert points.error(moved) <= points.error(edges) + 1e-12 * (1 + points.squares)
        edges = moved


@given(st.lists(st.integers(0, 12), min_size=1, max_size=11))
def test_taking_empty_clusters_apart_splits_and_never_joins(cuts: list[int]) -> None:
    before = np.array([0, *sorted(cuts), 12])
    after = apart(before)
    assert after[0] == 0
    assert after[-1] == 12
    assert (np.diff(after) > 0).all()
    assert set(before) <= set(after)


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
def test_001_10_no_start_is_worse_than_equal_steps_between_the_ends(start: Start) -> None:
    """A uniform quantiser with the same number of values, and the exact answer, are the two ends."""
    values = draw("laplace", 2000).astype(np.float64)
    best = kmeans(values, 16).error
    found = kmeans(values, 16, start=start).error
    steps = np.linspace(values.min(), values.max(), 16)
    uniform = float((np.abs(values[:, None] - steps).min(1) ** 2).sum())
    assert best * (1 - 1e-12) <= found <= uniform


def test_a_shift_and_a_scale_change_the_error_by_the_scale_squared() -> None:
    values = draw("normal", 800).astype(np.float64)
    here, there = kmeans(values, 9), kmeans(values * 64 + 3, 9)
    assert there.error == pytest.approx(here.error * 64**2, rel=1e-9)
    assert there.centers == pytest.approx(here.centers * 64 + 3, rel=1e-9)


# ---------------------------------------------------------------- starts


def test_linear_begins_at_equal_distances() -> None:
    """Han et al. 2016: the least and the largest value are centers; borders lie half-way."""
    points = points_of(np.array([0.0, 0.4, 0.6, 1.4, 1.6, 2.0]))
    assert Linear()(points, 3).tolist() == [0, 2, 4, 6]


def test_density_based_begins_with_equal_numbers() -> None:
    """Centers at the quantiles 1/8, 3/8, 5/8, 7/8, of which equal distances make equal runs."""
    points = points_of(np.arange(100.0))
    assert DensityBased()(points, 4).tolist() == [0, 25, 50, 75, 100]
    skewed = points_of(np.concatenate([np.arange(90.0), np.arange(10.0) * 1000 + 1000]))
    assert DensityBased()(skewed, 4).tolist() == [0, 25, 50, 75, 100]
    assert Linear()(skewed, 4).tolist() != [0, 25, 50, 75, 100]


def test_linear_ends_worse_than_optimal_for_many_clusters() -> None:
    values = draw("normal", 20000)
    assert kmeans(values, 128, start=Linear()).error > 1.5 * kmeans(values, 128).error


def test_plusplus_is_reproducible_and_draws_by_distance() -> None:
    values = np.concatenate([np.zeros(1000), np.full(1000, 1.0), [1e6]])
    points = points_of(values + np.arange(2001) * 1e-9)
    edges = KMeansPlusPlus(torch.Generator().manual_seed(3))(points, 2)
    assert edges.tolist() == KMeansPlusPlus(torch.Generator().manual_seed(3))(points, 2).tolist()
    assert edges.tolist() == [0, 2000, 2001]
    generator = torch.Generator().manual_seed(3)
    first = KMeansPlusPlus(generator)(points, 5).tolist()
    assert KMeansPlusPlus(generator)(points, 5).tolist() != first
    with pytest.raises(SparsewoodError, match="generator"):
        KMeansPlusPlus(3)  # pyright: ignore[reportArgumentType]


# ---------------------------------------------------------------- assign


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("clusters", [1, 2, 5, 256, 5000])
@pytest.mark.parametrize("name", ["normal", "heavy", "few"])
def test_assign_is_a_binary_search(name: str, clusters: int, dtype: torch.dtype) -> None:
    values = torch.from_numpy(draw(name, 100_000)).to(dtype)
    distinct = torch.unique(values)
    first = distinct[torch.linspace(0, len(distinct) - 1, clusters).long()].unique()
    expected = torch.bucketize(values, first[1:], right=True)
    assert torch.equal(assign(values, first).long(), expected)
    near = torch.cat([first, torch.nextafter(first, first - 1), torch.nextafter(first, first + 1)]).repeat(
        20_000 // clusters
    )
    assert torch.equal(assign(near, first).long(), torch.bucketize(near, first[1:], right=True))


def test_assign_where_all_begins_are_at_one_end() -> None:
    first = torch.tensor([0.0, 1.0, torch.nextafter(torch.tensor(1.0), torch.tensor(2.0)), 3e38])
    values = torch.cat([first, torch.rand(40_000) * 2]).reshape(2, -1)
    assert torch.equal(assign(values, first).long(), torch.bucketize(values, first[1:], right=True))


# ---------------------------------------------------------------- many values


@pytest.mark.parametrize("name", ["normal", "laplace", "heavy", "far", "uniform", "few"])
@pytest.mark.parametrize("clusters", [3, 24, 200])
def test_many_values_on_a_grid_end_as_sorted_ones_do(name: str, clusters: int) -> None:
    values = torch.from_numpy(draw(name, 200_000))
    codes, centers = cluster(values, clusters, Optimal())
    assert codes.dtype is torch.int32
    assert torch.bincount(codes).numel() == len(centers) == clusters
    sums = torch.bincount(codes, weights=values.double())
    assert torch.allclose(centers, sums / torch.bincount(codes), rtol=1e-12)
    order = values.argsort()
    assert (codes[order].diff() >= 0).all()
    error = float((values.double() - centers[codes]).square().sum())
    assert error <= 1.003 * kmeans(values.numpy(), clusters).error


def test_of_many_values_few_different_ones_are_kept() -> None:
    values = torch.from_numpy(draw("few", 150_000))
    codes, centers = cluster(values, 5000, Optimal())
    assert torch.equal(centers[codes].float(), values)
    same = torch.full((150_000,), 0.3)
    assert cluster(same, 4, Optimal())[1].tolist() == [float(same[0])]


def test_values_from_end_to_end_of_float32() -> None:
    """The largest less the least is no number of float32. The best 2 clusters of equal steps are the halves."""
    values = torch.linspace(-1, 1, 200_000) * 3e38
    codes, centers = cluster(values, 2, Optimal())
    assert torch.bincount(codes).tolist() == [100_000] * 2
    assert centers.tolist() == pytest.approx([-1.5e38, 1.5e38], rel=1e-4)
    first = torch.tensor([-3e38, -2e38, 0.0, 3e38])
    assert torch.equal(assign(values, first).long(), torch.bucketize(values, first[1:], right=True))


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize("scale", [1e155, 1e200, 1e307, 1e-155, 1e-200, 5e-324])
def test_values_whose_squares_float64_cannot_hold(scale: float) -> None:
    values = np.array([-9.0, -8.0, 1.0, 7.0, 9.0]) * scale
    for start in STARTS.values():
        with pytest.raises(SparsewoodError, match=r"squares .* float64"):
            kmeans(values, 2, start=start)
    found = kmeans(values, 5)
    assert (found.centers.tolist(), found.error) == (values.tolist(), 0)


@pytest.mark.parametrize("scale", [1e140, 1e-140])
def test_large_and_small_values_are_clustered_as_others(scale: float) -> None:
    values = np.array([-9.0, -8.0, 1.0, 7.0, 9.0]) * scale
    for start in STARTS.values():
        assert kmeans(values, 3, start=start).weights.tolist() == [2, 1, 2]


@pytest.mark.parametrize("clusters", [0, -1, 2.0, True, None])
def test_clusters_that_are_no_number(clusters: object) -> None:
    with pytest.raises(SparsewoodError, match="whole number >= 1"):
        kmeans(np.arange(5.0), clusters)  # pyright: ignore[reportArgumentType]


def test_values_and_weights_that_cannot_be() -> None:
    with pytest.raises(SparsewoodError, match="no values"):
        kmeans(np.zeros(0), 2)
    for wrong in (np.nan, np.inf, -np.inf):
        with pytest.raises(SparsewoodError, match="1 of 3 values are not finite"):
            kmeans(np.array([1.0, wrong, 2.0]), 2)
    with pytest.raises(SparsewoodError, match="3 values need as many weights"):
        kmeans(np.arange(3.0), 2, weights=np.ones(2))
    for wrong in (0.0, -1.0, np.nan):
        with pytest.raises(SparsewoodError, match="above 0"):
            kmeans(np.arange(3.0), 2, weights=np.array([1.0, wrong, 1.0]))
