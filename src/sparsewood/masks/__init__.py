"""Masks: applied once, enforced during training, kept in files, read from older checkpoints."""

from sparsewood.maskfile import load_masks, save_masks
from sparsewood.masks.apply import apply_masks, resolve
from sparsewood.masks.enforce import Keeper, enforce
from sparsewood.masks.state_dict import from_state_dict

__all__ = ["Keeper", "apply_masks", "enforce", "from_state_dict", "load_masks", "resolve", "save_masks"]
