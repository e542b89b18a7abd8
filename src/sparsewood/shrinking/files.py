"""Networks on disk: the weights as safetensors, and the plan that makes a network of their shapes; see docs/format.md.

Nothing is unpickled, and nothing that a file says is done before all of it was checked.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor, nn

from sparsewood import checkpoint
from sparsewood.errors import SparsewoodError, require_model
from sparsewood.files import writable_directory, write_atomically
from sparsewood.shrinking import planfile
from sparsewood.shrinking.compose import compose, expand, shapes_after
from sparsewood.shrinking.planfile import from_json, to_json
from sparsewood.shrinking.restoring import (
    attach,
    attached,
    check_names,
    cut_copy,
    fill,
    model_and_plan,
    refuse,
    stored,
    with_aliases,
)

__all__ = [
    "PLAN",
    "WEIGHTS",
    "attach",
    "attached",
    "compose",
    "expand",
    "fingerprint",
    "from_json",
    "load",
    "save",
    "shapes_after",
    "to_json",
]

WEIGHTS, PLAN = "model.safetensors", "plan.json"
_LARGEST_PLAN = 2**28
"""Bytes of a plan file; that of a network of a hundred thousand tensors has a tenth."""


def save(shrunk: Any, path: str | os.PathLike[str]) -> None:
    """Write a network to the directory `path`: `model.safetensors` and `plan.json`, as docs/format.md says.

    Args:
        shrunk: what `shrink` returned, or its network, also after training or a deepcopy; or one that never shrank.
        path: is created if needed. Files of these names that are there are replaced once both new ones are written.

    Raises `SparsewoodError` if the network holds something else than tensors, or is not what its plan leaves, and
    `OutputError` if the files cannot be written.
    """
    model, plan = model_and_plan(shrunk, "save")
    tensors, aliases = stored(model)
    _refuse_complex128(tensors)
    data = planfile.to_dict(plan)
    directory = writable_directory(path)

    def write(plan_file: Path, weights_file: Path) -> None:
        content = save_bytes(tensors, {"format": "pt"})
        weights_file.write_bytes(content)
        whole = {**data, "aliases": aliases, "weights": hashlib.sha256(content).hexdigest()}
        whole["sha256"] = planfile.digest(whole)
        plan_file.write_bytes(planfile.render(whole).encode())

    # Both are written before either takes its place; the plan, which names the weights, does so last.
    write_atomically(
        directory / PLAN,
        lambda plan_file: write_atomically(directory / WEIGHTS, lambda weights_file: write(plan_file, weights_file)),
    )


def load(path: str | os.PathLike[str], *, model: nn.Module) -> nn.Module:
    """The network that `save` wrote: a copy of `model`, cut to its shapes, with its values.

    Args:
        path: the directory.
        model: a freshly built network of full size, from the same code and arguments as the one that was shrunk; its
            values do not matter. It is not changed.

    The result has the file's values and dtypes; all else (device, mode, `requires_grad`, ties, hooks, buffers that are
    not part of the state) is that of `model`.

    Raises `FileNotFoundError`, `FileFormatError` for files that are damaged, altered, or of another version, and
    `SparsewoodError` if `model` is another network.
    """
    require_model(model)
    directory = Path(path)
    data = _read_plan(directory / PLAN)
    tensors = _read_weights(directory / WEIGHTS, data)
    copied = cut_copy(model, data, directory / PLAN)
    fill(copied, tensors, directory / WEIGHTS)
    return copied


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over the names, dtypes, shapes and bytes of the tensors in the model's state.

    >>> layer = nn.Linear(1, 1)
    >>> before = fingerprint(layer)
    >>> _ = layer.bias.data.add_(1)
    >>> fingerprint(layer) == before
    False
    """
    state = model.state_dict()
    return checkpoint.digest({name: value for name, value in state.items() if isinstance(value, Tensor)}, {})


# ---------------------------------------------------------------- saving


def _refuse_complex128(tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        if tensor.dtype is torch.complex128:
            raise SparsewoodError(f"{name!r} is complex128, which safetensors cannot hold. Use complex64.")


# ---------------------------------------------------------------- loading


def _read_plan(where: Path) -> dict[str, Any]:
    if not where.is_file():
        raise FileNotFoundError(f"No saved network at '{where.parent}': it has no {PLAN}.")
    if where.stat().st_size > _LARGEST_PLAN:
        refuse(where, f"it has {where.stat().st_size} bytes, more than a plan takes")
    try:
        data = planfile.read(where.read_bytes())
        planfile.checked(data)
    except ValueError as error:  # besides InvalidPlan: numbers without end and halves of characters cannot be spelled
        refuse(where, str(error), error)
    check_names(data, where)
    return data


def _read_weights(where: Path, data: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors under all of their names."""
    if not where.is_file():
        raise FileNotFoundError(f"No saved network at '{where.parent}': it has no {WEIGHTS}.")
    content = where.read_bytes()
    if hashlib.sha256(content).hexdigest() != data.get("weights"):
        refuse(where, f"its checksum is not the one in {PLAN}: it is damaged, altered, or of another network")
    try:
        tensors = load_bytes(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        refuse(where, f"it is not a complete safetensors file ({error})", error)
    return with_aliases(tensors, data["aliases"], where.with_name(PLAN))
