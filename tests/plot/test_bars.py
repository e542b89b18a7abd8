"""Bars of the sparsity of layers: of masks, and of the zeros of a model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

import sparsewood as sw
from sparsewood.errors import SparsewoodError
from sparsewood.plot import layer_sparsity


def widths(figure: Figure) -> list[float]:
    return [bar.get_width() for bar in figure.axes[0].patches]  # pyright: ignore[reportAttributeAccessIssue]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 20), nn.LayerNorm(20), nn.Linear(20, 10), nn.Linear(10, 5))


def test_bars_counts_and_total_are_those_of_the_masks() -> None:
    masks = sw.prune(network(), sw.Magnitude(), 0.6)
    figure = layer_sparsity(masks)
    axes = figure.axes[0]
    np.testing.assert_allclose(widths(figure), [100 * share for share in masks.layer_sparsity().values()])
    assert [text.get_text() for text in axes.get_yticklabels()] == list(masks)
    kept = [f"{int(mask.sum())} of {mask.numel()}" for mask in masks.values()]
    assert [text.get_text() for text in axes.child_axes[0].get_yticklabels()] == kept
    (total,) = axes.lines
    assert list(total.get_xdata()) == [100 * masks.sparsity] * 2
    assert axes.get_title(loc="left") == f"{masks.total - masks.removed} of 400 entries kept, sparsity 60.00 %"
    bottom, top = axes.get_ylim()
    assert bottom > top, "the first layer is at the top"


def test_zeros_of_models_and_of_state_dicts_count() -> None:
    net = network()
    masks = sw.prune(net, sw.Magnitude(), 0.6)
    sw.apply_masks(net, masks)
    shares = [*(100 * share for share in masks.layer_sparsity().values()), 0.0]
    np.testing.assert_allclose(widths(layer_sparsity(net)), shares)
    np.testing.assert_allclose(widths(layer_sparsity(net.state_dict())), shares)


def test_weights_that_are_computed_count_as_they_are_used() -> None:
    """The parameters behind them have no zeros, or others."""
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4)))
    prune.l1_unstructured(net[0], "weight", 0.25)
    parametrize.register_parametrization(net[1], "weight", Half())
    figure = layer_sparsity(net)
    assert widths(figure) == [25, 50, 0]
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names == ["0.weight", "1.weight", "2.0.weight"]
    alone = layer_sparsity(parametrize.register_parametrization(nn.Linear(4, 4), "weight", Half()))
    assert widths(alone) == [50]


class Half(nn.Module):
    """Every second column is zero."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight * torch.tensor([0.0, 1.0, 0.0, 1.0])


def test_a_sheet_of_many_layers_is_high_enough_for_its_names() -> None:
    masks = {f"encoder.layers.{number}.attention.output.dense.weight": torch.tensor([True]) for number in range(120)}
    figure = layer_sparsity(masks)
    size = figure.axes[0].get_yticklabels()[0].get_fontsize() / 72
    assert figure.get_size_inches()[1] * 0.9 / 120 > size


@pytest.mark.parametrize(
    ("masks", "message"),
    [({}, "nothing to draw"), (nn.ReLU(), "nothing to draw"), (0.5, "Got float"), ({"a": "b"}, "nothing to draw")],
)
def test_what_has_no_layers_is_refused(masks: object, message: str) -> None:
    with pytest.raises(SparsewoodError, match=message):
        layer_sparsity(masks)  # pyright: ignore[reportArgumentType]
