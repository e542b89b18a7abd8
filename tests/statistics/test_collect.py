"""One pass over data."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from sparsewood.criteria import ActivationMagnitude, Magnitude, WeightTimesAbsoluteGradient, WeightTimesGradient
from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.pruning import prune, score
from sparsewood.statistics import AbsoluteGradient, Gradient, InputPower, collect
from sparsewood.testing import ARCHITECTURES, Architecture
from sparsewood.testing.checks.shared import fingerprint
from sparsewood.types import Statistics

ALL = [Gradient(), AbsoluteGradient(), InputPower()]
X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 0, 1, 0, 1])


def mlp() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))


def mean_square(output: Tensor, _: object) -> Tensor:
    return output.square().mean()


def assert_close(a: Statistics, b: Statistics, rtol: float = 1e-5) -> None:
    assert a.samples == b.samples
    for kind, of in a.sums.items():
        for name, tensor in of.items():
            torch.testing.assert_close(tensor, b.get(kind, name), rtol=rtol, atol=1e-6)


# ---------------------------------------------------------------- what a batch is


class Keywords(nn.Module):
    """Takes its inputs in every way."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        return self.layer(x) * (1.0 if scale is None else scale)


@pytest.mark.parametrize(
    "batch",
    [
        (X, Y),
        [X, Y],
        ((X,), Y),
        ([X], Y),
        ({"x": X}, Y),
        ((X, torch.ones(6, 1)), Y),
        (X, torch.ones(6, 1), Y),
        ({"x": X, "scale": torch.ones(6, 1)}, Y),
    ],
    ids=range(8),
)
def test_batches_of_every_kind(batch: Any) -> None:
    model = Keywords()
    expected = collect(model, [(X, Y)], ALL, F.cross_entropy)
    assert expected.samples == 6
    assert_close(collect(model, [batch], ALL, F.cross_entropy), expected)


def test_batches_without_targets() -> None:
    model = Keywords()
    expected = collect(model, [X], [InputPower()])
    for batch in ((X,), [X], {"x": X}, UserDict(x=X)):
        assert_close(collect(model, [batch], [InputPower()]), expected)


def test_a_mapping_is_its_own_target() -> None:
    model = Keywords()
    seen = []

    def loss(output: Tensor, target: Any) -> Tensor:
        seen.append(sorted(target))
        return output.mean()

    collect(model, [{"x": X, "scale": torch.ones(6, 1)}], [Gradient()], loss)
    assert seen == [["scale", "x"]]


def test_tuples_of_batches() -> None:
    model = mlp()
    expected = collect(model, [X], [InputPower()])
    assert_close(collect(model, X.split(4), [InputPower()]), expected)
    assert_close(collect(model, ((X[:2], Y[:2]), (X[2:], Y[2:])), [InputPower()]), expected)


def test_loaders_and_generators() -> None:
    model = mlp()
    expected = collect(model, [(X, Y)], ALL, F.cross_entropy)
    loader = DataLoader(TensorDataset(X, Y), batch_size=4)
    assert_close(collect(model, loader, ALL, F.cross_entropy), expected)
    assert_close(collect(model, ((x, y) for x, y in loader), ALL, F.cross_entropy), expected)


@pytest.mark.parametrize(
    ("data", "kind"),
    [(X, "Tensor"), ((X, Y), "tuple"), ({"x": X}, "dict"), (None, "NoneType"), ("batches", "str"),
     (TensorDataset(X, Y), "TensorDataset")],
    ids=range(6),
)  # fmt: skip
def test_data_that_is_not_batches(data: Any, kind: str) -> None:
    """Iterating over one batch would silently take its rows for batches."""
    with pytest.raises(SparsewoodError, match=rf"data must be batches.*Got {kind}. Pass a single batch as \[batch\]"):
        collect(mlp(), data, [InputPower()])


@pytest.mark.parametrize("batch", [5, "text", None, (), []], ids=str)
def test_batches_that_are_none(batch: Any) -> None:
    with pytest.raises(SparsewoodError, match="Batch 0 must be a tensor, a pair"):
        collect(mlp(), [batch], [InputPower()])


