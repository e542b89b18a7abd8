"""masks_from_state_dict: checkpoints of torch.nn.utils.prune become masks and a plain state dict."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from sparsewood.errors import SparsewoodError
from sparsewood.masks import masks_from_state_dict


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


def pruned() -> nn.Sequential:
    model = net()
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    prune.random_unstructured(model[0], "bias", amount=1)
    prune.ln_structured(model[3], "weight", amount=1, n=2, dim=1)
    return model


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_pruned_checkpoint_loads_into_the_plain_model(prefix: str) -> None:
    old = pruned()
    checkpoint = old.state_dict(prefix=prefix)
    keys = list(checkpoint)
    masks, clean = masks_from_state_dict(checkpoint)
    assert set(masks) == {f"{prefix}0.weight", f"{prefix}0.bias", f"{prefix}3.weight"}
    assert masks[f"{prefix}0.weight"].sum() == 54
    assert list(checkpoint) == keys
    model = net()
    (nn.ModuleDict({"module": model}) if prefix else model).load_state_dict(clean)
    x = torch.randn(2, 3, 3, 3)
    assert torch.equal(model.eval()(x), old.eval()(x))


def test_values_are_original_times_mask_even_when_not_finite() -> None:
    original = torch.tensor([1.0, float("nan"), -2.0])
    masks, clean = masks_from_state_dict({"w_orig": original, "w_mask": torch.tensor([1.0, 0.0, 0.0])})
    assert clean["w"].tolist() == [1, 0, 0]
    assert not torch.signbit(clean["w"]).any()
    assert masks["w"].tolist() == [True, False, False]
    assert original.isnan().any()


def test_other_keys_order_and_layer_versions_stay() -> None:
    checkpoint = pruned().state_dict()
    _, clean = masks_from_state_dict(checkpoint)
    assert [key for key in clean if key in checkpoint] == [key for key in checkpoint if key in clean]
    assert set(clean) == set(net().state_dict())
    assert clean._metadata == checkpoint._metadata  # pyright: ignore[reportAttributeAccessIssue]


def test_keys_without_a_partner_stay() -> None:
    lone = OrderedDict(
        {"a.weight_orig": torch.ones(2), "a.weight_u": torch.ones(2), "attn_mask": torch.eye(2), "extra": 3}
    )
    masks, clean = masks_from_state_dict(lone)
    assert len(masks) == 0
    assert clean == lone


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float16], ids=str)
def test_masks_of_any_type(dtype: torch.dtype) -> None:
    masks, _ = masks_from_state_dict({"w_orig": torch.ones(2), "w_mask": torch.tensor([0, 1], dtype=dtype)})
    assert masks["w"].tolist() == [False, True]


BAD = [
    (
        {"w_orig": torch.ones(2), "w_mask": torch.tensor([0.5, 1])},
        r"'w_mask' must hold only 0 and 1\. Got 0\.5 among 1",
    ),
    (
        {"w_orig": torch.ones(2), "w_mask": torch.tensor([float("nan"), 1])},
        r"'w_mask' must hold only 0 and 1\. Got nan",
    ),
    ({"w_orig": torch.ones(2), "w_mask": torch.ones(3)}, r"'w_mask' has shape \(3,\); expected \(2,\)"),
    ({"w_orig": torch.ones(2), "w_mask": torch.ones(2), "w": torch.ones(2)}, r"both 'w' and 'w_orig'"),
]


@pytest.mark.parametrize(("checkpoint", "message"), BAD)
def test_bad_checkpoints_name_the_key(checkpoint: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(SparsewoodError, match=message):
        masks_from_state_dict(checkpoint)
