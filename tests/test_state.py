"""The state of a training: a copy that training on does not change, from which training goes on as if never cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from sparsewood.errors import SparsewoodError
from sparsewood.state import TrainingState, capture, restore

Make = Callable[[nn.Module], Optimizer]

OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
    "momentum": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1),
    "adam": lambda model: torch.optim.Adam(model.parameters(), lr=0.01, amsgrad=True),
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), lr=0.01),
    "rmsprop": lambda model: torch.optim.RMSprop(model.parameters(), lr=0.01, centered=True),
    "groups": lambda model: torch.optim.SGD(
        [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.5}], lr=0.1, momentum=0.5
    ),
}


def network() -> nn.Sequential:
    torch.nn.init.normal_(layer := torch.empty(1), generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    for number, parameter in enumerate(model.parameters()):
        values = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
        parameter.data.copy_(values + layer * 0)
    return model


def step(model: nn.Module, optimizer: Optimizer, number: int) -> None:
    inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(number))
    optimizer.zero_grad()
    model(inputs).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_goes_on_bit_for_bit_in_a_new_process_like_setting(name: str, tmp_path: Path) -> None:
    """[000-10] [004-11] Also through a file, and the learning rates of the groups come back."""
    model = network()
    optimizer = OPTIMIZERS[name](model)
    for number in range(3):
        step(model, optimizer, number)
    optimizer.param_groups[-1]["lr"] = 0.03
    state = capture(model, optimizer, step=3)
    state.save(tmp_path / "state.safetensors")
    for number in (3, 4):
        step(model, optimizer, number)

    other = network()
    fresh = OPTIMIZERS[name](other)
    loaded = TrainingState.load(tmp_path / "state.safetensors")
    assert loaded.fingerprint() == state.fingerprint()
    restore(loaded, other, fresh)
    assert fresh.param_groups[-1]["lr"] == 0.03
    for number in (3, 4):
        step(other, fresh, number)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_neither_training_nor_restoring_changes_a_state(name: str) -> None:
    """[004-11] [7.12] By hash: the snapshot is no alias of the weights or of the optimizer's memory."""
    model = network()
    optimizer = OPTIMIZERS[name](model)
    step(model, optimizer, 0)
    state = capture(model, optimizer, step=1)
    before = state.fingerprint()
    for number in range(2):
        restore(state, model, optimizer)
        step(model, optimizer, number)
        assert state.fingerprint() == before
    assert state.step == 1


def test_states_of_other_models_and_optimizers_are_refused() -> None:
    model = network()
    state = capture(model)
    with pytest.raises(SparsewoodError, match="does not fit Linear"):
        restore(state, nn.Linear(3, 4))
    with pytest.raises(SparsewoodError, match="has no state of a SGD"):
        restore(state, model, OPTIMIZERS["sgd"](model))
    groups = OPTIMIZERS["groups"](model)
    with pytest.raises(SparsewoodError, match="has no state of a SGD over 4 parameters"):
        restore(capture(model, OPTIMIZERS["sgd"](model)), model, groups)


def test_what_is_no_tensor_is_refused() -> None:
    class Odd(nn.Module):
        def get_extra_state(self) -> dict[str, int]:
            return {"calls": 1}

        def set_extra_state(self, state: object) -> None:
            pass

    with pytest.raises(SparsewoodError, match="_extra_state"):
        capture(Odd())


def test_parts_and_values() -> None:
    state = capture(network(), extra_tensors={"best/a": torch.ones(1)}, values={"epochs": [1.5]}, step=2)
    assert state.part("best").keys() == {"a"}
    assert state.values["epochs"] == [1.5]
    assert "0.weight" in state.part("model")
