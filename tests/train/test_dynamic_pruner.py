"""DynamicPruner in loops of all kinds: closures, scaled gradients, steps that are skipped. Requirement 004-36."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sparsewood.dynamics import SET, Movement, RigL, Splicing, StraightThrough
from sparsewood.dynamics.base import Dynamics, Memory, Moment
from sparsewood.errors import SparsewoodError
from sparsewood.schedules import Cubic
from sparsewood.train import DynamicPruner, Training, fit

STEPS = 8
WEIGHTS = ("0.weight", "2.weight")


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3))


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, 6, generator=generator), torch.randint(3, (8,), generator=generator)


class SeenRigL(RigL):
    """Notes the gradients that it reads."""

    def update(self, moment: Moment) -> dict[str, Tensor]:
        seen.append({name: gradient.clone() for name, gradient in moment.gradients.items()})
        return super().update(moment)


class SeenMovement(Movement):
    """Notes the gradients that it observes."""

    def observe(self, moment: Moment) -> Memory:
        seen.append({name: gradient.clone() for name, gradient in moment.gradients.items()})
        return super().observe(moment)


seen: list[dict[str, Tensor]] = []


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    seen.clear()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {name: model.get_parameter(name).grad for name in WEIGHTS}
    return {name: gradient.clone() for name, gradient in found.items() if gradient is not None}


def assert_same(ones: list[dict[str, Tensor]], others: list[dict[str, Tensor]]) -> None:
    assert len(ones) == len(others) > 0
    for one, other in zip(ones, others, strict=True):
        assert one.keys() == other.keys()
        for name, tensor in one.items():
            torch.testing.assert_close(tensor, other[name])


# ---------------------------------------------------------------- closures


@pytest.mark.parametrize("keyword", [False, True])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.LBFGS])
def test_with_a_closure_the_gradients_are_those_of_this_step(
    kind: Callable[..., torch.optim.Optimizer], *, keyword: bool
) -> None:
    """Of an optimizer that evaluates it several times, those of the first: at the masked weights."""
    model, true = network(), []
    optimizer = kind(model.parameters(), lr=0.1)
    pruner = DynamicPruner(model, optimizer, SeenRigL(0.5, every=2), steps=STEPS)
    for step in range(STEPS):
        evaluated = []

        def closure() -> Any:
            optimizer.zero_grad()
            loss = cross_entropy(model(batch(step)[0]), batch(step)[1])  # noqa: B023
            loss.backward()
            evaluated.append(gradients(model))  # noqa: B023
            return loss

        optimizer.step(closure=closure) if keyword else optimizer.step(closure)
        pruner.step()
        true.append(evaluated[0])
    assert_same(seen, [true[0], true[2], true[4]])
    assert pruner.finish().sparsity == 0.5


def test_weights_that_learn_out_of_sight_refuse_a_closure() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    DynamicPruner(model, optimizer, Movement(Cubic(0.5), every=2), steps=STEPS)
    with pytest.raises(SparsewoodError, match="was given a closure"):
        optimizer.step(lambda: 0.0)


# ---------------------------------------------------------------- scaled gradients


def scaled(rule: Dynamics, *, fused: bool, skipped: tuple[int, ...] = ()) -> tuple[DynamicPruner, list[dict[str, Any]]]:
    """A training with a GradScaler, and its gradients unscaled by hand; those of skipped steps are infinite."""
    model, true = network(), []
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
    pruner = DynamicPruner(model, optimizer, rule, steps=STEPS)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = cross_entropy(model(batch(step)[0]), batch(step)[1]) * (float("inf") if step in skipped else 1.0)
        scaler.scale(loss).backward()
        true.append({name: gradient / scaler.get_scale() for name, gradient in gradients(model).items()})
        scaler.step(optimizer)
        scaler.update()
        pruner.step()
    return pruner, true


@pytest.mark.parametrize("fused", [False, True])
def test_gradients_of_a_scaled_loss_are_unscaled(*, fused: bool) -> None:
    pruner, true = scaled(SeenMovement(Cubic(0.5), every=2), fused=fused)
    assert_same(seen, true)
    assert pruner.finish().sparsity == 0.5
    seen.clear()
    _, true = scaled(SeenRigL(0.5, every=2), fused=fused)
    assert_same(seen, [true[0], true[2], true[4]])


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_was_skipped_is_not_observed(*, fused: bool) -> None:
    """Also the first, at which masks would be updated: they are not, since nothing was seen yet."""
    pruner, true = scaled(SeenMovement(Cubic(0.5), every=2), fused=fused, skipped=(0, 3))
    assert_same(seen, [true[step] for step in (1, 2, 4, 5, 6, 7)])
    assert pruner.finish().sparsity == 0.5


@pytest.mark.parametrize("fused", [False, True])
def test_an_update_whose_step_was_skipped_leaves_the_masks(*, fused: bool, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        pruner, true = scaled(SeenRigL(0.5, every=2), fused=fused, skipped=(2,))
    assert_same(seen, [true[0], true[4]])
    assert "did not step at step 3 of 8" in caplog.text
    assert pruner.finish().sparsity == 0.5


@pytest.mark.parametrize("rule", [RigL(0.5, every=2), Movement(Cubic(0.5), every=2)], ids=["RigL", "Movement"])
def test_an_optimizer_that_never_steps_is_found_out(rule: Dynamics) -> None:
    model = network()
    pruner = DynamicPruner(model, torch.optim.SGD(model.parameters(), lr=0.1), rule, steps=STEPS)
    for _ in range(STEPS):
        pruner.step()
    with pytest.raises(SparsewoodError, match="did not step once"):
        pruner.finish()


# ---------------------------------------------------------------- parameters


class Parts(nn.Module):
    """Of two experts, only the one of the batch is used."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
        self.out = nn.Linear(6, 3)

    def forward(self, inputs: Tensor, expert: int) -> Tensor:
        return self.out(self.experts[expert](inputs).relu())


