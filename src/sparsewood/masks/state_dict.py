"""Masks out of checkpoints that `torch.nn.utils.prune` left behind."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sparsewood.errors import SparsewoodError
from sparsewood.types import Masks


def masks_from_state_dict(state_dict: Mapping[str, Any]) -> tuple[Masks, OrderedDict[str, Any]]:
    """Split a checkpoint made with `torch.nn.utils.prune` into masks and a state dict for the plain model.

    Each pair `NAME_orig`, `NAME_mask` becomes the mask `NAME` and the entry `NAME` = orig * mask, in the place of
    `NAME_orig` (masked entries are +0.0 even where orig is not finite). A key without its partner, as those of
    spectral norm or a model's own `attn_mask`, stays as it is, and so do prefixes as `module.`. Without any pair the
    masks are empty. The given state dict is not changed.

    Raises `SparsewoodError`, naming the key, for a mask with a value other than 0 and 1, of another shape than its
    weight, or whose plain name is taken.

    >>> import torch
    >>> checkpoint = {"fc.weight_orig": torch.tensor([3.0, 4.0]), "fc.weight_mask": torch.eye(2)[0]}
    >>> masks, clean = masks_from_state_dict(checkpoint)
    >>> masks["fc.weight"], clean["fc.weight"]
    (tensor([ True, False]), tensor([3., 0.]))
    """
    masks: dict[str, Tensor] = {}
    clean: OrderedDict[str, Any] = OrderedDict()
    for key, value in state_dict.items():
        name, _, ending = key.rpartition("_")
        if not {f"{name}_orig", f"{name}_mask"} <= state_dict.keys():
            clean[key] = value
        elif ending == "orig":
            _require_free(name, state_dict)
            masks[name] = _as_boolean(f"{name}_mask", state_dict[f"{name}_mask"], value)
            clean[name] = value.detach().masked_fill(~masks[name].to(value.device), 0)
        elif ending != "mask":
            clean[key] = value
    metadata = getattr(state_dict, "_metadata", None)
    if metadata is not None:
        # Layer versions that modules consult when they load.
        clean._metadata = metadata  # pyright: ignore[reportAttributeAccessIssue]
    return Masks.adopt(masks), clean


def _require_free(name: str, state_dict: Mapping[str, Any]) -> None:
    if name in state_dict:
        raise SparsewoodError(
            f"The state dict has both {name!r} and {name + '_orig'!r}, so the plain weight is ambiguous. "
            f"Delete the one that is out of date."
        )


def _as_boolean(key: str, mask: Tensor, weight: Tensor) -> Tensor:
    if mask.shape != weight.shape:
        raise SparsewoodError(
            f"State dict entry {key!r} has shape {tuple(mask.shape)}; expected {tuple(weight.shape)}, its weight's."
        )
    kept = mask.detach() != 0
    odd = mask[kept & (mask != 1)]
    if odd.numel():
        raise SparsewoodError(
            f"State dict entry {key!r} must hold only 0 and 1. Got {odd[0].item()!r} among {odd.numel()} other values. "
            "Round the mask, or rename the entry if it is not a pruning mask."
        )
    return kept