@pytest.mark.parametrize("data", [[], iter([]), (x for x in ())], ids=["list", "iterator", "generator"])
def test_empty_data(data: Any) -> None:
    with pytest.raises(SparsewoodError, match="The data is empty: no batch was read"):
        collect(mlp(), data, [InputPower()])


def test_a_used_up_generator() -> None:
    batches = (batch for batch in [X])
    collect(mlp(), batches, [InputPower()])
    with pytest.raises(SparsewoodError, match="used up"):
        collect(mlp(), batches, [InputPower()])


def test_an_empty_batch() -> None:
    with pytest.raises(SparsewoodError, match="Batch 1 is empty"):
        collect(mlp(), [X, X[:0]], [InputPower()])


# ---------------------------------------------------------------- sums


@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a.name in {"mlp", "conv_norm", "tied"}], ids=str)
def test_sums_of_parts_equal_the_whole(architecture: Architecture) -> None:
    """a + (b + c) = (a + b) + c = abc: streaming, chunks and several processes."""
    model = architecture.build()
    batches = [(architecture.inputs(n, seed=n), torch.arange(n) % 3) for n in (1, 4, 2)]
    statistics = [Gradient(), AbsoluteGradient(), InputPower(2.0), InputPower(1.0)]
    a, b, c = (collect(model, [batch], statistics, F.cross_entropy) for batch in batches)
    whole = collect(model, batches, statistics, F.cross_entropy)
    assert whole.samples == 7
    assert_close((a + b) + c, whole)
    assert_close(a + (b + c), whole)
    assert_close(c + a + b, whole)


def test_statistics_can_be_given_instead_of_data() -> None:
    model = mlp()
    statistics = collect(model, [(X, Y)], ALL, F.cross_entropy)
    for criterion in (WeightTimesGradient(), WeightTimesAbsoluteGradient(), ActivationMagnitude()):
        direct = score(model, criterion, data=[(X, Y)], loss=F.cross_entropy)
        again = score(model, criterion, statistics=statistics)
        assert all(torch.allclose(direct[name], again[name]) for name in direct)
    with pytest.raises(UnknownName, match=r"Unknown statistic 'gradient'"):
        score(model, WeightTimesGradient(), statistics=collect(model, [X], [InputPower()]))


class Counted:
    """Batches that count how often they are read."""

    def __init__(self) -> None:
        self.passes, self.batches = 0, 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.passes += 1
        for start in (0, 3):
            self.batches += 1
            yield X[start : start + 3], Y[start : start + 3]


def test_the_data_is_read_once() -> None:
    """[7.6] [003-05] However many criteria share it."""
    data, forwards, model = Counted(), [0], mlp()
    model.register_forward_hook(lambda *_: forwards.__setitem__(0, forwards[0] + 1))
    several = [WeightTimesGradient(), ActivationMagnitude(), ActivationMagnitude(1), Magnitude()]
    results = score(model, several, data=data, loss=F.cross_entropy)
    assert (data.passes, data.batches, forwards[0]) == (1, 2, 2)
    for criterion, scores in zip(several, results, strict=True):
        alone = score(model, criterion, data=[(X, Y)], loss=F.cross_entropy)
        assert all(torch.allclose(scores[name], alone[name]) for name in alone)


def test_data_is_not_read_for_nothing() -> None:
    data = Counted()
    score(mlp(), Magnitude(), data=data)
    prune(mlp(), Magnitude(), 0.5, data=data)
    assert data.passes == 0


def test_example_inputs_stand_in_for_data() -> None:
    model = Keywords()
    expected = score(model, ActivationMagnitude(), data=[X])["layer.weight"]
    for example in (X, (X,), {"x": X}, (X, torch.ones(6, 1))):
        assert torch.equal(score(model, ActivationMagnitude(), example_inputs=example)["layer.weight"], expected)


