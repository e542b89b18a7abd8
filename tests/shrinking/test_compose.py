"""Plans one after another, and the way back."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError
from sparsewood.shrinking.build import build
from sparsewood.shrinking.compose import compose, expand, shapes_after, shapes_of
from sparsewood.shrinking.cut import cut, named_tensors
from sparsewood.shrinking.files import attach, attached, from_json, load, save, to_json
from sparsewood.shrinking.plan import Edit, Scaling, ShrinkPlan
from sparsewood.shrinking.scales import apply_scalings, fold_scales
from sparsewood.structure import trace


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    )


def inputs() -> Tensor:
    return torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def shrunk(model: nn.Module, keep: Mapping[str, list[int]]) -> tuple[nn.Module, ShrinkPlan]:
    """What is left of a network if, of the group of the named parameter, these units stay."""
    structure = trace(model, inputs())
    flags = {}
    for param, units in keep.items():
        (group,) = structure.group_of(param)
        flags[group.name] = np.isin(np.arange(group.units), units)
    built = build(model, structure, flags)
    return built.model, dataclasses.replace(built.plan, steps=({"asked": sum(map(len, keep.values()))},))


def parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in named_tensors(model).items()}


def test_two_plans_in_one_do_what_they_do_one_after_the_other() -> None:
    model = network().eval()
    once, first = shrunk(model, {"0.weight": [0, 1, 3, 4, 7], "3.weight": [1, 2, 3, 5]})
    twice, second = shrunk(once, {"0.weight": [1, 2, 4], "3.weight": [0, 3]})
    whole = compose(first, second)
    assert whole.kept["0.weight"][0].tolist() == [1, 3, 7]
    assert [axes.tolist() for axes in whole.kept["3.weight"].values()] == [[1, 5], [1, 3, 7]]
    assert whole.shapes == first.shapes
    assert whole.steps == ({"asked": 9}, {"asked": 5})
    direct = copy.deepcopy(model)
    cut(direct, whole)
    assert shapes_of(direct) == shapes_of(twice) == shapes_after(whole)
    assert all(torch.equal(parameters(direct)[name], tensor) for name, tensor in parameters(twice).items())
    assert torch.equal(direct(inputs()), twice(inputs()))
    assert (direct[0].out_channels, direct[1].num_features, direct[3].in_channels, direct[6].in_features) == (
        3,
        3,
        3,
        2,
    )


def test_composition_is_associative() -> None:
    model = network()
    once, first = shrunk(model, {"0.weight": [0, 1, 3, 4, 7]})
    twice, second = shrunk(once, {"3.weight": [0, 1, 4]})
    _, third = shrunk(twice, {"0.weight": [0, 3], "3.weight": [1, 2]})
    assert to_json(compose(compose(first, second), third)) == to_json(compose(first, compose(second, third)))


def test_a_plan_twice_as_a_file(tmp_path: Path) -> None:
    model = network().eval()
    once, first = shrunk(model, {"0.weight": [0, 1, 3, 4, 7]})
    twice, second = shrunk(once, {"0.weight": [0, 2], "3.weight": [2, 3]})
    attach(twice, compose(first, second))
    save(twice, tmp_path)
    loaded = load(tmp_path, model=network()).eval()
    assert torch.equal(loaded(inputs()), twice(inputs()))
    assert [step["asked"] for step in attached(loaded).steps] == [5, 4]


@settings(max_examples=40)
@given(st.integers(1, 9), st.data())
def test_positions_compose_as_indices_do(size: int, data: st.DataObject) -> None:
    def positions(count: int) -> Tensor:
        return torch.tensor(sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1))))

    first, second = positions(size), None
    second = positions(len(first))
    values = torch.randn(size)
    plans = [ShrinkPlan("M", {"w": (n,)}, {"w": {0: kept}}) for n, kept in ((size, first), (len(first), second))]
    assert torch.equal(values[compose(*plans).kept["w"][0]], values[first][second])


def test_plans_in_the_wrong_order_are_refused() -> None:
    model = network()
    once, first = shrunk(model, {"0.weight": [0, 1, 3, 4, 7]})
    _, second = shrunk(once, {"0.weight": [0, 2]})
    with pytest.raises(SparsewoodError, match=r"0\.weight: leaves \[2, 3, 3, 3\], expects \[8, 3, 3, 3\]"):
        compose(second, first)


def plan(*edits: Edit, kept: tuple[int, int] = (4, 4)) -> ShrinkPlan:
    before, after = kept
    return ShrinkPlan("M", {"w": (before,)}, {"w": {0: torch.arange(after)}} if before != after else {}, edits)


def test_edits_meet_in_their_places() -> None:
    first = plan(Edit("a", "x", (), 8, 4), Edit("a", "s", (), (8, 2), (4, 2)), Edit("b", "t", (), None, 0.5))
    second = plan(Edit("a", "x", (), 4, 2), Edit("a", "s", (0,), 4, 3), Edit("c", "y", ("k",), 6, 3))
    assert set(compose(first, second).edits) == {
        Edit("a", "x", (), 8, 2),
        Edit("a", "s", (0,), 8, 3),
        Edit("b", "t", (), None, 0.5),
        Edit("c", "y", ("k",), 6, 3),
    }
    whole = compose(plan(Edit("a", "s", (0,), 8, 4)), plan(Edit("a", "s", (), (4, 2), (3, 2))))
    assert whole.edits == (Edit("a", "s", (0,), 8, 3),)
    assert compose(plan(Edit("a", "x", (), 8, 4)), plan(Edit("a", "x", (), 4, 8))).edits == ()
    assert compose(plan(Edit("a", "x", (), 1, 1.0)), plan()).edits == (Edit("a", "x", (), 1, 1.0),)
    with pytest.raises(SparsewoodError, match=r"makes a\.x 4, and the second expects 5"):
        compose(first, plan(Edit("a", "x", (), 5, 2)))


def test_biases_that_were_made_are_counted_and_can_be_cut() -> None:
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False))
    first = ShrinkPlan("S", shapes_of(model), {}, added=("0.bias",))
    assert shapes_after(first) == {"0.weight": (4, 3), "2.weight": (2, 4), "0.bias": (4,)}
    kept = torch.tensor([0, 3])
    second = ShrinkPlan(
        "S", shapes_after(first), {"0.weight": {0: kept}, "0.bias": {0: kept}, "2.weight": {1: kept}}, added=("2.bias",)
    )
    whole = compose(first, second)
    assert whole.added == ("0.bias", "2.bias")
    assert shapes_after(whole) == {"0.weight": (2, 3), "2.weight": (2, 2), "0.bias": (2,), "2.bias": (2,)}
    small = copy.deepcopy(model)
    cut(small, whole)
    assert shapes_of(small) == {"0.weight": (2, 3), "0.bias": (2,), "2.weight": (2, 2), "2.bias": (2,)}
    with pytest.raises(SparsewoodError, match=r"0\.bias: leaves \[4\], expects no such tensor"):
        compose(first, dataclasses.replace(second, shapes=shapes_of(model), kept={}))


def test_a_bias_of_a_transposed_convolution_is_as_long_as_its_outputs() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(3, 5, 2, bias=False))
    first = ShrinkPlan("S", shapes_of(model), {}, added=("0.bias",))
    small = copy.deepcopy(model)
    cut(small, first)
    second = ShrinkPlan("S", shapes_of(small), {"0.weight": {0: torch.tensor([1])}})
    assert compose(first, second).added == ("0.bias",)
    small[0].bias.data.normal_()
    assert torch.equal(expand(small, first, model)[0].bias, small[0].bias)


def test_a_bias_beside_a_computed_weight_is_as_long_as_it_is() -> None:
    first = ShrinkPlan("S", {"0.parametrizations.weight.original": (4, 3)}, {}, added=("0.bias",))
    second = ShrinkPlan("S", {**first.shapes, "0.bias": (4,)}, {"0.bias": {0: torch.tensor([1, 2])}})
    assert shapes_after(compose(first, second))["0.bias"] == (2,)
    attention = ShrinkPlan("S", {"in_proj_weight": (12, 4)}, {}, added=("in_proj_bias",))
    assert shapes_after(attention)["in_proj_bias"] == (12,)


# ---------------------------------------------------------------- the way back


def test_expanding_gives_the_masked_network() -> None:
    model = network().eval()
    small, made = shrunk(model, {"0.weight": [0, 3, 4], "3.weight": [1, 2, 5]})
    for tensor in (*small.parameters(), small[1].running_mean):
        tensor.data.normal_()
    before = parameters(model)
    large = expand(small, made, model)
    assert shapes_of(large) == made.shapes
    torch.testing.assert_close(large(inputs()), small(inputs()))
    assert all(torch.equal(before[name], tensor) for name, tensor in parameters(model).items())
    values = parameters(large)
    assert torch.equal(values["0.weight"][[0, 3, 4]], small[0].weight)
    for name, gone in {"0.weight": [1, 2, 5, 6, 7], "1.bias": [1, 2, 5, 6, 7], "3.weight": [0, 3, 4]}.items():
        assert not values[name][gone].any()
    assert not values["3.weight"][:, [1, 2, 5, 6, 7]].any()
    assert torch.equal(values["1.running_mean"][[1, 2, 5]], before["1.running_mean"][[1, 2, 5]])
    assert torch.equal(values["1.running_mean"][[0, 3, 4]], small[1].running_mean)
    again = copy.deepcopy(large)
    cut(again, made)
    assert all(torch.equal(parameters(again)[name], tensor) for name, tensor in parameters(small).items())


def test_expanding_makes_biases_and_keeps_ties() -> None:
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 4), nn.Linear(4, 4))
    model[2].weight = model[1].weight
    kept = torch.tensor([1, 2])
    made = ShrinkPlan("S", shapes_of(model), {"0.weight": {0: kept}, "0.bias": {0: kept}}, added=("0.bias",))
    small = nn.Sequential(nn.Linear(3, 2), nn.Linear(4, 4), nn.Linear(4, 4))
    small[2].weight = small[1].weight
    large = expand(small, made, model)
    assert large[0].bias.tolist() == [0, *small[0].bias.tolist(), 0]
    assert large[2].weight is large[1].weight
    assert model[0].bias is None


def test_expanding_into_another_network_is_refused() -> None:
    model = network()
    small, made = shrunk(model, {"0.weight": [0, 3, 4]})
    with pytest.raises(SparsewoodError, match="made for another network"):
        expand(small, made, small)
    with pytest.raises(SparsewoodError, match="leaves another network"):
        expand(model, made, model)


# ---------------------------------------------------------------- widths that were folded into weights


class Attending(nn.Module):
    """Divides by the width of a stream, and by that of a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(6, 8), nn.RMSNorm(8, eps=1e-3)
        self.q, self.k, self.v, self.last = (nn.Linear(8, 8, bias=False) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.embed(x))
        q, k, v = (layer(x).unflatten(-1, (2, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return self.last(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def folded(model: nn.Module, x: Tensor, left: int, dims: int) -> tuple[nn.Module, ShrinkPlan]:
    """The first units of the stream, and of each head, with the widths folded."""
    structure = trace(model, x, attention="head_dims")
    flags = {
        group.name: np.arange(group.units) < (left if "embed" in group.name else dims) for group in structure.prunable
    }
    built = build(model, structure, flags)
    scales = fold_scales(built.model, structure, flags)
    edits = (*built.plan.edits, *scales.edits)
    return built.model, dataclasses.replace(built.plan, edits=edits, scalings=scales.scalings)


def test_expanding_divides_out_what_widths_were_folded_into() -> None:
    """The masked network, with its own widths and settings, computes what the small one does."""
    torch.manual_seed(0)
    model, x = Attending().double().eval(), torch.randn(2, 5, 6).double()
    once, first = folded(model, x, 6, 3)
    for parameter in once.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    assert {one.param for one in first.scalings} == {"norm.weight", "q.weight"}
    torch.testing.assert_close(expand(once, first, model)(x), once(x), rtol=1e-12, atol=1e-12)
    twice, second = folded(once, x, 3, 2)
    whole = compose(first, second)
    factors = {one.param: one.factor for one in whole.scalings}
    assert factors == pytest.approx({"norm.weight": (8 / 3) ** 0.5, "q.weight": (2 / 4) ** 0.5})
    large = expand(twice, whole, model)
    torch.testing.assert_close(large(x), twice(x), rtol=1e-12, atol=1e-12)
    assert large.norm.eps == 1e-3
    assert not torch.allclose(expand(twice, dataclasses.replace(whole, scalings=()), model)(x), twice(x))
    torch.testing.assert_close(expand(twice, from_json(to_json(whole)), model)(x), large(x), rtol=0, atol=0)


def test_scalings_meet_at_the_positions_that_are_left() -> None:
    at = torch.tensor
    first = ShrinkPlan("M", {"w": (5, 2)}, {"w": {0: at([0, 1, 3, 4])}}, scalings=(Scaling("w", 0, at([1, 2]), 3.0),))
    scalings = (Scaling("w", 0, at([1]), 2.0), Scaling("w", 1, at([0]), 5.0))
    second = ShrinkPlan("M", {"w": (4, 2)}, {"w": {0: at([0, 2, 3])}}, scalings=scalings)
    whole = compose(first, second)
    assert [(one.axis, one.positions.tolist(), one.factor) for one in whole.scalings] == [(0, [1], 6.0), (1, [0], 5.0)]
    gone = dataclasses.replace(first, scalings=(Scaling("w", 0, at([1]), 3.0),))
    assert len(compose(gone, second).scalings) == 2


def test_scalings_from_several_offsets_keep_their_order() -> None:
    rows = torch.tensor([1])
    first = ShrinkPlan("M", {"w": (3, 2)}, {}, scalings=(Scaling("w", 0, rows, 3.0),))
    second = ShrinkPlan("M", {"w": (3, 2)}, {}, scalings=(Scaling("w", 0, rows, 2.0, 1.0),))
    whole = compose(first, second)
    assert [one.factor for one in whole.scalings] == [3.0, 2.0]
    small, fresh = nn.Module(), nn.Module()
    small.w, fresh.w = (nn.Parameter(torch.randn(3, 2).double()) for _ in range(2))
    before = small.w.detach().clone()
    apply_scalings(small, whole.scalings)
    torch.testing.assert_close(expand(small, whole, fresh).w.detach(), before)


def test_a_bias_made_for_scaled_outputs_is_scaled_with_them() -> None:
    model = nn.Sequential(nn.Linear(3, 4, bias=False))
    rows = torch.tensor([1, 2])
    first = ShrinkPlan("S", shapes_of(model), {}, scalings=(Scaling("0.weight", 0, rows, 4.0),))
    second = ShrinkPlan("S", shapes_of(model), {}, added=("0.bias",))
    small = nn.Sequential(nn.Linear(3, 4))
    large = expand(small, compose(first, second), model)
    factor, x = torch.tensor([1.0, 4, 4, 1]), torch.randn(2, 3)
    torch.testing.assert_close(large(x) * factor, small(x))
