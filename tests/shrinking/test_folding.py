"""Folding: means and constants of removed units in the biases of what reads them (003-02, 003-12, 003-13)."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsewood import apply_masks, trace
from sparsewood.errors import SparsewoodError
from sparsewood.shrinking.folding import Folded, constant_units, fold_constants, fold_means
from sparsewood.structure import Structure

EXACT = {"rtol": 0.0, "atol": 1e-12}


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        yield
    torch.set_default_dtype(before)


def removing(structure: Structure, **units: list[int]) -> dict[str, np.ndarray]:
    """Decisions that remove these units, by the names of their groups."""
    return {name: ~np.isin(np.arange(structure.group(name).units), numbers) for name, numbers in units.items()}


def masked(model: nn.Module, structure: Structure, keep: dict[str, np.ndarray]) -> nn.Module:
    small = copy.deepcopy(model)
    apply_masks(small, structure.to_masks(keep))
    return small


def random_norm(norm: nn.Module) -> None:
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            tensor.normal_()
        norm.running_var.uniform_(0.5, 2.0)


# ---------------------------------------------------------------- means


def test_dense_layer_is_the_layer_with_units_replaced_by_their_mean() -> None:
    """003-13: output of (masked network + new bias) == output with the units replaced by their mean."""
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 4))
    x, fresh = torch.randn(20, 3), torch.randn(5, 3)
    structure = trace(model, x)
    keep = removing(structure, **{"0": [1, 4]})
    hidden = model[:2](fresh)
    hidden[:, [1, 4]] = model[:2](x)[:, [1, 4]].mean(0)
    expected = model[2](hidden)
    folded = fold_means(model, structure, keep, [x])
    assert folded.biases == ("2.bias",)
    assert folded.added == ()
    torch.testing.assert_close(masked(model, structure, keep)(fresh), expected, **EXACT)


def test_convolution_without_padding_is_exact() -> None:
    model = nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3, stride=2, bias=False))
    x, fresh = torch.randn(4, 2, 9, 9), torch.randn(2, 2, 9, 9)
    structure = trace(model, x)
    keep = removing(structure, **{"0": [0, 3]})
    weight = model[2].weight.detach().clone()
    hidden = model[:2](fresh)
    hidden[:, [0, 3]] = 0
    part = F.conv2d(model[:2](x)[:, [0, 3]], weight[:, [0, 3]], stride=2).mean((0, 2, 3))
    expected = F.conv2d(hidden, weight, part, stride=2)
    folded = fold_means(model, structure, keep, [x])
    assert folded.added == ("2.bias",)
    assert model[2].bias is dict(model.named_parameters())["2.bias"]
    torch.testing.assert_close(masked(model, structure, keep)(fresh), expected, **EXACT)


LAYERS = {
    "linear": (nn.Linear(4, 3), (3, 4)),
    "linear, no bias": (nn.Linear(4, 3, bias=False), (3, 7, 4)),
    "conv1d": (nn.Conv1d(4, 3, 3, padding=1), (3, 4, 9)),
    "padded": (nn.Conv2d(4, 3, 3, padding=1), (3, 4, 7, 7)),
    "padded, strided, dilated": (nn.Conv2d(4, 3, 3, padding=2, stride=2, dilation=2, bias=False), (3, 4, 9, 9)),
    "same": (nn.Conv2d(4, 3, (3, 2), padding="same"), (3, 4, 7, 7)),
    "reflect": (nn.Conv2d(4, 3, 3, padding=1, padding_mode="reflect"), (3, 4, 7, 7)),
    "circular": (nn.Conv2d(4, 3, 3, padding=1, padding_mode="circular"), (3, 4, 7, 7)),
    "conv3d": (nn.Conv3d(4, 3, 2, padding=1), (3, 4, 4, 4, 4)),
    "grouped": (nn.Conv2d(4, 6, 3, padding=1, groups=2), (3, 4, 5, 5)),
    "transposed": (nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1, output_padding=1), (3, 4, 5, 5)),
    "transposed, grouped": (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, bias=False), (3, 4, 5, 5)),
}


@pytest.mark.filterwarnings("ignore:Using padding=.same")
@pytest.mark.parametrize("kind", LAYERS)
def test_mean_of_the_next_pre_activation_is_preserved(kind: str) -> None:
    """003-13: exactly, for any stride and padding; at zero-padded borders in the mean over positions."""
    layer, shape = copy.deepcopy(LAYERS[kind][0]).double(), LAYERS[kind][1]
    channel_axis = -1 if isinstance(layer, nn.Linear) else 1

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4) if isinstance(layer, nn.Linear) else type(layer)(4, 4, 1)
            self.second = layer
            self.last = nn.Linear(layer.weight.shape[0], 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.sigmoid(self.first(x)))

    model, x = Network(), torch.randn(shape)
    structure = trace(model, x)
    (group,) = structure.prunable
    keep = {group.name: np.arange(group.units) != 1}
    before = model(x).movedim(channel_axis, -1).flatten(0, -2).mean(0)
    folded = fold_means(model, structure, keep, [x])
    after = masked(model, structure, keep)(x).movedim(channel_axis, -1).flatten(0, -2).mean(0)
    torch.testing.assert_close(after, before, **EXACT)
    assert folded.spread["second.weight"] > 0
    assert not folded.skipped


def small_network() -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 5, 3, padding=1, bias=False),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(5 * 16, 4),
    )
    random_norm(model[1])
    random_norm(model[5])
    return model


def biases(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters() if name.endswith("bias")}


def test_how_the_data_are_cut_does_not_matter() -> None:
    """003-02: means over the data set, not over a batch."""
    model, x = small_network(), torch.randn(12, 3, 8, 8)
    structure = trace(model, x)
    keep = removing(structure, **{"0": [1, 2], "4": [0]})
    found = []
    for sizes in ([12], [1] * 12, [5, 4, 3]):
        one = copy.deepcopy(model)
        fold_means(one, structure, keep, iter(x.split(sizes)))
        found.append(biases(one))
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        for name, value in other.items():
            torch.testing.assert_close(value, found[0][name], **EXACT)


def test_the_order_of_groups_does_not_matter() -> None:
    """003-12: all means are those of the network before anything is removed, whatever else goes."""
    model, x = small_network(), torch.randn(6, 3, 8, 8)
    structure = trace(model, x)
    first, second = removing(structure, **{"0": [1, 2]}), removing(structure, **{"4": [0, 3]})
    found = []
    for keep in (first | second, second | first, first, second):
        one = copy.deepcopy(model)
        fold_means(one, structure, keep, [x])
        found.append(biases(one))
    forwards, backwards, only_first, only_second = found
    for name, value in forwards.items():
        assert torch.equal(backwards[name], value)
        assert torch.equal((only_first if name == "4.bias" else only_second)[name], value)


def test_units_that_stay_and_the_model_itself_are_left_alone() -> None:
    """003-02: unchanged other channels; no hooks, modes or buffers change."""
    model, x = small_network(), torch.randn(6, 3, 8, 8)
    structure = trace(model, x)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    folded = fold_means(model, structure, removing(structure, **{"0": [1]}), [x])
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert folded.biases == folded.added == ("4.bias",)
    assert model.state_dict().keys() - before.keys() == {"4.bias"}
    for name, value in before.items():
        assert torch.equal(model.state_dict()[name], value)


class Residual(nn.Module):
    """Two branches onto one stream, a concatenation, and a layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.branch = nn.Conv2d(6, 6, 3, padding=1)
        self.other = nn.Conv2d(6, 4, 1)
        self.joined = nn.Conv2d(10, 5, 1)
        self.twice = nn.Linear(5, 5)
        self.head = nn.Linear(5, 2)

    def stream(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.stem(x))
        return x + torch.sigmoid(self.branch(x))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stream(x)
        x = self.joined(torch.cat([x, torch.relu(self.other(x))], 1)).mean((2, 3))
        return self.head(self.twice(torch.relu(self.twice(x))))


