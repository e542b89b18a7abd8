"""A stream of symbols, in whichever of three ways takes the fewest bytes.

| first byte | then |
|---|---|
| 0, packed | every symbol in ceil(log2 alphabet) bits, the high bit first; unused bits of the last byte are 0 |
| 1, coded | how many bytes follow (a varint), and what `coding` makes of the symbols |
| 2, deflated | how many bytes follow (a varint), and the symbols, a byte or two each, as a zlib stream |

The number of symbols and the size of the alphabet are known to whoever reads. A stream of no symbols has no bytes.
"""

from __future__ import annotations

import zlib

import numpy as np

from sparsewood.packing import coding
from sparsewood.packing.cursor import Cursor, Damaged, varint

__all__ = ["CODED", "DEFLATED", "PACKED", "read", "width", "write"]

PACKED, CODED, DEFLATED = 0, 1, 2

_SAMPLE = 2**16
"""Of longer streams so many symbols are deflated, to see whether the rest should be."""
_WORTH = 0.97
"""Deflating is slow: it is done if the sample promises less than this share of the other ways."""
_TABLE = 512
"""By so many bytes, about those of a table, may the prediction of coded ones be wrong."""
_CHUNK = 2**20  # of symbols, a multiple of 8, so that a chunk ends with a byte


def width(alphabet: int) -> int:
    """Bits that tell the symbols of an alphabet apart.

    >>> width(2), width(16), width(17), width(256)
    (1, 4, 5, 8)
    """
    return max(1, (alphabet - 1).bit_length())


def write(symbols: np.ndarray, alphabet: int) -> bytes:
    """The stream of symbols, uint8 or uint16, each below `alphabet`.

    >>> write(np.array([1, 0, 1, 1], np.uint8), 2)
    b'\\x00\\xb0'
    """
    if not len(symbols):
        return b""
    counts = coding.histogram(symbols, alphabet)
    packed, coded = (len(symbols) * width(alphabet) + 7) // 8, coding.predicted(counts)
    candidates: list[bytes] = []
    if coded < packed + _TABLE:
        candidates.append(_counted(CODED, coding.encode(symbols, counts)))
    if len(symbols) >= 16 and _deflates(symbols, min(packed, coded)):
        candidates.append(_counted(DEFLATED, zlib.compress(_bytes(symbols), 6)))
    if not candidates or packed + 1 < min(map(len, candidates)):
        candidates.append(bytes([PACKED]) + _pack(symbols, width(alphabet)))
    return min(candidates, key=len)


def read(cursor: Cursor, count: int, alphabet: int) -> np.ndarray:
    """The next `count` symbols: uint8 if the alphabet has at most 256, else uint16. Raises `Damaged`."""
    dtype = np.uint8 if alphabet <= 256 else np.uint16
    if not count:
        return np.zeros(0, dtype)
    kind = cursor.byte()
    if kind == PACKED:
        symbols = _unpack(cursor.take((count * width(alphabet) + 7) // 8), count, width(alphabet), dtype)
    elif kind in (CODED, DEFLATED):
        content = cursor.take(cursor.varint(most=cursor.left, what="the length of a stream"))
        if kind == CODED:
            return coding.decode(content, count, alphabet)
        symbols = np.frombuffer(inflate(content, count * np.dtype(dtype).itemsize), np.dtype(dtype).newbyteorder("<"))
    else:
        raise Damaged(f"a stream is of kind {kind}, which there is not")
    if int(symbols.max()) >= alphabet:
        raise Damaged(f"a stream has symbol {int(symbols.max())}, where {alphabet} are known")
    return symbols


def inflate(content: bytes | memoryview, size: int) -> bytes:
    """The `size` bytes that a zlib stream holds; never more. Raises `Damaged`."""
    stream = zlib.decompressobj()
    try:
        found = stream.decompress(content, size + 1)
    except zlib.error as error:
        raise Damaged(f"deflated bytes are damaged ({error})") from error
    if len(found) != size or not stream.eof or stream.unused_data:
        raise Damaged(f"deflated bytes are not the {size} that were announced")
    return found


def _counted(kind: int, content: bytes) -> bytes:
    return bytes([kind]) + varint(len(content)) + content


def _bytes(symbols: np.ndarray) -> bytes:
    return symbols.astype(symbols.dtype.newbyteorder("<"), copy=False).tobytes()


def _deflates(symbols: np.ndarray, others: int) -> bool:
    """Whether it looks as if zlib makes less than `others` bytes of the symbols."""
    middle = max(0, (len(symbols) - _SAMPLE) // 2)
    sample = symbols[middle : middle + _SAMPLE]
    expected = len(zlib.compress(_bytes(sample), 6)) * len(symbols) / len(sample)
    return expected < (_WORTH if len(sample) < len(symbols) else 1.05) * others


def _pack(symbols: np.ndarray, bits: int) -> bytes:
    if bits == 8:
        return symbols.tobytes()
    places = np.arange(bits - 1, -1, -1, dtype=symbols.dtype)
    chunks = (symbols[begin : begin + _CHUNK] for begin in range(0, len(symbols), _CHUNK))
    return b"".join(
        np.packbits((chunk[:, None] >> places & 1).astype(np.uint8, copy=False).reshape(-1)).tobytes()
        for chunk in chunks
    )


def _unpack(content: memoryview, count: int, bits: int, dtype: type) -> np.ndarray:
    raw = np.frombuffer(content, np.uint8)
    if bits == 8:
        return raw
    if int(raw[-1]) & (1 << (-count * bits) % 8) - 1:
        raise Damaged("a stream has bits beyond its end")
    symbols, step = np.empty(count, dtype), _CHUNK * bits // 8
    places = np.arange(bits - 1, -1, -1, dtype=dtype)
    for number, begin in enumerate(range(0, len(raw), step)):
        part = symbols[number * _CHUNK : (number + 1) * _CHUNK]
        found = np.unpackbits(raw[begin : begin + step], count=len(part) * bits).reshape(len(part), bits)
        np.bitwise_or.reduce(found.astype(dtype) << places, axis=1, out=part)
    return symbols
