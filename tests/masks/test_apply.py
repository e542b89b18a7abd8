"""apply_masks: exact zeros, all or nothing, whatever the parameter looks like."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.masks import apply_masks, resolve
from sparsewood.masks.apply import clear
from sparsewood.types import Masks


def bits(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.bool)


def two_layers() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))


WEIGHT, BIAS = (6, 2), (6,)
VECTORS = [
    # weight mask, bias mask, sparsity of the weight, of both
    (torch.ones(WEIGHT), torch.zeros(BIAS), 0.0, 1 / 3),
    (torch.zeros(WEIGHT), torch.ones(BIAS), 1.0, 2 / 3),
    (torch.ones(WEIGHT), torch.tensor([1.0, 0, 1, 0, 0, 1]), 0.0, 1 / 6),
]


def sparsities(masks: Masks) -> tuple[float, float]:
    """(of the weight only, of weight and bias)."""
    return Masks({"weight": masks["weight"]}).sparsity, masks.sparsity


@pytest.mark.parametrize(("weight", "bias", "weight_only", "both"), VECTORS)
def test_003_03_sparsity_vectors(weight: Tensor, bias: Tensor, weight_only: float, both: float) -> None:
    masks = Masks({"weight": weight.bool(), "bias": bias.bool()})
    assert sparsities(masks) == (weight_only, both)
    layer = nn.Linear(2, 6)
    apply_masks(layer, masks)
    assert int((layer.weight == 0).sum() + (layer.bias == 0).sum()) == masks.removed


def test_7_8_masks_are_applied_and_all_else_keeps_its_bits() -> None:
    """Regression 7.8: the sparsity asked for is found in the weights, nothing else moves."""
    model = two_layers()
    before = copy.deepcopy(model.state_dict())
    parameter, memory = model[0].weight, model[0].weight.data_ptr()
    mask = torch.tensor([[True, False], [False, True], [True, True]])
    apply_masks(model, {"0.weight": mask})
    assert model[0].weight is parameter
    assert parameter.data_ptr() == memory
    assert parameter.requires_grad
    assert parameter.is_leaf
    assert torch.equal(parameter == 0, ~mask)
    assert torch.equal(parameter[mask], before["0.weight"][mask])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items() if key != "0.weight")


DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", [1.5, -1.5, float("inf"), float("-inf"), float("nan"), -0.0])
def test_masked_entries_become_positive_zero(dtype: torch.dtype, value: float) -> None:
    tensor = torch.full((2, 3), value, dtype=dtype)
    keep = torch.tensor([[True, False, False], [False, True, True]])
    before = tensor.clone()
    clear(tensor, keep)
    real = torch.view_as_real(tensor[~keep]) if dtype.is_complex else tensor[~keep]
    assert (real == 0).all()
    assert not torch.signbit(real).any()
    assert torch.equal(tensor[keep].view(torch.uint8), before[keep].view(torch.uint8))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64, torch.bool, torch.float8_e4m3fn], ids=str)
def test_other_types_are_cleared_too(dtype: torch.dtype) -> None:
    tensor = torch.ones(3).to(dtype)
    clear(tensor, bits(1, 0, 1))
    assert tensor.float().tolist() == [1, 0, 1]


@pytest.mark.parametrize("requires_grad", [True, False])
def test_frozen_parameters_are_masked_too(requires_grad: bool) -> None:
    layer = nn.Linear(2, 1).requires_grad_(requires_grad)
    apply_masks(layer, {"weight": torch.tensor([[True, False]])})
    assert layer.weight[0, 1] == 0
    assert layer.weight.requires_grad == requires_grad


def test_memory_layout_does_not_matter() -> None:
    conv = nn.Conv2d(4, 3, 3).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    mask = torch.rand(conv.weight.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    apply_masks(conv, {"weight": mask})
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(conv.weight != 0, mask)


def test_scalars_and_empty_parameters() -> None:
    module = nn.ParameterDict({"scale": nn.Parameter(torch.tensor(2.0)), "none": nn.Parameter(torch.ones(0, 3))})
    apply_masks(module, {"scale": torch.tensor(False), "none": torch.ones(0, 3, dtype=torch.bool)})
    assert module["scale"].item() == 0


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(3, 2)
        self.head = nn.Linear(2, 3, bias=False)
        self.head.weight = self.embedding.weight


@pytest.mark.parametrize("name", ["embedding.weight", "head.weight"])
def test_a_tied_parameter_answers_to_each_name(name: str) -> None:
    model = Tied()
    mask = torch.tensor([[True, False], [True, True], [False, False]])
    apply_masks(model, {name: mask})
    assert model.head.weight is model.embedding.weight
    assert torch.equal(model.head.weight != 0, mask)


def test_two_masks_of_a_tied_parameter_keep_what_both_keep() -> None:
    model = Tied()
    apply_masks(
        model,
        {
            "embedding.weight": torch.tensor([[True, False]] * 3),
            "head.weight": torch.tensor([[True, True]] * 2 + [[False, True]]),
        },
    )
    assert (model.head.weight != 0).tolist() == [[True, False], [True, False], [False, False]]


def test_masks_follow_to_the_parameters_device() -> None:
    layer = nn.Linear(2, 1, device="meta")
    apply_masks(layer, {"weight": torch.tensor([[True, False]])})
    assert layer.weight.device.type == "meta"


def test_change_is_seen_by_autograd() -> None:
    """Masking between forward and backward is an error, not a silently wrong gradient."""
    layer = nn.Linear(2, 2)
    loss = layer(layer(torch.ones(1, 2))).sum()
    apply_masks(layer, {"weight": torch.eye(2).bool()})
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_resolve_changes_nothing_and_keeps_the_order() -> None:
    model = two_layers()
    before = copy.deepcopy(model.state_dict())
    found = resolve(model, {"1.weight": bits(0, 0, 0)[None], "0.bias": bits(0, 0, 1)})
    assert [name for name, _, _ in found] == ["1.weight", "0.bias"]
    assert found[0][1] is model[1].weight
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


BAD = [
    (
        {"0.wieght": torch.ones(3, 2).bool()},
        UnknownName,
        r"Unknown parameter of Sequential '0\.wieght'\. Did you mean '0\.weight'",
    ),
    (
        {"0.weight": torch.ones(2, 3).bool()},
        SparsewoodError,
        r"parameter '0\.weight' has shape \(2, 3\); expected \(3, 2\)",
    ),
    ({"0.weight": torch.ones(3, 2)}, SparsewoodError, r"'0\.weight' must be a boolean tensor\. Got torch\.float32"),
]


@pytest.mark.parametrize(("bad", "error", "message"), BAD)
def test_nothing_changes_when_any_mask_is_invalid(bad: dict[str, Tensor], error: type[Exception], message: str) -> None:
    model = two_layers()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=message):
        apply_masks(model, {"1.weight": torch.zeros(1, 3).bool(), **bad})
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
def test_a_lazy_parameter_is_named() -> None:
    with pytest.raises(SparsewoodError, match=r"'weight' has no shape yet\. Run the model once"):
        apply_masks(nn.LazyLinear(3), {"weight": bits(1)})