def test_branches_shortcuts_and_concatenation() -> None:
    """003-13 in networks that are not chains: each reader gets the mean of what it reads."""
    model, x = Residual(), torch.randn(8, 3, 6, 6)
    structure = trace(model, x)
    stem = structure.group_of("stem.weight")[0].name
    keep = {stem: np.array([True, False, True, True, False, True]), "other": np.array([True, True, False, True])}
    before = biases(model)
    weight, gone = model.joined.weight.detach(), [1, 4, 6 + 2]
    stream = model.stream(x)
    joined = torch.cat([stream, torch.relu(model.other(stream))], 1)
    folded = fold_means(model, structure, keep, [x])
    after = biases(model)
    expected = F.conv2d(joined[:, gone], weight[:, gone]).mean((0, 2, 3))
    torch.testing.assert_close(after["joined.bias"] - before["joined.bias"], expected, **EXACT)
    first = torch.sigmoid(model.stem(x))[:, [1, 4]]
    expected = F.conv2d(first, model.branch.weight[:, [1, 4]], padding=1).mean((0, 2, 3))
    torch.testing.assert_close(after["branch.bias"] - before["branch.bias"], expected, **EXACT)
    assert set(folded.biases) == {"joined.bias", "branch.bias", "other.bias"}


def test_calls_of_one_module_accumulate() -> None:
    model, x = Residual(), torch.randn(8, 3, 6, 6)
    structure = trace(model, x)
    name = structure.group_of("twice.weight")[0].name
    inputs: list[Tensor] = []
    handle = model.twice.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    model(x)
    handle.remove()
    before = model.twice.bias.detach().clone()
    fold_means(model, structure, {name: np.arange(5) != 2}, [x])
    expected = (torch.cat(inputs)[:, [2]] @ model.twice.weight[:, [2]].T).mean(0)
    torch.testing.assert_close(model.twice.bias - before, expected, **EXACT)


