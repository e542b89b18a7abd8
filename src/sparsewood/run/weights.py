"""Weights from a file, in the forms that people have them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from sparsewood.errors import SparsewoodError
from sparsewood.state import TrainingState

__all__ = ["load_weights"]

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Under which keys scripts save a state dict beside other things."""


def load_weights(model: nn.Module, path: Path) -> None:
    """Set the weights of `model` to those in a file, in place.

    The file is one that a run wrote (with its checksum compared), safetensors, or what `torch.save` wrote: a state
    dict, alone or under one of the keys `WRAPPERS`. Only tensors are read: a pickle that holds more is refused.

    Raises `SparsewoodError` if the file is missing, is none of these, or is of another model.
    """
    if not path.is_file():
        raise SparsewoodError(f"weights: no file at '{path}'.")
    tensors = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    try:
        model.load_state_dict(dict(tensors))
    except (RuntimeError, TypeError, ValueError) as error:
        raise SparsewoodError(f"weights: '{path}' does not fit {type(model).__name__}: {error}") from error


def _safetensors(path: Path) -> Mapping[str, Any]:
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise SparsewoodError(f"weights: '{path}' is no complete safetensors file: {error}") from error
    if any(name.startswith("model/") for name in tensors):
        return TrainingState.load(path).part("model")
    return tensors


def _pickled(path: Path) -> Mapping[str, Any]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a pickle may fail in any way
        raise SparsewoodError(f"weights: '{path}' holds more than tensors, or is damaged: {error}") from error
    if not isinstance(found, Mapping):
        raise SparsewoodError(f"weights: '{path}' holds no state dict, but a {type(found).__name__}.")
    return next((found[key] for key in WRAPPERS if key in found), found)
