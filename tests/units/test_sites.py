"""Which tensors units are seen in, derived from the graph (000-03)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsewood as sw
from sparsewood.units import ActivationMean, collect_units, find_layers, find_sites


def layers_of(model: nn.Module, inputs: Tensor) -> dict[str, tuple[int, tuple[str, ...]]]:
    structure = sw.trace(model, inputs)
    return {name: (len(one), one.sites) for name, one in find_layers(structure, find_sites(structure)).items()}


def test_000_03_a_relu_that_is_shared_is_told_apart_by_its_calls() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.relu = nn.Linear(2, 3), nn.Linear(3, 5), nn.Linear(5, 2), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.relu(self.b(self.relu(self.a(x)))))

    assert layers_of(Shared(), torch.ones(1, 2)) == {"a": (3, ("relu",)), "b": (5, ("relu#2",))}


def test_000_03_functional_activations_are_seen_where_they_enter_the_next_module() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(2, 3), nn.Linear(3, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(F.relu(self.a(x)))

    model = Functional()
    assert layers_of(model, torch.ones(1, 2)) == {"a": (3, ("b.input",))}
    seen = collect_units(model, [torch.randn(16, 2)], [ActivationMean()])
    assert bool((seen.sums["mean"]["b.input"] >= 0).all()), "behind the ReLU, not before it"


def test_000_03_weights_that_meet_in_a_shortcut_are_seen_together_behind_the_sum() -> None:
    structure = sw.trace(sw.models.resnet20(), torch.zeros(1, 3, 32, 32))
    layers = find_layers(structure, find_sites(structure))
    assert layers["layer1.0.conv2"].sites == ("layer1.0.relu2",)
    assert layers["layer1.0.conv1"].sites == ("layer1.0.relu1",)
    group = structure.groups[int(layers["conv1"].groups[0])].name
    assert structure.groups[int(layers["layer1.2.conv2"].groups[0])].name == group, "one unit on both sides"
    assert sum(len(one) for one in layers.values()) == 688
    # Channels that meet the padding of the shortcut cannot be removed, but are seen in the order of outputs.
    padded = layers["layer2.0.conv2"]
    assert padded.columns[0].tolist() == list(range(32))
    assert padded.groups.tolist() == [-1] * 8 + [int(layers["conv1"].groups[0])] * 16 + [-1] * 8


def test_the_units_of_a_layer_are_its_outputs_whatever_the_order_of_positions() -> None:
    class Flattened(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.flat, self.head = nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.flat(self.conv(x))))

    model = Flattened()
    with torch.no_grad():
        model.conv.weight.zero_()
        assert model.conv.bias is not None
        model.conv.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    found = collect_units(model, [torch.randn(4, 1, 4, 4)], [ActivationMean()])
    means = {name: sums / 4 for name, sums in found.sums["mean"].items()}
    layer = found.layers()["conv"]
    assert found.of_layer(means, layer).tolist() == [1.0, 2.0, 3.0]
    assert found.of_groups(means)["conv"].tolist() == [1.0, 2.0, 3.0]


def test_a_network_without_removable_units_says_so() -> None:
    structure = sw.trace(nn.Linear(2, 3), torch.ones(1, 2))
    with pytest.raises(sw.SparsewoodError, match="No unit of this network is seen anywhere"):
        find_sites(structure)
