"""share_weights: at most k values other than 0, zeros stay zero, masks hold, errors before any change (001-10)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import sparsewood as sw
from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.quantization import KMeansPlusPlus, Linear, Optimal, PerChannel, PerTensor, share_weights


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, groups=4), nn.Flatten(), nn.Linear(48, 10)
    )


def linear(values: list[float] | list[list[float]], dtype: torch.dtype = torch.float32) -> nn.Linear:
    weight = torch.tensor(values, dtype=dtype)
    weight = weight if weight.ndim == 2 else weight[None]
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight)
    return layer


def nonzero_values(tensor: Tensor) -> Tensor:
    return tensor[tensor != 0].unique()


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


# ---------------------------------------------------------------- closed forms


def test_001_10_weights_become_the_means_of_their_clusters() -> None:
    layer = linear([[1.0, 2.0, -5.0], [3.0, 9.0, -7.0]])
    told = share_weights(layer, clusters=3).weights["weight"]
    assert layer.weight.tolist() == [[2.0, 2.0, -6.0], [2.0, 9.0, -6.0]]
    assert told.codebook.tolist() == [-6.0, 2.0, 9.0]
    assert told.indices.tolist() == [[1, 1, 0], [1, 2, 0]]
    assert (told.squared_error, told.squares) == (pytest.approx(4.0), pytest.approx(169.0))
    assert told.relative_error == pytest.approx(4 / 169)
    assert (told.unique, told.values, told.bits, told.zeros) == (3, 3, 2, 0)
    assert told.counts().tolist() == [2, 3, 1]
    assert told.channels is None


def test_001_10_clusters_is_a_number_and_bits_an_exponent() -> None:
    """Number 14: 5 clusters are 5 values, and 5 bits are 32."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(1, 500, generator=generator).tolist()
    by_number, by_bits = linear(values), linear(values)
    assert share_weights(by_number, clusters=5).weights["weight"].values == 5
    assert share_weights(by_bits, bits=5).weights["weight"].values == 32
    assert len(by_number.weight.unique()) == 5
    assert len(by_bits.weight.unique()) == 32


def test_bits_count_the_zero_where_there_is_one() -> None:
    values = torch.arange(1.0, 101.0)
    values[::10] = 0
    told = share_weights(linear(values.tolist()), bits=3).weights["weight"]
    assert (told.values, told.unique, told.zeros, told.bits) == (8, 7, 10, 3)
    told = share_weights(linear(values.tolist()), clusters=8).weights["weight"]
    assert (told.values, told.unique, told.zeros, told.bits) == (9, 8, 10, 4)
    assert share_weights(linear(values.tolist()), bits=1).weights["weight"].unique == 1


def test_001_10_zeros_stay_zero_and_have_no_part_in_the_means() -> None:
    """Number 14: nothing is pulled toward the zeros, and none of them moves."""
    layer = linear([0.0, 0.0, 0.0, 0.0, 4.0, 6.0, -0.0, 2.0**-100])
    told = share_weights(layer, clusters=2).weights["weight"]
    assert layer.weight.tolist() == [[0.0, 0.0, 0.0, 0.0, 5.0, 5.0, 0.0, 2.0**-100]]
    assert not torch.signbit(layer.weight).any()
    assert told.codebook.tolist() == [0.0, 2.0**-100, 5.0]
    assert told.zeros == 5


def test_a_mean_of_exactly_zero_makes_the_weights_of_its_cluster_zero() -> None:
    layer = linear([-1.0, 1.0, 0.0])
    told = share_weights(layer, clusters=1).weights["weight"]
    assert layer.weight.tolist() == [[0.0, 0.0, 0.0]]
    assert told.indices.tolist() == [[1, 1, 0]]
    assert (told.zeros, told.unique, told.squared_error) == (1, 0, 2.0)


def test_a_weight_of_zeros_alone() -> None:
    layer = linear([0.0, 0.0])
    told = share_weights(layer, bits=2)
    assert told.weights["weight"].codebook.tolist() == [0.0]
    assert told.weights["weight"].unique == 0
    assert told.relative_error == 0
    assert layer.weight.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_001_10_enough_clusters_lose_nothing(dtype: torch.dtype) -> None:
    model = net().to(dtype)
    before = state(model)
    told = share_weights(model, clusters=10_000)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(one.squared_error == 0 for one in told.weights.values())
    assert told.weights["0.weight"].unique == before["0.weight"].unique().numel()


