"""Cutting a training and going on: bit for bit. Requirements 004-10 (snapshots, rewinding), 7.12, 7.24."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from sparsewood.data import Loader, digits
from sparsewood.errors import SparsewoodError
from sparsewood.pruning import Pruning
from sparsewood.schedules import Cubic
from sparsewood.seeds import derive, generator_for
from sparsewood.state import TrainingState, restore
from sparsewood.train import SGD, Adam, AdamW, Fitted, Step, Training, fit
from sparsewood.train.pruner import Pruner

EPOCHS = 4


class Data:
    """Batches whose order follows from the number of the epoch, as a `Loader`'s does; notes what was asked for."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.inputs, self.labels = torch.randn(22, 6, generator=generator), torch.randint(3, (22,), generator=generator)
        self.asked: list[tuple[int, int]] = []

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("epoch() is what such data are read by")

    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        self.asked.append((number, start))
        order = torch.randperm(22, generator=generator_for(0, "order", number))
        for indices in order.split(8)[start:]:
            yield self.inputs[indices], self.labels[indices]


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Dropout(0.3), nn.Linear(10, 3))


def pruner(model: nn.Module, optimizer: torch.optim.Optimizer, per_epoch: int) -> Pruner:
    pruning = Pruning(schedule=Cubic(0.75), rounds=3, unit="step", start=2, every=2)
    return Pruner(model, optimizer, pruning, steps_per_epoch=per_epoch)


KINDS: dict[str, tuple[Training, dict[str, Any]]] = {
    "momentum": (Training(EPOCHS, optimizer=SGD(0.1, weight_decay=1e-3)), {}),
    "adam": (Training(EPOCHS, optimizer=Adam(0.01), rate=Step(every=1, factor=0.5)), {}),
    "adamw": (Training(EPOCHS, optimizer=AdamW(0.01), clip_norm=0.1, select="last"), {}),
    "mixup": (Training(EPOCHS, mixup=0.4, label_smoothing=0.1), {}),
    "masks": (Training(EPOCHS), {"masks": {"0.weight": torch.rand(10, 6, generator=generator_for(1)) > 0.5}}),
    "pruner": (Training(EPOCHS, mixup=0.4), {"during": pruner}),
}


def trained(name: str, model: nn.Module | None = None, **options: Any) -> tuple[nn.Module, Fitted]:
    training, more = KINDS[name]
    model = network() if model is None else model
    held_out = [(Data().inputs, Data().labels)]
    return model, fit(model, Data(), training, seed=3, validation=held_out, **more, **options)


def same(first: nn.Module, second: nn.Module) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("name", KINDS)
def test_a_cut_at_any_epoch_changes_nothing(name: str, tmp_path: Path) -> None:
    """[7.24] Weights, buffers, history, chosen epoch: equal, from states that went through a file."""
    states: list[TrainingState] = []
    model, whole = trained(name, on_checkpoint=states.append)
    assert [state.step for state in states] == [3, 6, 9]
    for state in states:
        state.save(tmp_path / "state")
        other = network()
        nn.init.normal_(other[0].weight)  # all must come from the state
        torch.manual_seed(state.step)
        again: list[TrainingState] = []
        other, rest = trained(name, other, state=TrainingState.load(tmp_path / "state"), on_checkpoint=again.append)
        assert same(model, other)
        assert rest == whole
        expected = [later.fingerprint() for later in states if later.step > state.step]
        assert [later.fingerprint() for later in again] == expected


@pytest.mark.parametrize("name", KINDS)
def test_a_cut_in_the_middle_of_an_epoch_changes_nothing(name: str) -> None:
    """Snapshots can be gone on from as well, and those that are passed again are equal."""
    states: list[TrainingState] = []
    model, whole = trained(name, snapshots=(0, 1, 5, 12), on_snapshot=states.append)
    assert [state.step for state in states] == [0, 1, 5, 12]
    for number, state in enumerate(states):
        again: list[TrainingState] = []
        other, rest = trained(name, state=state, snapshots=(0, 1, 5, 12), on_snapshot=again.append)
        assert same(model, other)
        assert rest == whole
        assert [later.fingerprint() for later in again] == [later.fingerprint() for later in states[number:]]


def test_states_are_copies() -> None:
    """[7.12] Training on does not change a state, nor does going on from it."""
    states: list[TrainingState] = []
    prints: list[str] = []

    def keep(state: TrainingState) -> None:
        states.append(state)
        prints.append(state.fingerprint())

    model, _ = trained("pruner", on_checkpoint=keep)
    trained("pruner", model, state=states[0])
    assert [state.fingerprint() for state in states] == prints
    assert len(set(prints)) == 3


def test_a_snapshot_is_the_training_as_it_was_then() -> None:
    """Step 0 is before the first step, step k after k: the weights that a training of k steps ends with."""
    states: list[TrainingState] = []
    trained("momentum", snapshots=(0, 5), on_snapshot=states.append)
    assert all(torch.equal(states[0].part("model")[n], t) for n, t in network().state_dict().items())
    short = network()
    stop: list[TrainingState] = []

    def until(progress: Any) -> None:
        if progress.step == 5:
            stop.append(TrainingState({}, {"step": 5}))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained("momentum", short, on_batch=until)
    assert all(torch.equal(states[1].part("model")[n], t) for n, t in short.state_dict().items())


