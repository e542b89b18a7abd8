"""Symbols as bytes, near their entropy: a table of frequencies, then what `lanes` makes of the symbols.

Layout: the precision in bits (a byte, 0 to 14); the table; the number of lanes; a uint32 for each lane; uint16 words up
to the end. All numbers have the low byte first; those of the table and of lanes are varints (`cursor.varint`). The
table holds the frequencies of the symbols 0, 1, ... until their sum is 2^precision; a 0 is followed by how many more
zeros there are. With precision 0 there is one symbol, and nothing follows the table.
"""

from __future__ import annotations

import numpy as np

from sparsewood.packing import lanes as coder
from sparsewood.packing.cursor import Cursor, Damaged, varint

__all__ = ["LARGEST", "decode", "encode", "entropy", "histogram", "predicted"]

LARGEST = 4096
"""The most symbols of an alphabet."""

_PRECISIONS = (6, 8, 10, 12, 14)
_LANE_BYTES, _LEAST_LANE_BYTES = 1000, 250
"""A lane costs about three bytes more than it holds: with so many coded bytes for each that is 0.3 %, and 1.2 %."""
_LANE_SYMBOLS = 4096
"""For so many symbols there is a lane even of few bytes, since a row of symbols takes as long with few lanes as with
many."""
_MOST_LANES = 8192
_CHUNK = 2**22


def entropy(counts: np.ndarray) -> float:
    """The bits that symbols with these counts take at least, if each is coded by itself: n log2 n - sum c log2 c.

    >>> entropy(np.array([2, 1, 1, 0]))
    6.0
    """
    present = counts[counts > 0].astype(np.float64)
    return float(present @ -np.log2(present / present.sum())) if len(present) > 1 else 0.0


def histogram(symbols: np.ndarray, alphabet: int) -> np.ndarray:
    """How often each symbol of the alphabet occurs, int64[alphabet]."""
    counts = np.zeros(alphabet, np.int64)
    for begin in range(0, len(symbols), _CHUNK):  # bincount makes 8 bytes of every symbol
        counts += np.bincount(symbols[begin : begin + _CHUNK], minlength=alphabet)
    return counts


def encode(symbols: np.ndarray, counts: np.ndarray | None = None) -> bytes:
    """The symbols as bytes: their entropy, a table, and less than 1 % more where they are many.

    Args:
        symbols: uint8 or uint16, each below 4096.
        counts: their histogram, if it is known.

    >>> symbols = np.repeat(np.array([0, 1, 5], np.uint8), [9000, 900, 100])
    >>> content = encode(symbols)
    >>> len(content), round(entropy(histogram(symbols, 6)) / 8), bool((decode(content, 10_000, 6) == symbols).all())
    (660, 645, True)
    """
    if not len(symbols):
        return b""
    counts = histogram(symbols, int(symbols.max()) + 1) if counts is None else counts
    bits, frequencies = _best(counts)
    table = bytes([bits]) + _written(frequencies)
    if not bits:
        return table
    lanes = _lanes(len(symbols), entropy(counts) / 8)
    states, words = coder.write(symbols, frequencies, bits, lanes)
    return b"".join([table, varint(lanes), states.astype("<u4").tobytes(), words.astype("<u2").tobytes()])