def test_missing_data_names_the_criterion() -> None:
    with pytest.raises(SparsewoodError, match=r"WeightTimesGradient\(mode=.eval.\) needs data: pass data="):
        prune(mlp(), WeightTimesGradient(), 0.5)
    with pytest.raises(SparsewoodError, match=r"ActivationMagnitude\(p=2.0\) needs data"):
        score(mlp(), [Magnitude(), ActivationMagnitude()])


# ---------------------------------------------------------------- losses


def test_missing_loss() -> None:
    with pytest.raises(SparsewoodError, match=r"Gradients need a loss: pass loss=.*cross_entropy"):
        collect(mlp(), [(X, Y)], [Gradient()])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_nan_gives_the_batch(bad: float) -> None:
    model, poisoned = mlp(), X.clone()
    poisoned[0] = bad
    with pytest.raises(SparsewoodError, match=r"The loss of batch 2 is (nan|inf)"):
        collect(model, [(X, Y), (X, Y), (poisoned, Y)], [Gradient()], lambda output, _: output.square().mean())


@pytest.mark.parametrize(
    ("loss", "got"),
    [
        (lambda output, target: F.cross_entropy(output, target, reduction="none"), r"float32\[6\]"),
        (lambda output, _: output.detach().sum().item(), r"-?\d+\.\d+"),
        (lambda *_: None, "None"),
    ],
)
def test_a_loss_that_is_no_number(loss: Any, got: str) -> None:
    with pytest.raises(SparsewoodError, match=rf"The loss must return one number.*Got {got}.*batch 0"):
        collect(mlp(), [(X, Y)], [Gradient()], loss)


@pytest.mark.parametrize("loss", [lambda o, _: o.detach().sum(), lambda o, _: torch.tensor(1.0)])  # noqa: ARG005
def test_a_detached_loss(loss: Any) -> None:
    with pytest.raises(SparsewoodError, match=r"loss of batch 0 does not depend on any parameter.*detach"):
        collect(mlp(), [(X, Y)], [Gradient()], loss)


def test_a_loss_of_shape_one_is_a_number() -> None:
    a = collect(mlp(), [(X, Y)], [Gradient()], lambda output, _: output.sum().reshape(1))
    b = collect(mlp(), [(X, Y)], [Gradient()], lambda output, _: output.sum())
    assert_close(a, b)


def test_unused_parameters_have_gradient_zero(caplog: pytest.LogCaptureFixture) -> None:
    model = mlp()
    model.add_module("unused", nn.Linear(3, 3))
    model.forward = lambda x: nn.Sequential.forward(model[:3], x)  # type: ignore[method-assign]
    with caplog.at_level("WARNING"):
        found = collect(model, [(X, Y)], [Gradient()], F.cross_entropy)
    assert found.get("gradient", "unused.weight").count_nonzero() == 0
    assert "does not depend on unused.weight" in caplog.text


# ---------------------------------------------------------------- layers that are shared


class Twice(nn.Module):
    """One layer used twice, or two layers with one weight."""

    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3, bias=False)
        self.second = nn.Linear(3, 3, bias=False) if tied else self.first
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


@pytest.mark.parametrize("tied", [False, True])
def test_shared_weights_add_up_their_uses(tied: bool) -> None:
    """The same numbers, whether the module or only its weight is shared."""
    model = Twice(tied=tied)
    weight = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 0.0], [3.0, 0.0, 1.0]])
    model.first.weight.data = weight
    x = torch.tensor([[1.0, 2.0, 3.0]])
    found = collect(model, [x], [InputPower(), Gradient()], lambda output, _: output.sum())
    inner = x @ weight.t()
    assert found.get("input power 2", "first.weight").tolist() == (x.square() + inner.square()).tolist()
    gradient = torch.outer(weight.sum(0), x[0]) + torch.outer(torch.ones(3), inner[0])
    torch.testing.assert_close(found.get("gradient", "first.weight"), gradient)


