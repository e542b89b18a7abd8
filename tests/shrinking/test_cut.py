"""Carrying a plan out: tensors keep identity, memory, format and gradients; sizes follow, edits find their place."""

from __future__ import annotations

import copy
from collections import namedtuple
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.shrinking.copies import duplicate
from sparsewood.shrinking.cut import apply_edits, assign, attribute, by_module, cut, named_tensors, own_edits, take
from sparsewood.shrinking.plan import Edit, ShrinkPlan


def kept(*positions: int) -> Tensor:
    return torch.tensor(positions, dtype=torch.int64)


def plan_of(model: nn.Module, positions: dict[str, dict[int, Tensor]], **options: Any) -> ShrinkPlan:
    shapes = {name: tuple(tensor.shape) for name, tensor in named_tensors(model).items()}
    return ShrinkPlan(type(model).__name__, shapes, positions, **options)


def cut_with_sizes(model: nn.Module, positions: dict[str, dict[int, Tensor]]) -> list[Edit]:
    """Cut, and let PyTorch's own modules hold the sizes of their weights."""
    before = duplicate(model, double=False)
    plan = plan_of(model, positions)
    cut(model, plan)
    edits = own_edits(model, plan, before)
    apply_edits(model, edits)
    return edits


# ---------------------------------------------------------------- tensors


def test_take_keeps_positions_of_every_axis() -> None:
    x = torch.arange(24).reshape(2, 3, 4)
    assert torch.equal(take(x, {2: kept(0, 3), 1: kept(2)}), x[:, 2:][:, :, [0, 3]])


@pytest.mark.parametrize(
    ("shape", "memory_format"), [((4, 6, 3, 3), torch.channels_last), ((4, 6, 3, 3, 3), torch.channels_last_3d)]
)
def test_take_keeps_the_memory_format(shape: tuple[int, ...], memory_format: torch.memory_format) -> None:
    x = torch.randn(shape).contiguous(memory_format=memory_format)
    found = take(x, {0: kept(0, 2), 1: kept(1, 2, 5)})
    assert found.is_contiguous(memory_format=memory_format)
    assert torch.equal(found, x[[0, 2]][:, [1, 2, 5]])
    assert take(x.contiguous(), {0: kept(0, 2)}).is_contiguous()


def test_take_shares_no_memory() -> None:
    x = torch.zeros(3)
    found = take(x, {})
    found += 1
    assert torch.equal(x, torch.zeros(3))


def test_parameters_keep_identity_settings_and_gradients() -> None:
    model = nn.Linear(3, 4)
    weight, bias = model.weight, model.bias
    bias.requires_grad_(False)
    model(torch.ones(2, 3)).sum().backward()
    values, gradient = weight.detach().clone(), weight.grad
    assert gradient is not None
    cut(model, plan_of(model, {"weight": {0: kept(1, 3)}, "bias": {0: kept(1, 3)}}))
    assert model.weight is weight
    assert model.bias is bias
    assert torch.equal(weight, values[[1, 3]])
    assert weight.grad is not None
    assert torch.equal(weight.grad, gradient[[1, 3]])
    assert (weight.requires_grad, bias.requires_grad, weight.is_leaf) == (True, False, True)
    model(torch.ones(1, 3)).sum().backward()


def test_tied_tensors_are_cut_once() -> None:
    model = nn.ModuleDict({"a": nn.Linear(3, 4, bias=False), "b": nn.Linear(3, 4, bias=False)})
    model["b"].weight = model["a"].weight
    positions = {0: kept(0, 2)}
    cut(model, plan_of(model, {"a.weight": positions, "b.weight": positions}))
    assert model["a"].weight is model["b"].weight
    assert model["a"].weight.shape == (2, 3)


def test_views_of_the_same_memory_stay_so() -> None:
    model = nn.ModuleList([nn.Linear(3, 4, bias=False), nn.Linear(3, 4, bias=False)])
    model[1].weight.data = model[0].weight.data
    cut(model, plan_of(model, {f"{i}.weight": {0: kept(0, 2)} for i in range(2)}))
    assert model[0].weight.data_ptr() == model[1].weight.data_ptr()
    assert model[0].weight.shape == model[1].weight.shape == (2, 3)


def test_equal_memory_of_other_tensors_is_no_tie() -> None:
    """Memory that one tensor gives back is used again by the next: they are still two."""
    model = nn.ModuleList([nn.Linear(64, 64, bias=False) for _ in range(20)])
    expected = [layer.weight.detach()[[0, 5]] for layer in model]
    cut(model, plan_of(model, {f"{i}.weight": {0: kept(0, 5)} for i in range(20)}))
    assert all(torch.equal(layer.weight, values) for layer, values in zip(model, expected, strict=True))


