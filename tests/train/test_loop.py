"""The training loop. Requirements 000-11, 004-10, 004-13, 004-26, 004-42; regressions 7.1 (masked weights stay zero),
7.4 (validation chooses), 7.8 (masks after training), 7.18 (logits), 7.20 (means), 7.23 (nothing is left changed), 7.24
(seeds)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from sparsewood.errors import SparsewoodError
from sparsewood.masks import enforce
from sparsewood.measurement import evaluate
from sparsewood.train import (
    SGD,
    Adam,
    AdamW,
    Constant,
    Epoch,
    Fitted,
    OneCycle,
    OptimizerSettings,
    Progress,
    Teacher,
    Training,
    fit,
    make_fabric,
)
from sparsewood.types import Masks

Batch = tuple[Tensor, Tensor]
STILL = Training(epochs=1, optimizer=SGD(lr=0.0))


def linear(inputs: int = 3, outputs: int = 2) -> nn.Linear:
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(inputs, outputs)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def data(*sizes: int, classes: int = 2) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(n, 3, generator=generator), torch.randint(classes, (n,), generator=generator)) for n in sizes]


def whole(batches: list[Batch]) -> Batch:
    inputs, labels = zip(*batches, strict=True)
    return torch.cat(inputs), torch.cat(labels)


# ---------------------------------------------------------------- means


@pytest.mark.parametrize("classes", [2, 5, 7])
def test_a_partial_last_batch_weighs_by_its_examples(classes: int) -> None:
    """[000-11, 003-21, 7.20] Means over examples, not over batches."""
    model, batches = linear(outputs=classes), data(4, 4, 1, classes=classes)
    epoch = fit(model, batches, STILL).history.epochs[0]
    expected = evaluate(model, [whole(batches)])
    assert epoch.loss == pytest.approx(expected.loss, rel=1e-6)
    assert epoch.accuracy == expected.top[1]
    assert epoch.accuracy5 == expected.top.get(5)


def test_validation_is_that_of_evaluate() -> None:
    model, held_out = linear(outputs=7), data(5, 2, classes=7)
    epoch = fit(model, data(4, classes=7), STILL, validation=held_out).history.epochs[0]
    expected = evaluate(model, held_out)
    found = epoch.validation_loss, epoch.validation_accuracy, epoch.validation_accuracy5
    assert found == (expected.loss, expected.top[1], expected.top[5])


def test_equal_scores_are_no_right_answers() -> None:
    model = linear(outputs=4)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    assert fit(model, data(8, classes=4), STILL).history.epochs[0].accuracy == 0.25


def test_one_label_for_each_position() -> None:
    model = nn.Conv2d(3, 2, 1)
    inputs, labels = torch.randn(2, 3, 4, 4), torch.randint(2, (2, 4, 4))
    epoch = fit(model, [(inputs, labels)], STILL).history.epochs[0]
    with torch.no_grad():
        right = (model(inputs).argmax(1) == labels).double().mean().item()
    assert epoch.accuracy == pytest.approx(right, abs=1e-12)


# ---------------------------------------------------------------- steps


def by_hand(model: nn.Module, batches: list[Batch], epochs: int, lr: float, smoothing: float = 0.0) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=0.01)
    steps, step = epochs * len(batches), 0
    for _ in range(epochs):
        for inputs, labels in batches:
            optimizer.param_groups[0]["lr"] = lr * (1 + math.cos(math.pi * step / steps)) / 2
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels, label_smoothing=smoothing).backward()
            optimizer.step()
            step += 1


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_steps_are_those_of_a_loop_by_hand(smoothing: float) -> None:
    """[004-10] One optimizer throughout: rebuilt each epoch, it would lose its momentum."""
    ours, theirs = linear(), linear()
    batches = data(4, 4, 3)
    by_hand(theirs, batches, 3, 0.1, smoothing)
    fit(ours, batches, Training(epochs=3, optimizer=SGD(0.1, weight_decay=0.01), label_smoothing=smoothing))
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours.bias, theirs.bias)


def test_the_rate_follows_the_schedule() -> None:
    """[002-10] One cycle up to ten times the optimizer's rate."""
    rate = OneCycle(peak=10.0)
    history = fit(linear(), data(2, 2), Training(epochs=3, optimizer=SGD(lr=0.01), rate=rate)).history
    assert [epoch.rate for epoch in history.epochs] == [0.01 * rate(step, 6, 2) for step in (1, 3, 5)]


