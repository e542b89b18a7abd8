"""Values and counts before and after weight sharing (001-21)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.colors import same_color
from torch import Tensor, nn

import sparsewood as sw
from sparsewood.errors import SparsewoodError
from sparsewood.plot import value_counts, weight_sharing
from sparsewood.plot.values import AFTER


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 30), nn.ReLU(), nn.Linear(30, 4)
    )


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def points(axes: Axes, color: str | None = None) -> list[np.ndarray]:
    found = [one for one in axes.collections if isinstance(one, PathCollection)]
    chosen = [one for one in found if color is None or same_color(one.get_facecolor()[0], color)]  # pyright: ignore[reportIndexIssue, reportArgumentType]
    return [np.asarray(one.get_offsets()) for one in chosen]


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=200), st.integers(1, 8), st.integers(1, 9))
def test_001_21_counts_sum_to_the_number_of_entries(numbers: list[int], most: int, bins: int) -> None:
    """Listed or in bins, and zeros are counted apart."""
    weight = torch.tensor(numbers, dtype=torch.float32)
    for one in (value_counts(weight), value_counts(weight, most_points=most, bins=bins)):
        assert one.entries == int(one.counts.sum()) == len(numbers)
        assert one.zeros == numbers.count(0) == int(one.counts[one.values == 0].sum())
        assert one.distinct == len(set(numbers))
        assert (np.diff(one.values) > 0).all() or one.width is not None
        assert (np.diff(one.values) >= 0).all()
    assert dict(zip(*np.unique(numbers, return_counts=True), strict=True)) == dict(
        zip(value_counts(weight).values, value_counts(weight).counts, strict=True)
    )


@pytest.mark.parametrize("clusters", [1, 5, 16])
def test_001_21_there_are_at_most_k_new_points(clusters: int) -> None:
    net = network()
    masks = sw.prune(net, sw.Magnitude(), 0.5)
    before = copied(net)
    sw.share_weights(net, clusters=clusters, masks=masks)
    for axes, name in zip(weight_sharing(before, net).axes, ("0.weight", "3.weight", "5.weight"), strict=True):
        one = value_counts(net.get_parameter(name))
        assert len(one.values) - (one.zeros > 0) <= clusters
        drawn = np.concatenate(points(axes, AFTER))
        assert sorted(drawn[:, 0]) == pytest.approx(one.values)
        assert drawn[:, 1].sum() == net.get_parameter(name).numel(), "nothing is left out"


def test_001_21_points_are_values_and_counts_on_a_logarithmic_axis() -> None:
    before, after = torch.tensor([1.0, 2.0, 2.0, 0.0]), torch.tensor([1.5, 1.5, 0.0, 0.0])
    axes = weight_sharing(before, after).axes[0]
    old, new, zeros, more_zeros = points(axes)
    assert old.tolist() == [[1, 1], [2, 2]]
    assert new.tolist() == [[1.5, 2]]
    assert [zeros.tolist(), more_zeros.tolist()] == [[[0, 1]], [[0, 2]]]
    assert axes.get_yscale() == "log"
    assert [text.get_text() for text in axes.texts] == ["zeros: 1 (25 %) -> 2 (50 %)"]
    assert axes.get_title(loc="left") == "weight\n4 entries, 3 -> 2 values"


def test_001_21_many_values_become_a_histogram_whose_counts_are_all_entries() -> None:
    torch.manual_seed(0)
    before = torch.randn(200, 50)
    before[0] = 0
    axes = weight_sharing(before, before.sign()).axes[0]
    (boxes,) = [one for one in axes.collections if isinstance(one, PolyCollection) and len(one.get_paths()) > 1][:1]
    tops = [path.vertices[:, 1].max() for path in boxes.get_paths()]  # pyright: ignore[reportAttributeAccessIssue, reportIndexIssue]
    assert sum(tops) == 10_000 - 50
    assert axes.get_title(loc="left").splitlines()[1] == "10,000 entries, 9,951 -> 3 values"


def test_models_state_dicts_and_what_share_weights_returns_are_taken() -> None:
    net = network()
    before = copied(net)
    sharing = sw.share_weights(net, clusters=4, include="3")
    of_sharing = weight_sharing(before, sharing)
    assert [axes.get_title(loc="left").splitlines()[0] for axes in of_sharing.axes] == ["3.weight"]
    for after in (net, net.state_dict(), copied(net)):
        figure = weight_sharing(before, after)
        assert [axes.get_title(loc="left").splitlines()[0] for axes in figure.axes] == [
            "0.weight",
            "3.weight",
            "5.weight",
        ]


@pytest.mark.parametrize(
    ("include", "names"),
    [
        ("3", ["3.weight"]),
        (["0.bias", "5"], ["0.bias", "5.weight"]),
        ("*.weight", ["0.weight", "3.weight", "5.weight"]),
    ],
)
def test_layers_are_chosen_by_name_or_pattern(include: str | list[str], names: list[str]) -> None:
    figure = weight_sharing(network(), network(), include=include)
    assert [axes.get_title(loc="left").splitlines()[0] for axes in figure.axes] == names


def test_tensors_that_were_not_copied_are_refused() -> None:
    """`share_weights` writes in place, so a state dict taken before shows what came after."""
    net = network()
    before = net.state_dict()
    sw.share_weights(net, clusters=4)
    with pytest.raises(SparsewoodError, match=r"same tensors in memory.*Copy first"):
        weight_sharing(before, net)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ({"a": torch.ones(2, 2)}, {"b": torch.ones(2, 2)}, "no weight in common"),
        ({"a": torch.ones(2, 2)}, {"a": torch.ones(2, 3)}, r"shape \(2, 2\) before and \(2, 3\) after"),
        (torch.tensor([1.0, float("nan")]), torch.ones(2), "'weight', before: .*NaN"),
        (torch.ones(2), "weights.pt", "after must be a model"),
        (torch.empty(0), torch.empty(0), "before: .* none"),
    ],
)
def test_what_cannot_be_compared_is_refused(before: object, after: object, message: str) -> None:
    with pytest.raises(SparsewoodError, match=message):
        weight_sharing(before, after)  # pyright: ignore[reportArgumentType]


def test_an_unknown_layer_is_named() -> None:
    with pytest.raises(SparsewoodError, match="Unknown layer or parameter in include '7'"):
        weight_sharing(network(), network(), include="7")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_of_numbers(dtype: torch.dtype) -> None:
    one = value_counts(torch.tensor([0.0, -0.0, 1.5], dtype=dtype))
    assert one.values.tolist() == [0, 1.5]
    assert not np.signbit(one.values[0])
    assert one.zeros == 2


def test_include_is_by_name() -> None:
    with pytest.raises(SparsewoodError, match="include must be names"):
        weight_sharing(network(), network(), include=nn.Linear)  # pyright: ignore[reportArgumentType]


def test_there_is_a_bin() -> None:
    with pytest.raises(SparsewoodError, match="bins must be at least 1"):
        value_counts(torch.arange(9.0), most_points=1, bins=0)
