"""Tensors and numbers on disk, in one file that is whole or refused.

The file is a safetensors file whose metadata has the one key `sparsewood.checkpoint`, a JSON object with

    version   1; a reader MUST refuse any other
    values    any JSON object
    sha256    of the canonical JSON of `values`, then for each tensor in name order its name, dtype, shape and bytes; a
              reader MUST compare it
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor

from sparsewood.errors import FileFormatError
from sparsewood.files import write_atomically

__all__ = ["digest", "read", "write"]

VERSION = 1
KEY = "sparsewood.checkpoint"
_LENGTH = 8  # bytes before a safetensors header


def digest(tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> str:
    """SHA-256 over the values and, in name order, every tensor's name, dtype, shape and bytes (a sparse one's parts').

    >>> a, b = torch.zeros(2), torch.ones(1)
    >>> digest({"a": a, "b": b}, {}) == digest({"b": b, "a": a}, {}), digest({"a": a}, {}) == digest({"a": a + 1}, {})
    (True, False)
    """
    found = hashlib.sha256(_canonical(values).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        layout = "" if tensor.layout is torch.strided else tensor.layout
        found.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}{layout}".encode())
        for part in _parts(tensor):
            found.update(part.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """The tensor, or the dense ones that a sparse one consists of."""
    if tensor.layout is torch.sparse_coo:
        tensor = tensor.coalesce()
        return tensor.indices(), tensor.values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    return (tensor,)


def write(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Write one checkpoint; the file appears complete or not at all, and what was at `path` stays until then.

    Raises `OutputError` if it cannot be written: no room, no permission.
    """
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    header = {"version": VERSION, "values": dict(values), "sha256": digest(own, values)}
    content = save_bytes(own, {KEY: json.dumps(header, ensure_ascii=False, separators=(",", ":"))})
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors (on the CPU) and values of a checkpoint.

    Raises `FileNotFoundError`, and `FileFormatError` for a file that is truncated, altered or of another kind.
    """
    where = Path(path)
    if not where.is_file():
        raise FileNotFoundError(f"No checkpoint at '{where}'.")
    content = where.read_bytes()
    try:
        tensors = load_bytes(content)
        size = int.from_bytes(content[:_LENGTH], "little")
        metadata = json.loads(content[_LENGTH : _LENGTH + size]).get("__metadata__", {})
    except (SafetensorError, ValueError) as error:
        raise refused(where, f"it is not a complete safetensors file ({error})") from error
    if KEY not in metadata:
        raise refused(where, f"it has no {KEY!r} metadata, so it is no checkpoint of this library")
    try:
        header = json.loads(metadata[KEY])
        version, values, expected = header["version"], header["values"], header["sha256"]
    except (ValueError, TypeError, KeyError) as error:
        raise refused(where, f"its {KEY!r} metadata is damaged ({error!r})") from error
    if version != VERSION:
        raise refused(where, f"it has format version {version!r}, and this release reads version {VERSION}")
    if digest(tensors, values) != expected:
        raise refused(where, "its checksum differs from its content, so it was altered or damaged")
    return tensors, values


def refused(where: str | os.PathLike[str], reason: str) -> FileFormatError:
    """The error for a checkpoint that cannot be trusted."""
    return FileFormatError(
        f"Checkpoint '{where}' cannot be used: {reason}. Remove the file to go on from the state before it, or put "
        "back a good copy."
    )


def _canonical(values: Mapping[str, Any]) -> str:
    return json.dumps(dict(values), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
