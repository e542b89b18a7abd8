"""Optimal brain surgeon, layer by layer: who goes, and what the others become (004-41: the residual)."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import sparsewood as sw
from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.recovery import BlockSurgeon, DiagonalSurgeon, ExactSurgeon, surgeon
from sparsewood.recovery.surgery_solvers import Solver

METHODS: list[Solver] = [DiagonalSurgeon(), BlockSurgeon(), ExactSurgeon()]


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    torch.set_default_dtype(before)


def problem(rows: int, size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Weights and a Hessian of inputs that are far from independent."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3 * size, size, generator=generator) @ torch.randn(size, size, generator=generator)
    return torch.randn(rows, size, generator=generator), 2 * x.mT @ x / len(x)


def everything(weight: Tensor) -> Tensor:
    return torch.ones_like(weight, dtype=torch.bool)


def cost(weight: Tensor, new: Tensor, hessian: Tensor) -> float:
    return float((((new - weight) @ hessian) * (new - weight)).sum()) / 2


def best(weight: Tensor, hessian: Tensor, stays: Tensor) -> Tensor:
    """The least-squares weights for these positions, from the normal equations of each row."""
    found = torch.zeros_like(weight)
    for i in range(len(weight)):
        kept = stays[i].nonzero().flatten()
        if len(kept):
            found[i, kept] = torch.linalg.solve(hessian[kept][:, kept], hessian[kept] @ weight[i])
    return found


# ---------------------------------------------------------------- closed forms


@pytest.mark.parametrize("method", METHODS)
def test_independent_inputs_make_all_methods_weighted_magnitude(method: Solver) -> None:
    weight, scale = torch.randn(5, 8), torch.rand(8) + 0.1
    stays, new = method(weight, scale.diag(), everything(weight), 25)
    # Blocks fix how much goes in each; one block covers all columns here.
    expected = (weight.square() * scale).flatten().argsort().argsort().reshape(5, 8) >= 25
    assert torch.equal(stays, expected)
    torch.testing.assert_close(new, torch.where(expected, weight, 0.0), rtol=0.0, atol=0.0)


def test_one_removal_is_the_formula_of_optimal_brain_surgeon() -> None:
    weight, hessian = problem(1, 3)
    inverse = torch.linalg.inv(hessian)
    saliencies = weight[0].square() / (2 * inverse.diagonal())
    q = int(saliencies.argmin())
    expected = weight - weight[0, q] / inverse[q, q] * inverse[:, q]
    stays, new = ExactSurgeon()(weight, hessian, everything(weight), 1)
    assert stays.tolist() == [[i != q for i in range(3)]]
    torch.testing.assert_close(new, expected, rtol=0.0, atol=1e-12)
    torch.testing.assert_close(new, best(weight, hessian, stays), rtol=0.0, atol=1e-12)
    assert cost(weight, new, hessian) == pytest.approx(float(saliencies[q]), rel=1e-10)


def test_diagonal_saliency_is_the_error_of_removing_that_entry_alone() -> None:
    weight, hessian = problem(2, 4)
    errors = []
    for i, j in itertools.product(range(2), range(4)):
        without = weight.clone()
        without[i, j] = 0
        errors.append(cost(weight, without, hessian))
    stays, new = DiagonalSurgeon()(weight, hessian, everything(weight), 3)
    assert (~stays).flatten().nonzero().flatten().tolist() == sorted(torch.tensor(errors).argsort()[:3].tolist())
    assert torch.equal(new, weight * stays)


@given(seed=st.integers(0, 1000), rows=st.integers(1, 4), size=st.integers(1, 9), share=st.floats(0, 1))
def test_exact_weights_solve_the_normal_equations_of_what_is_left(
    seed: int, rows: int, size: int, share: float
) -> None:
    weight, hessian = problem(rows, size, seed)
    hessian += 1e-3 * hessian.diagonal().mean() * torch.eye(size)
    count = round(share * rows * size)
    stays, new = ExactSurgeon()(weight, hessian, everything(weight), count)
    assert int((~stays).sum()) == count
    assert not new[~stays].any()
    torch.testing.assert_close(new, best(weight, hessian, stays), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("seed", range(8))
def test_a_row_loses_at_each_step_what_costs_least_with_the_others_refitted(seed: int) -> None:
    """Brute force: every candidate is tried, and the rest solved for anew."""
    weight, hessian = problem(1, 6, seed)
    stays = everything(weight)
    for count in range(1, 7):
        left = stays[0].nonzero().flatten().tolist()
        tried = {}
        for q in left:
            without = stays.clone()
            without[0, q] = False
            tried[q] = cost(weight, best(weight, hessian, without), hessian)
        stays[0, min(tried, key=tried.__getitem__)] = False
        assert torch.equal(ExactSurgeon()(weight, hessian, everything(weight), count)[0], stays)


def test_the_layer_chooses_over_the_rows_by_what_each_step_costs() -> None:
    """Against each row's own trace: counts per row are those of the smallest running maxima."""
    weight, hessian = problem(4, 6)
    weight[2] *= 10
    steps: list[tuple[float, int]] = []
    for i in range(4):
        spent, highest = 0.0, 0.0
        for count in range(1, 7):
            row = weight[i : i + 1]
            now = cost(row, ExactSurgeon()(row, hessian, everything(row), count)[1], hessian)
            highest = max(highest, now - spent)
            spent = now
            steps.append((highest, i))
    for count in range(25):
        stays, _ = ExactSurgeon()(weight, hessian, everything(weight), count)
        cheapest = [i for _, i in sorted(steps)[:count]]
        assert (~stays).sum(1).tolist() == [cheapest.count(i) for i in range(4)]


