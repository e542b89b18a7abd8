"""Networks that are alike layer by layer: counts are exactly those of the source, whatever chooses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from sparsewood.criteria import LAMP, Magnitude, Random
from sparsewood.data import digits
from sparsewood.errors import SparsewoodError
from sparsewood.granularity import NM, Coupled, Filter
from sparsewood.masks import apply_masks
from sparsewood.measurement.counting import count
from sparsewood.models import small_conv
from sparsewood.pruning import Pruning, prune
from sparsewood.run.bench import Bench
from sparsewood.run.layerwise import masks_by_layer, narrowed
from sparsewood.run.progress import no_progress
from sparsewood.run.recipe import parse_recipe
from sparsewood.shrinking import shrink
from sparsewood.shrinking.unit_masks import prune_units, units_left
from sparsewood.structure import trace
from sparsewood.types import Masks

EXAMPLE = torch.zeros(1, 1, 8, 8)
RECIPE = "{name: r, data: digits, model: {name: small_conv, widths: [4, 8], hidden: 16}}"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    root = tmp_path_factory.mktemp("layerwise")
    return Bench(parse_recipe(RECIPE), digits(), Path(root), 1, None, no_progress)


def network(seed: int = 0) -> nn.Module:
    return small_conv((4, 8), hidden=16, generator=generator(seed))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def removed(masks: Masks) -> dict[str, int]:
    return {name: mask.numel() - int(mask.count_nonzero()) for name, mask in masks.items()}


SOURCES = {
    "single weights": lambda model: prune(model, LAMP(), 0.8),
    "single weights at random": lambda model: prune(model, Random(), 0.9, generator=generator(3)),
    "filters": lambda model: prune(model, Magnitude(), 0.5, granularity=Filter()),
}


# ---------------------------------------------------------------- single weights


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("criterion", [Random(), Magnitude()])
def test_as_many_of_every_layer_go_as_of_the_source(bench: Bench, source: str, criterion: Random | Magnitude) -> None:
    """[8.3] Random, and magnitude, with the method's layer-wise proportions."""
    model = network()
    given_masks = SOURCES[source](model)
    found = masks_by_layer(bench, Pruning(criterion), model, given_masks, generator())
    assert removed(found) == removed(given_masks)
    assert sum(removed(found).values()) > 0
    assert {name: mask.shape for name, mask in found.items()} == {n: mask.shape for n, mask in given_masks.items()}


@pytest.mark.parametrize("criterion", [Random(), Magnitude()])
def test_filters_go_as_filters(bench: Bench, criterion: Random | Magnitude) -> None:
    model = network()
    source = prune(model, LAMP(), 0.5, granularity=Filter())
    found = masks_by_layer(bench, Pruning(criterion, granularity=Filter()), model, source, generator())
    assert removed(found) == removed(source)
    assert sum(removed(found).values()) > 0
    for name, mask in found.items():
        whole = mask.flatten(1)
        assert torch.equal(whole.any(1), whole.all(1)), name
        size = dict(model.named_parameters())[name].detach().abs().flatten(1).sum(1)
        if isinstance(criterion, Magnitude) and 0 < int(whole.any(1).sum()) < len(whole):
            assert size[whole.any(1)].min() >= size[~whole.any(1)].max(), name
    other = masks_by_layer(bench, Pruning(Random(), granularity=Filter()), model, source, generator(9))
    assert any(not torch.equal(other[name], found[name]) for name in found)


@pytest.mark.parametrize("criterion", [Random(), Magnitude()])
def test_patterns_go_as_patterns(bench: Bench, criterion: Random | Magnitude) -> None:
    model = network()
    source = prune(model, LAMP(), granularity=NM(2, 4), exclude=["features.0.weight"])
    found = masks_by_layer(bench, Pruning(criterion, granularity=NM(2, 4)), model, source, generator())
    assert removed(found) == removed(source)
    hidden = found["hidden.weight"]
    assert hidden.unflatten(1, (-1, 4)).sum(-1).unique().tolist() == [2]
    assert not torch.equal(hidden, source["hidden.weight"]) or isinstance(criterion, Magnitude)


