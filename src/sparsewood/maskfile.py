"""Masks on disk: one bit per entry, checked on the way back.

The file is a safetensors file. For each mask it holds a uint8 vector of ceil(numel / 8) bytes under the mask's name:
the entries row by row, high bit first, 1 = kept, the unused low bits of the last byte 0. Its metadata has the one key
`sparsewood.masks`, a JSON object with

    version      1; a reader MUST refuse any other
    shapes       {name: [sizes]}, in the order of the masks; MUST name the same tensors as the file
    fingerprint  `Masks.fingerprint()`; a reader MUST compare it

`Masks.save` and `Masks.load` are the way in; this module knows tensors and bytes only.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from sparsewood.errors import FileFormatError
from sparsewood.files import write_atomically

VERSION = 1
# One key, because safetensors writes several in an order that changes from run to run.
KEY = "sparsewood.masks"

Bits = dict[str, np.ndarray]


def write(path: str | os.PathLike[str], shapes: Mapping[str, list[int]], bits: Bits, fingerprint: str) -> None:
    """Write packed masks; the file appears complete or not at all."""
    header = {"version": VERSION, "shapes": dict(shapes), "fingerprint": fingerprint}
    # Neither escapes nor blanks, so that there is one spelling only and every altered bit is found.
    content = save(bits, {KEY: json.dumps(header, ensure_ascii=False, separators=(",", ":"))})
    write_atomically(path, lambda temporary: temporary.write_bytes(content))


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], str]:
    """The boolean tensors in a file and the fingerprint that they should have."""
    where = Path(path)
    if not where.is_file():
        raise FileNotFoundError(f"No mask file at '{where}'.")
    try:
        with safe_open(where, framework="numpy") as stream:
            header = _header(where, stream.metadata() or {}, set(stream.keys()))
            masks = {name: _unpack(where, name, stream, shape) for name, shape in header["shapes"].items()}
    except SafetensorError as error:
        raise refused(where, f"it is not a complete safetensors file ({error})") from error
    return masks, header["fingerprint"]


def _header(where: Path, metadata: dict[str, str], names: set[str]) -> dict[str, Any]:
    if KEY not in metadata:
        raise refused(where, f"it has no {KEY!r} metadata, so it does not hold masks")
    try:
        header = json.loads(metadata[KEY])
        version, shapes, _ = header["version"], header["shapes"], header["fingerprint"]
    except (ValueError, TypeError, KeyError) as error:
        raise refused(where, f"its {KEY!r} metadata is damaged ({error!r})") from error
    if version != VERSION:
        raise refused(where, f"it has format version {version!r}, and this release reads version {VERSION}")
    if not isinstance(shapes, dict) or not all(_is_shape(shape) for shape in shapes.values()):
        raise refused(where, f"its shapes are damaged: {shapes!r}")
    if shapes.keys() != names:
        raise refused(where, f"its shapes and its tensors differ in {sorted(shapes.keys() ^ names)}")
    return header


def _is_shape(shape: object) -> bool:
    return isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)


def _unpack(where: Path, name: str, stream: Any, shape: list[int]) -> Tensor:
    entries = math.prod(shape)
    part = stream.get_slice(name)
    expected, got = ("U8", [(entries + 7) // 8]), (part.get_dtype(), part.get_shape())
    if got != expected:
        raise refused(where, f"tensor {name!r} of shape {shape} should be stored as {expected}, and is {got}")
    bits = np.unpackbits(stream.get_tensor(name))
    if bits[entries:].any():
        raise refused(where, f"tensor {name!r} has bits beyond its {entries} entries, so it was altered")
    return torch.from_numpy(bits[:entries].reshape(shape).view(np.bool_))


def refused(where: str | os.PathLike[str], reason: str) -> FileFormatError:
    """The error for a file that cannot be trusted."""
    return FileFormatError(
        f"Mask file '{where}' cannot be read: {reason}. Use a file written by Masks.save of this or an earlier release."
    )
