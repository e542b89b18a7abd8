"""Jacobian singular values: closed forms, autograd's own Jacobian, and a model that is left alone."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import sparsewood as sw
from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.matrices import as_matrices, as_weight, matrix_layers
from sparsewood.measurement import (
    SingularValues,
    jacobian_contributions,
    jacobian_singular_values,
    layer_singular_values,
)
from sparsewood.recovery import DeltaOrthogonal, Orthogonal
from sparsewood.testing import ARCHITECTURES


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def perceptron(activation: str = "linear") -> nn.Sequential:
    """784-100x6-10, orthogonal, in float64."""
    model = sw.models.mlp(7, 100, activation=activation).double()  # type: ignore[arg-type]
    Orthogonal()(model, {}, seeded())
    return model


def weights(model: nn.Module) -> list[Tensor]:
    return [layer.weight.detach() for layer in model.modules() if isinstance(layer, nn.Linear)]


def random_masks(model: nn.Module, sparsity: float = 0.9) -> sw.Masks:
    return sw.prune(model, sw.Random(), sparsity, protect_classifier=False, generator=seeded(1))


def product(model: nn.Module) -> Tensor:
    found = torch.eye(784, dtype=torch.float64)
    for weight in weights(model):
        found = weight @ found
    return found


def test_004_23_linear_orthogonal_networks_have_ten_singular_values_of_one() -> None:
    found = jacobian_singular_values(perceptron(), [normal(3, 1, 28, 28), normal(2, 1, 28, 28, seed=1)])
    assert found.values.shape == (5, 10)
    assert torch.allclose(found.values, torch.ones(5, 10, dtype=torch.float64), rtol=0, atol=1e-12)
    assert found.mean == pytest.approx(1, abs=1e-12)
    assert found.std < 1e-12


@pytest.mark.parametrize("sparse", [False, True])
def test_004_23_of_a_linear_network_it_is_the_product_of_the_layers(sparse: bool) -> None:
    model = perceptron()
    masks = random_masks(model) if sparse else None
    found = jacobian_singular_values(model, [normal(2, 784)], masks=masks)
    sw.apply_masks(model, masks or {})
    expected = torch.linalg.svdvals(product(model))
    assert torch.allclose(found.values, expected.expand(2, 10), rtol=1e-9, atol=1e-15)


def test_004_23_tanh_networks_multiply_by_the_slopes() -> None:
    """J = W2 diag(1 - tanh^2) W1 for each example, and the statistics are those of all values together."""
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    x = normal(6, 5)
    first, second = weights(model)
    slopes = 1 - model[:2](x).detach().square()
    expected = torch.linalg.svdvals(second @ (slopes.unsqueeze(2) * first))
    found = jacobian_singular_values(model, [(x[:4], torch.zeros(4)), (x[4:], torch.zeros(2))])
    assert torch.allclose(found.values, expected, rtol=1e-10)
    assert found.mean == pytest.approx(float(expected.mean()))
    assert found.std == pytest.approx(float(expected.std(correction=0)))
    assert (found.min, found.max) == (float(found.values.min()), float(found.values.max()))


def test_004_23_pruning_damps_signals() -> None:
    model = perceptron()
    assert jacobian_singular_values(model, [normal(1, 784)], masks=random_masks(model)).mean < 0.01


FLOAT_INPUTS = [toy for toy in ARCHITECTURES if toy.vocabulary is None]


@pytest.mark.parametrize("toy", FLOAT_INPUTS, ids=lambda toy: toy.name)
def test_004_23_any_network_as_autograd_has_it_example_by_example(toy) -> None:  # type: ignore[no-untyped-def]
    """In eval mode, in chunks; weights, flags, gradients, buffers and random state are left as they were."""
    model, x = toy.build(), toy.inputs()
    x = x[0] if isinstance(x, tuple) else x
    if not isinstance(x, Tensor) or not isinstance(model(x), Tensor):
        pytest.skip("its inputs or outputs are several tensors")
    before, flags = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    found = jacobian_singular_values(model, [x], examples=2)
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    model.eval()
    for one, values in zip(x[:2], found.values, strict=True):
        inputs = one.unsqueeze(0)
        jacobian = torch.autograd.functional.jacobian(model, inputs)
        assert isinstance(jacobian, Tensor)
        matrix = jacobian.reshape(-1, inputs.numel())
        assert torch.allclose(values, torch.linalg.svdvals(matrix.double()), rtol=1e-3, atol=1e-5)


def test_004_23_examples_stop_the_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more is read than asked for, and small chunks change nothing."""
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh()).double()
    x = normal(9, 5)

    def batches():  # type: ignore[no-untyped-def]
        yield x[:4]
        yield x[4:]
        raise AssertionError("read on")

    whole = jacobian_singular_values(model, [x])
    seven = jacobian_singular_values(model, batches(), examples=7)
    assert torch.allclose(seven.values, whole.values[:7], rtol=1e-12)
    monkeypatch.setattr("sparsewood.measurement.jacobian._ROOM", 50)  # two examples
    assert torch.allclose(jacobian_singular_values(model, [x]).values, whole.values, rtol=1e-12)


