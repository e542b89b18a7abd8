"""Heat maps of filters (001-20): what is drawn is the z-score of the mean over input channels."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.plot import kernel_maps, kernels
from sparsewood.plot.panels import mosaic, places

pytest.importorskip("matplotlib")


def zscore(image: np.ndarray) -> np.ndarray:
    return (image - image.mean()) / image.std()


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 20, 5), nn.Flatten(), nn.Linear(20, 4))


def test_001_20_a_map_is_the_standardised_mean_over_input_channels() -> None:
    net = network()
    found = kernel_maps(net)
    assert list(found) == ["0", "2"]
    for name, one in found.items():
        weight = net.get_submodule(name).get_parameter("weight").detach().double().numpy()
        for number, image in enumerate(one.maps):
            np.testing.assert_allclose(image, zscore(weight[number].mean(0)), rtol=1e-9, atol=1e-9)


def test_001_20_a_map_does_not_depend_on_the_filters_before_it() -> None:
    conv = network()[0]
    assert isinstance(conv, nn.Conv2d)
    before = kernel_maps(conv)[""].maps
    order = [4, 0, 5, 3, 1, 2]
    conv.weight.data = conv.weight.data[order]
    np.testing.assert_array_equal(kernel_maps(conv)[""].maps, before[order])


def test_001_20_the_picture_shows_the_maps() -> None:
    """Each weight is a square of 7 pixels; every tile of the image is its map."""
    net = network()
    maps = kernel_maps(net)["0"].maps
    figure = kernels(net, "0")
    image = np.ma.filled(figure.axes[0].images[0].get_array(), np.nan)
    tiles = maps.repeat(7, 1).repeat(7, 2)
    np.testing.assert_allclose(image, mosaic(tiles, 6, 2), rtol=1e-6)
    for number, (left, top, right, bottom) in enumerate(places(tiles, 6, 2)):
        np.testing.assert_allclose(image[top:bottom:7, left:right:7], maps[number], rtol=1e-6)
    assert figure.axes[0].images[0].get_clim() == (-3, 3)


def test_001_20_filters_of_zeros_are_flat_and_crossed_out() -> None:
    net = network()
    with torch.no_grad():
        net.get_submodule("2").get_parameter("weight")[[1, 7]] = 0
    one = kernel_maps(net)["2"]
    assert np.flatnonzero(one.pruned).tolist() == [1, 7]
    assert not one.maps[[1, 7]].any()
    assert np.isfinite(one.maps).all()
    first, second, _ = kernels(net).axes
    assert not first.collections
    lines = np.asarray(second.collections[0].get_segments())  # pyright: ignore[reportAttributeAccessIssue]
    assert len(lines) == 4, "two diagonals for each"
    boxes = [places(np.zeros((20, 20, 20)), 16, 2)[number] for number in (1, 7)]
    np.testing.assert_array_equal(np.unique(lines[:, :, 0]), np.unique([box[0::2] for box in boxes]) - 0.5)
    assert "20 filters of 5 x 5, 2 of them zero" in [text.get_text() for text in second.texts]


def test_equal_weights_are_flat_but_not_pruned() -> None:
    conv = nn.Conv2d(3, 2, 3)
    conv.weight.data.fill_(0.1)
    one = kernel_maps(conv)[""]
    assert not one.maps.any()
    assert not one.pruned.any()


def test_kernels_of_one_place_are_standardised_over_the_layer() -> None:
    conv = nn.Conv2d(2, 4, 1)
    conv.weight.data = torch.tensor([[1.0, 3.0], [0.0, 0.0], [4.0, 4.0], [5.0, 7.0]])[:, :, None, None]
    one = kernel_maps(conv)[""]
    assert one.over == "layer"
    np.testing.assert_allclose(one.maps.reshape(-1), [-(1.5**0.5), 0, 0, 1.5**0.5])
    assert one.pruned.tolist() == [False, True, False, False]
    conv.weight.data.zero_()
    assert not kernel_maps(conv)[""].maps.any()


def test_other_convolutions() -> None:
    """One and three dimensions, groups, and transposed ones, whose filters are output channels."""
    torch.manual_seed(0)
    layers = [
        nn.Conv1d(2, 3, 5),
        nn.Conv3d(2, 4, 3),
        nn.Conv2d(4, 8, 3, groups=4),
        nn.ConvTranspose2d(4, 6, 3, groups=2),
    ]
    for layer, shape in zip(layers, [(3, 5), (4, 3, 3, 3), (8, 3, 3), (6, 3, 3)], strict=True):
        assert kernel_maps(layer)[""].maps.shape == shape
        kernels(layer)
    weight = layers[3].weight.detach().double().numpy()
    np.testing.assert_allclose(kernel_maps(layers[3])[""].maps[4], zscore(weight[2:, 1].mean(0)), atol=1e-9)


def test_how_many_filters_are_left_out_is_said() -> None:
    def told(most: int | None) -> list[str]:
        return [text.get_text() for text in kernels(nn.Conv2d(1, 70, 3), most=most).axes[0].texts]

    assert told(64) == ["Conv2d", "70 filters of 3 x 3; the first 64 shown, 6 left out"]
    assert told(None) == ["Conv2d", "70 filters of 3 x 3"]


def test_a_single_filter() -> None:
    figure = kernels(nn.Conv2d(1, 1, 3))
    assert [text.get_text() for text in figure.axes[0].texts] == ["Conv2d", "1 filter of 3 x 3"]


def test_layers_are_chosen_by_name_place_or_module_around() -> None:
    net = nn.Sequential(network(), nn.Conv2d(4, 4, 3))
    assert list(kernel_maps(net, "firstconv")) == ["0.0"]
    assert list(kernel_maps(net, "0")) == ["0.0", "0.2"]
    assert list(kernel_maps(net, ["1", "0.2"])) == ["0.2", "1"]


@pytest.mark.parametrize(
    ("net", "layers", "message"),
    [
        (nn.Linear(2, 2), None, "has no convolution"),
        (network(), "4", "'4': linear. Convolutions: 0, 2"),
        (network(), "5", "Unknown layer '5'"),
        (nn.LazyConv2d(3, 3), None, "Run the model once"),
    ],
)
def test_what_has_no_kernels_is_refused(net: nn.Module, layers: str | None, message: str) -> None:
    with pytest.raises(SparsewoodError, match=message):
        kernels(net, layers)


@pytest.mark.parametrize("most", [0, -1, 2.5, True])
def test_most_is_a_whole_number(most: int) -> None:
    with pytest.raises(SparsewoodError, match="whole number >= 1"):
        kernels(network(), most=most)


def test_weights_that_are_no_numbers_are_refused() -> None:
    net = network()
    net.get_submodule("2").get_parameter("weight").data[0, 0, 0, 0] = float("nan")
    with pytest.raises(SparsewoodError, match="'2' has 1 values that are NaN"):
        kernels(net)
    with pytest.raises(UnknownName):
        kernels(net, "conv9")


def test_the_model_is_left_as_found() -> None:
    """A spectral norm in train mode would take a step with each look at its weight."""
    conv = spectral_norm(nn.Conv2d(2, 3, 3)).train()
    before = copy.deepcopy(conv.state_dict())
    kernels(conv)
    assert conv.training
    assert all(torch.equal(value, before[name]) for name, value in conv.state_dict().items())