def test_clipping_bounds_the_whole_gradient() -> None:
    model = linear()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    plain = SGD(lr=1.0, momentum=0.0)
    fit(model, data(4), Training(epochs=1, optimizer=plain, rate=Constant(), clip_norm=0.01))
    moved = torch.cat([(p.detach() - b).flatten() for p, b in zip(model.parameters(), before, strict=True)])
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-3)


def test_parameters_that_are_not_to_learn_stay() -> None:
    model = linear()
    model.bias.requires_grad_(False)
    before = model.bias.clone()
    fit(model, data(4), Training(epochs=2, optimizer=SGD(weight_decay=0.1)))
    assert torch.equal(model.bias, before)
    model.weight.requires_grad_(False)
    with pytest.raises(SparsewoodError, match=r"Linear has no parameter to train.*requires_grad"):
        fit(model, data(4), Training(epochs=1))


def test_inputs_may_be_several() -> None:
    model = nn.Bilinear(3, 3, 2)
    inputs, labels = data(4)[0]
    assert fit(model, [((inputs, inputs), labels)], Training(epochs=2)).steps == 2


def test_progress_counts_epochs_and_batches_from_one() -> None:
    seen: list[Progress] = []
    history = fit(linear(), data(2, 2), Training(epochs=2), on_batch=seen.append).history
    assert [(p.epoch, p.batch, p.step, p.steps) for p in seen] == [
        (1, 1, 1, 4),
        (1, 2, 2, 4),
        (2, 1, 3, 4),
        (2, 2, 4, 4),
    ]
    assert [seen[1].loss, seen[3].loss] == [epoch.loss for epoch in history.epochs]


def test_lower_precision_and_higher() -> None:
    """bfloat16 forward: the weights stay float32, and the result is near that of float32."""
    losses = {}
    for precision, dtype in (("32-true", torch.float32), ("bf16-mixed", torch.float32), ("64-true", torch.float64)):
        model = linear()
        training = Training(epochs=3, precision=precision)
        fitted = fit(model, data(8, 8), training, validation=data(8))
        assert {parameter.dtype for parameter in model.parameters()} == {dtype}
        losses[precision] = fitted.history.epochs[-1].validation_loss
    assert losses["bf16-mixed"] != losses["32-true"]
    assert losses["bf16-mixed"] == pytest.approx(losses["32-true"], rel=0.02)
    assert losses["64-true"] == pytest.approx(losses["32-true"], rel=1e-5)


# ---------------------------------------------------------------- masks


MASK = torch.tensor([[True, False, True], [False, True, False]])


@pytest.mark.parametrize(
    "optimizer",
    [
        SGD(lr=0.1, weight_decay=0.1),
        SGD(lr=0.1, weight_decay=0.1, nesterov=True),
        Adam(0.1, weight_decay=0.1),
        AdamW(0.1),
    ],
)
def test_masked_weights_are_zero_after_every_step(optimizer: OptimizerSettings) -> None:
    """[004-42, 004-26, 7.1, 7.8] Also in the weights that are put back at the end."""
    model = linear()
    seen: list[bool] = []
    fitted = fit(
        model,
        data(4, 4),
        Training(epochs=3, optimizer=optimizer),
        validation=data(5),
        masks={"weight": MASK},
        on_batch=lambda _: seen.append(torch.equal(model.weight != 0, MASK)),
    )
    assert seen == [True] * 6
    assert torch.equal(model.weight != 0, MASK)
    assert fitted.masks == Masks({"weight": MASK})
    assert [epoch.sparsity for epoch in fitted.history.epochs] == [0.5] * 3


