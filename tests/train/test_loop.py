"""The training loop. Regressions 1 (masked weights stay zero), 4 (validation chooses), 20 (means), 24 (seeds)."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError
from sparsewood.masks import enforce
from sparsewood.train import Progress, constant, cosine, fit

Batch = tuple[Tensor, Tensor]


def sgd(model: nn.Module, lr: float = 0.1) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


def seeded_linear(inputs: int = 3, outputs: int = 2) -> nn.Linear:
    with torch.random.fork_rng():
        model = nn.Linear(inputs, outputs)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def data(*sizes: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(n, 3, generator=generator), torch.randint(2, (n,), generator=generator)) for n in sizes]


def test_a_partial_last_batch_weighs_by_its_examples() -> None:
    model = seeded_linear()
    batches = data(4, 4, 1)
    inputs, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    history = fit(model, batches, optimizer=sgd(model, lr=0.0), epochs=1)
    with torch.no_grad():
        logits = model(inputs)
    assert history.epochs[0].loss == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-6)
    assert history.epochs[0].accuracy == (logits.argmax(1) == labels).double().mean().item()


def test_the_rate_follows_the_schedule_and_is_put_back() -> None:
    model = seeded_linear()
    optimizer = sgd(model, lr=0.2)
    seen: list[float] = []
    fit(
        model,
        data(2, 2),
        optimizer=optimizer,
        epochs=2,
        on_batch=lambda _: seen.append(optimizer.param_groups[0]["lr"]),
    )
    assert seen == pytest.approx([0.2 * (1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)])
    assert optimizer.param_groups[0]["lr"] == 0.2


@pytest.mark.parametrize("schedule", [cosine, constant])
def test_schedules_start_at_one(schedule: object) -> None:
    assert callable(schedule)
    assert schedule(0.0) == 1.0


def test_progress_counts_epochs_and_batches_from_one() -> None:
    model = seeded_linear()
    seen: list[Progress] = []
    history = fit(model, data(2, 2), optimizer=sgd(model), epochs=2, on_batch=seen.append)
    assert [(p.epoch, p.batch) for p in seen] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert [seen[1].loss, seen[3].loss] == [epoch.loss for epoch in history.epochs]


def test_the_best_epoch_on_validation_is_put_back() -> None:
    # At this rate each step overshoots: with the sign of the weight alternate right and wrong.
    model = nn.Linear(1, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0], [1.0]]))
    flip = [(torch.ones(4, 1), torch.zeros(4, dtype=torch.int64))]
    validation = [(torch.ones(4, 1), torch.ones(4, dtype=torch.int64))]
    history = fit(
        model,
        flip,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.5),
        epochs=6,
        schedule=constant,
        validation=validation,
    )
    accuracies = [epoch.validation_accuracy for epoch in history.epochs]
    assert accuracies[0] == 1.0
    assert accuracies[-1] == 0.0
    assert history.chosen == 1
    assert model.weight[1] > model.weight[0]


def test_without_validation_the_last_epoch_stays() -> None:
    model = seeded_linear()
    history = fit(model, data(4), optimizer=sgd(model), epochs=3)
    assert history.chosen == 3
    assert history.epochs[-1].validation_accuracy is None


def test_enforced_masks_hold_also_in_the_epoch_put_back() -> None:
    model = seeded_linear()
    mask = torch.tensor([[True, False, True], [False, True, False]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    with enforce(model, {"weight": mask}, optimizer):
        fit(model, data(4, 4), optimizer=optimizer, epochs=3, validation=data(5))
    assert torch.equal(model.weight != 0, mask)


class NoisyData:
    """A loader that draws from the global random state, as one without a generator of its own does."""

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[Batch]:
        for _ in range(3):
            yield torch.randn(4, 3), torch.randint(2, (4,))


def test_a_generator_makes_it_repeatable_and_spares_the_global_state() -> None:
    def trained(seed: int) -> Tensor:
        model = seeded_linear()
        generator = torch.Generator().manual_seed(seed)
        fit(nn.Sequential(nn.Dropout(), model), NoisyData(), optimizer=sgd(model), epochs=2, generator=generator)
        return model.weight.detach()

    before = torch.get_rng_state()
    first = trained(0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert torch.equal(trained(0), first)
    assert not torch.equal(trained(1), first)


def test_nan_loss_names_epoch_and_batch() -> None:
    model = seeded_linear()
    batches = [*data(2, 2), (torch.full((2, 3), math.nan), torch.zeros(2, dtype=torch.int64))]
    optimizer = sgd(model, lr=0.2)
    with pytest.raises(SparsewoodError, match=r"Linear became nan in epoch 1, batch 3.*smaller learning rate"):
        fit(model, batches, optimizer=optimizer, epochs=2)
    assert optimizer.param_groups[0]["lr"] == 0.2
    assert model.weight.isfinite().all()


def test_empty_data_is_an_error() -> None:
    model = seeded_linear()
    with pytest.raises(SparsewoodError, match="no batch"):
        fit(model, [], optimizer=sgd(model), epochs=1)
    with pytest.raises(SparsewoodError, match=r"no sample|empty"):
        fit(model, data(2), optimizer=sgd(model), epochs=1, validation=[])


def test_a_negative_number_of_epochs_is_an_error_and_zero_changes_nothing() -> None:
    model = seeded_linear()
    before = model.weight.clone()
    assert fit(model, data(2), optimizer=sgd(model), epochs=0).epochs == ()
    assert torch.equal(model.weight, before)
    with pytest.raises(SparsewoodError, match="Got -1"):
        fit(model, data(2), optimizer=sgd(model), epochs=-1)
