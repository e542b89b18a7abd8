"""Pruner: a Pruning inside a training loop that knows nothing of it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset

from sparsewood import checkpoint
from sparsewood.allocation import ERK, PerLayer, PerRow, Scope
from sparsewood.criteria import LAMP, Criterion, LpNorm, Magnitude, Random, WeightTimesGradient
from sparsewood.errors import SparsewoodError
from sparsewood.granularity import NM, Element, Filter, Granularity, Kernel
from sparsewood.masks import enforce
from sparsewood.pruning import Pruning, prune
from sparsewood.recovery import Rewind
from sparsewood.schedules import Cubic, Event, Geometric, Linear, OneShot, Plan, RNNRamp, RoundRobin, Schedule, Soft
from sparsewood.seeds import derive
from sparsewood.state import TrainingState, capture, restore
from sparsewood.train.pruner import Pruner, innermost_optimizer
from sparsewood.types import Count, Masks, Sparsity

MakeOptimizer = Callable[..., Optimizer]

OPTIMIZERS: dict[str, MakeOptimizer] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}


def net() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 3))


def convnet() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32, 3),
    )


def batches(count: int = 4, shape: tuple[int, ...] = (6,)) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(8, *shape, generator=generator), torch.randint(3, (8,), generator=generator)) for _ in range(count)
    ]


def sgd(model: nn.Module) -> Optimizer:
    return OPTIMIZERS["sgd"](model.parameters())


def train_step(model: nn.Module, optimizer: Any, step: int, data: list[tuple[Tensor, Tensor]]) -> None:
    inputs, labels = data[step % len(data)]
    optimizer.zero_grad()
    cross_entropy(model(inputs), labels).backward()
    optimizer.step()


def run(
    model: nn.Module,
    pruner: Pruner,
    optimizer: Any,
    steps: range,
    *,
    data: list[tuple[Tensor, Tensor]] | None = None,
    after: Callable[[int], None] = lambda _: None,
) -> None:
    for step in steps:
        train_step(model, optimizer, step, data or batches())
        pruner.step()
        after(step)


def removed(model: nn.Module, masks: Masks) -> int:
    """How many masked entries are exactly +0.0; all others must not be."""
    count = 0
    for name, parameter in model.named_parameters():
        if name in masks:
            masked = parameter[~masks[name]]
            assert (masked == 0).all()
            assert not torch.signbit(masked).any()
            assert (parameter[masks[name]] != 0).all()
            count += masked.numel()
    return count


# ---------------------------------------------------------------- when


def test_events_take_place_before_their_steps() -> None:
    """[004-34] 0 -> 0.9 in 10 events: the closed form of automated gradual pruning, of 140 weights."""
    model = net()
    optimizer = sgd(model)
    pruner = Pruner(model, optimizer, Pruning(schedule=Cubic(0.9), rounds=10, unit="step", start=3, every=2))
    seen = []
    run(model, pruner, optimizer, range(23), after=lambda _: seen.append(pruner.masks.removed))
    shares = [0.9 * (1 - (1 - i / 10) ** 3) for i in range(11)]
    # seen[s] is what holds in training step s + 1; event i (from 1) comes before step 1 + 2 i.
    assert seen == [round(140 * shares[min(10, max(0, step // 2))]) for step in range(23)]
    assert pruner.finish().removed == 126


def test_events_of_step_0_take_place_at_once() -> None:
    model = net()
    pruner = Pruner(model, sgd(model), Pruning(schedule=OneShot(0.5)))
    assert pruner.done
    assert removed(model, pruner.masks) == 70
    assert pruner.finish() == prune(net(), Magnitude(), 0.5)


def test_one_shot_at_start_in_units_of_rounds() -> None:
    model = net()
    optimizer = sgd(model)
    pruner = Pruner(model, optimizer, Pruning(schedule=OneShot(0.5), start=2))
    run(model, pruner, optimizer, range(1))
    assert (pruner.sparsity, pruner.done, pruner.steps) == (0.0, False, 1)
    dense = copy.deepcopy(model)
    run(model, pruner, optimizer, range(1, 2))
    train_step(dense, state_of(optimizer, dense), 1, batches())
    assert (pruner.sparsity, pruner.done, pruner.steps) == (0.5, True, 2)
    # Chosen by the weights after two steps, not before.
    assert pruner.masks == prune(dense, Magnitude(), 0.5)


def state_of(optimizer: Optimizer, model: nn.Module) -> Optimizer:
    """The same optimizer for a copy of the model."""
    copied = sgd(model)
    copied.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return copied


def test_units_of_epochs() -> None:
    model = net()
    pruning = Pruning(schedule=Linear(0.6), rounds=3, unit="epoch", start=1)
    pruner = Pruner(model, sgd(model), pruning, steps_per_epoch=4)
    assert [event.step for event in pruner.events] == [4, 8, 12]
    optimizer = sgd(model)
    pruner = Pruner(model, optimizer, pruning, steps_per_epoch=4)
    seen = []
    run(model, pruner, optimizer, range(13), after=lambda _: seen.append(pruner.sparsity))
    assert seen == [0.0] * 3 + [0.2] * 4 + [0.4] * 4 + [0.6] * 2


def test_several_layers_in_one_step_and_one_after_the_other() -> None:
    """Layers in turn, each by its own amount."""
    turns = RoundRobin((("0", 0.5, 0.25), ("4", 0.75, 0.75)))
    model = net()
    optimizer = sgd(model)
    pruner = Pruner(model, optimizer, Pruning(schedule=turns, rounds=turns.fixed_rounds, unit="step"))
    seen = [pruner.masks.layer_sparsity()]
    run(model, pruner, optimizer, range(2), after=lambda _: seen.append(pruner.masks.layer_sparsity()))
    assert seen == [
        {"0.weight": 0.25},
        {"0.weight": 0.25, "4.weight": 0.75},
        {"0.weight": 0.5, "4.weight": 0.75},
    ]
    assert removed(model, pruner.finish()) == 30 + 18


@dataclass(frozen=True)
class Fixed(Schedule):
    plan: Plan

    def __call__(self, rounds: int) -> Plan:
        del rounds
        return self.plan


def test_several_events_of_one_step() -> None:
    model = net()
    both = Fixed((Event(0, Sparsity(0.5), ("0",)), Event(0, Count(6), ("2",))))
    with Pruner(model, sgd(model), Pruning(schedule=both, unit="step")) as pruner:
        assert {name: int((~mask).sum()) for name, mask in pruner.masks.items()} == {"0.weight": 30, "2.weight": 6}


def test_thresholds_of_the_rnn_ramp_on_an_lstm() -> None:
    """[004-35] Works on recurrent weights; what is below the threshold goes."""
    torch.manual_seed(0)
    model = nn.LSTM(4, 6)
    optimizer = sgd(model)
    ramp = RNNRamp(0.2, start=1, ramp=3, end=5)
    pruner = Pruner(model, optimizer, Pruning(schedule=ramp, rounds=5, unit="step", start=1, protect_classifier=False))
    sparsities = []
    for _ in range(6):
        optimizer.zero_grad()
        model(torch.ones(3, 2, 4))[0].sum().backward()
        optimizer.step()
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        earlier, step = pruner.masks, pruner.steps + 1
        pruner.step()
        if 1 <= step <= 5:
            expected = {name: before[name].abs() >= ramp.at(step) for name in pruner.masks}
            assert pruner.masks == Masks(expected) & earlier
        sparsities.append(pruner.sparsity)
    assert sparsities == sorted(sparsities)
    assert sparsities[-1] > sparsities[0] > 0
    removed(model, pruner.finish())


# ---------------------------------------------------------------- zeros


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_masked_weights_are_zero_after_every_step(name: str) -> None:
    """[004-42, 7.1, 7.8] And so are the optimizer's memories of them; masks only ever grow [7.10]."""
    model = net()
    optimizer = OPTIMIZERS[name](model.parameters())
    pruner = Pruner(model, optimizer, Pruning(schedule=Cubic(0.8), rounds=3, unit="step", start=1, every=2))
    earlier = pruner.masks

    def check(_: int) -> None:
        nonlocal earlier
        assert removed(model, pruner.masks) == pruner.masks.removed
        assert earlier & pruner.masks == pruner.masks
        earlier = pruner.masks
        for parameter, mask in zip((model[0].weight, model[2].weight), pruner.masks.values(), strict=False):
            moments = [m for m in optimizer.state[parameter].values() if m.shape == mask.shape]
            assert moments
            assert all((moment[~mask] == 0).all() for moment in moments)

    run(model, pruner, optimizer, range(9), after=check)
    assert pruner.finish().removed == 112


