"""Iterative pruning that goes back: to the first weights, to later ones, to new ones."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import sparsewood as sw
from sparsewood.allocation import PerLayer
from sparsewood.recipes import prune_iteratively
from sparsewood.recovery import (
    ConvolutionOrthogonal,
    DeltaOrthogonal,
    FineTune,
    Initializer,
    LayerDefault,
    Normal,
    Original,
    Orthogonal,
    Recovery,
    Reinitialize,
    Rewind,
    Snapshot,
    VarianceScaling,
    snapshot,
)
from sparsewood.schedules import Exponential, Geometric, spaced


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))


def steps(model: nn.Module, masks: sw.Masks, count: int = 3, momentum: float = 0.9) -> None:
    """A training that is the same each time, with all that moves weights which are at zero."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=momentum, weight_decay=1e-3)
    with sw.enforce(model, masks, optimizer):
        for _ in range(count):
            inputs, labels = torch.randn(16, 1, 8, 8, generator=generator), torch.arange(16) % 4
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()
            optimizer.step()


# ---------------------------------------------------------------- to the first weights


@given(st.integers(1, 300), st.data(), st.floats(0, 0.99))
def test_004_10_every_length_and_session_ends_at_the_target(epochs: int, data: st.DataObject, final: float) -> None:
    """Events after every session, n = floor(epochs / session) of them: the last one, too, for which 160 / 20 left 7."""
    session = data.draw(st.integers(1, epochs))
    count = epochs // session
    plan = spaced(Exponential(final)(count), session, session)
    assert [event.step for event in plan] == [session * (k + 1) for k in range(count)]
    assert plan[-1].step <= epochs
    assert plan[-1].amount == sw.Sparsity(final)
    for k, event in enumerate(plan, start=1):
        assert isinstance(event.amount, sw.Sparsity)
        assert math.isclose(event.amount.fraction, 1 - (1 - final) ** (k / count), rel_tol=1e-9, abs_tol=1e-12)