def test_the_error_of_the_largest_weights_is_a_number() -> None:
    """The mean of a, -a, -a, -a is -a / 2: one weight moves by 3 a / 2, more than float32 can hold, three by a / 2."""
    layer = linear([3e38, -3e38, -3e38, -3e38])
    told = share_weights(layer, clusters=1).weights["weight"]
    assert layer.weight.tolist() == [[pytest.approx(-1.5e38)] * 4]
    assert told.squared_error == pytest.approx(4.5e38**2 + 3 * 1.5e38**2)


# ---------------------------------------------------------------- properties


@given(
    st.lists(st.floats(-100, 100, width=16) | st.just(0.0), min_size=1, max_size=40),
    st.integers(1, 12),
    st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
    st.booleans(),
)
def test_001_10_what_holds_for_any_weights(values: list[float], number: int, dtype: torch.dtype, as_bits: bool) -> None:
    layer = linear(values, dtype)
    before = layer.weight.detach().clone()
    told = share_weights(layer, bits=number) if as_bits else share_weights(layer, clusters=number)
    one, after = told.weights["weight"], layer.weight.detach()
    zeros = int((before == 0).sum())
    most = 2**number - (zeros > 0) if as_bits else number
    assert one.unique == len(nonzero_values(after)) <= min(most, len(nonzero_values(before)))
    assert torch.equal(one.weight(), after)
    assert after.dtype is dtype is one.codebook.dtype
    assert (after[before == 0] == 0).all()
    assert one.zeros == zeros
    assert one.counts().sum() == before.numel()  # 001-21
    assert (one.codebook.double().diff() > 0).all() or zeros  # the zero comes first
    error = float((before.double() - after.double()).square().sum())
    assert one.squared_error == pytest.approx(error, rel=1e-6, abs=1e-11 * (one.squares + 1e-30))
    assert one.squares == pytest.approx(float(before.double().square().sum()), rel=1e-9)
    again = share_weights(layer, clusters=number if not as_bits else most).weights["weight"]
    assert torch.equal(layer.weight, after)
    assert again.squared_error == 0


def test_001_10_never_worse_than_equal_steps() -> None:
    model = net()
    before = state(model)
    told = share_weights(model, bits=4)
    for name, one in told.weights.items():
        steps = torch.linspace(float(before[name].min()), float(before[name].max()), 16).double()
        uniform = (before[name].double().flatten()[:, None] - steps).abs().amin(1).square().sum()
        assert one.squared_error < 0.9 * float(uniform)


def test_weights_are_nearest_to_their_values() -> None:
    model = net()
    before = model[5].weight.detach().clone()
    share_weights(model, clusters=7)
    values = model[5].weight.detach().unique()
    best = (before[..., None] - values).abs().amin(-1)
    assert torch.equal((before - model[5].weight).abs(), best)


# ---------------------------------------------------------------- which


def test_by_default_weights_of_layers_also_of_the_classifier_and_no_other_parameter() -> None:
    model = nn.ModuleDict(
        {
            "conv": nn.Conv1d(3, 4, 3),
            "up": nn.ConvTranspose2d(4, 6, 3, groups=2),
            "norm": nn.BatchNorm2d(4),
            "rnn": nn.LSTM(3, 4),
            "embed": nn.Embedding(6, 3),
            "drop": nn.Dropout(),
            "head": nn.Linear(4, 2),
        }
    )
    before = state(model)
    told = share_weights(model, clusters=3)
    assert list(told.weights) == ["conv.weight", "up.weight", "rnn.weight_ih_l0", "rnn.weight_hh_l0", "head.weight"]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) == (name not in told.weights)