def test_after_finish_nothing_is_held_and_nothing_left_behind() -> None:
    model = net()
    optimizer = sgd(model)
    pruner = Pruner(model, optimizer, Pruning(schedule=OneShot(0.5)))
    run(model, pruner, optimizer, range(2))
    masks = pruner.finish()
    assert pruner.finish() == masks == pruner.masks
    assert not optimizer._optimizer_step_post_hooks
    assert all("mask" not in name for name in model.state_dict())
    train_step(model, optimizer, 0, batches())
    assert model[0].weight[~masks["0.weight"]].any()
    with pytest.raises(SparsewoodError, match="This pruner was finished"):
        pruner.step()


CRITERIA: list[tuple[Criterion, dict[str, Any]]] = [
    (Magnitude(), {}),
    (LAMP(), {}),
    (Random(), {}),
    (LpNorm(2), {}),
    (WeightTimesGradient(), {"data": batches(shape=(2, 4, 4)), "loss": cross_entropy}),
]


@pytest.mark.parametrize(("criterion", "options"), CRITERIA, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("granularity", [Element(), Kernel(), Filter()], ids=str)
@pytest.mark.parametrize("scope", [None, PerLayer(), PerLayer(ERK())], ids=str)
def test_gradual_pruning_goes_with_every_criterion_and_unit(
    criterion: Criterion, options: dict[str, Any], granularity: Granularity, scope: Scope | None
) -> None:
    """[004-34] And hits the target exactly: convolutions of 16 and 64 kernels in 8 and 8 filters."""
    model = convnet()
    optimizer = sgd(model)
    extra: dict[str, Any] = {} if scope is None else {"scope": scope}
    pruning = Pruning(
        criterion, Cubic(0.5), granularity=granularity, rounds=3, unit="step", include=("0", "3"), **extra
    )
    pruner = Pruner(model, optimizer, pruning, **options)
    run(model, pruner, optimizer, range(3), data=batches(shape=(2, 4, 4)))
    masks = pruner.finish()
    assert removed(model, masks) == masks.removed
    if isinstance(granularity, Filter):
        assert sum(int((~mask.flatten(1).any(1)).sum()) for mask in masks.values()) == 8
    elif isinstance(granularity, Kernel):
        assert sum(int((~mask.flatten(2).any(2)).sum()) for mask in masks.values()) == 40
    else:
        assert masks.removed == 360


@pytest.mark.parametrize("fields", [{"granularity": NM(2, 4)}, {"scope": PerRow()}], ids=["nm", "rows"])
def test_patterns_and_rows(fields: dict[str, Any]) -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 4), nn.Linear(4, 8))
    optimizer = sgd(model)
    pruner = Pruner(model, optimizer, Pruning(schedule=OneShot(0.5), start=1, unit="step", **fields))
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(2, 8)).square().sum().backward()
        optimizer.step()
        pruner.step()
    masks = pruner.finish()
    assert [mask.flatten(0, -2).sum(1).unique().tolist() for mask in masks.values()] == [[4], [2]]
    assert removed(model, masks) == 24