def left_to_right(weight: Tensor, hessian: Tensor, stays: Tensor) -> Tensor:
    """Sequential OBS, one row at a time: column j goes or is frozen, and leaves the inverse either way."""
    weight, size = weight.clone(), len(hessian)
    for j in range(size):
        inverse = torch.linalg.inv(hessian[j:, j:])
        for i in range(len(weight)):
            if not stays[i, j]:
                weight[i, j:] -= weight[i, j] / inverse[0, 0] * inverse[:, 0]
                weight[i, j] = 0
    return weight


@pytest.mark.parametrize("columns", [1, 3, 128])
def test_blocks_are_removals_from_left_to_right(columns: int) -> None:
    weight, hessian = problem(3, 8)
    mask = torch.rand(3, 8) > 0.6
    stays, new = BlockSurgeon(columns)(weight, hessian, mask, int((~mask).sum()))
    assert torch.equal(stays, mask)
    torch.testing.assert_close(new, left_to_right(weight, hessian, mask), rtol=1e-9, atol=1e-10)


def test_blocks_choose_by_the_weights_as_they_are_by_then() -> None:
    weight, hessian = problem(2, 4)
    stays, new = BlockSurgeon(2)(weight, hessian, everything(weight), 4)
    factor = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    first = everything(weight)
    saliency = (weight / factor.diagonal()).square()
    first[:, :2] = (saliency[:, :2].flatten().argsort().argsort() >= 2).reshape(2, 2)
    moved = left_to_right(weight, hessian, first)
    saliency = (moved / factor.diagonal()).square()
    first[:, 2:] = (saliency[:, 2:].flatten().argsort().argsort() >= 2).reshape(2, 2)
    assert torch.equal(stays, first)
    torch.testing.assert_close(new, left_to_right(weight, hessian, first), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_updating_is_better_than_not(seed: int) -> None:
    weight, hessian = problem(6, 20, seed)
    for count in (24, 60, 96, 114):
        found = {type(m): cost(weight, m(weight, hessian, everything(weight), count)[1], hessian) for m in METHODS}
        smallest = weight.abs().flatten().argsort().argsort().reshape(6, 20) < count
        magnitude = cost(weight, weight.masked_fill(smallest, 0.0), hessian)
        assert found[ExactSurgeon] < min(found[DiagonalSurgeon], magnitude)
        assert found[ExactSurgeon] <= found[BlockSurgeon]


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 64])
def test_how_many_rows_are_treated_at_a_time_does_not_matter(rows: int) -> None:
    weight, hessian = problem(7, 70)  # more than a panel of removals
    hessian += 0.01 * hessian.diagonal().mean() * torch.eye(70)
    expected, found = (ExactSurgeon(n)(weight, hessian, everything(weight), 380) for n in (16, rows))
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1], rtol=1e-10, atol=1e-12)