@pytest.mark.parametrize("criterion", [Random(), Magnitude()])
def test_what_was_not_made_of_filters_is_counted_in_single_weights(bench: Bench, criterion: Random | Magnitude) -> None:
    model = network()
    source = prune(model, LAMP(), 0.83)
    found = masks_by_layer(bench, Pruning(criterion, granularity=Filter()), model, source, generator())
    assert removed(found) == removed(source)


def test_the_largest_stay(bench: Bench) -> None:
    model, parameters = network(), dict(network().named_parameters())
    found = masks_by_layer(
        bench, Pruning(Magnitude()), model, prune(model, Random(), 0.7, generator=generator()), generator()
    )
    for name, mask in found.items():
        size = parameters[name].detach().abs()
        assert float(size[~mask].max()) <= float(size[mask].min()), name


def test_of_equal_size_exactly_as_many_go_those_that_come_last(bench: Bench) -> None:
    layer = nn.Linear(10, 4)
    nn.init.ones_(layer.weight)
    model = nn.Sequential(layer, nn.Linear(4, 2))
    mask = torch.ones(4, 10, dtype=torch.bool)
    mask.view(-1)[::4] = False
    found = masks_by_layer(bench, Pruning(Magnitude()), model, Masks({"0.weight": mask}), generator())["0.weight"]
    assert found.flatten().tolist() == [True] * 30 + [False] * 10


def test_chance_follows_the_generator_and_differs_from_the_source(bench: Bench) -> None:
    model = network()
    source = prune(model, LAMP(), 0.8)
    one, same, other = (masks_by_layer(bench, Pruning(Random()), model, source, generator(k)) for k in (5, 5, 6))
    name = "hidden.weight"
    assert torch.equal(one[name], same[name])
    assert not torch.equal(one[name], other[name])
    assert not torch.equal(one[name], source[name])


def test_chance_is_uniform_within_a_layer(bench: Bench) -> None:
    """Of many draws, every place goes about as often."""
    mask = torch.arange(40) < 10
    model = nn.Sequential(nn.Linear(10, 4))
    given_masks = Masks({"0.weight": mask.view(4, 10)})
    drawn = [
        masks_by_layer(bench, Pruning(Random()), model, given_masks, generator(k))["0.weight"].double()
        for k in range(400)
    ]
    kept = torch.stack(drawn).sum(0)  # binomial: mean 100, deviation 8.7
    assert kept.min() > 60
    assert kept.max() < 140


def test_layers_of_which_nothing_or_everything_went_stay_so(bench: Bench) -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    source = Masks({"0.weight": torch.zeros(2, 3, dtype=torch.bool), "1.weight": torch.ones(2, 2, dtype=torch.bool)})
    for criterion in (Random(), Magnitude()):
        found = masks_by_layer(bench, Pruning(criterion), model, source, generator())
        assert removed(found) == {"0.weight": 6, "1.weight": 0}
        found["0.weight"].fill_(True)  # a copy, not the source's own
    assert removed(source) == {"0.weight": 6, "1.weight": 0}


def test_weights_are_left_as_they_are(bench: Bench) -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    masks_by_layer(bench, Pruning(Magnitude()), model, prune(model, LAMP(), 0.8), generator())
    source = prune_units(model, EXAMPLE, Magnitude(), 0.5)
    masks_by_layer(bench, Pruning(Magnitude(), granularity=Coupled()), model, source, generator())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(0, 99))
def test_counts_of_any_mask(bench: Bench, kept: list[bool], seed: int) -> None:
    model = nn.Sequential(nn.Linear(len(kept), 1))
    source = Masks({"0.weight": torch.tensor(kept).view(1, -1)})
    for criterion in (Random(), Magnitude()):
        assert removed(masks_by_layer(bench, Pruning(criterion), model, source, generator(seed))) == removed(source)


# ---------------------------------------------------------------- whole units


def units(model: nn.Module, masks: Masks) -> dict[str, int]:
    return {name: int(left.sum()) for name, left in units_left(trace(model, EXAMPLE), masks).items()}