@pytest.mark.parametrize(("epochs", "session", "final"), [(16, 2, 0.4), (7, 1, 0.8), (7, 3, 0.8), (5, 5, 0.33)])
def test_004_10_convolutions_reach_it_exactly_and_start_anew_each_time(epochs: int, session: int, final: float) -> None:
    """Layer by layer; each session begins with the first weights and statistics, and is trained with the masks held."""
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten())
    model.append(nn.Linear(64, 4))
    start = snapshot(model)
    plan = spaced(Exponential(final)(epochs // session), session, session)
    due = {event.step: event.amount.fraction for event in plan if isinstance(event.amount, sw.Sparsity)}
    seen: list[int] = []

    def train(model: nn.Module, masks: sw.Masks) -> None:
        epoch = len(seen)
        seen.append(epoch)
        if epoch in due:
            for name, tensor in model.state_dict().items():
                kept = masks.get(name, torch.tensor(True))
                assert torch.equal(tensor, start[name].where(kept, 0))
            assert {name: int((~mask).sum()) for name, mask in masks.items()} == {
                "0.weight": round(due[epoch] * 72), "3.weight": round(due[epoch] * 288),
            }  # fmt: skip
        steps(model, masks, 1)

    masks = prune_iteratively(
        model, sw.Magnitude(), plan, train, rounds=epochs + 1, recovery=Rewind(),
        options={"scope": PerLayer({"*": None}), "include": nn.Conv2d},
    )  # fmt: skip
    assert seen == list(range(epochs + 1))
    for name in ("0.weight", "3.weight"):
        assert int((model.get_parameter(name) == 0).sum()) == round(final * masks[name].numel())


def lottery(model: nn.Module, names: tuple[str, ...], rounds: int) -> Snapshot:
    """The paper's procedure in plain PyTorch: train, mask a fifth of what is left, set back to the start, train."""
    first = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kept = {name: torch.ones_like(first[name]) for name in names}
    plain_steps(model, kept)
    for _ in range(rounds):
        kept = {name: four_fifths(model.get_parameter(name).detach(), mask) for name, mask in kept.items()}
        model.load_state_dict({name: tensor * kept.get(name, 1) for name, tensor in first.items()})
        plain_steps(model, kept)
    return model.state_dict()


def four_fifths(weight: Tensor, mask: Tensor) -> Tensor:
    left = int(mask.sum())
    order = weight.abs().where(mask == 1, -1).flatten().argsort(descending=True, stable=True)
    return torch.zeros(order.numel()).index_fill(0, order[: left - round(0.2 * left)], 1).view_as(mask)


def plain_steps(model: nn.Module, kept: dict[str, Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        model.zero_grad()
        inputs, labels = torch.randn(16, 1, 8, 8, generator=generator), torch.arange(16) % 4
        nn.functional.cross_entropy(model(inputs), labels).backward()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                assert parameter.grad is not None
                parameter.sub_(0.05 * (parameter.grad + 1e-3 * parameter)).mul_(kept.get(name, torch.tensor(1.0)))


def test_004_11_step_zero_is_the_lottery_ticket() -> None:
    """The same weights, up to rounding, and exactly the same masks."""
    torch.manual_seed(0)
    ours, theirs = network(), network()
    theirs.load_state_dict(ours.state_dict())
    first = snapshot(ours)

    def train(model: nn.Module, masks: sw.Masks) -> None:
        steps(model, masks, momentum=0.0)

    train(ours, sw.Masks({}))
    masks = prune_iteratively(
        ours, sw.Magnitude(), Geometric(0.2)(3), train, recovery=Rewind(), snapshots={0: first},
        options={"protect_classifier": False, "scope": PerLayer({"*": None})},
    )  # fmt: skip
    final = lottery(theirs, ("0.weight", "4.weight"), 3)
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, final[name], rtol=1e-5, atol=1e-6)
    assert sorted(masks) == ["0.weight", "4.weight"]
    for name, mask in masks.items():
        assert torch.equal(mask, final[name] != 0)


def test_004_11_the_snapshot_is_the_same_after_all_rounds() -> None:
    """Every round goes back to it, and none writes into it."""
    model = network()
    states: dict[int, Snapshot] = {}
    for step in range(3):
        states[step] = snapshot(model)
        steps(model, sw.Masks({}), 1)
    before = {step: {name: tensor.clone() for name, tensor in state.items()} for step, state in states.items()}
    prune_iteratively(model, sw.Magnitude(), Geometric(0.3)(4), steps, recovery=Rewind(1), snapshots=states)
    for step, state in states.items():
        assert all(torch.equal(tensor, before[step][name]) for name, tensor in state.items())
        assert not any(tensor.data_ptr() == model.state_dict()[name].data_ptr() for name, tensor in state.items())


# ---------------------------------------------------------------- to other weights


MODES: dict[str, Recovery] = {
    "none": FineTune(),
    "original": Reinitialize(Original()),
    "rewind": Rewind(2),
    "random": Reinitialize(LayerDefault()),
    "normal": Reinitialize(Normal()),
    "variance_scaling": Reinitialize(VarianceScaling()),
    "orthogonal": Reinitialize(Orthogonal()),
    "delta_orthogonal": Reinitialize(DeltaOrthogonal()),
    "convolution_orthogonal": Reinitialize(ConvolutionOrthogonal()),
}


def test_004_12_every_initializer_is_a_mode() -> None:
    tried = {type(mode.how) for mode in MODES.values() if isinstance(mode, Reinitialize)}
    found = set(Initializer.__subclasses__())
    found |= {kind for base in tuple(found) for kind in base.__subclasses__()}
    assert tried == {kind for kind in found if kind.__module__.startswith("sparsewood.") and not kind.__subclasses__()}


@pytest.mark.parametrize("mode", MODES)
def test_004_12_masked_entries_stay_zero_in_every_mode(mode: str) -> None:
    """Before the training of each round and after it; kept weights are what the mode says, and go on from there."""
    torch.manual_seed(0)
    model = network()
    first, later = snapshot(model), snapshot(network())
    steps(model, sw.Masks({}))
    dense = snapshot(model)
    rounds: list[float] = []

    def train(model: nn.Module, masks: sw.Masks) -> None:
        before = model.get_parameter("4.weight").detach().clone()
        assert all(bool((model.get_parameter(name)[~mask] == 0).all()) for name, mask in masks.items())
        known = {"original": first, "rewind": later} | ({} if rounds else {"none": dense})
        same = {key: torch.equal(before, start["4.weight"].where(masks["4.weight"], 0)) for key, start in known.items()}
        assert same == {key: key == mode for key in known}
        steps(model, masks)
        assert all(bool((model.get_parameter(name)[~mask] == 0).all()) for name, mask in masks.items())
        assert not torch.equal(model.get_parameter("4.weight"), before)
        rounds.append(masks.sparsity)

    prune_iteratively(
        model, sw.Magnitude(), Exponential(0.5)(3), train, recovery=MODES[mode], snapshots={0: first, 2: later},
        generator=torch.Generator().manual_seed(1), options={"protect_classifier": False},
    )  # fmt: skip
    assert rounds == pytest.approx([1 - 0.5 ** (k / 3) for k in (1, 2, 3)], abs=1e-3)


@settings(max_examples=10)
@given(st.integers(0, 2**31))
def test_004_12_reinitialized_controls_have_the_masks_and_none_of_the_weights(seed: int) -> None:
    model = nn.Linear(20, 30)
    start = snapshot(model)
    masks = prune_iteratively(
        model, sw.Magnitude(), Exponential(0.7)(1), lambda *_: None, recovery=Reinitialize(),
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    kept = masks["weight"]
    assert masks.removed == 420
    assert float(start["weight"].abs()[kept].min()) >= float(start["weight"].abs()[~kept].max())
    assert not bool((model.weight.detach()[kept] == start["weight"][kept]).any())