def test_earlier_masks_hold_from_the_start() -> None:
    model = net()
    optimizer = sgd(model)
    earlier = prune(model, Magnitude(), 0.25)
    pruner = Pruner(model, optimizer, Pruning(schedule=OneShot(0.5), unit="step", start=2), masks=earlier)
    run(model, pruner, optimizer, range(1))
    assert pruner.masks == earlier
    assert removed(model, earlier) == 35
    run(model, pruner, optimizer, range(1, 3))
    assert pruner.masks.removed == 70
    assert pruner.masks & earlier == pruner.finish()


def test_closures_and_skipped_steps_count_as_calls() -> None:
    model = net()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)
    pruner = Pruner(model, optimizer, Pruning(schedule=OneShot(0.5), unit="step", start=1))
    inputs, labels = batches(1)[0]

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(model(inputs), labels)
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    pruner.step()
    optimizer.step(closure)  # type: ignore[arg-type]
    pruner.step()
    pruner.step()  # a step that a GradScaler left out
    assert (pruner.steps, removed(model, pruner.finish())) == (3, 70)


# ---------------------------------------------------------------- soft pruning


def test_soft_filters_may_come_back_and_the_last_event_holds() -> None:
    """[004-07] A zeroed filter becomes nonzero before the end; at the end exactly half of the filters are gone."""
    model = convnet()
    optimizer = sgd(model)
    pruning = Pruning(
        LpNorm(2), Soft(OneShot(0.5)), PerLayer(), Filter(), rounds=4, unit="epoch", include=("0.weight", "3.weight")
    )
    pruner = Pruner(model, optimizer, pruning, steps_per_epoch=4)
    first = pruner.masks
    assert (pruner.sparsity, removed(model, first)) == (0.5, first.removed)
    run(model, pruner, optimizer, range(1), data=batches(shape=(2, 4, 4)))
    back = [name for name, p in model.named_parameters() if name in first and p[~first[name]].any()]
    assert back == ["0.weight", "3.weight"]
    assert pruner.masks == first  # what the last event chose
    run(model, pruner, optimizer, range(1, 14), data=batches(shape=(2, 4, 4)))
    masks = pruner.finish()
    assert [int(mask.flatten(1).any(1).sum()) for mask in masks.values()] == [4, 4]
    assert removed(model, masks) == masks.removed == first.removed