def test_a_layer_called_by_keyword() -> None:
    class ByKeyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(input=x)

    found = collect(ByKeyword(), [X], [InputPower()])
    torch.testing.assert_close(found.get("input power 2", "layer.weight")[0], X.square().sum(0))


def test_a_shared_batchnorm_keeps_its_statistics() -> None:
    """[7.7] The same norm twice in one forward, in a model that is training."""
    norm = nn.BatchNorm1d(4)
    model = nn.Sequential(nn.Linear(4, 4), norm, nn.ReLU(), nn.Linear(4, 4), norm, nn.Dropout(0.5)).train()
    model(X)
    before = fingerprint(model)
    collect(model, [(X, Y)], ALL, F.cross_entropy)
    assert fingerprint(model) == before


# ---------------------------------------------------------------- no trace


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
@pytest.mark.parametrize("training", [False, True])
def test_collecting_leaves_no_trace(architecture: Architecture, training: bool) -> None:
    """[7.7] [7.23] Weights, buffers, gradients, flags, hooks and random state, in train mode with dropout too."""
    model = architecture.build().train(training)
    parameters = list(model.parameters())
    for parameter in parameters[::2]:
        parameter.requires_grad_(False)
    for parameter in parameters[1::3]:
        parameter.grad = torch.full_like(parameter, 7.0)
    before = fingerprint(model)
    data = [(architecture.inputs(3), torch.arange(3))]
    found = collect(model, data, [Gradient(), AbsoluteGradient()], F.cross_entropy)
    assert fingerprint(model) == before
    assert any(tensor.count_nonzero() for tensor in found.sums["gradient"].values())


def test_collecting_that_fails_leaves_no_trace() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2)).train()
    before = fingerprint(model)

    def broken() -> Iterator[tuple[Tensor, Tensor]]:
        yield X, Y
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="the disk is full"):
        collect(model, broken(), ALL, F.cross_entropy)
    assert fingerprint(model) == before


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_callers_grad_mode_does_not_matter(mode: Any) -> None:
    """Masks made in inference mode are ordinary tensors, and inputs made in it can be used."""
    model = mlp()
    expected = collect(model, [(X, Y)], ALL, F.cross_entropy)
    plain = prune(model, WeightTimesGradient(), 0.5, data=[(X, Y)], loss=F.cross_entropy)
    with mode():
        batch = (X.clone(), Y.clone())
        assert_close(collect(model, [batch], ALL, F.cross_entropy), expected)
        masks = prune(model, WeightTimesGradient(), 0.5, data=[batch], loss=F.cross_entropy)
        scores = score(model, Magnitude())
    assert masks == plain
    assert not any(tensor.is_inference() or tensor.requires_grad for tensor in [*masks.values(), *scores.values()])


def test_parameters_made_in_inference_mode_are_named() -> None:
    with torch.inference_mode():
        model = nn.Linear(4, 2)
    with pytest.raises(SparsewoodError, match=r"'weight' was made in inference mode"):
        collect(model, [(X, Y)], [Gradient()], F.cross_entropy)


def test_powers_that_are_close_are_kept_apart() -> None:
    found = collect(mlp(), [X], [InputPower(1.0), InputPower(1.0000001)])
    assert list(found.sums) == ["input power 1", "input power 1.0000001"]


def test_frozen_parameters_have_gradients_too() -> None:
    model = mlp()
    expected = collect(model, [(X, Y)], [Gradient()], F.cross_entropy)
    model.requires_grad_(False)
    assert_close(collect(model, [(X, Y)], [Gradient()], F.cross_entropy), expected)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_existing_gradients_do_not_add_in() -> None:
    model = mlp()
    expected = collect(model, [(X, Y)], [Gradient()], F.cross_entropy)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert_close(collect(model, [(X, Y)], [Gradient()], F.cross_entropy), expected)
    assert all((parameter.grad == 1).all() for parameter in model.parameters())  # type: ignore[union-attr]