def test_outputs_without_classes_and_with_positions() -> None:
    flat = nn.Sequential(nn.Linear(3, 1, bias=False), nn.Flatten(0)).double()
    found = jacobian_singular_values(flat, [normal(4, 3)])
    assert torch.allclose(found.values, weights(flat)[0].norm().expand(4, 1))
    same = nn.Conv1d(2, 2, 3, padding="same", padding_mode="circular", bias=False).double()
    DeltaOrthogonal()(same, {}, seeded())
    found = jacobian_singular_values(same, [normal(2, 2, 6)])
    assert torch.allclose(found.values, torch.ones(2, 12, dtype=torch.float64), atol=1e-12)


def test_works_without_gradients_and_in_inference_mode() -> None:
    model = nn.Linear(3, 2).double()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert jacobian_singular_values(model, [normal(2, 3)]).values.shape == (2, 2)


# ---------------------------------------------------------------- layers and contributions


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(5, 3), (1, 3)),
        (nn.Conv2d(4, 6, 3, groups=2), (2, 3)),
        (nn.Conv1d(2, 64, 3), (1, 6)),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), (2, 3)),
    ],
    ids=repr,
)
def test_004_23_layers_have_a_matrix_for_each_group(layer: nn.Module, shape: tuple[int, int]) -> None:
    Orthogonal(2.0)(layer.double(), {}, seeded())
    found = layer_singular_values(layer)
    assert list(found) == ["weight"]
    assert torch.allclose(found["weight"].values, torch.full(shape, 2.0, dtype=torch.float64))
    entry = matrix_layers(layer)[0]
    assert torch.equal(as_weight(entry, as_matrices(entry, entry.parameter)), entry.parameter)


def test_masks_count_and_are_not_applied() -> None:
    layer = nn.Linear(2, 2)
    before = layer.weight.detach().clone()
    found = layer_singular_values(layer, {"weight": torch.tensor([[True, False], [False, False]])})["weight"]
    assert found.max == pytest.approx(abs(float(before[0, 0])))
    assert found.min == 0
    assert torch.equal(layer.weight, before)


def test_004_23_contributions_are_those_of_one_mask_at_a_time() -> None:
    """[004-23] As a score of layers: what the mean becomes when only that one is pruned."""
    model = perceptron()
    masks = random_masks(model)
    data = [normal(1, 784)]
    found = jacobian_contributions(model, masks, iter(data))
    assert found.keys() == masks.keys()
    for name, change in found.items():
        alone = jacobian_singular_values(model, data, masks={name: masks[name]})
        assert change == pytest.approx(alone.mean - 1, abs=1e-12)
    assert all(-1 < change < -0.1 for change in found.values())
    assert jacobian_contributions(model, {"fc1.weight": torch.ones(100, 784).bool()}, data)["fc1.weight"] == 0


# ---------------------------------------------------------------- what is refused


class Integers(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.argmax(1)


class Detached(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


@pytest.mark.parametrize(
    ("model", "data", "options", "message"),
    [
        (nn.Linear(2, 2), [], {}, "no example"),
        (nn.Linear(2, 2), torch.ones(1, 2), {}, r"Pass a single batch as \[batch\]"),
        (nn.Linear(2, 2), [{"x": torch.ones(1, 2)}], {}, "Batch 0 must be one floating-point tensor"),
        (nn.Linear(2, 2), [torch.ones(1, 2).long()], {}, r"int64\[1, 2\]"),
        (nn.Linear(2, 2), [torch.ones(1, 3)], {}, "forward of Linear"),
        (nn.Linear(2, 2), [torch.ones(1, 2)], {"examples": 0}, "examples must be a whole number >= 1"),
        (Integers(), [torch.ones(1, 2)], {}, "one floating-point tensor with an axis"),
        (Detached(), [torch.ones(1, 2)], {}, "does not depend on its input"),
        (nn.LSTM(2, 2), [torch.ones(3, 1, 2)], {}, "Wrap it"),
    ],
)
def test_what_has_no_jacobian_is_refused(model: nn.Module, data: object, options: dict[str, int], message: str) -> None:
    with pytest.raises(SparsewoodError, match=message):
        jacobian_singular_values(model, data, **options)  # type: ignore[arg-type]


def test_other_mistakes() -> None:
    broken = nn.Linear(2, 2)
    nn.init.constant_(broken.weight, float("nan"))
    refused: list[tuple[type[SparsewoodError], str, Callable[[], object]]] = [
        (SparsewoodError, "not finite", lambda: jacobian_singular_values(broken, [torch.ones(1, 2)])),
        (SparsewoodError, "weight is not finite", lambda: layer_singular_values(broken)),
        (UnknownName, "'wieght'", lambda: layer_singular_values(broken, {"wieght": torch.ones(2, 2).bool()})),
        (SparsewoodError, "no weight of a linear", lambda: layer_singular_values(nn.ReLU())),
    ]
    for kind, message, make in refused:
        with pytest.raises(kind, match=message):
            make()
    assert str(SingularValues.of(torch.ones(1, 2))) == "mean 1 +- 0, from 1 to 1"


def test_a_first_operation_may_be_in_place() -> None:
    x = torch.tensor([[1.0, -2.0, 3.0]])
    layer = nn.Linear(3, 2)
    found = jacobian_singular_values(nn.Sequential(nn.ReLU(inplace=True), layer), [x])
    expected = torch.linalg.svdvals(layer.weight.detach() * torch.tensor([1.0, 0.0, 1.0]))
    torch.testing.assert_close(found.values[0], expected.double(), rtol=1e-5, atol=1e-6)
    assert x.tolist() == [[1.0, -2.0, 3.0]]