def test_soft_events_may_choose_others() -> None:
    model = nn.Linear(4, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0, 3.0, 4.0]]))
    pruner = Pruner(model, optimizer, Pruning(schedule=Soft(OneShot(0.5)), rounds=3, unit="step"))
    assert model.weight.tolist() == [[0.0, 0.0, 3.0, 4.0]]
    for gradient in ([-5.0, -6.0, 0.0, 0.0], [0.0, 4.0, -7.0, 0.0]):
        model.weight.grad = torch.tensor([gradient])
        optimizer.step()
        pruner.step()
    # 5 6 3 4 -> 5 6 0 0 -> 5 2 7 0 -> 5 0 7 0
    assert pruner.finish()["weight"].tolist() == [[True, False, True, False]]
    assert model.weight.tolist() == [[5.0, 0.0, 7.0, 0.0]]


def test_soft_events_leave_what_is_held_elsewhere() -> None:
    model = net()
    optimizer = sgd(model)
    plan = (
        Event(0, Sparsity(0.5), ("0",)),
        Event(1, Sparsity(0.5), ("2",), regrow=True),
        Event(3, Sparsity(0.5), ("2",)),
    )
    pruner = Pruner(model, optimizer, Pruning(schedule=Fixed(plan), unit="step"))
    run(model, pruner, optimizer, range(1))
    assert pruner.masks.layer_sparsity() == {"0.weight": 0.5, "2.weight": 0.5}
    assert int((model[2].weight == 0).sum()) == 40
    run(model, pruner, optimizer, range(1, 2))
    assert int((model[2].weight == 0).sum()) == 0
    assert int((model[0].weight == 0).sum()) == 30
    run(model, pruner, optimizer, range(2, 4))
    assert removed(model, pruner.finish()) == 70


def test_a_plan_that_ends_softly() -> None:
    plan = Fixed((Event(0, Sparsity(0.5), regrow=True),))
    with pytest.raises(SparsewoodError, match="ends softly"):
        Pruner(net(), sgd(net()), Pruning(schedule=plan))


# ---------------------------------------------------------------- what goes wrong


def test_a_training_that_is_too_short() -> None:
    model = net()
    optimizer = sgd(model)
    pruner = Pruner(model, optimizer, Pruning(schedule=Linear(0.8), rounds=4, unit="step", start=2, every=3))
    run(model, pruner, optimizer, range(7))
    with pytest.raises(
        SparsewoodError,
        match=r"2 of 4 events did not take place, those before training step 8, 11: only 7 steps .* at least 11 steps",
    ):
        pruner.finish()
    run(model, pruner, optimizer, range(7, 11))  # it may go on
    assert pruner.finish().removed == 112


def other_optimizer(model: nn.Sequential) -> None:
    train_step(model, torch.optim.SGD(model.parameters(), lr=0.1), 0, batches())


def loaded(model: nn.Sequential) -> None:
    model.load_state_dict(net().state_dict())


def replaced(model: nn.Sequential) -> None:
    model[0].weight = nn.Parameter(torch.ones(10, 6))


