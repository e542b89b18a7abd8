"""Symbols near their entropy. Requirement 001-13."""

from __future__ import annotations

import heapq
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsewood.packing import coding, lanes
from sparsewood.packing.cursor import Cursor, Damaged, varint


def drawn(shares: list[float], count: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    dtype = np.uint8 if len(shares) <= 256 else np.uint16
    return generator.choice(len(shares), count, p=np.array(shares) / sum(shares)).astype(dtype)


def geometric(p: float, symbols: int) -> list[float]:
    return [(1 - p) ** i for i in range(symbols)]


@st.composite
def symbol_arrays(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    """Symbols and the size of their alphabet: equal ones, skewed ones, all different, any number of them."""
    alphabet = draw(st.sampled_from([1, 2, 3, 16, 255, 256, 257, 4096]))
    count = draw(st.one_of(st.integers(0, 40), st.integers(0, 5000)))
    skew = draw(st.sampled_from([0.0, 0.01, 0.3, 0.9]))
    return drawn(geometric(skew, alphabet), count, draw(st.integers(0, 1000))), alphabet


def payload(content: bytes, alphabet: int) -> int:
    """Bytes of states and words, which come after the table."""
    cursor = Cursor(content)
    bits = cursor.byte()
    coding._read(cursor, bits, alphabet)
    return cursor.left


# ---------------------------------------------------------------- closed forms


@pytest.mark.parametrize(
    ("counts", "bits"),
    [([1], 0), ([5, 0], 0), ([1, 1], 2), ([4, 4, 4, 4], 32), ([2, 1, 1], 6), ([0, 8, 0, 8], 16), ([], 0)],
)
def test_entropy_is_that_of_shannon(counts: list[int], bits: float) -> None:
    assert coding.entropy(np.array(counts, np.int64)) == bits


def test_entropy_of_a_mask() -> None:
    p = 0.1
    expected = 10_000 * -(p * math.log2(p) + (1 - p) * math.log2(1 - p))
    assert coding.entropy(np.array([1000, 9000])) == pytest.approx(expected, rel=1e-12)


def test_one_symbol_takes_no_bits() -> None:
    """Precision 0, four zeros before symbol 4 (a 0, and three more), its frequency 1: nothing for a million of them."""
    content = coding.encode(np.full(1_000_000, 4, np.uint8))
    assert content == bytes([0, 0, 3, 1])
    assert (coding.decode(content, 1_000_000, 5) == 4).all()


def test_two_symbols_by_hand() -> None:
    """Precision 6, frequencies 32 and 32, one lane. From x = 2^16: x <- (x div 32) 64 + x mod 32 + 32 s doubles x, and
    for the symbol 1 adds 32: 0 (written last) gives 2 (2^17 + 32) = 2^18 + 64."""
    content = coding.encode(np.array([0, 1], np.uint8))
    assert content == bytes([6, 32, 32, 1]) + ((1 << 18) + 64).to_bytes(4, "little")


def by_the_letter(content: bytes, count: int) -> list[int]:
    """A reader that does what docs/format.md says, word by word, and nothing else."""
    place = 1

    def number() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = content[place]
            place, value, shift = place + 1, value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    total, frequencies = 2 ** content[0], list[int]()
    while sum(frequencies) < total:
        frequencies.append(number())
        if not frequencies[-1]:
            frequencies += [0] * number()
    if total == 1:
        return [len(frequencies) - 1] * count
    count_of_lanes = number()
    states = [int.from_bytes(content[place + 4 * i : place + 4 * i + 4], "little") for i in range(count_of_lanes)]
    words = content[place + 4 * count_of_lanes :]
    found = []
    for i in range(count):
        x = states[i % count_of_lanes]
        remainder, symbol = x % total, 0
        while remainder >= sum(frequencies[: symbol + 1]):
            symbol += 1
        x = frequencies[symbol] * (x // total) + remainder - sum(frequencies[:symbol])
        if x < 2**16:
            x, words = 2**16 * x + int.from_bytes(words[:2], "little"), words[2:]
        states[i % count_of_lanes] = x
        found.append(symbol)
    assert not words
    assert set(states) == {2**16}
    return found


@pytest.mark.parametrize("count", [1, 5, 900, 6000])
def test_the_format_is_the_documented_one(count: int) -> None:
    symbols = drawn(geometric(0.3, 12), count)
    symbols[symbols == 2] = 11  # a zero frequency in between
    assert by_the_letter(coding.encode(symbols), count) == symbols.tolist()


def test_numbers_of_any_size() -> None:
    for value in (0, 1, 127, 128, 16383, 16384, 2**32, 2**63 - 1):
        cursor = Cursor(varint(value))
        assert cursor.varint(most=2**63 - 1, what="it") == value
        assert not cursor.left
    with pytest.raises(Damaged, match="has no end"):
        Cursor(b"\xff" * 20).varint(most=2**63, what="it")
    with pytest.raises(Damaged, match="must be from 0 to 4"):
        Cursor(varint(5)).varint(most=4, what="it")
    with pytest.raises(Damaged, match="it is 0"):  # two bytes for what one says
        Cursor(b"\x80\x00").varint(most=4, what="it")


# ---------------------------------------------------------------- round trips and sizes


@given(symbol_arrays())
def test_what_was_encoded_is_decoded(case: tuple[np.ndarray, int]) -> None:
    symbols, alphabet = case
    found = coding.decode(coding.encode(symbols), len(symbols), alphabet)
    assert found.dtype == (np.uint8 if alphabet <= 256 else np.uint16)
    assert (found == symbols).all()


@given(symbol_arrays())
def test_coded_bits_are_between_the_entropy_and_a_bit_more_for_each(case: tuple[np.ndarray, int]) -> None:
    """[001-13] coded bits >= H n and < H n + n: without the table, and of so many that a state of 32 bits is among."""
    symbols, alphabet = case
    counts = coding.histogram(symbols, alphabet)
    content = coding.encode(symbols, counts)
    found, least = 8 * payload(content, alphabet) if len(symbols) else 0, coding.entropy(counts)
    assert found >= math.floor(least)
    if len(symbols) >= 64:
        assert found < least + len(symbols)


CASES = {
    "a mask of 5 %": [0.95, 0.05],
    "a mask of 0.1 %": [0.999, 0.001],
    "16 equal": [1.0] * 16,
    "16 of a bell": [math.exp(-(((i - 7.5) / 3) ** 2)) for i in range(16)],
    "gaps at 10 %": geometric(0.1, 256),
    "gaps at 1 %": geometric(0.01, 256),
    "3000 values": geometric(0.002, 3000),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("count", [30_000, 300_000])
def test_many_symbols_take_their_entropy(name: str, count: int) -> None:
    """[001-13] Within 2 %, the table aside, which has at most 2 bytes and a bit for each symbol."""
    symbols = drawn(CASES[name], count)
    counts = coding.histogram(symbols, len(CASES[name]))
    content, least = coding.encode(symbols), coding.entropy(counts) / 8
    assert (coding.decode(content, count, len(counts)) == symbols).all()
    assert least <= payload(content, len(counts)) <= 1.02 * least + 40
    assert len(content) - payload(content, len(counts)) <= 3 * int((counts > 0).sum()) + 8
    assert abs(coding.predicted(counts) - len(content)) <= 0.02 * len(content) + 3 * int((counts > 0).sum()) + 8


def huffman(counts: np.ndarray) -> int:
    """The bits of the best code with a whole number of bits for each symbol."""
    heap = [int(count) for count in counts if count]
    heapq.heapify(heap)
    total = 0
    while len(heap) > 1:
        merged = heapq.heappop(heap) + heapq.heappop(heap)
        total += merged
        heapq.heappush(heap, merged)
    return total


def test_fractions_of_bits_beat_whole_ones() -> None:
    """A mask of 5 % takes 1 bit an entry by Huffman's code, and 0.29 here; 16 values of a bell no more than there."""
    mask, bell = (drawn(CASES[name], 300_000) for name in ("a mask of 5 %", "16 of a bell"))
    assert huffman(coding.histogram(mask, 2)) == 300_000
    assert 8 * len(coding.encode(mask)) < 0.3 * 300_000
    assert 8 * len(coding.encode(bell)) < huffman(coding.histogram(bell, 16))


@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=64), st.sampled_from([6, 8, 10, 12, 14]))
def test_frequencies_are_whole_and_complete(numbers: list[int], bits: int) -> None:
    counts = np.array(numbers, np.int64)
    if not counts.any():
        counts[0] = 1
    found = coding._rounded(counts, bits)
    assert int(found.sum()) == 1 << bits
    assert ((found > 0) == (counts > 0)).all()


def test_frequencies_that_are_exact_stay_exact() -> None:
    assert coding._rounded(np.array([48, 0, 8, 8]), 6).tolist() == [48, 0, 8, 8]
    assert coding._rounded(np.array([3, 1]), 8).tolist() == [192, 64]


@pytest.mark.parametrize("count", [1, 63, 64, 65, 1000, 4096, 10_001])
@pytest.mark.parametrize("number", [1, 2, 39, 40, 64])
def test_rows_and_numbers_write_the_same(count: int, number: int) -> None:
    """Few lanes go through Python's numbers, many through rows: one format."""
    number = min(number, count)
    symbols = drawn(CASES["gaps at 10 %"], count)
    frequencies = coding._rounded(coding.histogram(symbols, 256) + 1, 12)
    starts = np.cumsum(frequencies) - frequencies
    by_rows = lanes._write_rows(symbols, frequencies, starts, 12, number)
    by_numbers = lanes._write_numbers(symbols, frequencies, starts, 12, number)
    assert all((one == other).all() for one, other in zip(by_rows, by_numbers, strict=True))
    spread = np.repeat(np.arange(256, dtype=np.uint16), frequencies)
    offset = np.arange(4096, dtype=np.uint32) - starts[spread].astype(np.uint32)
    tables = spread, frequencies[spread].astype(np.uint32), offset
    assert (lanes._read_rows(*by_rows, tables, 12, count) == symbols).all()
    assert (lanes._read_numbers(*by_rows, tables, 12, count) == symbols).all()


def test_long_rows_are_written_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    symbols = drawn(CASES["gaps at 1 %"], 100_003)
    whole = coding.encode(symbols)
    monkeypatch.setattr(lanes, "_CHUNK", 1000)
    monkeypatch.setattr(coding, "_CHUNK", 777)
    monkeypatch.setattr(lanes, "_ROWS", 2)
    assert coding.encode(symbols) == whole


# ---------------------------------------------------------------- damage


@given(symbol_arrays(), st.integers(0, 10**6), st.integers(1, 255), st.integers(0, 2))
def test_altered_bytes_are_refused_or_give_symbols(
    case: tuple[np.ndarray, int], place: int, flip: int, cut: int
) -> None:
    symbols, alphabet = case
    content = bytearray(coding.encode(symbols))
    if content:
        content[place % len(content)] ^= flip
    altered = bytes(content[: len(content) - cut])
    try:
        found = coding.decode(altered, len(symbols), alphabet)
    except Damaged:
        return
    assert found.shape == symbols.shape
    assert not len(found) or int(found.max()) < alphabet


@pytest.mark.parametrize("share", ["states", "words", "end", "more"])
@pytest.mark.parametrize("count", [500, 200_000])
def test_states_and_words_that_do_not_fit_are_refused(share: str, count: int) -> None:
    """By numbers and by rows: a state or a word that was altered, one too few, one too many."""
    symbols = drawn(CASES["gaps at 10 %"], count)
    content = bytearray(coding.encode(symbols))
    begin = len(content) - payload(bytes(content), 256)
    if share == "states":
        content[begin + 4] ^= 1
    elif share == "words":
        content[-2] ^= 1
    altered = {"end": content[:-2], "more": content + b"\0\0"}.get(share, content)
    with pytest.raises(Damaged, match="coded symbols"):
        coding.decode(bytes(altered), count, 256)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "1 bytes are expected where 0 are left"),
        (bytes([15]), "frequencies have 15 bits"),
        (bytes([6, 65]), "must be from 0 to 64"),
        (bytes([6, 64]), "says it in other words"),
        (bytes([6, 1, 1, 1, 1, 1]), "more than the 4 symbols"),
        (bytes([6, 0, 3, 32, 32]), "more than the 4 symbols"),
        (bytes([6, 0, 200, 1]), "the number of zero frequencies is 200"),
        (bytes([6, 32, 32, 0]), "the number of lanes is 0"),
        (bytes([6, 32, 32, 9]), "the number of lanes is 9"),
        (bytes([6, 32, 32, 1, 255, 255, 0, 0]), "not what a coder writes"),
        (bytes([6, 32, 32, 1, 0, 0, 1, 0, 0]), "not what a coder writes"),
        (bytes([0, 1, 0]), "1 bytes follow"),
    ],
)
def test_bytes_that_no_coder_writes_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(Damaged, match=message):
        coding.decode(content, 2, 4)