def test_scores_are_those_of_the_model_given() -> None:
    """[7.7] [001-01] No re-initialised copy: scores follow the weights."""
    model = mlp()
    first = score(model, WeightTimesGradient(), data=[(X, Y)], loss=mean_square)["2.weight"]
    model[2].weight.data *= 2
    model[2].bias.data *= 2
    second = score(model, WeightTimesGradient(), data=[(X, Y)], loss=mean_square)["2.weight"]
    torch.testing.assert_close(second, 4 * first)


def test_names() -> None:
    found = collect(mlp(), [X], [InputPower()], names=["2.weight"])
    assert list(found.sums["input power 2"]) == ["2.weight"]
    with pytest.raises(UnknownName, match=r"Unknown parameter '2.wieght'. Did you mean '2.weight'"):
        collect(mlp(), [X], [InputPower()], names=["2.wieght"])


def test_transformer_layers_are_observed_in_eval_mode() -> None:
    """The fused fast path would skip the layers inside."""
    with torch.random.fork_rng(devices=[]):
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    found = collect(layer, [torch.randn(2, 5, 8)], [InputPower()], names=["linear1.weight", "linear2.weight"])
    assert found.get("input power 2", "linear2.weight").shape == (1, 16)


def test_recurrent_layers_run_without_the_kernels_that_have_no_backward_in_eval_mode() -> None:
    class Watched(nn.LSTM):
        seen: ClassVar[list[bool]] = []

        def forward(self, x: Tensor) -> Tensor:
            self.seen.append(torch.backends.cudnn.enabled)
            return super().forward(x)[0].sum(2)

    before = torch.backends.cudnn.enabled
    collect(Watched(2, 3), [(torch.randn(4, 5, 2), torch.zeros(4, 5))], [Gradient()], nn.functional.mse_loss)
    assert Watched.seen == [False]
    assert torch.backends.cudnn.enabled == before


class TimeFirst(nn.Module):
    """A recurrent network in PyTorch's default layout: time, examples, features."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][-1])


def test_the_target_counts_examples() -> None:
    data = [(torch.randn(6, 4, 4), torch.tensor([0, 1, 2, 0]))]
    assert collect(TimeFirst(), data, [Gradient()], F.cross_entropy).samples == 4
    with pytest.raises(SparsewoodError, match=r"Batch 0: the target has 4 examples.*\[6, 4, 4\].*batch axis first"):
        collect(TimeFirst(), data, [AbsoluteGradient()], F.cross_entropy)


@pytest.mark.parametrize(
    "loss", [lambda o: o.sum(), "mse", lambda o, t: o.no_such_method(t)], ids=["one argument", "text", "raises"]
)
def test_a_loss_that_fails_is_named_with_its_batch(loss: Any) -> None:
    with pytest.raises(SparsewoodError, match=r"Batch 0: the loss failed on .*float32\[6, "):
        collect(mlp(), [(X, Y)], [Gradient()], loss)


def test_a_forward_that_fails_is_named_with_its_batch() -> None:
    with pytest.raises(SparsewoodError, match="Batch 1: The forward of"):
        collect(mlp(), [(X, Y), (X[:, :1], Y)], [Gradient()], F.cross_entropy)


@pytest.mark.parametrize(
    ("loss", "name"),
    [
        (nn.CrossEntropyLoss(reduction="sum"), "CrossEntropyLoss"),
        (partial(F.cross_entropy, reduction="sum"), "cross_entropy"),
    ],
    ids=["module", "function"],
)
def test_a_loss_that_sums_is_refused(loss: Any, name: str) -> None:
    with pytest.raises(SparsewoodError, match=rf"{name}\(reduction='sum'\)"):
        collect(mlp(), [(X, Y)], [Gradient()], loss)


@pytest.mark.parametrize(
    "statistics", [Gradient(), ["gradient"], 5, [Gradient]], ids=["one", "text", "number", "class"]
)
def test_statistics_that_are_none_are_refused(statistics: Any) -> None:
    with pytest.raises(SparsewoodError, match=r"statistics must be a list such as"):
        collect(mlp(), [(X, Y)], statistics, F.cross_entropy)
