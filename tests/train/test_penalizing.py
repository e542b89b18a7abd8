"""Penalties in anybody's loop and in `fit`. Requirement 004-08."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsewood as sw
from sparsewood.errors import SparsewoodError
from sparsewood.penalties import GroupLasso, GroupScaled, GrowingL2, Penalty, ScaleL1
from sparsewood.state import TrainingState
from sparsewood.train import SGD, Adam, Constant, Training, fit, penalize

PENALTIES = [ScaleL1(0.01), GroupLasso(0.01), GroupScaled(0.01), GrowingL2(0.5, step=0.1, every=2)]


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(6, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Dropout(0.2), nn.Linear(10, 8), nn.ReLU(),
            nn.Linear(8, 3),
        ).to(dtype)  # fmt: skip


def data(dtype: torch.dtype = torch.float64) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(8, 6, generator=generator, dtype=dtype), torch.randint(3, (8,), generator=generator))
        for _ in range(5)
    ]


def structure(model: nn.Module) -> sw.Structure:
    return sw.trace(model, torch.zeros(2, 6, dtype=next(model.parameters()).dtype))


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_close(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name, tensor in a.items():
        assert torch.allclose(tensor, b[name], rtol=1e-10, atol=1e-12), name


@pytest.mark.parametrize("penalty", PENALTIES, ids=lambda penalty: type(penalty).__name__)
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_004_08_the_same_as_adding_it_to_the_loss(penalty: Penalty, kind: Any) -> None:
    ends = []
    for in_loss in (False, True):
        model = network().eval()
        optimizer = kind(model.parameters(), lr=0.05)
        apart = torch.optim.SGD(model.parameters(), lr=0.0)
        with penalize(model, penalty, apart if in_loss else optimizer, structure=structure(model)) as penalizer:
            for x, y in data():
                optimizer.zero_grad()
                loss = F.cross_entropy(model(x), y)
                if in_loss:
                    loss = loss + penalizer.value()
                    penalizer.steps += 1
                loss.backward()
                optimizer.step()
        ends.append(weights(model))
    assert_close(*ends)
    assert any(not torch.equal(ends[0][name], tensor) for name, tensor in weights(network()).items())


def test_a_closure_gets_the_penalty_in_gradient_and_loss() -> None:
    ends = []
    for in_loss in (False, True):
        model = network().eval()
        optimizer = torch.optim.LBFGS(model.parameters(), line_search_fn="strong_wolfe", max_iter=5)
        apart = torch.optim.SGD(model.parameters(), lr=0.0)
        x, y = data()[0]
        with penalize(model, GroupLasso(0.1), apart if in_loss else optimizer, structure=structure(model)) as penalizer:

            def closure() -> Tensor:
                optimizer.zero_grad()  # noqa: B023
                loss = F.cross_entropy(model(x), y)  # noqa: B023
                if in_loss:  # noqa: B023
                    loss = loss + penalizer.value()
                loss.backward()
                return loss

            optimizer.step(closure)
            assert penalizer.steps == (0 if in_loss else 1)
        ends.append(weights(model))
    assert_close(*ends)


def test_scaled_gradients_of_fused_optimizers_get_a_scaled_penalty() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    vars(optimizer)["grad_scale"] = torch.tensor(8.0)  # as a GradScaler does
    penalize(model, ScaleL1(0.5), optimizer).add()
    grad = model[1].weight.grad
    assert isinstance(grad, Tensor)
    assert torch.equal(grad, torch.full((10,), 4.0, dtype=torch.float64))


def test_what_needs_no_gradient_is_left_alone() -> None:
    model = network()
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with penalize(model, GroupLasso(0.5), optimizer, structure=structure(model)):
        optimizer.step()
    assert torch.equal(weights(model)["0.weight"], weights(network())["0.weight"])
    assert not torch.equal(weights(model)["4.weight"], weights(network())["4.weight"])


def test_errors() -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(SparsewoodError, match="ScaleL1 needs BatchNorm"):
        penalize(model, ScaleL1(), optimizer)
    with pytest.raises(SparsewoodError, match="pass structure="):
        penalize(model, GroupLasso(), optimizer)
    with pytest.raises(SparsewoodError, match="penalty must be None or"):
        Training(penalty=0.1)  # type: ignore[arg-type]


# ---------------------------------------------------------------- fit


def trained(penalty: Penalty | None, **given: Any) -> tuple[nn.Module, list[TrainingState]]:
    model, states = network(torch.float32), []
    options: dict[str, Any] = {"optimizer": SGD(0.05), "rate": Constant()} | given.pop("training", {})
    training = Training(epochs=3, batch_size=8, penalty=penalty, **options)
    fit(model, data(torch.float32), training, on_checkpoint=states.append, **given)
    return model, states


@pytest.mark.parametrize("penalty", [ScaleL1(0.0), GroupLasso(0.0), GrowingL2(0.5, step=0.0)])
def test_without_strength_the_training_is_the_plain_one(penalty: Penalty) -> None:
    a, b = trained(penalty)[0], trained(None)[0]
    assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("penalty", PENALTIES, ids=lambda penalty: type(penalty).__name__)
@pytest.mark.parametrize("optimizer", [SGD(0.05), Adam(0.01)], ids=["SGD", "Adam"])
def test_a_training_that_is_cut_goes_on_bit_for_bit(penalty: Penalty, optimizer: Any) -> None:
    given = {"training": {"optimizer": optimizer}}
    whole, states = trained(penalty, **given)
    for state in states:
        again, _ = trained(penalty, state=state, **given)
        for name, tensor in whole.state_dict().items():
            assert torch.equal(again.state_dict()[name], tensor), name
    assert len(states) == 2


def test_the_norm_to_clip_by_counts_the_penalty() -> None:
    """A huge penalty does not move weights further than the clipped gradient does."""
    model = network(torch.float32)
    training = Training(
        epochs=1, optimizer=SGD(1.0, momentum=0.0), rate=Constant(), clip_norm=0.5, penalty=ScaleL1(1e6)
    )
    fit(model, data(torch.float32)[:1], training)
    pairs = zip(model.parameters(), network(torch.float32).parameters(), strict=True)
    moved = torch.cat([(after - before).detach().flatten() for after, before in pairs])
    assert float(moved.norm()) == pytest.approx(0.5, rel=1e-3)


def test_chosen_units_vanish_and_others_stay() -> None:
    model = network(torch.float32)
    training = Training(
        epochs=40, optimizer=SGD(0.05), rate=Constant(), penalty=GrowingL2(0.5, step=0.1, every=5, ceiling=2.0)
    )
    fit(model, data(torch.float32), training)
    norms = structure(model).to_units({"4.weight": model.get_parameter("4.weight").detach().abs()})["4"].sort().values
    assert norms[3] < 1e-3 * norms[4]