def test_panels_are_steps_of_single_removals() -> None:
    """A row of 150 against the formulas carried out one after another."""
    weight, hessian = problem(1, 150)
    hessian += 0.01 * hessian.diagonal().mean() * torch.eye(150)
    row, inverse, left = weight[0].clone(), torch.linalg.inv(hessian), torch.ones(150, dtype=torch.bool)
    for _ in range(140):
        q = int((row.square() / inverse.diagonal()).masked_fill(~left, torch.inf).argmin())
        row -= row[q] / inverse[q, q] * inverse[:, q]
        inverse = inverse - torch.outer(inverse[:, q], inverse[q]) / inverse[q, q]
        left[q], row[q] = False, 0.0
    stays, new = ExactSurgeon()(weight, hessian, everything(weight), 140)
    assert torch.equal(stays[0], left)
    torch.testing.assert_close(new[0], torch.where(left, row, 0.0), rtol=1e-6, atol=1e-8)


# ---------------------------------------------------------------- counts and masks


@pytest.mark.parametrize("method", [*METHODS, BlockSurgeon(3), ExactSurgeon(2)])
@pytest.mark.parametrize("count", [0, 1, 7, 20, 34, 35])
def test_counts_are_exact_and_ties_lose_the_higher_index(method: Solver, count: int) -> None:
    weight = torch.ones(5, 7)
    stays, new = method(weight, torch.eye(7), everything(weight), count)
    assert int((~stays).sum()) == int((new == 0).sum()) == count
    if method != BlockSurgeon(3):
        assert stays.flatten().tolist() == [True] * (35 - count) + [False] * count


@pytest.mark.parametrize("method", [*METHODS, BlockSurgeon(3), ExactSurgeon(2)])
@given(seed=st.integers(0, 1000), extra=st.floats(0, 1))
def test_what_is_removed_already_stays_removed(method: Solver, seed: int, extra: float) -> None:
    weight, hessian = problem(4, 7, seed)
    may_stay = torch.rand(4, 7, generator=torch.Generator().manual_seed(seed)) > 0.4
    already = int((~may_stay).sum())
    count = already + round(extra * (28 - already))
    stays, new = method(weight, hessian, may_stay, count)
    assert int((~stays).sum()) == count
    assert not (stays & ~may_stay).any()
    assert not new[~stays].any()


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))


def test_amounts_by_name_and_pattern_and_the_classifier_stays_by_default() -> None:
    data = [torch.randn(40, 6)]
    told = surgeon(network(), data, sparsity=0.5)
    assert {name: one.removed for name, one in told.layers.items()} == {"0.weight": 24, "2.weight": 20}
    told = surgeon(network(), data, sparsity={"*": 0.5, "2": 0.9, "0.weight": 0.1})
    assert {name: one.removed for name, one in told.layers.items()} == {"0.weight": 5, "2.weight": 36, "4.weight": 8}
    assert {name: int((~mask).sum()) for name, mask in told.masks.items()} == {
        "0.weight": 5,
        "2.weight": 36,
        "4.weight": 8,  # 7.5, half to even
    }
    assert list(surgeon(network(), data, sparsity={"2": 0.5}).layers) == ["2.weight"]
    assert surgeon(network(), data, sparsity=0.999).layers["0.weight"].removed == 47
    assert surgeon(network(), data, sparsity={"0": 1.0}).layers["0.weight"].removed == 48


