"""Masks: applied once, enforced during training, read from older checkpoints."""

from sparsewood.masks.apply import apply_masks, by_first_name, masked, not_held, resolve
from sparsewood.masks.enforce import Keeper, enforce
from sparsewood.masks.soft import SoftKeeper, soften
from sparsewood.masks.state_dict import masks_from_state_dict

__all__ = [
    "Keeper",
    "SoftKeeper",
    "apply_masks",
    "by_first_name",
    "enforce",
    "masked",
    "masks_from_state_dict",
    "not_held",
    "resolve",
    "soften",
]