class Cutting:
    """Removes one more weight after each of `steps`; the smallest pruner there can be."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, steps: tuple[int, ...]) -> None:
        self._keeper = enforce(model, {"weight": torch.ones(2, 3, dtype=torch.bool)}, optimizer)
        self._steps, self._count = steps, 0
        self.finished_with: Tensor | None = None
        self._model = model

    @property
    def masks(self) -> Masks:
        return self._keeper.masks

    @property
    def done(self) -> bool:
        return self._count >= max(self._steps)

    def step(self) -> None:
        self._count += 1
        if self._count in self._steps:
            mask = self.masks["weight"].clone()
            mask.view(-1)[self._steps.index(self._count)] = False
            self._keeper.masks = {"weight": mask}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {"mask/weight": self.masks["weight"]}, {"count": self._count}

    def load(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self._keeper.masks = {"weight": tensors["mask/weight"]}
        self._count = values["count"]

    def finish(self) -> None:
        self.finished_with = dict(self._model.named_parameters())["weight"].detach().clone()
        self._keeper.remove()


def test_a_half_pruned_network_is_never_chosen() -> None:
    """[7.4] Validation accuracy is highest at the start here; only epochs after the last event count."""
    made: list[Cutting] = []

    def during(model: nn.Module, optimizer: torch.optim.Optimizer, per_epoch: int) -> Cutting:
        assert per_epoch == 2
        made.append(Cutting(model, optimizer, (1, 2, 3)))
        return made[0]

    model, backwards = flipping()
    fitted = fit(model, backwards * 2, ALTERNATING, validation=VALIDATION_OF_ALTERNATING, during=during)
    accuracies = [epoch.validation_accuracy for epoch in fitted.history.epochs]
    assert accuracies[0] == 1.0
    assert fitted.history.chosen > 1
    assert fitted.masks is not None
    assert fitted.masks.removed == 3
    assert [epoch.sparsity for epoch in fitted.history.epochs] == [2 / 6, *[3 / 6] * 5]
    assert int((model.weight == 0).sum()) >= 3
    assert made[0].finished_with is not None
    assert torch.equal(made[0].finished_with, model.weight)  # finish sees the weights that stay


# ---------------------------------------------------------------- selection


def flipping() -> tuple[nn.Linear, list[Batch]]:
    """At this rate each step overshoots: with the sign of the weights, all right and all wrong alternate."""
    model = nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]))
    return model, [(torch.ones(4, 3), torch.zeros(4, dtype=torch.int64))]


ALTERNATING = Training(epochs=6, optimizer=SGD(lr=0.17, momentum=0.0), rate=Constant())
VALIDATION_OF_ALTERNATING = [(torch.ones(4, 3), torch.ones(4, dtype=torch.int64))]


def test_the_first_best_epoch_on_validation_is_put_back() -> None:
    """[000-11, 004-13, 7.4] Chosen on validation data, and the first of equals."""
    model, train = flipping()
    history = fit(model, train, ALTERNATING, validation=VALIDATION_OF_ALTERNATING).history
    accuracies = [epoch.validation_accuracy for epoch in history.epochs]
    assert accuracies[0] == 1.0
    assert accuracies[-1] == 0.0
    assert history.chosen == 1
    assert model.weight[1].sum() > model.weight[0].sum()


def test_the_last_epoch_stays_where_asked_for_or_without_validation() -> None:
    for select, validation in (("last", VALIDATION_OF_ALTERNATING), ("best", None)):
        model, train = flipping()
        training = Training(6, optimizer=ALTERNATING.optimizer, rate=Constant(), select=select)
        history = fit(model, train, training, validation=validation).history
        assert history.chosen == 6
        assert model.weight[1].sum() < model.weight[0].sum()


def test_patience_counts_epochs_without_improvement() -> None:
    """[000-11] It stops early, and the best weights come back."""
    model, train = flipping()
    training = Training(6, optimizer=ALTERNATING.optimizer, rate=Constant(), patience=2)
    fitted = fit(model, train, training, validation=VALIDATION_OF_ALTERNATING)
    assert fitted.stopped
    assert (fitted.steps, len(fitted.history.epochs), fitted.history.chosen) == (3, 3, 1)
    with pytest.raises(SparsewoodError, match="patience=2 needs validation data"):
        fit(model, train, training)


def test_patience_does_not_wait_for_epochs_before_the_last_event() -> None:
    model, train = flipping()
    training = Training(8, optimizer=ALTERNATING.optimizer, rate=Constant(), patience=2)
    fitted = fit(
        model,
        train,
        training,
        validation=VALIDATION_OF_ALTERNATING,
        during=lambda network, optimizer, _: Cutting(network, optimizer, (5,)),
    )
    assert fitted.history.chosen >= 5
    assert fitted.steps >= 7


# ---------------------------------------------------------------- losses


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (nn.Softmax(1), r"outputs of Sequential on the first batch are probabilities.*leave out the last softmax"),
        (nn.LogSoftmax(1), "log-probabilities.*leave out the last log_softmax"),
    ],
)
def test_probabilities_are_no_logits(last: nn.Module, said: str) -> None:
    """[7.18] Cross-entropy of probabilities trains, badly and without a word."""
    model = nn.Sequential(linear(), last)
    before = model[0].weight.clone()
    with pytest.raises(SparsewoodError, match=said):
        fit(model, data(4), Training(epochs=1))
    assert torch.equal(model[0].weight, before)
    fit(model, data(4), Training(epochs=1), loss=nn.functional.nll_loss)


def test_logits_that_look_a_little_like_probabilities_pass() -> None:
    zeros = linear()
    nn.init.zeros_(zeros.weight)
    nn.init.zeros_(zeros.bias)
    for last in (nn.Identity(), nn.ReLU(), nn.Sigmoid()):
        assert fit(nn.Sequential(linear(), last), data(4), Training(epochs=1)).steps == 1
    assert fit(zeros, data(4), Training(epochs=1)).steps == 1


def test_a_setting_that_a_loss_of_ones_own_would_ignore_is_refused() -> None:
    with pytest.raises(SparsewoodError, match=r"label_smoothing=0\.1 belongs to the cross-entropy"):
        fit(linear(), data(4), Training(epochs=1, label_smoothing=0.1), loss=nn.functional.mse_loss)


def test_a_loss_of_ones_own() -> None:
    model = linear()
    history = fit(model, data(4), STILL, loss=nn.MultiMarginLoss(), validation=data(4)).history
    with torch.no_grad():
        expected = nn.MultiMarginLoss()(model(data(4)[0][0]), data(4)[0][1]).item()
    assert (history.epochs[0].loss, history.epochs[0].validation_loss) == pytest.approx((expected, expected))
    with pytest.raises(SparsewoodError, match="reduction='sum'"):
        fit(model, data(4), STILL, loss=nn.CrossEntropyLoss(reduction="sum"))
    with pytest.raises(SparsewoodError, match="must return one number"):
        fit(model, data(4), STILL, loss=nn.CrossEntropyLoss(reduction="none"))
    with pytest.raises(SparsewoodError, match=r"epoch 1, batch 1 on outputs .*TypeError: no loss"):
        fit(model, data(4), STILL, loss=failing)


def failing(outputs: Any, labels: Any) -> Tensor:  # noqa: ARG001
    raise TypeError("no loss")


def test_a_teacher_pulls_its_way_and_is_left_alone() -> None:
    """With weight 1 the labels do not count: the student comes to the teacher's outputs."""
    teacher = nn.Sequential(linear(), nn.Dropout(0.5)).train()
    weights = [parameter.detach().clone() for parameter in teacher.parameters()]
    student = nn.Linear(3, 2)
    training = Training(epochs=200, optimizer=SGD(lr=0.5))
    fit(student, data(16), training, teacher=Teacher(teacher, temperature=2.0, weight=1.0))
    inputs = data(16)[0][0]
    with torch.no_grad():
        difference = student(inputs).softmax(1) - teacher[0](inputs).softmax(1)
    assert difference.abs().max() < 0.02
    assert all(torch.equal(p, w) for p, w in zip(teacher.parameters(), weights, strict=True))
    assert teacher.training
    assert all(parameter.requires_grad for parameter in teacher.parameters())