def test_buffers_are_cut() -> None:
    model = nn.BatchNorm1d(4)
    model(torch.randn(8, 4))
    mean = model.running_mean
    assert mean is not None
    values = mean.clone()
    edits = cut_with_sizes(model, {name: {0: kept(0, 3)} for name in ("weight", "bias", "running_mean", "running_var")})
    assert model.running_mean is mean
    assert torch.equal(mean, values[[0, 3]])
    assert edits == [Edit("", "num_features", (), 4, 2)]
    model(torch.randn(8, 2))


def test_a_name_that_the_model_does_not_have() -> None:
    model = nn.Linear(3, 4)
    plan = ShrinkPlan("Linear", {}, {"weigh": {0: kept(0)}})
    with pytest.raises(UnknownName, match=r"'weigh'. Did you mean 'weight'"):
        cut(model, plan)
    assert model.weight.shape == (4, 3)


@pytest.mark.parametrize(
    ("layer", "axis", "size"),
    [
        (nn.Linear(3, 4, bias=False), 0, 2),
        (nn.Conv2d(3, 4, 1, bias=False), 0, 2),
        (nn.ConvTranspose2d(3, 4, 1, bias=False), 1, 2),
    ],
)
def test_biases_are_made_as_zeros_of_the_new_size(layer: nn.Module, axis: int, size: int) -> None:
    model = nn.Sequential(layer)
    positions = {"0.weight": {axis: kept(1, 3)}, "0.bias": {0: kept(1, 3)}}
    cut(model, plan_of(model, positions, added=("0.bias",)))
    assert torch.equal(model[0].bias, torch.zeros(size))
    assert isinstance(model[0].bias, nn.Parameter)


# ---------------------------------------------------------------- sizes of PyTorch's modules

MODULES: list[tuple[nn.Module, dict[str, dict[int, Tensor]], dict[str, Any], tuple[int, ...]]] = [
    (
        nn.Linear(4, 6),
        {"weight": {0: kept(0, 2, 5), 1: kept(1, 3)}, "bias": {0: kept(0, 2, 5)}},
        {"in_features": 2, "out_features": 3},
        (5, 2),
    ),
    (
        nn.Bilinear(4, 4, 6),
        {"weight": {0: kept(0, 2), 1: kept(1, 3), 2: kept(0)}, "bias": {0: kept(0, 2)}},
        {"out_features": 2, "in1_features": 2, "in2_features": 1},
        (),
    ),
    (
        nn.Conv2d(4, 6, 3, groups=2),
        {"weight": {0: kept(0, 1, 3, 4), 1: kept(1)}, "bias": {0: kept(0, 1, 3, 4)}},
        {"in_channels": 2, "out_channels": 4, "groups": 2},
        (1, 2, 5, 5),
    ),
    (
        nn.Conv2d(4, 8, 3, groups=4),
        {"weight": {0: kept(0, 1, 6, 7)}, "bias": {0: kept(0, 1, 6, 7)}},
        {"in_channels": 2, "out_channels": 4, "groups": 2},
        (1, 2, 5, 5),
    ),
    (
        nn.ConvTranspose2d(4, 6, 3, groups=2),
        {"weight": {0: kept(0, 2), 1: kept(0, 2)}, "bias": {0: kept(0, 2, 3, 5)}},
        {"in_channels": 2, "out_channels": 4, "groups": 2},
        (1, 2, 5, 5),
    ),
    (
        nn.Conv1d(4, 4, 3, groups=4),
        {"weight": {0: kept(1, 2, 3)}, "bias": {0: kept(1, 2, 3)}},
        {"in_channels": 3, "out_channels": 3, "groups": 3},
        (1, 3, 5),
    ),
    (nn.GroupNorm(2, 4), {"weight": {0: kept(0, 2)}, "bias": {0: kept(0, 2)}}, {"num_channels": 2}, (3, 2, 5)),
    (nn.LayerNorm(4), {"weight": {0: kept(0, 2)}, "bias": {0: kept(0, 2)}}, {"normalized_shape": (2,)}, (3, 2)),
    (nn.RMSNorm(4), {"weight": {0: kept(0, 2, 3)}}, {"normalized_shape": (3,)}, (3, 3)),
    (nn.PReLU(4), {"weight": {0: kept(0, 2)}}, {"num_parameters": 2}, (3, 2)),
    (
        nn.GRU(4, 3),
        {
            "weight_ih_l0": {0: kept(0, 2, 3, 5, 6, 8), 1: kept(1, 3)},
            "weight_hh_l0": {0: kept(0, 2, 3, 5, 6, 8), 1: kept(0, 2)},
            "bias_ih_l0": {0: kept(0, 2, 3, 5, 6, 8)},
            "bias_hh_l0": {0: kept(0, 2, 3, 5, 6, 8)},
        },
        {"input_size": 2, "hidden_size": 2},
        (5, 2),
    ),
]