@pytest.mark.parametrize("wrong", [other_optimizer, loaded, replaced])
def test_zeros_that_do_not_hold(wrong: Callable[[nn.Sequential], None]) -> None:
    """[7.1, 7.8] Seen at the next event, when a state is made, and at the end; the parameter is named."""
    model = net()
    optimizer = sgd(model)
    pruning = Pruning(schedule=Linear(0.6), rounds=2, unit="step", every=2, include=("0",))
    pruner = Pruner(model, optimizer, pruning)
    run(model, pruner, optimizer, range(1))
    wrong(model)
    message = r"18 of 18 masked entries of '0.weight' are not zero at step 1"
    with pytest.raises(SparsewoodError, match=message):
        pruner.state()
    with pytest.raises(SparsewoodError, match=r"'0.weight' are not zero at step 2"):
        pruner.step()
    pruner.close()


def test_zeros_that_do_not_hold_at_the_end() -> None:
    model = net()
    pruner = Pruner(model, sgd(model), Pruning(schedule=OneShot(0.5)))
    loaded(model)
    with pytest.raises(SparsewoodError, match=r"of '0.weight' are not zero at step 0"):
        pruner.finish()


@pytest.mark.parametrize(
    ("pruning", "options", "message"),
    [
        (
            Pruning(schedule=Linear(0.5), rounds=3),
            {},
            "with unit 'round' each of the 3 events has a training of its own",
        ),
        (Pruning(unit="epoch"), {}, "unit 'epoch' needs steps_per_epoch"),
        (Pruning(recovery=Rewind()), {}, r"recovery must be FineTune\(\). Got Rewind"),
        (Pruning(WeightTimesGradient()), {}, "needs data"),
        (Pruning(), {"seed": -1}, "A seed must be a whole number >= 0"),
        (OneShot(0.5), {}, "Pruner needs a Pruning"),
        (Pruning(), {"masks": {"9.weight": torch.ones(1).bool()}}, "9.weight"),
    ],
)
def test_what_cannot_be_carried_out(pruning: Any, options: dict[str, Any], message: str) -> None:
    model = net()
    optimizer = sgd(model)
    with pytest.raises(SparsewoodError, match=message):
        Pruner(model, optimizer, pruning, **options)
    assert not optimizer._optimizer_step_post_hooks


def test_an_event_that_fails_leaves_no_hook() -> None:
    model = net()
    optimizer = sgd(model)
    with pytest.raises(SparsewoodError, match="conv9"):
        Pruner(model, optimizer, Pruning(include=("conv9",)))
    assert not optimizer._optimizer_step_post_hooks


def test_the_optimizer_of_another_model() -> None:
    with pytest.raises(SparsewoodError, match="updates none of the"):
        Pruner(net(), sgd(net()), Pruning())


def test_as_a_context() -> None:
    model = net()
    optimizer = sgd(model)
    with Pruner(model, optimizer, Pruning(schedule=OneShot(0.5), unit="step", start=2)) as pruner:
        run(model, pruner, optimizer, range(3))
    assert pruner.sparsity == 0.5
    with (
        pytest.raises(SparsewoodError, match="1 of 1 events did not take place"),
        Pruner(net(), sgd(model), Pruning(schedule=OneShot(0.5), unit="step", start=2)),
    ):
        pass
    with pytest.raises(KeyError, match="mine"), Pruner(model, optimizer, Pruning(schedule=OneShot(0.5), start=2)):
        raise KeyError("mine")
    assert not optimizer._optimizer_step_post_hooks


def test_repr() -> None:
    model = net()
    pruner = Pruner(model, sgd(model), Pruning(schedule=Linear(0.5), rounds=2, unit="step", every=9))
    assert repr(pruner).startswith("Pruner(0 steps done, 1 of 2 events, Masks(2 tensors, 35 of 140 removed")
    pruner.close()


# ---------------------------------------------------------------- going on


SETTINGS = {
    "magnitude": Pruning(schedule=Cubic(0.8), rounds=4, unit="step", every=3),
    "random": Pruning(Random(), Linear(0.8), rounds=4, unit="step", every=3),
    "soft": Pruning(Random(), Soft(Linear(0.8)), rounds=4, unit="step", every=3),
    "data": Pruning(WeightTimesGradient(), Linear(0.8), rounds=4, unit="step", every=3),
}