def test_mixup_keeps_the_labels_share() -> None:
    """Two classes at -1 and 1, mixed with share s, lie at a distance that s gives: no longer at the ends."""
    seen: list[Tensor] = []

    class Watching(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            seen.append(input)
            return super().forward(input)

    labels = torch.tensor([0, 1] * 32)
    inputs = (2.0 * labels - 1).unsqueeze(1)
    fit(Watching(1, 2), [(inputs, labels)] * 8, Training(epochs=1, mixup=1.0))
    assert len({value for batch in seen for value in batch.abs().unique().tolist()}) > 8
    with pytest.raises(SparsewoodError, match=r"mixup averages inputs.*Use mixup=0"):
        fit(nn.Bilinear(3, 3, 2), [((torch.ones(2, 3),) * 2, torch.zeros(2).long())], Training(epochs=1, mixup=0.2))


# ---------------------------------------------------------------- randomness


def network() -> nn.Sequential:
    return nn.Sequential(nn.Dropout(0.5), linear(), nn.BatchNorm1d(2))


def test_the_seed_decides_and_the_global_state_is_spared() -> None:
    """[7.23, 7.24] Dropout, mixup and the order of a loader without a generator follow from the seed alone."""

    def trained(seed: int) -> Tensor:
        model = network()
        before = torch.get_rng_state()
        fit(model, DataLoader(TensorDataset(*data(12)[0]), 4, shuffle=True), Training(epochs=2, mixup=0.2), seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        return model[1].weight.detach()

    first = trained(0)
    torch.manual_seed(99)
    assert torch.equal(trained(0), first)
    assert not torch.equal(trained(1), first)


def test_nothing_is_left_on_model_or_data() -> None:
    """[7.23] Mode as before, no gradients, no hooks."""
    for mode in (True, False):
        model = network().train(mode)
        fit(model, data(4), Training(epochs=1), validation=data(4), masks={"1.weight": MASK})
        assert {module.training for module in model.modules()} == {mode}
        assert all(parameter.grad is None for parameter in model.parameters())
        assert not any(p._backward_hooks or p._post_accumulate_grad_hooks for p in model.parameters())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        with torch.no_grad():
            model[1].weight.add_(1.0)
        assert not bool((model[1].weight == 0).any())


# ---------------------------------------------------------------- failures


def test_nan_loss_names_epoch_and_batch() -> None:
    model = linear()
    batches = [*data(2, 2), (torch.full((2, 3), math.nan), torch.zeros(2, dtype=torch.int64))]
    with pytest.raises(SparsewoodError, match=r"Linear became infinite or NaN in epoch 1, batch 3.*smaller learning"):
        fit(model, batches, Training(epochs=2))
    assert model.weight.isfinite().all()


def test_weights_that_are_not_finite_are_never_kept() -> None:
    """The loss of the last batch is finite and its gradient is not."""

    class Root(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(2))

        def forward(self, inputs: Tensor) -> Tensor:
            return inputs[:, :2] + self.weight.abs().sqrt()

    states: list[Any] = []
    with pytest.raises(SparsewoodError, match=r"'weight' of Root is no longer finite after epoch 1"):
        fit(Root(), data(2), Training(epochs=2), validation=data(2), on_checkpoint=states.append)
    assert states == []


class Silent:
    """Says that it has batches and gives none, as a generator does the second time."""

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[Batch]:
        return iter(())


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ([], "no batch"),
        (iter(data(2)), "must have a length.*Got list_iterator"),
        (Silent(), "has 2 batches by its length, but gave 0 in epoch 1"),
        ([torch.ones(2, 3)], r"no pair \(inputs, labels\) in epoch 1, batch 1.*float32\[2, 3\]"),
        ([(torch.ones(2, 3), torch.ones(2, 2))], "class indices"),
        ([(torch.ones(2, 3), torch.zeros(3).long())], r"int64\[3\].*epoch 1, batch 1"),
        ([(torch.ones(2, 3), torch.tensor(1))], "no axis of examples"),
        ([(torch.ones(2, 4), torch.zeros(2).long())], "forward of .* failed"),
        ([(torch.ones(2, 3), torch.full((2,), 7))], "loss failed in epoch 1, batch 1"),
    ],
)
def test_data_that_cannot_be_trained_on(train: Any, said: str) -> None:
    with pytest.raises(SparsewoodError, match=said):
        fit(linear(), train, Training(epochs=1))


