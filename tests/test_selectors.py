"""Layers by their place, whatever they are called."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sparsewood as sw
from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.selectors import select_layers


def network(convolutions: int) -> nn.Module:
    """conv_1 ... conv_n under names that say nothing of their kind, then two linear layers."""
    model = nn.Module()
    for number in range(1, convolutions + 1):
        model.add_module(f"norm_{number}", nn.BatchNorm2d(2))
        model.add_module(f"layer_{number}", nn.Conv2d(2, 2, 3))
    model.add_module("conv_like", nn.Linear(4, 4))
    model.add_module("dense_2", nn.Linear(4, 2))
    return model


@pytest.mark.parametrize(("n", "middle", "last"), [(5, 3, 5), (4, 2, 4), (3, 2, 3), (2, 1, 2), (1, 1, 1)])
def test_places_are_counted_in_registration_order(n: int, middle: int, last: int) -> None:
    """[003-18] By the class of a module, not by its name."""
    model = network(n)
    assert select_layers(model, "firstconv") == ("layer_1",)
    assert select_layers(model, "midconv") == (f"layer_{middle}",)
    assert select_layers(model, "lastconv") == (f"layer_{last}",)
    assert select_layers(model, "firstdense") == ("conv_like",)
    assert select_layers(model, "all") == (*(f"layer_{i}" for i in range(1, n + 1)), "conv_like")


def test_words_are_understood_in_any_case_and_may_be_mixed_with_names() -> None:
    """[003-18] In the order of the network, each once."""
    model = network(3)
    assert select_layers(model, "MidConv") == ("layer_2",)
    chosen = select_layers(model, ["dense_2", "FIRSTCONV", "layer_1"])
    assert chosen == ("layer_1", "dense_2")


def test_names_of_containers_mean_their_layers_and_come_before_words() -> None:
    model = nn.Sequential(nn.Sequential(nn.Conv1d(1, 2, 3), nn.ReLU(), nn.ConvTranspose1d(2, 1, 3)), nn.Linear(4, 2))
    assert select_layers(model, "0") == ("0.0", "0.2")
    assert select_layers(model, "lastconv") == ("0.2",)
    tricky = nn.Module()
    tricky.add_module("other", nn.Linear(2, 2))
    tricky.add_module("all", nn.Linear(2, 2))
    assert select_layers(tricky, "all") == ("all",)
    assert select_layers(tricky, "ALL") == ("other",)


def test_a_network_of_one_layer_is_all_there_is() -> None:
    assert select_layers(nn.Sequential(nn.Linear(2, 2)), "all") == ("0",)


def test_names_fit_include() -> None:
    model = network(3)
    masks = sw.prune(model, sw.Magnitude(), 0.5, include=select_layers(model, ["midconv", "firstdense"]))
    assert list(masks) == ["layer_2.weight", "conv_like.weight"]
    assert torch.equal(masks["conv_like.weight"].sum(), torch.tensor(26 - int(masks["layer_2.weight"].sum())))


@pytest.mark.parametrize(
    ("which", "kind", "message"),
    [
        ("layer_9", UnknownName, "Did you mean 'layer_"),
        ("norm_1", UnknownName, "Unknown layer 'norm_1'"),
        (["firstconv", "secondconv"], UnknownName, "'secondconv'"),
        ([], SparsewoodError, "a word, a name, or a list"),
        ([3], SparsewoodError, "a word, a name, or a list"),
    ],
)
def test_what_is_no_layer_is_refused(which: object, kind: type[ValueError], message: str) -> None:
    """[003-18] An error of the ValueError family, never an assertion."""
    with pytest.raises(kind, match=message):
        select_layers(network(2), which)  # type: ignore[arg-type]
    assert issubclass(kind, ValueError)


def test_kinds_that_the_network_has_not_are_refused() -> None:
    with pytest.raises(SparsewoodError, match="no linear layer"):
        select_layers(nn.Sequential(nn.Conv2d(1, 1, 1)), "firstdense")
    with pytest.raises(SparsewoodError, match="no convolution"):
        select_layers(nn.Sequential(nn.Linear(1, 1)), "lastconv")
    with pytest.raises(SparsewoodError, match="no convolution and no linear layer"):
        select_layers(nn.ReLU(), "all")