def test_embeddings_and_scales_of_normalisations_by_name() -> None:
    model = nn.Sequential(nn.Embedding(50, 4), nn.BatchNorm1d(40), nn.Linear(4, 4))
    nn.init.normal_(model[1].weight)
    told = share_weights(model, clusters=4, include=[nn.BatchNorm1d, "0"])
    assert list(told.weights) == ["0.weight", "1.weight"]
    assert model[1].weight.unique().numel() == 4
    assert len(model[1].bias.unique()) == 1
    assert list(share_weights(model, clusters=2, include="*").weights) == ["2.weight"]
    nn.init.normal_(model[1].bias)
    share_weights(model, clusters=7, include=iter(["1.bias"]))
    assert len(model[1].bias.unique()) == 7
    told = share_weights(model, clusters={nn.Linear: 2, "1": 3})
    assert {name: one.unique for name, one in told.weights.items()} == {"1.weight": 3, "2.weight": 2}


def test_numbers_by_name_pattern_and_class_exact_names_first() -> None:
    told = share_weights(net(), clusters={"*": 4, nn.Linear: 9, "3": 5})
    assert {name: one.unique for name, one in told.weights.items()} == {"0.weight": 4, "3.weight": 5, "5.weight": 4}
    told = share_weights(net(), bits={nn.Conv2d: 2, "5.weight": 3}, exclude="3")
    assert {name: one.values for name, one in told.weights.items()} == {"0.weight": 4, "5.weight": 8}


def test_a_tied_weight_is_shared_once() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    model[1].weight = model[0].weight
    told = share_weights(model, clusters=2, masks={"1.weight": torch.rand(6, 6) < 0.5, "0.weight": torch.eye(6) == 0})
    assert list(told.weights) == ["0.weight"]
    assert model[1].weight is model[0].weight
    assert not model[0].weight.diagonal().any()
    assert len(nonzero_values(model[0].weight)) == 2


def test_parameters_keep_identity_memory_and_gradient() -> None:
    model = net()
    parameters = {name: (parameter, parameter.data_ptr()) for name, parameter in model.named_parameters()}
    share_weights(model, clusters=3)
    for name, parameter in model.named_parameters():
        assert parameter is parameters[name][0]
        assert parameter.data_ptr() == parameters[name][1]
        assert parameter.requires_grad
        assert parameter.grad is None


# ---------------------------------------------------------------- masks


def test_masks_hold_and_what_they_remove_has_no_part() -> None:
    model = net()
    masks = sw.prune(model, sw.Magnitude(), 0.7, protect_classifier=False)
    plain = copy.deepcopy(model)
    told = share_weights(model, clusters=6, masks=masks)
    assert sw.masks.not_held(model, masks) is None
    assert {name: one.zeros for name, one in told.weights.items()} == {n: int((~m).sum()) for n, m in masks.items()}
    assert all(len(nonzero_values(model.get_parameter(name))) == 6 for name in masks)
    sw.apply_masks(plain, masks)
    same = share_weights(plain, clusters=6)
    for name, one in told.weights.items():
        assert torch.equal(one.codebook, same.weights[name].codebook)
        assert one.squared_error == same.weights[name].squared_error


def test_masks_of_weights_that_are_not_shared_are_applied() -> None:
    model = net()
    mask = torch.rand(10, 48) < 0.5
    told = share_weights(model, clusters=4, masks={"5.weight": mask}, include="0")
    assert list(told.weights) == ["0.weight"]
    assert not model[5].weight[~mask].any()


def test_what_a_mask_removes_may_be_not_finite() -> None:
    layer = linear([1.0, math.nan, 2.0, math.inf])
    told = share_weights(layer, clusters=1, masks={"weight": torch.tensor([[True, False, True, False]])})
    assert layer.weight.tolist() == [[1.5, 0.0, 1.5, 0.0]]
    assert told.weights["weight"].squared_error == 0.5


def test_001_12_pruned_then_shared_then_eight_bits_of_the_codebook_alone() -> None:
    """Rounding the codebook to 8 bits leaves at most k values, the indices and the zeros."""
    model = net()
    masks = sw.prune(model, sw.Magnitude(), 0.5)
    told = share_weights(model, clusters=16, masks=masks)
    for one in told.weights.values():
        step = one.codebook.abs().max() / 127
        rounded = one.weight((one.codebook / step).round() * step)
        assert len(nonzero_values(rounded)) <= 16
        assert torch.equal(rounded == 0, (one.indices == 0) & (one.zeros > 0) | ((one.weight() / step).round() == 0))
        assert (rounded - one.weight()).abs().max() <= step * 0.501


