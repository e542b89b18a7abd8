"""What the weights are after a recovery."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from sparsewood import recovery
from sparsewood.errors import SparsewoodError
from sparsewood.recovery import FineTune, Reinitialize, Rewind, snapshot
from sparsewood.testing import check_recovery


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))


def step(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(8, 4)).square().mean().backward()
    optimizer.step()


def test_rewind_restores_parameters_and_buffers_and_the_snapshot_never_changes() -> None:
    """[004-11] [7.12] The snapshot is no alias of the weights."""
    model = network()
    start = snapshot(model)
    copies = {name: tensor.clone() for name, tensor in start.items()}
    for _ in range(2):
        step(model)
        assert not torch.equal(model[0].weight, copies["0.weight"])
        Rewind()(model, start)
        assert all(torch.equal(tensor, copies[name]) for name, tensor in model.state_dict().items())
        step(model)
        assert all(torch.equal(start[name], tensor) for name, tensor in copies.items())


def test_fine_tune_leaves_the_weights() -> None:
    model = network()
    start = snapshot(model)
    step(model)
    before = snapshot(model)
    FineTune()(model, start)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_reinitialize_draws_anew_from_the_generator_only() -> None:
    """[004-12] [7.24]"""
    model = network()
    start = snapshot(model)
    state = torch.get_rng_state()
    drawn = []
    for seed in (1, 1, 2):
        Reinitialize()(model, start, torch.Generator().manual_seed(seed))
        drawn.append(model[0].weight.detach().clone())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], start["0.weight"])
    assert int(model[1].num_batches_tracked) == 0


def test_reinitialize_names_the_module_that_cannot() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 2))

    with pytest.raises(SparsewoodError, match="Bare"):
        Reinitialize()(Bare(), {})


def test_reinitialize_knows_multihead_attention() -> None:
    model = nn.MultiheadAttention(8, 2)
    before = model.in_proj_weight.detach().clone()
    Reinitialize()(model, {}, torch.Generator().manual_seed(3))
    assert not torch.equal(model.in_proj_weight, before)


@pytest.mark.parametrize("name", recovery.__all__)
def test_contract(name: str) -> None:
    check_recovery(getattr(recovery, name)())


@dataclass(frozen=True)
class Alias(recovery.Recovery):
    """The defect of rewinding to the very tensors that are then trained."""

    def __call__(self, model: nn.Module, start: recovery.Snapshot, generator: torch.Generator | None = None) -> None:
        del generator
        for name, parameter in model.named_parameters():
            parameter.data = start[name]
            parameter.data.mul_(0.9)


def test_the_contract_finds_an_aliased_snapshot() -> None:
    """[004-11] [7.12]"""
    with pytest.raises(AssertionError, match="changed the snapshot"):
        check_recovery(Alias())