def test_arguments_that_do_not_fit() -> None:
    for wrong, said in (
        ({"first_step": 5}, "from step 5 to step 4"),
        ({"first_step": -1}, "from step -1"),
        ({"steps": 0, "first_step": 1}, "from step 1 to step 0"),
        ({"snapshots": (2, 5)}, "after 0 to 4 steps.*Got 5"),
        ({"checkpoint_every": 0}, "checkpoint_every.*Got 0"),
        ({"fabric": make_fabric("cpu", precision="bf16-mixed")}, "asks for precision '32-true'.*'bf16-mixed'"),
        ({"masks": {"wieght": MASK}}, "Did you mean 'weight'"),
        ({"validation": []}, "no sample"),
        ({"seed": -1}, "seed must be"),
    ):
        with pytest.raises(SparsewoodError, match=said):
            fit(linear(), data(2, 2), Training(epochs=2), **wrong)


def test_no_epochs_change_nothing() -> None:
    model = linear()
    before = model.weight.clone()
    fitted = fit(model, data(2), Training(epochs=0), validation=data(2))
    assert fitted == Fitted(fitted.history, None, 0)
    assert fitted.history.epochs == ()
    assert torch.equal(model.weight, before)


def test_the_time_of_an_epoch_does_not_make_it_another() -> None:
    assert Epoch(1, 0.5, 0.5, seconds=1.0) == Epoch(1, 0.5, 0.5, seconds=2.0)
    epoch = fit(linear(), data(2), STILL).history.epochs[0]
    assert epoch.seconds is not None
    assert epoch.seconds > 0