# ---------------------------------------------------------------- channels


@pytest.mark.parametrize("values", [2, 3, 8])
def test_a_codebook_for_each_channel_is_never_worse(values: int) -> None:
    whole, channels = net(), net()
    one, each = share_weights(whole, clusters=values), share_weights(channels, clusters=values, per=PerChannel())
    for name, shared in each.weights.items():
        weight = channels.get_parameter(name)
        assert shared.codebook.shape == (len(weight), values)
        assert torch.equal(shared.weight(), weight)
        assert all(row.unique().numel() == values for row in weight)
        assert shared.squared_error < one.weights[name].squared_error
        assert shared.counts().sum() == weight.numel()


def test_channels_of_a_transposed_convolution_in_groups() -> None:
    layer = nn.ConvTranspose2d(6, 8, 3, groups=2)
    before = layer.weight.detach().clone()
    told = share_weights(layer, clusters=5, per=PerChannel()).weights["weight"]
    assert told.codebook.shape == (8, 5)
    assert torch.equal(told.weight(), layer.weight)
    for output in range(8):
        group, place = divmod(output, 4)
        ours = layer.weight[3 * group : 3 * group + 3, place]
        alone = linear(before[3 * group : 3 * group + 3, place].reshape(-1).tolist())
        share_weights(alone, clusters=5)
        assert torch.equal(ours.flatten(), alone.weight[0])


def test_channels_with_fewer_values_or_none() -> None:
    layer = linear([[1.0, 2.0, 4.0, 8.0], [3.0, 3.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    told = share_weights(layer, bits=2, per=PerChannel()).weights["weight"]
    assert told.codebook.tolist() == [[0.0, 1.5, 4.0, 8.0], [0.0, 3.0, 3.0, 3.0], [0.0, 0.0, 0.0, 0.0]]
    assert layer.weight.tolist() == [[1.5, 1.5, 4.0, 8.0], [3.0, 3.0, 0.0, 0.0], [0.0] * 4]
    assert (told.zeros, told.unique) == (6, 3)
    assert told.counts().tolist() == [[0, 2, 1, 1], [2, 2, 0, 0], [4, 0, 0, 0]]


def test_a_scale_has_one_codebook_also_per_channel() -> None:
    model = nn.BatchNorm1d(30)
    nn.init.normal_(model.weight)
    told = share_weights(model, clusters=3, per=PerChannel(), include="weight").weights["weight"]
    assert told.codebook.shape == (3,)
    assert model.weight.unique().numel() == 3


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
@pytest.mark.parametrize("per", [PerTensor(), PerChannel()], ids=str)
def test_a_weight_without_entries(shape: tuple[int, int], per: PerTensor) -> None:
    for layer in (nn.Linear(1, 1), nn.ConvTranspose1d(1, 1, 1)):
        layer.weight = nn.Parameter(torch.zeros(*shape, *layer.weight.shape[2:]))
        told = share_weights(layer, bits=2, per=per).weights["weight"]
        assert told.indices.shape == told.weight().shape == layer.weight.shape
        assert (told.unique, told.zeros, told.relative_error) == (0, 0, 0)


# ---------------------------------------------------------------- dtypes, indices


def test_bfloat16_keeps_its_type_and_values_are_rounded_to_it() -> None:
    model = net().bfloat16()
    before = state(model)
    told = share_weights(model, clusters=12)
    for name, one in told.weights.items():
        weight = model.get_parameter(name).detach()
        assert weight.dtype is torch.bfloat16
        assert one.unique == weight.unique().numel() == 12
        error = float((weight.double() - before[name].double()).square().sum())
        assert one.squared_error == pytest.approx(error, rel=1e-9)


@pytest.mark.parametrize(("clusters", "dtype"), [(255, torch.uint8), (256, torch.int16), (40_000, torch.int32)])
def test_indices_have_the_smallest_type(clusters: int, dtype: torch.dtype) -> None:
    """One value more than `clusters`: the zero."""
    layer = linear(torch.arange(50_000.0).tolist())
    told = share_weights(layer, clusters=clusters).weights["weight"]
    assert told.indices.dtype is dtype
    assert told.values == clusters + 1
    assert torch.equal(told.weight(), layer.weight)


def test_starts_are_passed_on() -> None:
    errors = {}
    for start in (Optimal(), Linear(), KMeansPlusPlus(torch.Generator().manual_seed(1))):
        layer = nn.Linear(200, 100)
        nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(0))
        errors[type(start).__name__] = share_weights(layer, clusters=64, start=start).relative_error
    assert errors["Optimal"] < 0.99 * errors["KMeansPlusPlus"] < errors["Linear"]


def test_the_table_is_readable() -> None:
    model = net()
    lines = str(share_weights(model, bits=3, masks=sw.prune(model, sw.Magnitude(), 0.5))).splitlines()
    assert lines[0].split() == ["weight", "entries", "zeros", "values", "bits", "relative", "error"]
    assert [line.split()[0] for line in lines[1:]] == ["0.weight", "3.weight", "5.weight"]
    assert len({len(line) for line in lines}) == 1
    assert lines[3].split()[1:5] == ["480", "0", "8", "3"]


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "clusters=k .* or bits=b"),
        ({"clusters": 4, "bits": 2}, "not both"),
        ({"clusters": 0}, "clusters must be a whole number >= 1"),
        ({"clusters": 2.0}, "whole number"),
        ({"clusters": True}, "whole number"),
        ({"bits": 0}, "from 1 to 16"),
        ({"bits": 17}, "from 1 to 16"),
        ({"bits": {"0": -1}}, "from 1 to 16"),
        ({"clusters": {"0": 3}, "include": "3"}, "Leave out include"),
        ({"clusters": 3, "per": "channel"}, "PerTensor"),
        ({"clusters": 3, "per": PerTensor}, "PerTensor"),
        ({"clusters": 3, "start": Linear}, "start must be"),
        ({"clusters": 3, "exclude": ["0", "3", "5"]}, "Nothing to share in Sequential: no parameter was chosen"),
        ({"clusters": 3, "include": "*.bias"}, "Nothing to share in Sequential: only biases were chosen"),
        ({"clusters": 3, "masks": {"0.weight": torch.ones(2, 2).bool()}}, "has shape"),
    ],
)
def test_001_10_what_cannot_be_is_refused_and_nothing_changes(arguments: dict, says: str) -> None:
    model = net()
    before = state(model)
    with pytest.raises(SparsewoodError, match=says):
        share_weights(model, **arguments)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("arguments", [{"clusters": {"conv": 3}}, {"clusters": 3, "include": "conv"}])
