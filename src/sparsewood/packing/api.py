"""A network in one small file, and back, bit by bit the same."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sparsewood.errors import SparsewoodError, require_model
from sparsewood.files import writable_directory, write_atomically
from sparsewood.measurement.counting import count_nonzero
from sparsewood.packing import schemes
from sparsewood.packing.container import Contents, Section, Shapes, join, most_bytes, most_header, split
from sparsewood.packing.cursor import Cursor, Damaged
from sparsewood.packing.report import PackedTensor, PackReport
from sparsewood.packing.words import DTYPES, kind_of, tensor_of, words_of
from sparsewood.shrinking import planfile
from sparsewood.shrinking.compose import shapes_of
from sparsewood.shrinking.restoring import (
    check_names,
    cut_copy,
    fill,
    model_and_plan,
    refuse,
    require_real,
    require_state,
    stored,
    with_aliases,
)

__all__ = ["pack", "unpack"]

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def pack(model: Any, path: str | os.PathLike[str]) -> PackReport:
    """Write a network to one file with no more bytes than its values need, and say what each tensor takes.

    Each tensor is written in the shortest of several ways: a constant, its bytes in planes, a codebook with indices,
    and for zeros a bitmap or gaps with the values that are left. All are coded near their entropy: n entries of which
    the shares p_1, p_2, ... are equal take about n sum p log2(1 / p) bits. Only values count; no mask, no list of
    shared weights is needed. Nothing is lost: -0.0 and the bits of NaN come back. docs/format.md has the bytes.

    Args:
        model: a network, or what `shrink` returned. It is not changed.
        path: the file; its directory is created if needed. It appears complete or not at all.

    Returns the sizes; `print` shows them as a table. Its `bytes` is the size of the file.

    Raises `SparsewoodError` if the network holds something else than plain dense tensors, or is not what its plan
    leaves, and `OutputError` if the file cannot be written.

    Source: Han, Mao and Dally, "Deep Compression", ICLR 2016, https://arxiv.org/abs/1510.00149, for zeros as gaps,
    shared weights as indices, and both coded by entropy; here the coder is that of Duda,
    https://arxiv.org/abs/1311.2540, with fractions of a bit.

    >>> import tempfile, torch
    >>> layer = nn.Linear(1000, 100)
    >>> _ = layer.weight.data.copy_(torch.arange(100_000).reshape(100, 1000) % 10 == 0), layer.bias.data.zero_()
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     report = pack(layer, f"{directory}/layer.swp")
    ...     same = unpack(f"{directory}/layer.swp", model=nn.Linear(1000, 100))
    >>> [(one.name, one.scheme, one.nonzeros, one.distinct) for one in report.tensors]
    [('bias', 'constant', 0, 1), ('weight', 'gaps + constant', 10000, 2)]
    >>> report.raw_bytes, report.tensors[1].bytes < 50, torch.equal(same.weight, layer.weight)
    (400400, True, True)
    """
    network, plan = model_and_plan(model, "pack")
    tensors, aliases = stored(network)
    data = {**planfile.to_dict(plan), "aliases": aliases}
    packed = [_packed(name, tensor) for name, tensor in tensors.items()]
    content, header = join(Contents(data, tuple(section for section, _ in packed)))
    _require_readable(content, _before(network, plan.shapes, plan.added))
    target = Path(path)
    writable_directory(target.parent)
    write_atomically(target, lambda temporary: temporary.write_bytes(content))
    return PackReport(tuple(row for _, row in packed), header, len(aliases))


def unpack(path: str | os.PathLike[str], *, model: nn.Module) -> nn.Module:
    """The network that `pack` wrote: a copy of `model`, cut to its shapes, with its values.

    Args:
        path: the file.
        model: a freshly built network of full size, from the same code and arguments as the one that was packed, or
            shrunk before; its values do not matter. It is not changed.

    The result has the file's values and dtypes, bit by bit; all else (device, mode, `requires_grad`, ties, hooks,
    buffers that are not part of the state) is that of `model`.

    Raises `FileNotFoundError`, `FileFormatError` for a file that is truncated, damaged, altered, or of another version,
    and `SparsewoodError`, with the names, if `model` is another network.
    """
    require_model(model)
    where = Path(path)
    require_real(model)
    contents = _contents(where, _before(model, shapes_of(model)))
    check_names(contents.data, where)
    copied = cut_copy(model, contents.data, where)
    aliases: Mapping[str, str] = contents.data["aliases"]
    described = {one.name: (one.shape, DTYPES[one.dtype]) for one in contents.sections}
    # What a tensor may take is known from here on, since the network has its shape.
    require_state(copied, with_aliases(described, aliases, where), where)
    tensors = {one.name: _unpacked(one, where) for one in contents.sections}
    fill(copied, with_aliases(tensors, aliases, where), where)
    return copied


def _packed(name: str, tensor: Tensor) -> tuple[Section, PackedTensor]:
    if tensor.dtype not in _NAMES:
        raise SparsewoodError(
            f"{name!r} is {tensor.dtype}, which a packed file cannot hold. It holds {', '.join(DTYPES)}."
        )
    found = schemes.write(words_of(tensor), kind_of(tensor.dtype))
    dtype, shape = _NAMES[tensor.dtype], tuple(tensor.shape)
    row = PackedTensor(
        name=name,
        dtype=dtype,
        shape=shape,
        scheme=found.scheme,
        bytes=len(found.content),
        raw_bytes=tensor.numel() * tensor.element_size(),
        nonzeros=count_nonzero(tensor),
        distinct=found.distinct,
        predicted_bits=found.bits,
    )
    return Section(name, dtype, shape, found.content), row


def _before(model: nn.Module, shapes: Shapes, made: Collection[str] = ()) -> Shapes:
    """The shapes of all that a file of `model` holds, and of what it was cut from: `shapes`, those of parameters and
    buffers of full size, and what else is in its state, as extra state is. The biases that were `made` are no part of
    it: the network that is to be filled lacks them."""
    state = model.state_dict()
    return {**{name: tuple(tensor.shape) for name, tensor in state.items() if name not in made}, **shapes}


def _require_readable(content: bytes, shapes: Shapes) -> None:
    """What reading would refuse is not written."""
    try:
        _require_size(len(content), shapes)
        split(content, most_header(shapes))
    except Damaged as error:
        raise SparsewoodError(f"This network cannot be packed: {error}.") from error


def _require_size(size: int, shapes: Shapes) -> None:
    most = most_bytes(shapes)
    if size > most:
        raise Damaged(f"it has {size} bytes, and a packed file of this network has at most {most}")


def _contents(where: Path, shapes: Shapes) -> Contents:
    if not where.is_file():
        raise FileNotFoundError(f"No packed network at '{where}'.")
    try:
        _require_size(where.stat().st_size, shapes)
        return split(where.read_bytes(), most_header(shapes))
    except Damaged as error:
        refuse(where, str(error), error)


def _unpacked(section: Section, where: Path) -> Tensor:
    dtype = DTYPES[section.dtype]
    kind = kind_of(dtype)
    try:
        cursor = Cursor(section.content)
        words = schemes.read(cursor, math.prod(section.shape) * kind.parts, kind)
        cursor.finish()
    except Damaged as error:
        refuse(where, f"tensor {section.name!r} is damaged: {error}", error)
    return tensor_of(words, dtype, section.shape)