@pytest.mark.parametrize("method", METHODS)
def test_nothing_asked_is_nothing_changed(method: Solver) -> None:
    model = network().float()
    with torch.no_grad():
        model[0].weight[0, 0] = -0.0
    before = copy.deepcopy(model.state_dict())
    told = surgeon(model, [torch.randn(40, 6).float()], sparsity=0.0, method=method)
    for name, value in model.state_dict().items():
        assert value.numpy().tobytes() == before[name].numpy().tobytes(), name
    assert told.masks.removed == 0
    assert all(one.before == one.after == 0 for one in told.layers.values())


def test_given_masks_are_kept_and_the_others_refitted() -> None:
    model, x = network(), torch.randn(60, 6)
    masks = sw.prune(model, sw.Magnitude(), 0.6, include="0")
    dense = copy.deepcopy(model)
    told = surgeon(model, [x], masks=masks, damp=0.0)
    assert told.masks == masks
    assert sw.masks.not_held(model, masks) is None
    hessian = 2 * x.mT @ x / 60
    expected = best(dense[0].weight.detach(), hessian, masks["0.weight"])
    torch.testing.assert_close(model[0].weight.detach(), expected, rtol=1e-9, atol=1e-10)
    again = copy.deepcopy(model.state_dict())
    surgeon(model, [x], masks=masks)  # nothing is left to make up for
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def test_masks_and_an_amount_add_up_to_the_amount() -> None:
    model, x = network(), torch.randn(60, 6)
    masks = sw.prune(model, sw.Magnitude(), 0.3, scope=sw.PerLayer())
    masks = sw.Masks({**masks, "4.weight": torch.eye(3, 5, dtype=torch.bool), "0.bias": torch.arange(8) > 1})
    told = surgeon(model, [x], sparsity=0.5, masks=masks)
    assert told.layers["0.weight"].removed == 24
    assert told.layers["4.weight"].removed == 12  # no amount of its own: the classifier has only its mask
    assert told.skipped == {"0.bias": "it is no weight of a layer"}
    assert told.masks.keys() == masks.keys()
    assert all(not (told.masks[name] & ~mask).any() for name, mask in masks.items())
    assert sw.masks.not_held(model, told.masks) is None
    with pytest.raises(SparsewoodError, match=r"removes 5 of 48 weights, but the masks given have removed 14"):
        surgeon(model, [x], sparsity={"0": 0.1}, masks=masks)


# ---------------------------------------------------------------- networks