def test_unknown_names(arguments: dict) -> None:
    with pytest.raises(UnknownName):
        share_weights(net(), **arguments)
    with pytest.raises(SparsewoodError, match=r"torch\.nn\.Module"):
        share_weights({"weight": torch.ones(2)}, clusters=2)  # pyright: ignore[reportArgumentType]


def spoil_nan(model: nn.Sequential) -> None:
    model[5].weight.data[0, 0] = math.nan


def spoil_type(model: nn.Sequential) -> None:
    model[5].weight = nn.Parameter(model[5].weight.detach().to(torch.float8_e4m3fn), requires_grad=False)


def spoil_device(model: nn.Sequential) -> None:
    model[5].to("meta")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [(spoil_nan, "1 of 480 weights of '5.weight' are not finite"), (spoil_type, "float8"), (spoil_device, "meta")],
)
def test_all_weights_are_checked_before_the_first_is_changed(spoil: Callable[[nn.Sequential], None], says: str) -> None:
    model = net()
    spoil(model)
    first = model[0].weight.detach().clone()
    with pytest.raises(SparsewoodError, match=says):
        share_weights(model, clusters=2)
    assert torch.equal(model[0].weight, first)


def test_a_start_that_fails_leaves_the_model_alone() -> None:
    model = net()
    before, calls = state(model), []

    def start(points: object, clusters: int) -> object:
        calls.append(clusters)
        if len(calls) == 3:
            raise RuntimeError("no")
        return Optimal()(points, clusters)  # pyright: ignore[reportArgumentType]

    with pytest.raises(RuntimeError):
        share_weights(model, clusters=2, start=start)  # pyright: ignore[reportArgumentType]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
