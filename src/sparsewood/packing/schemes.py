"""Words, unsigned integers, as bytes: six schemes, of which the shortest is taken. Nothing is lost.

| first byte | scheme | then |
|---|---|---|
| 0 | constant | the word that all are |
| 1 | planes | for each byte of the words, the lowest first, a stream of all words' bytes |
| 2 | codebook | how many values there are (a varint), the values, ascending, as planes; a stream of indices |
| 3 | bitmap | how many words are not 0 (a varint); a stream of bytes, high bit first, 1 = not 0; those by 0 to 2, 5 |
| 4 | gaps | the same, with a stream of gaps for the bitmap; before it how many it has (a varint) |
| 5 | 8-bit codebook | as 2, with a word, the step, and a stream of signed bytes, how many steps, for the planes |

Streams are those of `streams`. In planes, words of floating-point numbers are rotated left by one bit, so that the
exponent is a byte of its own, or begins one, and the sign is the lowest bit. A gap is the number of zeros before the
next word that is not 0, modulo 255; each whole 255 zeros before are a symbol 255.

Which scheme is the shortest depends on the values alone; large tensors are not written in schemes whose entropy says
that they will be longer by far.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from sparsewood.packing import coding, streams
from sparsewood.packing.cursor import Cursor, Damaged, varint
from sparsewood.packing.steps import STEPS, in_steps, multiples
from sparsewood.packing.words import Kind

__all__ = ["Packed", "read", "write"]

CONSTANT, PLANES, CODEBOOK, BITMAP, GAPS, CODEBOOK_8 = range(6)

_ESCAPE = 255
_SMALL = 2**12
"""Words of which every scheme is tried."""
_FAR = 1.1
"""Of more words, schemes whose entropy is so many times the lowest one are not."""


@dataclass(frozen=True)
class Packed:
    """What became of words.

    Args:
    scheme: what it is called in reports.
    content: the bytes.
    bits: what the scheme takes by entropy alone, without tables of frequencies and lengths.
    distinct: how many different words there are.
    """

    scheme: str
    content: bytes
    bits: float
    distinct: int


@dataclass(frozen=True)
class _Candidate:
    scheme: str
    bits: float
    write: Callable[[], bytes]


def write(words: np.ndarray, kind: Kind) -> Packed:
    """The words in the fewest bytes."""
    if not len(words):
        return Packed("empty", b"", 0.0, 0)
    values = _distinct(words)
    sparse, zeros = [], 0
    if len(values) > 1 and not values[0]:
        nonzero = words != 0
        zeros = len(words) - int(nonzero.sum())
        content, others = _shortest(_dense(words[nonzero], values[1:], kind), len(words))
        sparse = _sparse(nonzero, content, others)
    # Among many zeros a codebook that has 0 takes as many bits, of many more symbols.
    dense = _dense(words, values, kind) if len(words) <= _SMALL or 2 * zeros < len(words) else []
    candidates = [*sparse, *dense]
    content, chosen = _shortest(candidates, len(words))
    return Packed(chosen.scheme, content, chosen.bits, len(values))


def read(cursor: Cursor, count: int, kind: Kind) -> np.ndarray:
    """The next `count` words. Raises `Damaged`."""
    if not count:
        return np.zeros(0, kind.dtype)
    scheme = cursor.byte()
    if scheme not in (BITMAP, GAPS):
        return _read_dense(cursor, count, kind, scheme)
    nonzeros = cursor.varint(most=count - 1, least=1, what="the number of words that are not 0")
    places = (_read_bitmap if scheme == BITMAP else _read_gaps)(cursor, count, nonzeros)
    words = np.zeros(count, kind.dtype)
    words[places] = _read_dense(cursor, nonzeros, kind, cursor.byte())
    return words


def _shortest(candidates: Sequence[_Candidate], words: int) -> tuple[bytes, _Candidate]:
    lowest = min(one.bits for one in candidates)
    tried = [one for one in candidates if words <= _SMALL or one.bits <= _FAR * lowest]
    return min(((one.write(), one) for one in tried), key=lambda pair: len(pair[0]))


def _distinct(words: np.ndarray) -> np.ndarray:
    """The different words, ascending."""
    if words.itemsize <= 2:
        return coding.histogram(words, 1 << 8 * words.itemsize).nonzero()[0].astype(words.dtype)
    found = np.sort(words)
    return found[np.concatenate([[True], found[1:] != found[:-1]])]


# ---------------------------------------------------------------- all words


def _dense(words: np.ndarray, values: np.ndarray, kind: Kind) -> list[_Candidate]:
    if len(values) == 1:
        content = bytes([CONSTANT]) + _little(values).tobytes()
        return [_Candidate("constant", 8.0 * kind.width, lambda: content)]
    planes = _split(words, kind)
    bits = sum(coding.entropy(coding.histogram(plane, 256)) for plane in planes)
    found = [_Candidate("planes", bits, lambda: bytes([PLANES]) + _write_planes(planes))]
    if len(values) <= min(coding.LARGEST, max(16, len(words) // 4)):
        dtype = np.uint8 if len(values) <= 256 else np.uint16
        indices = np.searchsorted(values, words).astype(dtype)
        bits = coding.entropy(coding.histogram(indices, len(values)))
        book = bits + 8 * kind.width * len(values)
        found.append(_Candidate("codebook", book, partial(_write_codebook, values, indices, kind)))
        stepped = in_steps(values, kind)
        if stepped is not None:
            book = bits + 8 * (kind.width + len(values))
            found.append(_Candidate("8-bit codebook", book, partial(_write_stepped, *stepped, indices)))
    return found


def _read_dense(cursor: Cursor, count: int, kind: Kind, scheme: int) -> np.ndarray:
    if scheme == CONSTANT:
        return np.full(count, cursor.array(1, f"<u{kind.width}")[0], kind.dtype)
    if scheme == PLANES:
        return _read_planes(cursor, count, kind)
    if scheme == CODEBOOK_8 and not (kind.floating and kind.width >= 4):
        raise Damaged("a codebook of steps is of numbers that have none")
    if scheme not in (CODEBOOK, CODEBOOK_8):
        raise Damaged(f"words are packed by scheme {scheme}, which there is not here")
    most = coding.LARGEST if scheme == CODEBOOK else STEPS
    size = cursor.varint(most=min(most, count), least=2, what="the size of a codebook")
    if scheme == CODEBOOK:
        values = _read_planes(cursor, size, kind)
    else:
        step = cursor.array(1, f"<u{kind.width}").astype(kind.dtype)
        values = multiples(step, streams.read(cursor, size, 256), kind)
    if bool((values[1:] <= values[:-1]).any()):
        raise Damaged("the values of a codebook are not ascending")
    return values[streams.read(cursor, count, size)]


def _write_codebook(values: np.ndarray, indices: np.ndarray, kind: Kind) -> bytes:
    head = bytes([CODEBOOK]) + varint(len(values)) + _write_planes(_split(values, kind))
    return head + streams.write(indices, len(values))


def _write_stepped(step: np.ndarray, times: np.ndarray, indices: np.ndarray) -> bytes:
    head = bytes([CODEBOOK_8]) + varint(len(times)) + _little(step).tobytes() + streams.write(times, 256)
    return head + streams.write(indices, len(times))


def _split(words: np.ndarray, kind: Kind) -> list[np.ndarray]:
    """The bytes of the words, the lowest first."""
    if kind.floating:
        words = words << 1 | words >> 8 * kind.width - 1
    table = _little(words).view(np.uint8).reshape(-1, kind.width)
    return [np.ascontiguousarray(table[:, place]) for place in range(kind.width)]


def _write_planes(planes: Sequence[np.ndarray]) -> bytes:
    return b"".join(streams.write(plane, 256) for plane in planes)


def _read_planes(cursor: Cursor, count: int, kind: Kind) -> np.ndarray:
    words = np.zeros(count, kind.dtype)
    for place in range(kind.width):
        words |= streams.read(cursor, count, 256).astype(kind.dtype) << 8 * place
    return words >> 1 | words << 8 * kind.width - 1 if kind.floating else words


def _little(words: np.ndarray) -> np.ndarray:
    return words.astype(words.dtype.newbyteorder("<"), copy=False)


# ---------------------------------------------------------------- zeros and other words


def _sparse(nonzero: np.ndarray, content: bytes, others: _Candidate) -> list[_Candidate]:
    """Positions, and the content that is made of the words there."""
    count = int(nonzero.sum())
    head = varint(count)
    bits = coding.entropy(np.array([count, len(nonzero) - count])) + others.bits
    bitmap = _Candidate(
        f"bitmap + {others.scheme}",
        bits,
        lambda: bytes([BITMAP]) + head + streams.write(np.packbits(nonzero), 256) + content,
    )
    if 2 * count > len(nonzero):
        return [bitmap]
    gaps = _Candidate(f"gaps + {others.scheme}", bits, lambda: bytes([GAPS]) + head + _write_gaps(nonzero) + content)
    return [bitmap, gaps]


def _read_bitmap(cursor: Cursor, count: int, nonzeros: int) -> np.ndarray:
    bits = np.unpackbits(streams.read(cursor, (count + 7) // 8, 256))
    if bits[count:].any() or int(bits.sum(dtype=np.int64)) != nonzeros:
        raise Damaged(f"a bitmap does not have the {nonzeros} ones that were announced")
    return bits[:count].view(np.bool_)


def _write_gaps(nonzero: np.ndarray) -> bytes:
    gaps = np.diff(nonzero.nonzero()[0], prepend=-1) - 1
    escapes = gaps // _ESCAPE
    ends = np.cumsum(escapes + 1) - 1
    symbols = np.full(int(ends[-1]) + 1, _ESCAPE, np.uint8)
    symbols[ends] = gaps - escapes * _ESCAPE
    return varint(len(symbols)) + streams.write(symbols, 256)


def _read_gaps(cursor: Cursor, count: int, nonzeros: int) -> np.ndarray:
    most = nonzeros + (count - nonzeros) // _ESCAPE
    size = cursor.varint(most=most, least=nonzeros, what="the number of gaps")
    symbols = streams.read(cursor, size, 256)
    ends = (symbols != _ESCAPE).nonzero()[0]
    if len(ends) != nonzeros or int(ends[-1]) != size - 1:
        raise Damaged(f"gaps do not lead to the {nonzeros} words that were announced")
    steps = symbols.astype(np.int64)
    steps[ends] += 1
    places = np.cumsum(steps)[ends] - 1
    if int(places[-1]) >= count:
        raise Damaged(f"gaps lead beyond the {count} words that there are")
    return places