def scoring_data() -> DataLoader[Any]:
    """Batches in an order that is drawn from the global random state."""
    inputs, labels = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    return DataLoader(TensorDataset(inputs, labels), batch_size=4, shuffle=True)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("cut", [0, 1, 5, 6, 11])
def test_a_training_that_was_cut_goes_on_bit_for_bit(name: str, cut: int, tmp_path: Path) -> None:
    """[7.8] Through a file; sparsity and zeros are as they were."""
    options: dict[str, Any] = {"seed": 3, "data": scoring_data(), "loss": cross_entropy}
    whole, model = net(), net()
    optimizer, broken = sgd(whole), sgd(model)
    pruner = Pruner(whole, optimizer, SETTINGS[name], **options)
    run(whole, pruner, optimizer, range(12))
    expected = pruner.finish()

    pruner = Pruner(model, broken, SETTINGS[name], **options)
    run(model, pruner, broken, range(cut))
    tensors, values = pruner.state()
    capture(model, broken, step=cut, extra_tensors=tensors, values={"pruner": values}).save(tmp_path / "state")

    state = TrainingState.load(tmp_path / "state")
    model = net()
    optimizer = sgd(model)
    restore(state, model, optimizer)
    torch.manual_seed(99)  # no random state is saved
    before = torch.get_rng_state()
    pruner = Pruner(model, optimizer, SETTINGS[name], state=(state.tensors, state.values["pruner"]), **options)
    run(model, pruner, optimizer, range(cut, 12))
    assert pruner.finish() == expected
    assert all(torch.equal(value, whole.state_dict()[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), before)  # scoring left no trace on it


@pytest.mark.parametrize("weights_first", [True, False])
def test_load_into_a_pruner_that_exists(weights_first: bool) -> None:
    model = net()
    optimizer = sgd(model)
    pruner = Pruner(model, optimizer, SETTINGS["random"])
    run(model, pruner, optimizer, range(7))
    tensors, values = pruner.state()
    values = json.loads(json.dumps(values))
    weights, memory = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    run(model, pruner, optimizer, range(7, 12))

    again = net()
    optimizer = sgd(again)
    other = Pruner(again, optimizer, SETTINGS["random"])
    if weights_first:
        again.load_state_dict(weights)
        optimizer.load_state_dict(memory)
        other.load(tensors, values)
    else:
        other.load(tensors, values)
        again.load_state_dict(weights)
        optimizer.load_state_dict(memory)
    assert (other.steps, len(other.events)) == (7, 1)
    run(again, other, optimizer, range(7, 12))
    assert other.finish() == pruner.finish()
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


def test_the_state_is_small_and_plain() -> None:
    model = net()
    pruner = Pruner(model, sgd(model), SETTINGS["soft"])
    tensors, values = pruner.state()
    assert {name: tensor.dtype for name, tensor in tensors.items()} == {
        "mask/0.weight": torch.bool,
        "mask/2.weight": torch.bool,
    }
    assert values["soft"] == ["0.weight", "2.weight"]
    assert checkpoint.digest(tensors, values)
    tensors["mask/0.weight"].zero_()
    assert pruner.sparsity == 0.2


def test_random_choices_follow_from_the_seed() -> None:
    def chosen(seed: int) -> Masks:
        model = net()
        return Pruner(model, sgd(model), Pruning(Random(), OneShot(0.5)), seed=seed).finish()

    assert chosen(1) == chosen(1) != chosen(2)


def test_each_event_draws_anew() -> None:
    """Event i from derive(seed, "prune", i): here without training, so that the weights say nothing."""
    model, pruning = net(), Pruning(Random(), Linear(0.6), rounds=2, unit="step")
    pruner, expected = Pruner(model, sgd(model), pruning, seed=4), Masks({})
    pruner.step()
    for i, event in enumerate(pruning.plan):
        generator = torch.Generator().manual_seed(derive(4, "prune", i))
        expected = pruning.choose(model, event, expected, generator=generator)
    assert pruner.finish() == expected


def test_earlier_masks_that_no_longer_held_do_not_come_back() -> None:
    model = net()
    optimizer = sgd(model)
    earlier = {"0.weight": torch.zeros(10, 6).bool()}
    plan = Fixed((Event(1, Sparsity(0.5), ("0",), regrow=True), Event(3, Sparsity(0.5), ("0",))))
    pruner = Pruner(model, optimizer, Pruning(schedule=plan, unit="step"), masks=earlier)
    run(model, pruner, optimizer, range(2))
    before = copy.deepcopy(model.state_dict())
    assert before["0.weight"].all()
    again = Pruner(model, optimizer, Pruning(schedule=plan, unit="step"), masks=earlier, state=pruner.state())
    assert torch.equal(model[0].weight, before["0.weight"])
    assert again.masks == pruner.masks
    again.close()


@pytest.mark.parametrize(
    ("pruning", "seed", "message"),
    [
        (SETTINGS["random"], 1, "its seed is 0, here it is 1"),
        (
            Pruning(Random(), Linear(0.9), rounds=4, unit="step", every=3),
            0,
            r"its plan is .*0\.2.*, here it is .*0\.225",
        ),
        (Pruning(Random(), Linear(0.8), rounds=4, unit="step", every=2), 0, r"its plan is .*9.*, here it is .*6"),
    ],
)
def test_the_state_of_another_pruning(pruning: Pruning, seed: int, message: str) -> None:
    model = net()
    state = Pruner(model, sgd(model), SETTINGS["random"]).state()
    with pytest.raises(SparsewoodError, match=message):
        Pruner(net(), sgd(net()), pruning, seed=seed, state=state)


def test_a_state_with_the_weights_of_another_moment() -> None:
    """A state that is given for weights that do not have its zeros."""
    model = net()
    optimizer = sgd(model)
    pruner = Pruner(model, optimizer, SETTINGS["random"])
    run(model, pruner, optimizer, range(2))
    state = pruner.state()
    other = net()
    optimizer = sgd(other)
    with pytest.raises(SparsewoodError, match=r"masked entries of '0.weight' are not zero"):
        Pruner(other, optimizer, SETTINGS["random"], state=state)
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), net().parameters(), strict=True))