class Attention(nn.Module):
    def __init__(self, *, bias: bool, dropout: float = 0.0) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, bias=bias, dropout=dropout)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(self.attention(x, x, x, need_weights=False)[0])


@pytest.mark.parametrize("bias", [True, False])
def test_attention(bias: bool) -> None:
    """Projections of inputs get the mean of what removed units add to them, the output's that of removed heads."""
    model, x = Attention(bias=bias), torch.randn(5, 6, 4)
    structure = trace(model, x)
    heads = structure.group_of("attention.out_proj.weight", 1)[0].name
    before = model.attention(*[model.first(x)] * 3)[0].mean((0, 1))
    one = copy.deepcopy(model)
    folded = fold_means(one, structure, {heads: np.array([True, False])}, [x])
    assert folded.biases == ("attention.out_proj.bias",)
    assert bool(folded.added) is not bias
    after = masked(one, structure, {heads: np.array([True, False])})
    torch.testing.assert_close(after.attention(*[model.first(x)] * 3)[0].mean((0, 1)), before, **EXACT)

    keep = {"first": np.arange(8) != 3}
    folded = fold_means(model, structure, keep, [x])
    assert folded.biases == ("attention.in_proj_bias",)
    unit = model.first(x)[..., [3]].mean()
    was = torch.zeros(24)
    torch.testing.assert_close(model.attention.in_proj_bias - was, model.attention.in_proj_weight[:, 3] * unit, **EXACT)


def test_recurrent_input() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.recurrent, self.last = nn.Linear(3, 4), nn.GRU(4, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.recurrent(torch.relu(self.first(x)))[0])

    model, x = Network(), torch.randn(6, 2, 3)
    structure = trace(model, x)
    before = model.recurrent.bias_ih_l0.detach().clone()
    hidden = torch.relu(model.first(x))[..., [1]]
    folded = fold_means(model, structure, {"first": np.arange(4) != 1}, [x])
    assert folded.biases == ("recurrent.bias_ih_l0",)
    expected = (hidden @ model.recurrent.weight_ih_l0[:, [1]].T).mean((0, 1))
    torch.testing.assert_close(model.recurrent.bias_ih_l0 - before, expected, **EXACT)

    inside = structure.group_of("recurrent.weight_hh_l0", 1)[0].name
    skipped = fold_means(model, structure, {inside: np.arange(5) != 1}, [x]).skipped
    assert skipped == {"recurrent.weight_hh_l0": "it is not known how GRU reads it"}


class Columns(nn.Module):
    """A linear layer with its weight the other way round, [inputs, outputs]."""

    def __init__(self, inputs: int, outputs: int, power: int = 1) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs)), nn.Parameter(torch.randn(outputs))
        self.power = power

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.weight) ** self.power + self.bias


def test_unknown_modules_are_folded_if_they_are_linear() -> None:
    x = torch.randn(7, 3)
    model = nn.Sequential(nn.Linear(3, 4), Columns(4, 2))
    structure = trace(model, x)
    before = model(x).mean(0)
    assert fold_means(model, structure, removing(structure, **{"0": [2]}), [x]).biases == ("1.bias",)
    after = masked(model, structure, removing(structure, **{"0": [2]}))(x).mean(0)
    torch.testing.assert_close(after, before, **EXACT)

    model = nn.Sequential(nn.Linear(3, 4), Columns(4, 2, power=2))
    folded = fold_means(model, structure, removing(structure, **{"0": [2]}), [x])
    assert folded.biases == ()
    assert folded.skipped == {"1.weight": "what Columns computes is not linear in its weight"}


def test_weights_without_a_module_of_their_own_are_named() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.weight = nn.Linear(3, 4), nn.Parameter(torch.randn(2, 4))

        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("bi,oi->bo", self.first(x), self.weight)

    model, x = Network(), torch.randn(2, 3)
    folded = fold_means(model, trace(model, x), {"first": np.arange(4) != 0}, [x])
    assert folded.skipped == {"weight": "it is not known how Network reads it"}


