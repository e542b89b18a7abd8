"""Which units are connected (001-08): there is an edge exactly where any tap of a kernel is not zero."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import sparsewood as sw
from sparsewood.errors import SparsewoodError
from sparsewood.plot import adjacency, connections


def thinned(net: nn.Module, share: float = 0.7, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for parameter in net.parameters():
        parameter.data *= torch.rand(parameter.shape, generator=generator) > share
    return net


def dense(found: sw.plot.Adjacency) -> np.ndarray:
    return found.matrix.toarray()


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.floats(0, 1))
def test_001_08_an_edge_is_there_exactly_if_any_tap_is(seed: int, share: float) -> None:
    """Also where the tap at [0, 0], or in the middle, is zero; and the matrix is symmetric."""
    net = thinned(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 2), nn.Linear(5, 6)), share, seed)
    found = dense(connections(net))
    expected = np.zeros((18, 18))
    for weight, start in ((net[0].weight, 0), (net[2].weight, 3), (net[3].weight, 7)):  # pyright: ignore[reportIndexIssue]
        outputs, inputs = weight.shape[:2]
        for o in range(outputs):
            for i in range(inputs):
                row, column = start + inputs + o, start + i
                expected[row, column] = expected[column, row] = bool((weight[o, i] != 0).any())
    np.testing.assert_array_equal(found, expected)


def test_001_08_a_single_tap_in_a_corner_is_an_edge() -> None:
    conv = nn.Conv2d(1, 2, 3)
    conv.weight.data.zero_()
    conv.weight.data[1, 0, 2, 2] = 1e-30
    assert dense(connections(conv)).tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]


def test_counts_are_the_taps_that_are_left() -> None:
    conv = nn.Conv2d(1, 1, 3)
    conv.weight.data.fill_(1.0)
    conv.weight.data[0, 0, 0] = 0
    assert dense(connections(conv, binary=False)).tolist() == [[0, 6], [6, 0]]


def test_blocks_go_along_the_layers() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 9, 7), nn.Linear(7, 2))
    assert connections(net).blocks == (("inputs", 0, 3), ("0.weight", 3, 7), ("3.weight", 7, 14), ("4.weight", 14, 16))


def test_flattened_channels_are_connected_if_any_of_their_places_is() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(2 * 4, 3))
    weight = torch.zeros(3, 8)
    weight[0, 3] = weight[1, 4] = weight[2, 0] = weight[2, 7] = 1.0
    net[2].weight.data.copy_(weight)  # pyright: ignore[reportArgumentType, reportCallIssue]
    assert dense(connections(net))[3:, 1:3].tolist() == [[1, 0], [0, 1], [1, 1]]
    assert dense(connections(net, binary=False))[5, 1:3].tolist() == [1, 1]


@pytest.mark.parametrize("transposed", [False, True])
def test_grouped_convolutions_see_their_own_inputs(transposed: bool) -> None:
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    layer = kind(4, 6, 3, groups=2, bias=False)
    thinned(layer, 0.8)
    found = dense(connections(layer))[4:, :4]
    x = torch.zeros(4, 4, 7, 7)
    x[range(4), range(4), 3, 3] = 1.0  # an input by itself
    with torch.no_grad():
        layer.weight.abs_()
        y = layer(x)
    np.testing.assert_array_equal(found, (y.amax((2, 3)) > 0).T.numpy())
    assert not found[:3, 2:].any()
    assert not found[3:, :2].any()


def test_sizes_that_do_not_agree_begin_a_block() -> None:
    net = nn.ModuleList([nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(16, 4, 1)])
    names = [name for name, *_ in connections(net).blocks]
    assert names == ["inputs", "0.weight", "1.weight", "inputs of 2.weight", "2.weight"]


def test_masks_say_the_same_as_the_masked_model() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 6, 1), nn.Linear(6, 5))
    masks = sw.prune(net, sw.Magnitude(), 0.8, protect_classifier=False)
    sw.apply_masks(net, masks)
    ours, theirs = connections(masks), connections(net)
    assert ours.blocks == theirs.blocks
    np.testing.assert_array_equal(dense(ours), dense(theirs))


def test_the_picture_is_the_matrix() -> None:
    net = thinned(nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 3)))
    axes = adjacency(net).axes[0]
    np.testing.assert_array_equal(np.asarray(axes.images[0].get_array()), dense(connections(net)))
    edges = connections(net).matrix.nnz // 2
    assert axes.get_title(loc="left") == f"16 units, {edges:,} connections"
    places = [np.asarray(line.get_xdata(), float)[0] for line in axes.lines[1::2]]
    assert places == [4.5, 12.5], "lines separate layers"


def test_large_networks_are_binned_into_means() -> None:
    net = thinned(nn.Sequential(nn.Linear(1500, 1200), nn.Linear(1200, 300)), 0.9)
    axes = adjacency(net).axes[0]
    image = np.asarray(axes.images[0].get_array())
    assert image.shape == (1000, 1000)
    np.testing.assert_allclose(image, image.T)
    whole = connections(net).matrix
    np.testing.assert_allclose(image.sum() * 9, whole.sum())  # 3 x 3 units a pixel
    np.testing.assert_allclose(image[500, :500], whole[1500:1503, :1500].toarray().reshape(3, 500, 3).mean((0, 2)))
    assert "a pixel is 3 x 3 units" in axes.get_title(loc="left")


def test_what_has_no_weights_is_refused() -> None:
    for model, message in (
        (nn.ReLU(), "no weight"),
        ({}, "no weight"),
        ({"b": torch.ones(3)}, "no weight"),
        (3, "Got int"),
    ):
        with pytest.raises(SparsewoodError, match=message):
            adjacency(model)  # pyright: ignore[reportArgumentType]