# ---------------------------------------------------------------- wrapped optimizers


def test_optimizers_inside_wrappers() -> None:
    plain = sgd(net())
    fabric = Fabric(accelerator="cpu", devices=1)
    model = net()
    inner = sgd(model)
    _, wrapped = fabric.setup(model, inner)
    assert innermost_optimizer(plain) is plain
    assert innermost_optimizer(wrapped) is inner
    for wrong in (None, "sgd", net()):
        with pytest.raises(SparsewoodError, match=r"Pruner needs the optimizer that trains the model\. Got"):
            innermost_optimizer(wrong)


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    yield Accelerator(cpu=True)
    AcceleratorState._reset_state(reset_partial_state=True)


def test_accelerate(accelerator: Accelerator) -> None:
    model = net()
    inner = sgd(model)
    wrapped = accelerator.prepare_optimizer(inner)
    assert innermost_optimizer(wrapped) is inner is not wrapped
    pruner = Pruner(model, wrapped, Pruning(schedule=OneShot(0.5), unit="step", start=1))
    run(model, pruner, wrapped, range(4))
    assert removed(model, pruner.finish()) == 70


def test_fabric_trains_the_same() -> None:
    def trained(wrap: bool) -> tuple[Masks, list[Tensor]]:
        model = net()
        optimizer: Any = sgd(model)
        called: Any = model
        if wrap:
            called, optimizer = Fabric(accelerator="cpu", devices=1).setup(model, optimizer)
        pruner = Pruner(model, optimizer, SETTINGS["magnitude"])
        run(called, pruner, optimizer, range(10))
        return pruner.finish(), [parameter.detach() for parameter in model.parameters()]

    (plain, weights), (wrapped, same) = trained(False), trained(True)
    assert plain == wrapped
    assert all(torch.equal(a, b) for a, b in zip(weights, same, strict=True))


def test_beside_another_keeper() -> None:
    """Masks that somebody else holds on the same optimizer."""
    model = net()
    optimizer = sgd(model)
    enforce(model, {"4.weight": torch.zeros(3, 8).bool()}, optimizer)
    pruner = Pruner(model, optimizer, Pruning(schedule=Geometric(0.5), rounds=2, unit="step"))
    run(model, pruner, optimizer, range(3))
    assert pruner.finish().removed == 105
    assert not model[4].weight.any()