def test_no_data_is_an_error() -> None:
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), torch.randn(2, 3)
    structure = trace(model, x)
    with pytest.raises(SparsewoodError, match="There is no batch"):
        fold_means(model, structure, removing(structure, **{"0": [0]}), [])
    assert fold_means(model, structure, {}, []).biases == ()


# ---------------------------------------------------------------- constants


def silence(model: nn.Module, structure: Structure, name: str, units: list[int]) -> dict[str, np.ndarray]:
    """Zero what makes these units, leave biases and shifts; the decisions that remove them."""
    with torch.no_grad():
        for one in structure.group(name).slices:
            parameter = dict(model.named_parameters()).get(one.param)
            if parameter is not None and parameter.dim() >= 2 and one.role == "out":
                parameter.index_fill_(one.axis, torch.from_numpy(np.flatnonzero(np.isin(one.owner, units))), 0.0)
    return {name: ~np.isin(np.arange(structure.group(name).units), units)}


def folded_and_masked(
    model: nn.Module, structure: Structure, keep: dict[str, np.ndarray], x: Tensor
) -> tuple[nn.Module, Folded]:
    one = copy.deepcopy(model)
    folded = fold_constants(one, structure, keep, [x])
    stay = {name: stays | folded.borders.get(name, np.zeros(1, bool)) for name, stays in keep.items()}
    torch.testing.assert_close(one.eval()(x), one(x), **EXACT)
    return masked(one, structure, stay), folded


def test_constant_units_are_found_by_their_weights() -> None:
    model, x = small_network(), torch.randn(2, 3, 8, 8)
    structure = trace(model, x)
    silence(model, structure, "0", [1, 2])
    found = constant_units(model, structure)
    assert found["0"].tolist() == [False, True, True, False, False, False]
    assert found["4"].tolist() == [False] * 5


def test_pruning_a_constant_unit_changes_the_outputs_by_nothing() -> None:
    """003-13: a dense network; the shift of BatchNorm through ReLU comes through."""
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4), nn.Sigmoid(), nn.Linear(4, 2))
    random_norm(model[1])
    model.eval()
    x, fresh = torch.randn(3, 3), torch.randn(50, 3)
    structure = trace(model, x)
    keep = silence(model, structure, "0", [0, 2]) | silence(model, structure, "3", [1])
    expected = model(fresh)
    small, folded = folded_and_masked(model, structure, keep, x)
    assert not folded.borders
    assert set(folded.biases) == {"3.bias", "5.bias"}
    assert max(folded.spread.values()) < 1e-12
    torch.testing.assert_close(small(fresh), expected, **EXACT)


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(3)], ids=str)
def test_shift_of_batchnorm_through_relu_and_pooling(pool: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU(), pool, nn.Conv2d(5, 4, 2))
    random_norm(model[1])
    with torch.no_grad():
        model[1].bias.abs_()
        model[1].running_mean.zero_()
    model.eval()
    x, fresh = torch.randn(2, 3, 10, 10), torch.randn(4, 3, 10, 10)
    structure = trace(model, x)
    keep = silence(model, structure, "0", [0, 3])
    expected = model(fresh)
    small, folded = folded_and_masked(model, structure, keep, x)
    assert folded.biases == ("4.bias",)
    assert not folded.borders
    torch.testing.assert_close(small(fresh), expected, **EXACT)


def test_units_that_are_not_constant_are_left_alone() -> None:
    model, x = small_network(), torch.randn(2, 3, 8, 8)
    structure = trace(model, x)
    folded = fold_constants(model, structure, removing(structure, **{"0": [1, 2]}), [x])
    assert folded.biases == ()


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_other_paddings_have_no_borders(mode: str) -> None:
    layer = nn.Conv2d(5, 4, 3, padding=1, padding_mode=mode)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Sigmoid(), layer)
    x, fresh = torch.randn(2, 3, 8, 8), torch.randn(3, 3, 8, 8)
    structure = trace(model, x)
    keep = silence(model, structure, "0", [1, 4])
    expected = model(fresh)
    small, folded = folded_and_masked(model, structure, keep, x)
    assert not folded.borders
    torch.testing.assert_close(small(fresh), expected, **EXACT)