# ---------------------------------------------------------------- Fabric


@pytest.mark.parametrize("optimizer", [SGD(0.1, weight_decay=0.1), AdamW(0.1, weight_decay=0.1)])
def test_enforcing_through_fabrics_wrapper(optimizer: OptimizerSettings) -> None:
    """[004-42] In a loop of one's own: weights and the optimizer's memory, also after its state was loaded."""
    model = linear()
    inner = optimizer(model.parameters())
    fabric = make_fabric("cpu")
    wrapped, outer = fabric.setup(model, inner)
    with enforce(model, {"weight": MASK}, outer):
        for _ in range(2):
            for inputs, labels in data(4, 4):
                outer.zero_grad()
                fabric.backward(nn.functional.cross_entropy(wrapped(inputs), labels))
                outer.step()
                assert torch.equal(model.weight != 0, MASK)
                moments = [v for v in inner.state[model.weight].values() if isinstance(v, Tensor) and v.ndim]
                assert moments
                assert all(not bool(moment[~MASK].any()) for moment in moments)
            inner.load_state_dict(inner.state_dict())


def test_a_sharding_fabric_is_refused() -> None:
    from lightning_fabric.strategies.fsdp import FSDPStrategy

    fabric = make_fabric("cpu")
    fabric._strategy = FSDPStrategy()
    with pytest.raises(SparsewoodError, match=r"FSDPStrategy, which shards it.*strategy='ddp'"):
        fit(linear(), data(4), Training(epochs=1), fabric=fabric)
