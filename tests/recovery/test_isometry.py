"""Approximate isometry of sparse layers: the gradient, what is reached, and zeros that stay."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import sparsewood as sw
from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.measurement import jacobian_singular_values, layer_singular_values
from sparsewood.recovery import Isometry, Orthogonal, enforce_isometry, snapshot
from sparsewood.recovery.isometry import descend, objective


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def orthogonal(layer: nn.Module) -> nn.Module:
    Orthogonal()(layer, {}, seeded())
    return layer


def masks_of(model: nn.Module, sparsity: float) -> sw.Masks:
    return sw.prune(model, sw.Random(), sparsity, protect_classifier=False, generator=seeded(1))


def kept(layer: nn.Module) -> Tensor:
    return layer.get_parameter("weight").detach().clone()


@pytest.mark.parametrize("shape", [(1, 3, 7), (4, 2, 5), (2, 1, 1)], ids=str)
def test_004_24_the_gradient_is_autograds(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=seeded(), dtype=torch.float64, requires_grad=True)
    gram = matrices @ matrices.mT - torch.eye(shape[1], dtype=torch.float64)
    expected = gram.norm(dim=(1, 2)).sum()
    value, gradient = objective(matrices.detach())
    assert value == pytest.approx(float(expected.detach()))
    assert torch.allclose(gradient, torch.autograd.grad(expected, matrices)[0], rtol=1e-12)


def test_at_the_minimum_the_gradient_is_zero() -> None:
    value, gradient = objective(torch.eye(3).unsqueeze(0))
    assert value == 0
    assert bool((gradient == 0).all())


def test_004_24_plain_descent_until_the_first_look() -> None:
    """Fifty steps W - rate * gradient on the entries that are free, by hand."""
    w = 0.1 * torch.randn(1, 4, 9, generator=seeded(), dtype=torch.float64)
    free = torch.rand(w.shape, generator=seeded(1)).ge(0.5).double()
    expected = w = w * free
    for _ in range(50):
        leaf = expected.clone().requires_grad_(True)
        (leaf @ leaf.mT - torch.eye(4)).norm().backward()
        assert leaf.grad is not None
        expected = expected - 0.01 * leaf.grad * free
    found, layer = descend(w, free, 50, 0.01, 1e-4)
    assert torch.allclose(found, expected, rtol=1e-9)
    assert layer.iterations == 50
    assert layer.after < layer.before


@pytest.mark.parametrize(
    "layer",
    [nn.Linear(27, 64), nn.Linear(64, 27), nn.Conv2d(3, 64, 3), nn.ConvTranspose2d(3, 64, 3)],
    ids=repr,
)
def test_004_24_the_smaller_gram_matrix_goes_to_zero(layer: nn.Module) -> None:
    """With the larger one the least is sqrt(64 - 27) = 6.08, as no 64 vectors of 27 numbers are orthogonal."""
    nn.init.normal_(layer.weight, 0, 0.1, generator=seeded())  # type: ignore[arg-type]
    report = enforce_isometry(layer, {})
    assert report.after < 1e-3 < math.sqrt(64 - 27) < report.before + 5
    assert report.layers["weight"].settled
    values = layer_singular_values(layer)["weight"].values
    assert values.shape == (1, 27)
    assert torch.allclose(values, torch.ones(1, 27, dtype=torch.float64), atol=1e-3)


def test_004_24_each_group_by_itself() -> None:
    layer = nn.Conv2d(6, 8, 3, groups=2)
    enforce_isometry(layer, {})
    assert torch.allclose(layer_singular_values(layer)["weight"].values, torch.ones(2, 4).double(), atol=1e-3)


def test_004_24_pruned_entries_stay_zero_and_others_are_left_alone() -> None:
    """Exactly +0.0, biases and BatchNorm untouched; what is not masked is free even where it is 0."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 4))
    masks = masks_of(model, 0.6)
    before = snapshot(model)
    model.get_parameter("3.weight").data[0] = 0
    report = enforce_isometry(model, masks, iterations=200)
    for name, mask in masks.items():
        values = model.get_parameter(name).detach()[~mask]
        assert bool((values == 0).all())
        assert not bool(values.signbit().any())
    now = model.state_dict()
    assert all(torch.equal(now[name], tensor) for name, tensor in before.items() if name not in masks)
    assert list(report.layers) == ["0.weight", "3.weight"]
    assert report.after < report.before
    row = model.get_parameter("3.weight").detach()[0]
    assert bool((row == 0).all()), "an empty row has gradient 0"


def test_004_24_masked_weights_count_as_zero_before_they_are() -> None:
    masked, plain = orthogonal(nn.Linear(20, 10)), orthogonal(nn.Linear(20, 10))
    masks = masks_of(masked, 0.7)
    sw.apply_masks(plain, masks)
    reports = [enforce_isometry(masked, masks, iterations=99), enforce_isometry(plain, iterations=99)]
    assert reports[0] == reports[1]
    assert torch.equal(masked.weight, plain.weight)  # type: ignore[arg-type]


def test_004_24_the_recovery_takes_zeros_as_pruned() -> None:
    model = orthogonal(nn.Linear(20, 10))
    masks = masks_of(model, 0.7)
    sw.apply_masks(model, masks)
    start = snapshot(model)
    Isometry(iterations=300)(model, start)
    weight = model.get_parameter("weight")
    assert not weight[~masks["weight"]].any()  # those that are kept may come to 0, too
    assert layer_singular_values(model)["weight"].mean > 0.98
    assert torch.equal(model.get_parameter("bias"), start["bias"])