def test_rewinding_brings_back_order_and_randomness() -> None:
    """[004-10] From the weights and the optimizer of step k on, the steps after k are those of the first training."""
    states: list[TrainingState] = []
    model, whole = trained("mixup", snapshots=(4,), on_snapshot=states.append)
    other = network()
    restore(states[0], other)
    data = Data()
    training, _ = KINDS["mixup"]
    held_out = [(Data().inputs, Data().labels)]
    rest = fit(other, data, training, seed=3, validation=held_out, first_step=4, optimizer_state=states[0])
    assert data.asked == [(1, 1), (2, 0), (3, 0)]
    assert rest.history.epochs[1:] == whole.history.epochs[2:]
    assert [epoch.number for epoch in rest.history.epochs] == [2, 3, 4]
    if whole.history.chosen > 1:
        assert same(model, other)
    # Without the optimizer's memory it is another training.
    third = network()
    restore(states[0], third)
    fresh = fit(third, Data(), training, seed=3, validation=held_out, first_step=4)
    assert fresh.history.epochs[1:] != whole.history.epochs[2:]


def test_an_optimizers_memory_has_no_gradients_of_removed_weights() -> None:
    """Given back with masks in force, the memory of masked entries is zero like the entries."""
    states: list[TrainingState] = []
    trained("momentum", snapshots=(6,), on_snapshot=states.append)
    mask = torch.rand(10, 6, generator=generator_for(2)) > 0.5
    model = network()
    restore(states[0], model)
    training, _ = KINDS["momentum"]
    seen: list[TrainingState] = []
    fit(
        model,
        Data(),
        training,
        masks={"0.weight": mask},
        optimizer_state=states[0],
        first_step=6,
        snapshots=(6,),
        on_snapshot=seen.append,
    )
    weight = next(name for name, t in seen[0].tensors.items() if name.startswith("optimizer/") and t.shape == (10, 6))
    assert torch.equal(seen[0].tensors[weight] != 0, mask)


def test_checkpoints_come_every_so_many_epochs_and_not_at_the_end() -> None:
    steps: list[int] = []
    for every in (2, 3, 5):
        trained("momentum", checkpoint_every=every, on_checkpoint=lambda state: steps.append(state.step))
    assert steps == [6, 9]


def test_fewer_or_more_steps_than_epochs_say() -> None:
    """The schedule ends where the training does; a last epoch that is cut short counts as one."""
    _, fitted = trained("momentum", steps=7)
    assert fitted.steps == 7
    assert [epoch.number for epoch in fitted.history.epochs] == [1, 2, 3]
    assert fitted.history.epochs[-1].rate == pytest.approx(0.1 * (1 + torch.cos(torch.tensor(6 / 7 * torch.pi))) / 2)
    assert trained("momentum", steps=15)[1].steps == 15


def test_data_without_epochs_go_on_as_well() -> None:
    """A DataLoader with workers' transforms, dropout and a shuffled order: epoch and step decide about all of it."""

    class Noisy(TensorDataset):
        def __getitem__(self, index: Any) -> Any:
            inputs, labels = super().__getitem__(index)
            return inputs + torch.randn(inputs.shape), labels

    def run(**options: Any) -> tuple[nn.Module, Fitted]:
        model = network()
        loader = DataLoader(Noisy(Data().inputs, Data().labels), 8, shuffle=True)
        return model, fit(model, loader, Training(3), **options)

    states: list[TrainingState] = []
    model, whole = run(snapshots=(2, 3, 7), on_snapshot=states.append)
    for state in states:
        torch.manual_seed(state.step)
        other, rest = run(state=state)
        assert same(model, other)
        assert rest == whole


def test_a_real_loader_goes_on() -> None:
    part = digits().train
    loader = Loader(part.subset(torch.arange(100)), 32, seed=derive(0, "data"))

    def run(**options: Any) -> tuple[nn.Module, Fitted]:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        return model, fit(model, loader, Training(3), **options)

    states: list[TrainingState] = []
    model, whole = run(on_checkpoint=states.append)
    other, rest = run(state=states[1])
    assert same(model, other)
    assert rest == whole


def test_states_of_another_training_are_refused() -> None:
    states: list[TrainingState] = []
    trained("momentum", on_checkpoint=states.append)
    with pytest.raises(SparsewoodError, match="of a training with no pruner"):
        trained("pruner", state=states[0])
    with pytest.raises(SparsewoodError, match="does not fit Linear"):
        fit(nn.Linear(6, 3), Data(), KINDS["momentum"][0], state=states[0])
    with pytest.raises(SparsewoodError, match="from step 9 to step 6"):
        trained("momentum", state=states[-1], steps=6)