@pytest.mark.parametrize("criterion", [Random(), Magnitude()])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_as_many_units_of_every_group_go(bench: Bench, criterion: Random | Magnitude, share: float) -> None:
    model = network()
    source = prune_units(model, EXAMPLE, Random(), share, generator=generator(2))
    found = masks_by_layer(bench, Pruning(criterion, granularity=Coupled()), model, source, generator())
    assert units(model, found) == units(model, source)
    sizes = [count(shrink(network(), EXAMPLE, masks=masks, verify=False).model).params for masks in (found, source)]
    assert sizes[0] == sizes[1]


def test_the_largest_units_stay(bench: Bench) -> None:
    model = network()
    with torch.no_grad():
        model.get_parameter("hidden.weight").mul_(torch.arange(1.0, 17.0).view(-1, 1))
        model.get_parameter("classifier.weight").mul_(torch.arange(1.0, 17.0))
    source = prune_units(model, EXAMPLE, Random(), 0.5, generator=generator(2))
    found = masks_by_layer(bench, Pruning(Magnitude(), granularity=Coupled()), model, source, generator())
    kept = found["hidden.weight"].flatten(1).any(1)
    assert 0 < int(kept.sum()) < 16
    assert kept.tolist() == sorted(kept.tolist())  # those at the end, which are largest


def test_a_network_that_was_masked_and_one_that_was_shrunk_are_the_same(bench: Bench) -> None:
    model = network().double().eval()
    source = prune_units(model, EXAMPLE.double(), Random(), 0.5, generator=generator(2))
    found = masks_by_layer(bench, Pruning(Random(), granularity=Coupled()), network(), source, generator())
    images: Tensor = torch.rand(4, 1, 8, 8, generator=generator(), dtype=torch.float64)
    small = shrink(model, EXAMPLE.double(), masks=found).model
    apply_masks(model, found)
    torch.testing.assert_close(small(images), model(images))


# ---------------------------------------------------------------- narrower


def test_narrowed_is_the_widest_within_the_budget() -> None:
    """Parameters of h units between 4 inputs and 2 outputs: 7 h + 2."""
    net = nn.Sequential(nn.Linear(4, 100), nn.ReLU(), nn.Linear(100, 2))
    for budget in (9, 15, 16, 71, 72, 73, 350, 701, 702):
        small = narrowed(net, torch.ones(1, 4), budget)
        assert small[0].out_features == (budget - 2) // 7, budget  # type: ignore[index]


def test_narrowed_keeps_all_where_all_fits() -> None:
    net = network()
    assert count(narrowed(net, EXAMPLE, count(net).params)).params == count(net).params
    assert count(narrowed(net, EXAMPLE, 10**9)).params == count(net).params


def test_narrowed_is_the_narrowest_there_is_where_nothing_fits() -> None:
    net = nn.Sequential(nn.Linear(4, 100), nn.ReLU(), nn.Linear(100, 2))
    for budget in (8, 1, 0, -5):
        assert narrowed(net, torch.ones(1, 4), budget)[0].out_features == 1  # type: ignore[index]


def test_narrowed_takes_the_same_share_of_all_layers() -> None:
    net = small_conv((16, 32), hidden=64, generator=generator())
    small = narrowed(net, EXAMPLE, count(net).params // 4)
    widths = [p.shape[0] for name, p in small.named_parameters() if name.endswith("weight")]
    assert widths[-1] == 10
    shares = [width / whole for width, whole in zip(widths, (16, 32, 64), strict=False)]
    assert max(shares) - min(shares) <= 1 / 16
    assert count(small).params <= count(net).params // 4
    assert small(torch.rand(3, 1, 8, 8)).shape == (3, 10)


@pytest.mark.parametrize("budget", [0, 60, 333, 1000, 2569])
def test_narrowed_never_exceeds_a_budget_that_can_be_met(budget: int) -> None:
    """Widths 1, 1 and 1 have 10 + 10 + 17 + 20 parameters."""
    assert count(narrowed(network(), EXAMPLE, budget)).params <= max(budget, 10 + 10 + 17 + 20)


def test_a_network_that_cannot_be_narrowed_is_refused() -> None:
    with pytest.raises(SparsewoodError):
        narrowed(nn.Sequential(nn.Linear(4, 2)), torch.ones(1, 4), 3)
