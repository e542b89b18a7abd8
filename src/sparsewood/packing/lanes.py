"""Range asymmetric numeral systems over many lanes: symbol i is coded in the state of lane i mod lanes.

A state x in [2^16, 2^32) takes a symbol with frequency f (of M = 2^bits) and start c, the sum of the frequencies of the
symbols before it, as

    x <- (x div f) M + x mod f + c

after its low 16 bits, if x >= f 2^(32 - bits), went out as a word. Reading undoes that, last symbol first, so symbols
are written from the last to the first and read from the first on. Source: Duda, "Asymmetric numeral systems: entropy
coding combining speed of Huffman coding with compression rate of arithmetic coding", 2013,
https://arxiv.org/abs/1311.2540; lanes: Giesen, "Interleaved entropy coders", 2014, https://arxiv.org/abs/1402.3392.

With many lanes a row of symbols is one step of NumPy; with few a loop over numbers is quicker. Both write the same
bytes.
"""

from __future__ import annotations

import numpy as np

from sparsewood.packing.cursor import Damaged

__all__ = ["LOWEST", "MOST_BITS", "read", "write"]

LOWEST = 1 << 16
MOST_BITS = 14
"""Of frequencies: a state holds at least two bits more, so that what rounding costs is not to be seen."""

_CHUNK = 2**18
"""Symbols whose frequencies are looked up at once."""

_ROWS = 40
"""From so many lanes on rows of NumPy are quicker than numbers of Python."""

Coded = tuple[np.ndarray, np.ndarray]


def write(symbols: np.ndarray, frequencies: np.ndarray, bits: int, lanes: int) -> Coded:
    """The states of the lanes, uint32, and the words, uint16, in the order in which they are read.

    Args:
        symbols: unsigned integers, each with a frequency > 0.
        frequencies: one for each symbol of the alphabet, below 2^bits, which is their sum.
        bits: 1 to 14.
        lanes: 1 to the number of symbols.
    """
    starts = np.cumsum(frequencies) - frequencies
    return (_write_rows if lanes >= _ROWS else _write_numbers)(symbols, frequencies, starts, bits, lanes)


def read(states: np.ndarray, words: np.ndarray, frequencies: np.ndarray, bits: int, count: int) -> np.ndarray:
    """The `count` symbols, uint16. Raises `Damaged` if states and words were not made from so many."""
    spread = np.repeat(np.arange(len(frequencies), dtype=np.uint16), frequencies)
    slots = np.arange(1 << bits, dtype=np.uint32)
    starts = np.cumsum(frequencies) - frequencies
    tables = spread, frequencies[spread].astype(np.uint32), slots - starts[spread].astype(np.uint32)
    return (_read_rows if len(states) >= _ROWS else _read_numbers)(states, words, tables, bits, count)


# ---------------------------------------------------------------- rows


def _write_rows(symbols: np.ndarray, frequencies: np.ndarray, starts: np.ndarray, bits: int, lanes: int) -> Coded:
    tables = frequencies.astype(np.uint32), starts.astype(np.uint32)
    states = np.full(lanes, LOWEST, np.uint32)
    step = max(1, _CHUNK // lanes) * lanes
    parts = [
        _write_chunk(symbols[begin : begin + step], tables, bits, states)
        for begin in range((len(symbols) - 1) // step * step, -1, -step)
    ]
    return states, np.concatenate(parts[::-1])


def _write_chunk(
    symbols: np.ndarray, tables: tuple[np.ndarray, np.ndarray], bits: int, states: np.ndarray
) -> np.ndarray:
    """The words of some rows, and on from there the states; all that does not wait for states is done at once."""
    lanes = len(states)
    frequency, start = (table[symbols] for table in tables)
    limit, rest = frequency << np.uint32(32 - bits), np.uint32(1 << bits) - frequency
    low, full = np.empty(len(symbols), np.uint16), np.empty(len(symbols), np.bool_)
    for begin in range((len(symbols) - 1) // lanes * lanes, -1, -lanes):
        row = slice(begin, min(begin + lanes, len(symbols)))
        x, out = states[: row.stop - begin], full[row]
        low[row] = x  # the low 16 bits
        np.greater_equal(x, limit[row], out=out)
        np.right_shift(x, 16, out=x, where=out)
        quotient = x // frequency[row]
        quotient *= rest[row]  # x div f times M, and x mod f, is x + (x div f) (M - f)
        x += quotient
        x += start[row]
    return low[full]


def _read_rows(
    states: np.ndarray, words: np.ndarray, tables: tuple[np.ndarray, ...], bits: int, count: int
) -> np.ndarray:
    spread, frequency, offset = tables
    states, lanes, mask = states.astype(np.uint32), len(states), np.uint32((1 << bits) - 1)
    slots, place = np.empty(count, np.uint16), 0
    for begin in range(0, count, lanes):
        x = states[: min(lanes, count - begin)]
        slot = x & mask
        slots[begin : begin + lanes] = slot
        x >>= bits
        x *= frequency[slot]
        x += offset[slot]
        empty = (x < LOWEST).nonzero()[0]
        more = words[place : place + len(empty)]
        if len(more) < len(empty):
            raise Damaged("coded symbols end too early")
        x[empty] = x[empty] << 16 | more
        place += len(empty)
    _finish(place == len(words) and bool((states == LOWEST).all()))
    return spread[slots]


# ---------------------------------------------------------------- numbers


def _write_numbers(symbols: np.ndarray, frequencies: np.ndarray, starts: np.ndarray, bits: int, lanes: int) -> Coded:
    frequency, start, limit = frequencies.tolist(), starts.tolist(), 32 - bits
    states, words, lane = [LOWEST] * lanes, [], len(symbols) % lanes
    for symbol in symbols[::-1].tolist():
        lane = (lane or lanes) - 1
        x, f = states[lane], frequency[symbol]
        if x >= f << limit:
            words.append(x & 0xFFFF)
            x >>= 16
        states[lane] = (x // f << bits) + x % f + start[symbol]
    return np.array(states, np.uint32), np.array(words[::-1], np.uint16)


def _read_numbers(
    states: np.ndarray, words: np.ndarray, tables: tuple[np.ndarray, ...], bits: int, count: int
) -> np.ndarray:
    spread, frequency, offset = (table.tolist() for table in tables)
    lanes, mask, coming = len(states), (1 << bits) - 1, iter(words.tolist())
    numbers: list[int] = states.tolist()
    symbols, lane = [], 0
    try:
        for _ in range(count):
            x = numbers[lane]
            slot = x & mask
            symbols.append(spread[slot])
            x = frequency[slot] * (x >> bits) + offset[slot]
            numbers[lane] = x if x >= LOWEST else x << 16 | next(coming)
            lane = lane + 1 if lane + 1 < lanes else 0
    except StopIteration:
        raise Damaged("coded symbols end too early") from None
    _finish(next(coming, None) is None and numbers == [LOWEST] * lanes)
    return np.array(symbols, np.uint16)


def _finish(whole: bool) -> None:
    """Every lane must be back where its writer began."""
    if not whole:
        raise Damaged("coded symbols do not end where they should")