@pytest.mark.parametrize("rule", [RigL(0.5), SET(0.5), Movement(), Splicing(s=1.0), StraightThrough()], ids=str)
def test_what_is_not_trained_is_refused(rule: Dynamics) -> None:
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    part = torch.optim.SGD(model[0].parameters(), lr=0.1)
    with pytest.raises(SparsewoodError, match=r"the SGD optimizer does not update '2\.weight'.*exclude"):
        DynamicPruner(model, part, rule, steps=1000)
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(SparsewoodError, match=r"'0\.weight' needs no gradient.*exclude"):
        DynamicPruner(model, optimizer, rule, steps=1000)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    DynamicPruner(model, optimizer, rule, steps=1000, exclude=["0"]).close()


def test_a_part_that_a_step_left_out_has_gradients_of_zero() -> None:
    torch.manual_seed(0)
    model = Parts()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pruner = DynamicPruner(model, optimizer, SeenRigL(0.5, every=1), steps=STEPS)
    for step in range(STEPS):
        optimizer.zero_grad()
        cross_entropy(model(batch(step)[0], step % 2), batch(step)[1]).backward()
        optimizer.step()
        pruner.step()
    assert not seen[0]["experts.1.weight"].any()
    assert seen[1]["experts.1.weight"].any()
    assert pruner.finish().sparsity == 0.5


# ---------------------------------------------------------------- sparse gradients


class Words(nn.Module):
    """An embedding whose gradient is sparse, or not."""

    def __init__(self, *, sparse: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 6, sparse=sparse)
        self.out = nn.Linear(6, 3)
        with torch.no_grad():
            generator = torch.Generator().manual_seed(5)
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def forward(self, words: Tensor) -> Tensor:
        return self.out(self.embedding(words))


def trained_words(rule: Dynamics, make: Callable[[Any], torch.optim.Optimizer], *, sparse: bool) -> nn.Module:
    model = Words(sparse=sparse)
    optimizer = make(model.embedding.parameters())
    pruner = DynamicPruner(model, optimizer, rule, steps=STEPS, include=["embedding"])
    for step in range(STEPS):
        optimizer.zero_grad()
        words = torch.randint(10, (8,), generator=torch.Generator().manual_seed(step))
        cross_entropy(model(words), batch(step)[1]).backward()
        optimizer.step()
        pruner.step()
    assert pruner.finish().sparsity == 0.5
    return model


RULES = [
    RigL(0.5, every=2),
    SET(0.5, every=2),
    Movement(Cubic(0.5), every=2),
    Splicing(sparsity=0.5, every=2),
    StraightThrough(Cubic(0.5), every=2),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_sparse_gradients_prune_as_dense_ones(rule: Dynamics) -> None:
    one, other = (trained_words(rule, lambda p: torch.optim.SGD(p, lr=0.1), sparse=sparse) for sparse in (True, False))
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(tensor, other.state_dict()[name])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_sparse_adam_prunes(rule: Dynamics) -> None:
    trained_words(rule, lambda p: torch.optim.SparseAdam(p, lr=0.1), sparse=True)


# ---------------------------------------------------------------- fit


@pytest.mark.parametrize("rule", [RigL(0.5, every=2), StraightThrough(Cubic(0.5), every=2)], ids=["RigL", "curve"])
def test_fit_takes_masks_or_masks_that_change(rule: Dynamics) -> None:
    """Both together would remove more than either was asked for."""

    def during(model: nn.Module, optimizer: Any, _: int) -> DynamicPruner:
        return DynamicPruner(model, optimizer, rule, steps=STEPS)

    data, training = [batch(step) for step in range(STEPS)], Training(epochs=1, select="last")
    masks = {"0.weight": torch.arange(60).view(10, 6) < 30}
    with pytest.raises(SparsewoodError, match=r"decides what is masked, and fit was given Masks.*Leave masks out"):
        fit(network(), data, training, masks=masks, during=during)
    fitted = fit(network(), data, training, during=during)
    assert fitted.masks is not None
    assert fitted.masks.sparsity == 0.5
