"""What the weights are after a recovery."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from sparsewood import recovery
from sparsewood.errors import SparsewoodError
from sparsewood.masks import apply_masks
from sparsewood.recovery import (
    ConvolutionOrthogonal,
    DeltaOrthogonal,
    Distill,
    Distillation,
    FineTune,
    Follow,
    Isometry,
    LayerDefault,
    Normal,
    Original,
    Orthogonal,
    Recovery,
    Reinitialize,
    Rewind,
    RewindRate,
    RewindToBest,
    Scratch,
    Snapshot,
    VarianceScaling,
    snapshot,
)
from sparsewood.testing import check_recovery

EXAMPLES: dict[str, list[Recovery]] = {
    "Distill": [Distill(), Distill(temperature=2.0, weight=1.0)],
    "FineTune": [FineTune()],
    "Isometry": [Isometry(iterations=100), Isometry(iterations=0, rate=0.01)],
    "Reinitialize": [
        Reinitialize(how)
        for how in (
            LayerDefault(),
            Original(),
            Normal(),
            VarianceScaling(),
            Orthogonal(),
            DeltaOrthogonal(),
            ConvolutionOrthogonal(),
        )
    ],
    "Rewind": [Rewind(), Rewind(500)],
    "RewindRate": [RewindRate(), RewindRate(500)],
    "RewindToBest": [RewindToBest((3,)), RewindToBest([0, 100, 50])],
    "Scratch": [Scratch(), Scratch("flops")],
}
ALL = [recover for examples in EXAMPLES.values() for recover in examples]


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))


def step(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.randn(8, 4)).square().mean().backward()
    optimizer.step()


def digest(tensors: Snapshot) -> str:
    joined = b"".join(name.encode() + tensor.detach().numpy().tobytes() for name, tensor in tensors.items())
    return hashlib.sha256(joined).hexdigest()


@pytest.mark.parametrize("recover", [Rewind(), RewindToBest((0, 5)), Reinitialize(Original())], ids=repr)
def test_going_back_restores_parameters_and_buffers_and_the_snapshot_never_changes(recover: Recovery) -> None:
    """[004-11] [7.12] The snapshot is no alias of the weights: its hash is the same before and after."""
    model = network()
    start = snapshot(model)
    before = digest(start)
    for _ in range(2):
        step(model)
        assert digest(model.state_dict()) != before
        recover(model, start)
        assert digest(model.state_dict()) == before
        step(model)
        assert digest(start) == before


@pytest.mark.parametrize("recover", [FineTune(), RewindRate(7), Distill()], ids=repr)
def test_training_on_leaves_the_weights(recover: Recovery) -> None:
    model = network()
    start = snapshot(model)
    step(model)
    before = digest(model.state_dict())
    recover(model, start)
    assert digest(model.state_dict()) == before


@pytest.mark.parametrize("recover", ALL, ids=repr)
def test_masks_survive_when_the_caller_applies_them(recover: Recovery) -> None:
    """[004-11] [004-12]"""
    torch.manual_seed(0)
    model = network()
    start = snapshot(model)
    masks = {"0.weight": torch.rand(6, 4) < 0.5, "3.weight": torch.rand(2, 6) < 0.5}
    recover(model, start, torch.Generator().manual_seed(1))
    apply_masks(model, masks)
    for name, mask in masks.items():
        assert bool((model.get_parameter(name)[~mask] == 0).all())
        assert bool((model.get_parameter(name)[mask] != 0).any())


# ---------------------------------------------------------------- which training follows


@pytest.mark.parametrize(
    ("recover", "snapshots", "follow"),
    [
        (FineTune(), (), Follow("retraining")),
        (Rewind(), (0,), Follow("training", 0, restore_optimizer=True)),
        (Rewind(500), (500,), Follow("training", 500, restore_optimizer=True)),
        (RewindRate(500), (), Follow("training", 500)),
        (RewindToBest((5, 9)), (5, 9), Follow("training", restore_optimizer=True)),
        (Reinitialize(), (), Follow("training")),
        (Reinitialize(Original()), (0,), Follow("training")),
        (Scratch(), (), Follow("training")),
        (Isometry(), (), Follow("training")),
        (Scratch("flops"), (), Follow("training", same_flops=True)),
        (Distill(2.0, 0.5), (), Follow("retraining", distillation=Distillation(2.0, 0.5))),
    ],
    ids=repr,
)
def test_what_follows(recover: Recovery, snapshots: tuple[int, ...], follow: Follow) -> None:
    """[004-11] [004-12] The table is the specification."""
    assert recover.snapshots == snapshots
    assert recover.follow == follow


def test_the_best_snapshot_is_picked_and_the_first_of_equals() -> None:
    scores = {0: 0.5, 10: 0.8, 20: 0.8, 30: 0.1}
    best = RewindToBest((0, 10, 20, 30))
    assert best.pick(scores.__getitem__) == 10
    assert RewindToBest((20, 10, 0)).pick(scores.__getitem__) == 20
    assert best.follow_from(10) == Follow("training", 10, restore_optimizer=True)
    with pytest.raises(SparsewoodError, match="score of step 10 is NaN"):
        best.pick(lambda step: float("nan") if step == 10 else 1.0)


def test_one_snapshot_is_picked_without_a_score() -> None:
    def never(step: int) -> float:
        raise AssertionError(f"asked for the score of {step}")

    assert Rewind(7).pick(never) == 7
    assert FineTune().pick(never) is None
    assert RewindRate(7).follow_from(None).step == 7


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rewind(-1), "whole number >= 0. Got -1"),
        (lambda: RewindRate(0.5), "whole number >= 0"),  # type: ignore[arg-type]
        (lambda: RewindToBest(()), "steps to choose from"),
        (lambda: RewindToBest(5), "steps to choose from"),  # type: ignore[arg-type]
        (lambda: RewindToBest((0, True)), "Got True"),
        (lambda: Scratch("time"), r"one of \('epochs', 'flops'\). Got 'time'"),  # type: ignore[arg-type]
        (lambda: Follow("none"), r"one of \('training', 'retraining'\). Got 'none'"),  # type: ignore[arg-type]
        (lambda: Follow("training", -5), "Got -5"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(SparsewoodError, match=message):
        make()


# ---------------------------------------------------------------- new weights


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
    nn.init.ones_(model.out_proj.bias)
    Reinitialize()(model, {}, torch.Generator().manual_seed(3))
    assert not torch.equal(model.in_proj_weight, before)
    assert not model.out_proj.bias.any(), "as in a new one"


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(2, affine=False), nn.BatchNorm1d(2)], ids=["plain", "affine"])
def test_reinitialize_forgets_running_statistics(norm: nn.BatchNorm1d) -> None:
    norm(torch.randn(8, 2) + 5)
    Reinitialize()(nn.Sequential(nn.Linear(2, 2), norm), {})
    assert norm.running_mean is not None
    assert not norm.running_mean.any()


# ---------------------------------------------------------------- the contract


def test_every_recovery_has_examples() -> None:
    assert list(EXAMPLES) == recovery.__all__
    for name, examples in EXAMPLES.items():
        assert {type(recover).__name__ for recover in examples} == {name}


@pytest.mark.parametrize("recover", ALL, ids=repr)
def test_contract(recover: Recovery) -> None:
    check_recovery(recover)


@dataclass(frozen=True)
class Alias(Recovery):
    """The defect of rewinding to the very tensors that are then trained."""

    factor: float = 0.9

    def __call__(self, model: nn.Module, start: Snapshot, generator: torch.Generator | None = None) -> None:
        del generator
        for name, parameter in model.named_parameters():
            parameter.data = start[name]
            parameter.data.mul_(self.factor)


@dataclass(frozen=True)
class Stray(Recovery):
    """Picks what it has not asked for."""

    def pick(self, score: Callable[[int], float]) -> int:  # noqa: ARG002
        return 3

    def __call__(self, model: nn.Module, start: Snapshot, generator: torch.Generator | None = None) -> None:
        del model, start, generator


@dataclass(frozen=True)
class Unkept(Stray):
    """Wants the optimizer of a snapshot that it has not asked for."""

    @property
    def follow(self) -> Follow:
        return Follow("training", restore_optimizer=True)

    def pick(self, score: Callable[[int], float]) -> None:  # noqa: ARG002
        return None


@dataclass(frozen=True)
class Global(Stray):
    """Draws from the global random state."""

    def pick(self, score: Callable[[int], float]) -> None:  # noqa: ARG002
        return None

    def __call__(self, model: nn.Module, start: Snapshot, generator: torch.Generator | None = None) -> None:
        del start, generator
        for parameter in model.parameters():
            nn.init.normal_(parameter)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (Alias(), "changed the snapshot"),
        (Alias(1.0), "the network is an alias of it"),
        (Stray(), r"pick one of its snapshots \(\)"),
        (Unkept(), "no snapshot to restore the optimizer from"),
        (Global(), "global random state"),
    ],
    ids=repr,
)
def test_the_contract_finds(broken: Recovery, message: str) -> None:
    """[004-11] [7.12]"""
    state = torch.get_rng_state()
    with pytest.raises(AssertionError, match=message):
        check_recovery(broken)
    torch.set_rng_state(state)