CONVOLUTIONS = {
    "plain": nn.Conv2d(3, 5, 3),
    "padded, strided": nn.Conv2d(3, 5, 3, padding=1, stride=2),
    "dilated": nn.Conv2d(3, 5, (3, 2), dilation=(2, 1), padding=(0, 1), bias=False),
    "circular": nn.Conv2d(3, 5, 3, padding=1, padding_mode="circular"),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_the_error_that_is_told_is_the_one_of_the_outputs(kind: str, method: Solver) -> None:
    model = nn.Sequential(copy.deepcopy(CONVOLUTIONS[kind]).double(), nn.Flatten(), nn.LazyLinear(2))
    x = torch.randn(30, 3, 7, 8) + 0.5
    model(x)
    dense = copy.deepcopy(model[0])
    told = surgeon(model, [x[:20], x[20:]], sparsity={"0": 0.7}, method=method, samples=10_000)
    wanted, got, masked = (layer(x).detach() for layer in (dense, model[0], dense))
    around = (wanted - wanted.mean((0, 2, 3), keepdim=True)).square().sum()
    one = told.layers["0.weight"]
    assert one.after == pytest.approx(float((got - wanted).square().sum() / around), rel=1e-8)
    with torch.no_grad():
        dense.weight *= told.masks["0.weight"]
    masked = dense(x).detach()
    assert one.before == pytest.approx(float((masked - wanted).square().sum() / around), rel=1e-8)
    assert one.rows == wanted[:, 0].numel()
    assert torch.equal(model[0].weight != 0, told.masks["0.weight"])


def test_layers_see_what_the_pruned_ones_before_them_return() -> None:
    model, x = network(), torch.randn(50, 6)
    dense = copy.deepcopy(model)
    surgeon(model, [x], sparsity=0.5, damp=0.01)
    entering = F.relu(model[0](x)).detach()
    hessian = 2 * entering.mT @ entering / 50
    hessian += 0.01 * hessian.diagonal().mean() * torch.eye(8)
    stays, expected = ExactSurgeon()(dense[2].weight.detach(), hessian, torch.ones(5, 8, dtype=torch.bool), 20)
    assert torch.equal(model[2].weight != 0, stays)
    torch.testing.assert_close(model[2].weight.detach(), expected, rtol=1e-8, atol=1e-10)


def test_types_biases_norms_and_mode_stay() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 2)).to(torch.bfloat16)
    others = {name: value.clone() for name, value in model.state_dict().items() if name != "0.weight"}
    told = surgeon(model, [torch.randn(20, 1, 5, 5).bfloat16()], sparsity=0.5)
    assert model[0].weight.dtype is torch.bfloat16
    assert model.training
    assert all(torch.equal(model.state_dict()[name], value) for name, value in others.items())
    assert told.layers["0.weight"].removed == 18


