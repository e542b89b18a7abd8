"""The bytes of a packed file: a prefix, a header, a section for each tensor; see docs/format.md.

Nothing that a file says is believed before its checksum was compared, and nothing is allocated for what it announces
beyond what the network that is to be filled can need.
"""

from __future__ import annotations

import hashlib
import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sparsewood.packing import streams
from sparsewood.packing.cursor import Cursor, Damaged
from sparsewood.packing.words import DTYPES
from sparsewood.shrinking import planfile

__all__ = ["MAGIC", "PREFIX", "VERSION", "Contents", "Section", "Shapes", "join", "most_bytes", "most_header", "split"]

MAGIC = b"\x89swpack\n"
VERSION = 1
_FIELDS = struct.Struct("<8sIII")
_DIGEST = hashlib.sha256().digest_size
PREFIX = _FIELDS.size + _DIGEST
_LARGEST = 2**63
_MOST_AXES = 64  # of a tensor of PyTorch

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Section:
    """One tensor in a file: what the header says of it, and its bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    content: bytes | memoryview


@dataclass(frozen=True)
class Contents:
    """What a file holds: the fields of the plan and of `aliases`, and the tensors in order of their names."""

    data: Mapping[str, Any]
    sections: tuple[Section, ...]


def most_header(shapes: Shapes) -> int:
    """The most bytes of the JSON of a network whose tensors had these shapes before it shrank.

    Positions that stay take at most 16 bytes each with their ranges, and the rest is short for each tensor.
    """
    return 2**20 + sum(4096 + 16 * (len(name.encode()) + sum(shape)) for name, shape in shapes.items())


def most_bytes(shapes: Shapes) -> int:
    """The most bytes of a whole file: an entry takes at most 16, and biases may have been made."""
    return PREFIX + 2 * most_header(shapes) + 24 * sum(math.prod(shape) for shape in shapes.values())


def join(contents: Contents) -> tuple[bytes, int]:
    """The bytes of a file, and how many of them are prefix and header."""
    described = [
        {"name": one.name, "dtype": one.dtype, "shape": list(one.shape), "bytes": len(one.content)}
        for one in contents.sections
    ]
    text = planfile.render({**contents.data, "tensors": described}).encode()
    header = zlib.compress(text, 9)
    fields = _FIELDS.pack(MAGIC, VERSION, len(header), len(text))
    rest = b"".join([header, *(one.content for one in contents.sections)])
    return b"".join([fields, _digest(fields, rest), rest]), PREFIX + len(header)


def split(content: bytes, most: int) -> Contents:
    """What `join` joined, if the JSON of its header has at most `most` bytes. Raises `Damaged`."""
    if not content.startswith(MAGIC):
        raise Damaged("it does not begin as a packed file does")
    if len(content) < PREFIX:
        raise Damaged(f"it has {len(content)} bytes, and a packed file has at least {PREFIX}")
    _, version, size, length = _FIELDS.unpack_from(content)
    if version != VERSION:
        raise Damaged(f"it has format version {version}, and this release reads version {VERSION}")
    view = memoryview(content)
    if view[_FIELDS.size : PREFIX] != _digest(view[: _FIELDS.size], view[PREFIX:]):
        raise Damaged("its checksum differs from its content, so it was truncated, altered or damaged")
    if length > most:
        raise Damaged(f"its header has {length} bytes, and that of this network at most {most}")
    cursor = Cursor(view[PREFIX:])
    data = _header(streams.inflate(cursor.take(size), length))
    sections = tuple(
        Section(one["name"], one["dtype"], tuple(one["shape"]), cursor.take(one["bytes"])) for one in data["tensors"]
    )
    cursor.finish()
    return Contents(data, sections)


def _digest(fields: bytes | memoryview, rest: bytes | memoryview) -> bytes:
    found = hashlib.sha256(fields)
    found.update(rest)
    return found.digest()


def _header(text: bytes) -> dict[str, Any]:
    try:
        data = planfile.parsed(text)
        spelled = planfile.render(data).encode()
        planfile.checked(data)
    except ValueError as error:  # besides InvalidPlan: numbers without end and halves of characters cannot be spelled
        raise Damaged(f"its header is no plan: {error}") from error
    if spelled != text:
        raise Damaged("its header is not spelled as it should be")
    tensors = data.get("tensors")
    if not isinstance(tensors, list) or not all(map(_is_tensor, tensors)):
        raise Damaged("its field 'tensors' is damaged")
    names = [one["name"] for one in tensors]
    if names != sorted(set(names)):
        raise Damaged("its tensors are not in the order of their names, each once")
    return data


def _is_tensor(one: object) -> bool:
    return (
        isinstance(one, dict)
        and one.keys() == {"name", "dtype", "shape", "bytes"}
        and isinstance(one["name"], str)
        and isinstance(one["dtype"], str)
        and one["dtype"] in DTYPES
        and isinstance(one["shape"], list)
        and len(one["shape"]) <= _MOST_AXES
        and all(map(_is_size, [*one["shape"], one["bytes"]]))
    )


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < _LARGEST