def decode(content: bytes | memoryview, count: int, alphabet: int = LARGEST) -> np.ndarray:
    """The `count` symbols that `encode` wrote: uint8 if the alphabet has at most 256 symbols, else uint16.

    Raises `Damaged` for other bytes.
    """
    dtype = np.uint8 if alphabet <= 256 else np.uint16
    cursor = Cursor(content)
    if not count:
        cursor.finish()
        return np.zeros(0, dtype)
    bits = cursor.byte()
    if bits > coder.MOST_BITS:
        raise Damaged(f"frequencies have {bits} bits, and may have {coder.MOST_BITS}")
    frequencies = _read(cursor, bits, alphabet)
    if not bits:
        cursor.finish()
        return np.full(count, len(frequencies) - 1, dtype)
    lanes = cursor.varint(most=min(count, cursor.left // 4), least=1, what="the number of lanes")
    states = cursor.array(lanes, "<u4")
    if cursor.left % 2 or bool((states < coder.LOWEST).any()):
        raise Damaged("coded symbols are not what a coder writes")
    words = cursor.array(cursor.left // 2, "<u2")
    return coder.read(states, words, frequencies, bits, count).astype(dtype, copy=False)


def predicted(counts: np.ndarray) -> int:
    """About how many bytes `encode` makes of symbols with these counts."""
    count, size = int(counts.sum()), entropy(counts) / 8
    return round(size) + 3 * _lanes(count, size) + 2 * int((counts > 0).sum()) if count else 0


def _lanes(count: int, size: float) -> int:
    whole = int(size)
    quick = min(count // _LANE_SYMBOLS, whole // _LEAST_LANE_BYTES)
    return min(count, _MOST_LANES, max(1, whole // _LANE_BYTES, quick))


# ---------------------------------------------------------------- frequencies


def _best(counts: np.ndarray) -> tuple[int, np.ndarray]:
    """The precision with which symbols and table take the least, and the frequencies."""
    present = int((counts > 0).sum())
    if present == 1:
        return 0, (counts > 0).astype(np.int64)
    candidates = [(bits, _rounded(counts, bits)) for bits in _PRECISIONS if 1 << bits >= present]
    return min(candidates, key=lambda one: _cost(counts, one[1]) + 8 * len(_written(one[1])))


def _cost(counts: np.ndarray, frequencies: np.ndarray) -> float:
    """Bits of symbols that are coded with these frequencies."""
    present = counts > 0
    return float(counts[present] @ -np.log2(frequencies[present] / frequencies.sum()))


def _rounded(counts: np.ndarray, bits: int) -> np.ndarray:
    """Whole frequencies of sum 2^bits near the shares, at least 1 where there is a count."""
    total = 1 << bits
    present = counts.nonzero()[0]
    c = counts[present].astype(np.float64)
    f = np.maximum(np.rint(c * (total / c.sum())), 1)
    while missing := int(total - f.sum()):
        # What each symbol's bits gain, or lose, from a step of one.
        step = 1 if missing > 0 else -1
        with np.errstate(divide="ignore"):
            gain = c * np.log2((f + step) / f)
        most = abs(missing) if step > 0 else min(abs(missing), int((f > 1).sum()))
        f[np.argsort(-gain, kind="stable")[:most]] += step
    frequencies = np.zeros(len(counts), np.int64)
    frequencies[present] = f.astype(np.int64)
    return frequencies


def _written(frequencies: np.ndarray) -> bytes:
    parts: list[bytes] = []
    present = frequencies.nonzero()[0].tolist()
    for before, symbol in zip([-1, *present], present, strict=False):
        if gap := symbol - before - 1:
            parts.append(b"\0" + varint(gap - 1))
        parts.append(varint(int(frequencies[symbol])))
    return b"".join(parts)


def _read(cursor: Cursor, bits: int, alphabet: int) -> np.ndarray:
    """The frequencies of the symbols up to the last that there is."""
    frequencies: list[int] = []
    left = 1 << bits
    while left:
        found = cursor.varint(most=left, what="a frequency")
        room = alphabet - len(frequencies)
        if found:
            frequencies.append(found)
            left -= found
        else:
            frequencies += [0] * (1 + cursor.varint(most=room, what="the number of zero frequencies"))
        if len(frequencies) > alphabet:
            raise Damaged(f"a table of frequencies has more than the {alphabet} symbols that there are")
    if bits and max(frequencies) == 1 << bits:
        raise Damaged("a table of frequencies has one symbol, and says it in other words")
    return np.array(frequencies, np.int64)