def test_how_data_are_cut_does_not_matter() -> None:
    x, found = torch.randn(30, 2, 9, 9), []
    for size in (30, 7):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
        surgeon(model, list(x.split(size)), sparsity=0.6, samples=5)
        found.append(model)
    for a, b in zip(found[0].parameters(), found[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_inputs_that_are_always_zero_go_first() -> None:
    x = torch.randn(40, 6)
    x[:, [1, 4]] = 0
    for method in METHODS[:1] + METHODS[2:]:
        model = network()
        before = model[0].weight.detach().clone()
        told = surgeon(model, [x], sparsity={"0": 16 / 48}, method=method, damp=1e-8)
        assert not told.masks["0.weight"][:, [1, 4]].any()
        assert told.layers["0.weight"].after == 0
        assert torch.equal(model[0].weight[:, [0, 2, 3, 5]], before[:, [0, 2, 3, 5]])
    nothing = surgeon(network(), [x * 0], sparsity={"0": 0.5})
    assert nothing.layers["0.weight"].removed == 24


def test_what_cannot_be_pruned_is_named() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.grouped = nn.Conv2d(4, 4, 1, groups=2)
            self.up = nn.ConvTranspose2d(4, 4, 1)
            self.one, self.two, self.idle = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
            self.two.weight = self.one.weight
            self.plain, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.plain(self.two(self.one(self.up(self.grouped(x)).mean((2, 3))))))

    model = Odd()
    mask = torch.rand(4, 2, 1, 1) > 0.5
    told = surgeon(model, [torch.randn(20, 4, 3, 3)], sparsity=0.5, masks={"grouped.weight": mask})
    assert list(told.layers) == ["plain.weight"]
    assert told.skipped == {
        "grouped.weight": "its inputs are in 2 groups",
        "up.weight": "layers of type ConvTranspose2d are not refitted",
        "one.weight": "it shares its parameters with another layer",
        "idle.weight": "it is not called as a module",
    }
    assert torch.equal(model.grouped.weight != 0, mask)  # its mask is applied all the same
    assert str(told).splitlines()[0].startswith("plain.weight: 8 of 16 removed, error ")
    assert "grouped.weight: skipped, its inputs are in 2 groups" in str(told)


def test_layers_that_compute_something_else_are_left_alone() -> None:
    class Standardised(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight - self.weight.mean(1, keepdim=True), self.bias)

    model = nn.Sequential(Standardised(6, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))
    told = surgeon(model, [torch.randn(40, 6)], sparsity=0.5)
    assert told.skipped == {"0.weight": "its forward is its own"}
    assert list(told.layers) == ["2.weight"]


def test_progress_names_each_weight_before_it_is_pruned() -> None:
    calls: list[tuple[str, int, int]] = []
    surgeon(network(), [torch.randn(20, 6)], sparsity=0.5, progress=lambda *call: calls.append(call))
    assert calls == [("0.weight", 1, 2), ("2.weight", 2, 2)]


# ---------------------------------------------------------------- errors


def test_what_makes_no_sense_is_refused_before_anything_is_changed() -> None:
    model, x = network(), torch.randn(20, 6)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UnknownName, match="fc9"):
        surgeon(model, [x], sparsity={"fc9": 0.5})
    with pytest.raises(UnknownName, match="nothing"):
        surgeon(model, [x], masks={"nothing": torch.ones(1, dtype=torch.bool)})
    for settings, sentence in (
        ({}, "how much should go"),
        ({"sparsity": 1.5}, r"Sparsity must be a number in \[0, 1\]"),
        ({"sparsity": {"0": -0.1}}, r"Sparsity must be a number in \[0, 1\]"),
        ({"sparsity": 0.5, "damp": -1.0}, "damp must be a number >= 0. Got -1.0"),
        ({"sparsity": 0.5, "samples": 0}, "samples must be a whole number >= 1. Got 0"),
        ({"sparsity": 0.5, "method": "exact"}, "method must be ExactSurgeon"),
        ({"sparsity": 0.5, "method": ExactSurgeon}, "method must be ExactSurgeon"),
    ):
        with pytest.raises(SparsewoodError, match=sentence):
            surgeon(model, [x], **settings)
    with pytest.raises(SparsewoodError, match="The data are empty"):
        surgeon(model, [], sparsity=0.5)
    with pytest.raises(SparsewoodError, match="data must be batches"):
        surgeon(model, x, sparsity=0.5)
    with pytest.raises(SparsewoodError, match="Got an iterator"):
        surgeon(model, iter([x]), sparsity=0.5)
    with pytest.raises(SparsewoodError, match=r"'0.weight' were seen"):
        surgeon(model, [x[:0]], sparsity=0.5)
    with pytest.raises(SparsewoodError, match=r"rows must be a whole number >= 1. Got 0"):
        ExactSurgeon(0)
    with pytest.raises(SparsewoodError, match=r"columns must be a whole number >= 1. Got True"):
        BlockSurgeon(True)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_values_that_are_not_finite_are_named() -> None:
    x = torch.randn(20, 6)
    x[3, 2] = torch.inf
    with pytest.raises(SparsewoodError, match=r"Inputs of '0.weight' are not finite"):
        surgeon(network(), [x], sparsity=0.5)
    model = network()
    with torch.no_grad():
        model[2].weight[0, 0] = torch.nan
    with pytest.raises(SparsewoodError, match=r"The weights of '2.weight' are not finite"):
        surgeon(model, [torch.randn(20, 6)], sparsity=0.5)
    assert int((model[0].weight == 0).sum()) == 24  # what came before is pruned already


@pytest.mark.parametrize("method", [BlockSurgeon(), ExactSurgeon()])
def test_dependent_inputs_need_damping(method: Solver) -> None:
    x = torch.randn(20, 6)
    x[:, 5] = x[:, 0] + x[:, 1]
    with pytest.raises(SparsewoodError, match=r"'0.weight' cannot be pruned: the Hessian .* larger damp"):
        surgeon(network(), [x], sparsity=0.5, method=method, damp=0.0)
    surgeon(network(), [x], sparsity=0.5, method=method)