@pytest.mark.parametrize(("module", "positions", "sizes", "shape"), MODULES, ids=lambda one: type(one).__name__)
def test_sizes_follow_the_weights(
    module: nn.Module, positions: dict[str, dict[int, Tensor]], sizes: dict[str, Any], shape: tuple[int, ...]
) -> None:
    module = duplicate(module, double=False)
    before = {name: vars(module)[name] for name in sizes}
    edits = cut_with_sizes(module, positions)
    assert {name: vars(module)[name] for name in sizes} == sizes
    assert {edit.name: (edit.before, edit.after) for edit in edits} == {
        name: (before[name], size) for name, size in sizes.items() if before[name] != size
    }
    inputs = [torch.ones(shape)] if shape else [torch.ones(3, 2), torch.ones(3, 1)]
    result = module(*inputs)
    assert torch.isfinite(result[0] if isinstance(result, tuple) else result).all()


def test_nothing_changes_without_positions() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), nn.GRU(4, 3), nn.Embedding(5, 4))
    assert cut_with_sizes(model, {}) == []


@pytest.mark.parametrize("layer", [nn.Linear(4, 6), nn.Conv2d(4, 6, 3), nn.ConvTranspose2d(4, 6, 3)], ids=repr)
def test_sizes_are_looked_at_without_changing_what_a_parametrisation_remembers(layer: nn.Module) -> None:
    model = nn.utils.parametrizations.spectral_norm(copy.deepcopy(layer)).train()
    vector = model.parametrizations["weight"][0]._u.clone()
    assert own_edits(model, plan_of(model, {}), model) == []
    assert torch.equal(model.parametrizations["weight"][0]._u, vector)
    assert model.training
    assert model.parametrizations["weight"].training


# ---------------------------------------------------------------- edits

Pair = namedtuple("Pair", ["first", "second"])


class Configured(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.width = 8
        self.sizes = [1, (2, 3), {"deep": 4}]
        self.pair = Pair(5, [6])
        self.config = SimpleNamespace(heads=7, more=SimpleNamespace(layers=[8, 9]))


@pytest.mark.parametrize(
    ("name", "path", "before"),
    [
        ("width", (), 8),
        ("sizes", (0,), 1),
        ("sizes", (1, 1), 3),
        ("sizes", (2, "deep"), 4),
        ("pair", (0,), 5),
        ("pair", (1, 0), 6),
        ("config", ("heads",), 7),
        ("config", ("more", "layers", 1), 9),
    ],
)
def test_edits_reach_through_containers_and_objects(name: str, path: tuple[int | str, ...], before: int) -> None:
    model = nn.Sequential(Configured())
    edit = Edit("0", name, path, before, 77)
    assert attribute(model, edit) == before
    apply_edits(model, [edit])
    assert attribute(model, edit) == 77
    assert isinstance(model[0].pair, Pair)
    assert isinstance(model[0].sizes[1], tuple)
    assign(model, edit, before)
    fresh = Configured()
    assert (model[0].sizes, model[0].pair, model[0].config) == (fresh.sizes, fresh.pair, fresh.config)


@pytest.mark.parametrize(
    ("module", "name", "path"),
    [("1", "width", ()), ("0", "height", ()), ("0", "sizes", (3,)), ("0", "config", ("tails",)), ("0", "width", (0,))],
)
def test_a_place_that_is_not_there(module: str, name: str, path: tuple[int | str, ...]) -> None:
    with pytest.raises(SparsewoodError, match=r"The model has no value .* another architecture"):
        attribute(nn.Sequential(Configured()), Edit(module, name, path, 1, 2))


def test_names_by_module() -> None:
    found = by_module({"a.weight": 1, "a.b.weight": 2, "ab.weight": 3, "bias": 4})
    assert found["a"]["weight"] == 1
    assert found["a.b"] == {"weight": 2}
    assert found["ab"] == {"weight": 3}
    assert found[""]["bias"] == 4