class Bordered(nn.Module):
    """One stream that is read with borders, without, and after flattening."""

    def __init__(self, groups: int = 1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.padded = nn.Conv2d(6, 4, 3, padding=1, bias=False, groups=groups)
        self.wide = nn.Conv2d(6, 4, 5, padding=2, stride=2)
        self.plain = nn.Conv2d(6, 4, 3)
        self.head = nn.Linear(6 * 36, 2)
        random_norm(self.norm)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = F.relu(self.norm(self.stem(x)))
        return self.padded(x), self.wide(x), self.plain(x), self.head(x.flatten(1))


def test_one_unit_carries_the_constants_at_borders() -> None:
    """003-13: with zero padding an exact per-position correction, by one unit that stays."""
    model = Bordered().eval()
    x, fresh = torch.randn(2, 3, 8, 8), torch.randn(3, 3, 8, 8)
    structure = trace(model, x)
    keep = silence(model, structure, "stem", [0, 2, 3, 5])
    with torch.no_grad():
        model.norm.weight.fill_(1.0)
        model.norm.running_mean.zero_()
        model.stem.bias.zero_()
        model.norm.bias.copy_(torch.tensor([0.5, 0.1, 2.0, -1.0, 0.3, 1.0]))
    expected = model(fresh)
    one = copy.deepcopy(model)
    folded = fold_constants(one, structure, keep, [x])
    assert folded.carriers == {"stem": 2}  # the largest constant
    assert folded.borders["stem"].tolist() == [False, False, True, False, False, False]  # -1 is 0 behind the ReLU
    assert set(folded.biases) == {"plain.bias", "head.bias"}
    small = masked(one, structure, {"stem": keep["stem"] | folded.borders["stem"]})
    for got, want in zip(small(fresh), expected, strict=True):
        torch.testing.assert_close(got, want, **EXACT)


def test_where_nothing_can_carry_constants_stay() -> None:
    """A grouped convolution with borders: its constants stay; units that are 0 go."""
    model = Bordered(groups=2).eval()
    x = torch.randn(2, 3, 8, 8)
    structure = trace(model, x)
    (group,) = structure.group_of("stem.weight")
    units = list(range(group.units))[:2]
    keep = silence(model, structure, group.name, units)
    folded = fold_constants(model, structure, keep, [x])
    assert not folded.carriers
    assert folded.borders[group.name].any()
    assert not folded.borders[group.name][2:].any()


def test_a_single_bordered_constant_stays() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.Sigmoid(), nn.Conv2d(5, 4, 3, padding=1))
    x = torch.randn(2, 3, 8, 8)
    structure = trace(model, x)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    keep = silence(model, structure, "0", [1])
    before["0.weight"] = model[0].weight.detach().clone()
    folded = fold_constants(model, structure, keep, [x])
    assert folded.borders["0"].tolist() == [False, True, False, False, False]
    assert folded.biases == ()
    for name, value in before.items():
        assert torch.equal(model.state_dict()[name], value)


def test_constants_through_a_shortcut() -> None:
    model = Residual().eval()
    x, fresh = torch.randn(2, 3, 6, 6), torch.randn(3, 3, 6, 6)
    structure = trace(model, x)
    (group,) = structure.group_of("stem.weight")
    keep = silence(model, structure, group.name, [0, 1, 5])
    expected = model(fresh)
    one = copy.deepcopy(model)
    folded = fold_constants(one, structure, keep, [x])
    assert folded.borders[group.name].sum() == 1
    small = masked(one, structure, {group.name: keep[group.name] | folded.borders[group.name]})
    torch.testing.assert_close(small(fresh), expected, **EXACT)


def test_half_way_precision() -> None:
    """In float32 rounding is not taken for a border."""
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 8, 3)).float().eval()
    random_norm(model[1])
    x, fresh = torch.randn(2, 3, 12, 12).float(), torch.randn(3, 3, 12, 12).float()
    structure = trace(model, x)
    keep = silence(model, structure, "0", list(range(0, 64, 2)))
    expected = model(fresh)
    folded = fold_constants(model, structure, keep, [x])
    assert not folded.borders
    torch.testing.assert_close(masked(model, structure, keep)(fresh), expected, rtol=0.0, atol=1e-5)


def test_units_read_where_nothing_can_be_folded_stay_unless_they_are_zero() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.relu, self.weight = nn.Linear(3, 4), nn.ReLU(), nn.Parameter(torch.randn(2, 4))

        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("bi,oi->bo", self.relu(self.first(x)), self.weight)

    model, x = Network(), torch.randn(2, 3)
    structure = trace(model, x)
    keep = silence(model, structure, "first", [0, 1])
    with torch.no_grad():
        model.first.bias.copy_(torch.tensor([1.0, -1.0, 0.0, 0.0]))
    folded = fold_constants(model, structure, keep, [x])
    assert folded.borders["first"].tolist() == [True, False, False, False]
    assert folded.skipped == {"weight": "it is not known how Network reads it"}
