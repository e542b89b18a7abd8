"""`score` and `prune`: N:M, odd models, and what they refuse."""

from __future__ import annotations

import copy
from functools import partial
from threading import Thread
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from sparsewood.allocation import Everywhere, PerLayer, PerRow
from sparsewood.criteria import (
    LAMP,
    ActivationMagnitude,
    Criterion,
    GraSP,
    Inputs,
    LpNorm,
    Magnitude,
    Random,
    SynFlow,
    WeightTimesGradient,
)
from sparsewood.errors import SparsewoodError
from sparsewood.granularity import NM, Block, Channel, Filter, Vector
from sparsewood.masks import apply_masks
from sparsewood.pruning import prune, score
from sparsewood.statistics import InputPower, collect
from sparsewood.testing import ARCHITECTURES, Architecture, counting_linear
from sparsewood.testing.checks.shared import fingerprint
from sparsewood.testing.strategies import networks, score_tensors
from sparsewood.types import Count, Density, Masks, Sparsity


class Holder(nn.Module):
    """A parameter of any shape and type."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)


# ---------------------------------------------------------------- N:M


@given(
    st.tuples(*[st.sampled_from([2, 4, 6])] * 3).flatmap(lambda shape: score_tensors(st.just(shape))),
    st.integers(0, 2),
    st.integers(0, 2),
    st.booleans(),
)
def test_n_of_m_along_any_axis(weight: Tensor, n: int, axis: int, negative: bool) -> None:
    """Of each 2 consecutive the n largest magnitudes, the first of equals."""
    mask = prune(Holder(weight), Magnitude(), granularity=NM(n, 2, axis - 3 if negative else axis))["weight"]
    groups = weight.abs().movedim(axis, -1).reshape(-1, 2).tolist()
    found = mask.movedim(axis, -1).reshape(-1, 2).tolist()
    for pair, kept in zip(groups, found, strict=True):
        best = sorted(range(2), key=lambda i: (-pair[i], i))[:n]
        assert kept == [i in best for i in range(2)]


@pytest.mark.parametrize("shape", [(8, 8), (4, 8, 3, 3), (6, 4, 5)])
def test_2_of_4(shape: tuple[int, ...]) -> None:
    mask = prune(Holder(torch.randn(shape)), Magnitude(), granularity=NM(2, 4))["weight"]
    assert (mask.movedim(1, -1).reshape(-1, 4).sum(1) == 2).all()


@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a.name in {"mlp", "attention"}], ids=str)
def test_n_of_m_that_does_not_divide_names_the_layer(architecture: Architecture) -> None:
    name = {"mlp": "0.weight", "attention": "attention.in_proj_weight"}[architecture.name]
    with pytest.raises(SparsewoodError, match=rf"{name}: 2:5 needs axis 1 divisible by 5.*Leave it out with exclude"):
        prune(architecture.build(), Magnitude(), granularity=NM(2, 5))


@pytest.mark.parametrize("n", range(8))
def test_n_of_7_accepts_its_own_sparsity(n: int) -> None:
    """However it was computed, and as the message prints it."""
    implied = 1 - n / 7
    for amount in (implied, (7 - n) / 7, float(f"{implied:g}"), Sparsity(implied)):
        assert prune(Holder(torch.randn(2, 7)), Magnitude(), amount, granularity=NM(n, 7)).removed == 2 * (7 - n)


@pytest.mark.parametrize("amount", [0.9, 0.51, Sparsity(0.9), Count(4), Density(0.3)])
def test_n_of_m_with_another_amount(amount: Any) -> None:
    with pytest.raises(
        SparsewoodError, match=r"2:4 removes 0.5 of the weights, sparsity asks for .*Leave sparsity out"
    ):
        prune(Holder(torch.randn(2, 4)), Magnitude(), amount, granularity=NM(2, 4))


@pytest.mark.parametrize("scope", [PerLayer(), PerRow(), {"weight": 0.5}], ids=str)
def test_n_of_m_with_a_scope(scope: Any) -> None:
    with pytest.raises(SparsewoodError, match=r"2:4 fixes its own pools; leave scope out"):
        prune(Holder(torch.randn(2, 4)), Magnitude(), granularity=NM(2, 4), scope=scope)


def test_n_of_m_after_masks() -> None:
    """Where fewer than n are left, these stay."""
    earlier = torch.tensor([[0, 0, 0, 1], [1, 1, 1, 1]], dtype=torch.bool)
    masks = prune(counting_linear(2, 4), Magnitude(), granularity=NM(2, 4), masks={"weight": earlier})
    assert masks["weight"].int().tolist() == [[0, 0, 0, 1], [0, 0, 1, 1]]


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("criterion", [Magnitude, "magnitude", None, [Magnitude()]])
def test_criteria_that_are_none(criterion: Any) -> None:
    with pytest.raises(SparsewoodError, match=r"criterion must be a Criterion, for example Magnitude\(\). Got"):
        prune(nn.Linear(2, 2), criterion)
    if not isinstance(criterion, list):
        with pytest.raises(SparsewoodError, match="criterion must be a Criterion"):
            score(nn.Linear(2, 2), criterion)


@pytest.mark.parametrize("sparsity", [-0.1, 1.5, True, "0.5", None, -2])
def test_bad_sparsities(sparsity: Any) -> None:
    with pytest.raises(SparsewoodError, match=r"Got"):
        prune(nn.Linear(2, 2), Magnitude(), sparsity)


def test_counts_beyond_the_model() -> None:
    with pytest.raises(SparsewoodError, match=r"Count\(n=7\): weight has 6 units"):
        prune(nn.Linear(2, 3), Magnitude(), 7)


@pytest.mark.parametrize(("granularity", "message"), [(Vector(), "needs axis 2"), (Block((2, 5)), "divisible by 5")])
def test_units_that_do_not_fit_name_the_layer(granularity: Any, message: str) -> None:
    model = nn.Sequential(nn.Conv2d(10, 4, 3), nn.Linear(4, 4), nn.Linear(4, 2))
    with pytest.raises(SparsewoodError, match=rf"1.weight: .*{message}.*exclude=\['1.weight'\]"):
        prune(model, Magnitude(), granularity=granularity)


def test_parameters_without_values() -> None:
    with pytest.raises(SparsewoodError, match=r"'weight' has no values: it is on the meta device"):
        prune(nn.Linear(3, 3, device="meta"), Magnitude(), 0.5)


class WrongShape(Criterion):
    def __call__(self, inputs: Inputs) -> Tensor:
        return inputs.weight.sum(0)


def test_a_criterion_that_gives_the_wrong_shape() -> None:
    with pytest.raises(SparsewoodError, match=r"gave scores of shape \(2,\) for weight \(3, 2\)"):
        prune(nn.Linear(2, 3), WrongShape(), 0.5)


@pytest.mark.parametrize("criterion", [Magnitude(), LAMP()], ids=str)
@pytest.mark.parametrize("granularity", [Filter(), None])
def test_nan_weights_name_the_parameter(criterion: Criterion, granularity: Any) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight.data[1, 1] = float("nan")
    options = {} if granularity is None else {"granularity": granularity}
    for function in (score, partial(prune, sparsity=0.5)):
        with pytest.raises(SparsewoodError, match=r"of \d scores of 1\.weight are NaN or infinite"):
            function(model, criterion, include="*", **options)


# ---------------------------------------------------------------- odd models


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.float64]
)
def test_every_float_type(dtype: torch.dtype) -> None:
    values = torch.tensor([[1.0, -2.0, 0.5, 4.0]])
    assert prune(Holder(values.to(dtype)), Magnitude(), 2)["weight"].tolist() == [[False, True, False, True]]


def test_parameters_without_axes() -> None:
    model = nn.Module()
    model.scale, model.vector = nn.Parameter(torch.tensor(2.5)), nn.Parameter(torch.arange(1.0, 5.0))
    masks = prune(model, Magnitude(), 2, include=["scale", "vector"], min_units=0)
    assert masks["scale"].item() is True
    assert masks["vector"].tolist() == [False, False, True, True]
    masks = prune(model, Magnitude(), 2, include=["scale", "vector"], min_units=0, masks={"scale": torch.tensor(False)})
    assert masks["scale"].item() is False


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("scope", [Everywhere(), PerLayer(), PerRow()], ids=str)
@pytest.mark.parametrize("granularity", [Filter(), NM(1, 2)], ids=str)
def test_parameters_without_elements(scope: Any, granularity: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 0), nn.Linear(0, 4))
    masks = prune(model, Magnitude(), 0.5, scope=scope, protect_classifier=False)
    assert [mask.shape for mask in masks.values()] == [(4, 4), (0, 4), (4, 0)]
    assert masks.removed == 8
    prune(model, Magnitude(), 0.5, granularity=granularity, protect_classifier=False)


def test_the_default_device_does_not_matter() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    calls: list[dict[str, Any]] = [
        {"criterion": Magnitude(), "sparsity": 0.3, "scope": PerRow()},
        {"criterion": Magnitude(), "granularity": NM(2, 4)},
        {"criterion": Random(), "sparsity": 0.7},
        {"criterion": LAMP(), "sparsity": 0.7},
    ]
    expected = [prune(model, **call) for call in calls]
    with torch.device("meta"):
        assert [prune(model, **call) for call in calls] == expected


class TwoTypes(Criterion):
    def __call__(self, inputs: Inputs) -> Tensor:
        return inputs.weight.double() if inputs.name == "0.weight" else inputs.weight


def test_scores_of_two_types_cannot_compete() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    with pytest.raises(SparsewoodError, match=r"scores of 0.weight, 1.weight must be all float32 or all float64"):
        prune(model, TwoTypes(), 0.5, protect_classifier=False)


def test_expanded_weights() -> None:
    """Memory that is shared between rows is read like any other."""
    mask = prune(Holder(torch.arange(4.0).expand(3, 4)), Magnitude(), 6)["weight"]
    assert mask.tolist() == [[False, False, True, True]] * 3


def test_modules_inside_lists_and_dicts() -> None:
    model = nn.ModuleDict({"a": nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)]), "b": nn.Linear(3, 2)})
    assert list(prune(model, Magnitude(), 0.5)) == ["a.0.weight", "a.1.weight"]


def test_a_generator_is_used_and_moves_on() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (prune(nn.Linear(20, 20), Random(), 0.5, generator=generator) for _ in range(2))
    assert first != second


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_pruning_leaves_no_trace(architecture: Architecture) -> None:
    """[7.23] [7.22]"""
    model = architecture.build().train()
    before = fingerprint(model)
    data = [(architecture.inputs(3), torch.arange(3))]
    prune(model, Magnitude(), 0.5)
    prune(model, Random(), 0.5)
    prune(model, WeightTimesGradient(), 0.5, data=data, loss=nn.functional.cross_entropy)
    assert fingerprint(model) == before


@given(networks(), st.floats(0, 0.9))
def test_permuting_output_units_permutes_the_masks(network: tuple[nn.Module, Tensor], share: float) -> None:
    """Weights are made distinct, as ties go by position."""
    model, _ = network
    generator = torch.Generator().manual_seed(0)
    parameters = dict(model.named_parameters())
    distinct = torch.randperm(sum(p.numel() for p in parameters.values()), generator=generator).float()
    for parameter in parameters.values():
        parameter.data, distinct = distinct[: parameter.numel()].reshape(parameter.shape), distinct[parameter.numel() :]
    masks = prune(model, Magnitude(), share, protect_classifier=False, min_units=0)
    orders = {name: torch.randperm(len(mask), generator=generator) for name, mask in masks.items()}
    for name, order in orders.items():
        parameters[name].data = parameters[name].data[order]
    turned = prune(model, Magnitude(), share, protect_classifier=False, min_units=0)
    assert turned == Masks({name: mask[orders[name]] for name, mask in masks.items()})


def test_scores_do_not_alias_the_weights() -> None:
    class Weight(Criterion):
        pointwise = True

        def __call__(self, inputs: Inputs) -> Tensor:
            return inputs.weight

    layer = nn.Linear(3, 3)
    before = layer.weight.detach().clone()
    score(layer, Weight())["weight"].zero_()
    assert torch.equal(layer.weight, before)


def test_sparsity_over_prunable_and_over_all() -> None:
    """[002-08] Over the masked tensors; over all parameters it is removed / P."""
    model = nn.Sequential(nn.Linear(9, 10), nn.Linear(10, 10))
    masks = prune(model, Magnitude(), 0.5)
    assert masks.sparsity == 0.5
    assert masks.removed / sum(p.numel() for p in model.parameters()) == 45 / 210


def output_weights(layer: nn.ConvTranspose2d, output: int) -> tuple[slice, int]:
    """Where the weights of one output channel of a transposed convolution are."""
    per_group = layer.out_channels // layer.groups
    inputs = layer.in_channels // layer.groups
    group = output // per_group
    return slice(group * inputs, (group + 1) * inputs), output % per_group


@pytest.mark.parametrize("groups", [1, 2])
def test_filters_of_transposed_convolutions_are_their_outputs(groups: int) -> None:
    """[7.21] The channels that a mask of filters silences are output channels."""
    layer = nn.ConvTranspose2d(4, 6, 3, groups=groups, bias=False)
    masks = prune(layer, LpNorm(1), 0.5, granularity=Filter())
    norms = torch.stack([layer.weight[output_weights(layer, o)].abs().sum() for o in range(6)])
    apply_masks(layer, masks)
    silent = layer(torch.randn(2, 4, 5, 5)).abs().sum((0, 2, 3)) == 0
    assert sorted(silent.nonzero().reshape(-1).tolist()) == sorted(norms.argsort()[:3].tolist())


@pytest.mark.parametrize("groups", [1, 2])
def test_rows_of_transposed_convolutions_are_their_outputs(groups: int) -> None:
    layer = nn.ConvTranspose2d(4, 6, 3, groups=groups, bias=False)
    mask = prune(layer, Magnitude(), 0.5, scope=PerRow())["weight"]
    size = 4 // groups * 9
    for output in range(6):
        weights, kept = layer.weight[output_weights(layer, output)], mask[output_weights(layer, output)]
        assert int(kept.sum()) == size // 2
        assert weights[kept].abs().min() >= weights[~kept].abs().max()


def test_n_of_m_inputs_of_a_transposed_convolution() -> None:
    layer = nn.ConvTranspose2d(4, 6, 3, bias=False)
    mask = prune(layer, Magnitude(), granularity=NM(1, 2))["weight"]
    assert torch.equal(mask.unflatten(0, (2, 2)).sum(1), torch.ones(2, 6, 3, 3, dtype=torch.long))


def test_an_amount_that_would_be_ignored_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    with pytest.raises(SparsewoodError, match=r"sparsity=0.7 would be ignored.*give None"):
        prune(model, Magnitude(), 0.7, scope={"0": 0.5})
    masks = prune(model, Magnitude(), 0.25, scope=PerLayer({"0": 0.5, "1": None}))
    assert masks.layer_sparsity() == {"0.weight": 0.5, "1.weight": 0.25}


def test_the_number_of_threads_is_put_back() -> None:
    """Also when several selections run at once."""
    torch.set_num_threads(2)
    try:
        model = nn.Sequential(nn.Linear(300, 300), nn.Linear(300, 300), nn.Linear(300, 2))
        workers = [Thread(target=lambda: [prune(model, Magnitude(), 0.5) for _ in range(10)]) for _ in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        prune(model, Magnitude(), 0.5)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"granularity": Filter}, "granularity must be a Granularity"),
        ({"generator": 5}, "generator must be a torch.Generator"),
        ({"statistics": 5}, "statistics must be what collect returned"),
        ({"masks": 5}, "Masks are a mapping"),
        ({"masks": {5: torch.ones(1).bool()}}, "Got the key 5"),
        ({"granularity": NM(0, 4), "min_units": -3}, "min_units must be a whole number"),
    ],
)
def test_arguments_of_other_types_are_refused_by_name(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SparsewoodError, match=message):
        prune(counting_linear(2, 4), Magnitude(), **{"sparsity": 0.5} | given)


@pytest.mark.parametrize("model", [None, {}, nn.Linear], ids=["None", "state dict", "class"])
def test_what_is_no_model_is_refused(model: Any) -> None:
    for call in (
        lambda: prune(model, Magnitude(), 0.5),
        lambda: apply_masks(model, {}),
        lambda: score(model, Magnitude()),
    ):
        with pytest.raises(SparsewoodError, match=r"model must be a torch.nn.Module. Got \w+"):
            call()


def test_statistics_of_another_model_are_refused() -> None:
    data = [torch.randn(3, 4)]
    statistics = collect(nn.Linear(4, 2), data, [InputPower(2)])
    with pytest.raises(SparsewoodError, match=r"weight has shape \(1, 4\), the parameter \(2, 3\)"):
        prune(nn.Linear(3, 2), ActivationMagnitude(), 0.5, statistics=statistics)


def test_what_is_masked_may_be_infinite() -> None:
    model = counting_linear(2, 4)
    masks = {"weight": torch.ones_like(model.weight, dtype=torch.bool)}
    masks["weight"][0, 0] = False
    with torch.no_grad():
        model.weight[0, 0] = float("inf")
    assert prune(model, Magnitude(), 2, masks=masks).removed == 2


def test_channels_of_grouped_convolutions_are_their_inputs() -> None:
    """[7.21] Masking a channel cuts one input off, also where filters see only the inputs of their group."""
    layer = nn.Conv2d(6, 6, 3, groups=3, bias=False)
    apply_masks(layer, prune(layer, LpNorm(1), 0.5, granularity=Channel()))
    used = []
    for channel in range(6):
        x = torch.zeros(1, 6, 5, 5)
        x[:, channel] = 1
        used.append(bool(layer(x).abs().sum() > 0))
    assert sum(used) == 3
    depthwise = nn.Conv2d(8, 8, 3, groups=8)
    assert prune(depthwise, Magnitude(), 0.25, granularity=Channel()).removed == 2 * 9


def test_n_of_m_may_be_asked_for_as_density() -> None:
    layer = nn.Linear(8, 2)
    assert prune(layer, Magnitude(), Density(0.5), granularity=NM(2, 4)).removed == 8
    with pytest.raises(SparsewoodError, match=r"2:4 removes 0\.5"):
        prune(layer, Magnitude(), Count(8), granularity=NM(2, 4))


@pytest.mark.parametrize("criterion", [SynFlow(), WeightTimesGradient(), GraSP()], ids=repr)
def test_passes_over_data_see_the_network_as_earlier_masks_leave_it(criterion: Criterion) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 11), nn.Linear(11, 3), nn.Linear(3, 13), nn.Linear(13, 2))
    data = [(torch.randn(8, 7), torch.randint(2, (8,)))]
    earlier = prune(model, Random(), 0.5)
    applied = copy.deepcopy(model)
    apply_masks(applied, earlier)
    before = fingerprint(model)
    loss = nn.functional.cross_entropy
    found, expected = (prune(one, criterion, 0.8, masks=earlier, data=data, loss=loss) for one in (model, applied))
    assert found == expected
    assert fingerprint(model) == before