@pytest.mark.parametrize("activation", ["linear", "tanh"])
def test_004_24_isometry_brings_the_mean_singular_value_back(activation: str) -> None:
    """784-100x6-10, 90 % removed at random: 1, then near 0, then near 1 again."""
    model = sw.models.mlp(7, 100, activation=activation)  # type: ignore[arg-type]
    orthogonal(model)
    masks = masks_of(model, 0.9)
    data = [0.05 * torch.randn(5, 784, generator=seeded())]
    dense = jacobian_singular_values(model, data).mean
    pruned = jacobian_singular_values(model, data, masks=masks).mean
    enforce_isometry(model, masks, iterations=1000)
    after = jacobian_singular_values(model, data).mean
    assert dense == pytest.approx(1, abs=0.05)
    assert pruned < 0.01
    assert 0.85 < after < 1.1
    assert all(bool((model.get_parameter(name)[~mask] == 0).all()) for name, mask in masks.items())


def test_004_24_it_ends_where_nothing_more_is_to_be_had() -> None:
    """Empty rows cost 1 each, whatever the rest does: sqrt(3) is the least for three of them."""
    layer = nn.Linear(40, 20)
    mask = torch.rand(20, 40, generator=seeded()) < 0.3
    mask[4:7] = False
    lines: list[str] = []
    report = enforce_isometry(layer, {"weight": mask}, progress=lines.append)
    done = report.layers["weight"]
    assert done.after == pytest.approx(math.sqrt(3), rel=1e-3)
    assert done.settled
    assert done.iterations < 2000
    assert len(lines) == 1
    assert lines[0].startswith("weight: ")
    assert f"-> {done.after:.4g}" in str(report)
    short = enforce_isometry(nn.Linear(40, 20), {"weight": mask}, iterations=10).layers["weight"]
    assert (short.iterations, short.settled) == (10, False)


def test_more_iterations_are_never_worse_and_none_change_nothing() -> None:
    reached = []
    for iterations in (0, 10, 100, 400):
        layer = orthogonal(nn.Linear(30, 12))
        masks = masks_of(layer, 0.8)
        reached.append(enforce_isometry(layer, masks, iterations=iterations).after)
        if not iterations:
            assert torch.equal(kept(layer), kept(orthogonal(nn.Linear(30, 12))) * masks["weight"])
    assert reached == sorted(reached, reverse=True)


def test_other_types_tied_weights_and_random_state() -> None:
    """bfloat16 is computed in float32; a tied weight has one mask under either name and is treated once."""
    state = torch.get_rng_state()
    half = orthogonal(nn.Linear(30, 12)).bfloat16()
    enforce_isometry(half, masks_of(half, 0.5))
    assert half.get_parameter("weight").dtype == torch.bfloat16
    assert layer_singular_values(half)["weight"].mean == pytest.approx(1, abs=0.01)
    tied = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    tied[1].weight = tied[0].weight
    mask = torch.rand(6, 6, generator=seeded()) < 0.6
    report = enforce_isometry(tied, {"1.weight": mask}, iterations=50)
    assert list(report.layers) == ["0.weight"]
    assert torch.equal(kept(tied[0]) != 0, mask)
    torch.set_rng_state(state)


def broken() -> nn.Linear:
    layer = nn.Linear(2, 2)
    nn.init.constant_(layer.weight, math.inf)
    return layer


REFUSED: list[tuple[Callable[[], object], type[SparsewoodError], str]] = [
    (lambda: enforce_isometry(nn.ReLU()), SparsewoodError, "no weight of a linear layer"),
    (lambda: enforce_isometry(broken()), SparsewoodError, "'weight' are not finite"),
    (lambda: enforce_isometry(nn.Linear(2, 2), {"w": torch.ones(2, 2).bool()}), UnknownName, "'w'"),
    (lambda: enforce_isometry(nn.Linear(2, 2), tolerance=0.0), SparsewoodError, "tolerance must be a number above 0"),
    (lambda: Isometry(iterations=-1), SparsewoodError, "iterations must be a whole number >= 0. Got -1"),
    (lambda: Isometry(iterations=True), SparsewoodError, "Got True"),
    (lambda: Isometry(rate=math.nan), SparsewoodError, "rate must be a number above 0. Got nan"),
]


@pytest.mark.parametrize(("make", "kind", "message"), REFUSED)
def test_what_means_nothing_is_refused(make: Callable[[], object], kind: type[SparsewoodError], message: str) -> None:
    state = torch.get_rng_state()
    with pytest.raises(kind, match=message):
        make()
    torch.set_rng_state(state)


def test_nothing_is_changed_when_a_mask_does_not_fit() -> None:
    layer = nn.Linear(3, 2)
    before = kept(layer)
    with pytest.raises(SparsewoodError, match="shape"):
        enforce_isometry(layer, {"weight": torch.ones(2, 2).bool()})
    assert torch.equal(kept(layer), before)


def test_masks_of_both_names_of_a_tied_weight_hold() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    masks = {"0.weight": torch.rand(4, 4) > 0.3, "1.weight": torch.rand(4, 4) > 0.3}
    enforce_isometry(model, masks, iterations=50)
    assert sw.masks.not_held(model, masks) is None
