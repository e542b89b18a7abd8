"""Streams and schemes: every bit comes back, and the scheme is the one that fits the values."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparsewood.packing import coding, schemes, streams
from sparsewood.packing.cursor import Cursor, Damaged, varint
from sparsewood.packing.words import DTYPES, Kind, kind_of, tensor_of, words_of

FLOAT, BYTE = Kind(4, 1, True), Kind(1, 1, False)


def there_and_back(tensor: Tensor) -> schemes.Packed:
    """Write a tensor, read it, compare the bits; what was written."""
    words, kind = words_of(tensor), kind_of(tensor.dtype)
    packed = schemes.write(words, kind)
    cursor = Cursor(packed.content)
    found = tensor_of(schemes.read(cursor, len(words), kind), tensor.dtype, tensor.shape)
    cursor.finish()
    assert found.dtype == tensor.dtype
    assert found.shape == tensor.shape
    assert (words_of(found) == words).all()
    assert packed.distinct == len(np.unique(words))
    return packed


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sparse(values: Tensor, density: float, seed: int = 1) -> Tensor:
    kept = torch.rand(values.shape, generator=torch.Generator().manual_seed(seed)) < density
    return values.where(kept, 0)  # a product would make -0.0 of values below 0


def h(p: float) -> float:
    return -(p * math.log2(p) + (1 - p) * math.log2(1 - p))


# ---------------------------------------------------------------- every bit


@given(
    st.sampled_from(sorted(DTYPES)),
    st.lists(st.integers(0, 9), max_size=3),
    st.sampled_from([0.0, 0.02, 0.5, 1.0]),
    st.sampled_from([1, 3, 100, 0]),
    st.integers(0, 2**31),
)
def test_bits_of_every_dtype_come_back(name: str, shape: list[int], density: float, few: int, seed: int) -> None:
    """Random bits, NaN of all sorts among them; sparse or not, few values or not."""
    dtype = DTYPES[name]
    generator = np.random.default_rng(seed)
    raw = generator.integers(0, 2 if name == "bool" else 256, (math.prod(shape), dtype.itemsize), np.uint8)
    if few:
        raw = raw[generator.integers(0, min(few, max(1, len(raw))), len(raw))] if len(raw) else raw
    raw[generator.random(len(raw)) >= density] = 0
    there_and_back(torch.from_numpy(raw.reshape(-1)).view(dtype).reshape(shape))


@given(st.integers(1, 20_000), st.sampled_from([0.0005, 0.01, 0.1, 0.7]), st.integers(0, 100))
def test_larger_tensors_come_back(count: int, density: float, seed: int) -> None:
    there_and_back(sparse(normal(count, seed=seed), density, seed))


def test_payloads_of_nan_and_signs_of_zero_come_back() -> None:
    patterns = [0x7FC00000, 0x7FC00001, 0xFFC00000, 0x7F800001, 0x80000000, 0, 0x00000001, 0x7F800000]
    tensor = torch.from_numpy(np.array(patterns * 100, np.uint32).view(np.float32))
    assert there_and_back(tensor).distinct == 8


def test_negative_zeros_are_values() -> None:
    tensor = torch.zeros(1000)
    tensor[::7] = -0.0
    packed = there_and_back(tensor)
    assert packed.scheme == "gaps + constant"
    assert packed.distinct == 2


# ---------------------------------------------------------------- the scheme that fits


@pytest.mark.parametrize(
    ("tensor", "scheme"),
    [
        (torch.zeros(0, 4), "empty"),
        (torch.tensor(3), "constant"),
        (torch.full((100, 100), 0.25), "constant"),
        (normal(3000), "planes"),
        (torch.arange(5000), "planes"),
        (torch.randint(0, 16, (9000,), generator=torch.Generator().manual_seed(0)).float() - 20, "8-bit codebook"),
        (torch.randint(0, 16, (9000,), generator=torch.Generator().manual_seed(0)).float().sqrt(), "codebook"),
        (torch.rand(9000, generator=torch.Generator().manual_seed(0)) < 0.5, "bitmap + constant"),
        (sparse(normal(9000), 0.7), "bitmap + planes"),
        (sparse(normal(9000).sign(), 0.3), "gaps + 8-bit codebook"),
        (sparse(normal(9000).sign() + 0.5 * normal(9000, seed=3).sign() * 2**0.5, 0.3), "gaps + codebook"),
        (sparse(torch.ones(90_000), 0.001), "bitmap + constant"),
        (sparse(torch.ones(90_000), 0.2), "gaps + constant"),
    ],
)
def test_the_scheme_follows_from_the_values(tensor: Tensor, scheme: str) -> None:
    assert there_and_back(tensor).scheme == scheme


def test_one_word_of_four_bytes_takes_five() -> None:
    assert schemes.write(words_of(torch.tensor(1.5)), FLOAT).content == b"\0" + struct.pack("<f", 1.5)


def test_a_constant_takes_five_bytes_whatever_its_size() -> None:
    assert len(there_and_back(torch.full((1000, 1000), 2.0)).content) == 5


@pytest.mark.parametrize("density", [0.02, 0.1, 0.4])
@pytest.mark.parametrize("k", [2, 16, 200])
def test_sparse_and_shared_weights_take_their_entropy(density: float, k: int) -> None:
    """[001-10, 001-13] n h(p) bits for the positions, log2 k for each value that is equally likely, 32 k for a book."""
    n = 200_000
    values = torch.randint(1, k + 1, (n,), generator=torch.Generator().manual_seed(2)) / 7
    tensor = sparse(values, density)
    nonzeros = int(tensor.count_nonzero())
    packed = there_and_back(tensor)
    closed = n * h(nonzeros / n) + nonzeros * math.log2(k) + 32 * k
    assert packed.bits == pytest.approx(closed, rel=0.01)
    tables = 8 * (2 * 256 + 3 * k)
    assert 0.99 * packed.bits - 24 * k <= 8 * len(packed.content) <= 1.02 * packed.bits + tables


def test_dense_weights_take_the_entropy_of_their_planes() -> None:
    tensor = normal(300_000)
    packed = there_and_back(tensor)
    assert 8 * len(packed.content) == pytest.approx(packed.bits, rel=0.02)
    exponents = coding.histogram(np.frexp(np.abs(tensor.numpy()))[1].astype(np.int64) + 200, 400)
    # The fraction's 23 bits and the sign are random, of a normal distribution the exponent is not.
    assert packed.bits == pytest.approx(coding.entropy(exponents) + 24 * len(tensor), rel=0.005)


def test_half_precision_in_float32_takes_that_of_half_precision() -> None:
    """Planes that are all 0 cost nothing; the sign is a plane of its own."""
    half = there_and_back(normal(100_000).bfloat16())
    full = there_and_back(normal(100_000).bfloat16().float())
    assert len(full.content) == pytest.approx(len(half.content), rel=0.005)


def test_filters_that_are_gone_as_a_whole_take_less_than_their_entropy() -> None:
    """Rows of zeros repeat, which zlib sees."""
    weight = normal(64, 2048)
    weight[torch.arange(64) % 3 > 0] = 0
    packed, rows = there_and_back(weight), there_and_back(weight[::3])
    assert len(packed.content) < 1.01 * len(rows.content)
    assert 8 * len(packed.content) < 0.95 * packed.bits


def test_two_of_four_takes_the_entropy_of_its_patterns() -> None:
    """6 patterns of 4 entries: log2(6) / 4 bits an entry, where entries by themselves would take 1."""
    pairs = torch.combinations(torch.arange(4))
    chosen = pairs[torch.randint(6, (50_000,), generator=torch.Generator().manual_seed(0))]
    mask = torch.zeros(50_000, 4).scatter_(1, chosen, 1.0)
    packed = there_and_back(mask)
    assert packed.scheme == "bitmap + constant"
    assert 8 * len(packed.content) == pytest.approx(200_000 * math.log2(6) / 4, rel=0.02)


@pytest.mark.parametrize("first", [0, 1, 254, 255, 256, 509, 510, 9999])
def test_gaps_of_every_length_come_back(first: int) -> None:
    nonzero = np.zeros(20_000, np.bool_)
    nonzero[[first, 19_999]] = True
    cursor = Cursor(schemes._write_gaps(nonzero))
    assert schemes._read_gaps(cursor, 20_000, 2).tolist() == [first, 19_999]
    cursor.finish()


@pytest.mark.parametrize("alphabet", [2, 3, 16, 200, 256, 257, 1000, 4096])
@pytest.mark.parametrize("kind", ["equal", "skewed", "cyclic"])
@pytest.mark.parametrize("count", [0, 1, 7, 9, 3000])
def test_streams_come_back(alphabet: int, kind: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_CHUNK", 1024)
    generator, dtype = np.random.default_rng(0), np.uint8 if alphabet <= 256 else np.uint16
    made = {
        "equal": lambda: generator.integers(0, alphabet, count),
        "skewed": lambda: np.minimum(generator.geometric(0.8, count) - 1, alphabet - 1),
        "cyclic": lambda: np.arange(count) % alphabet,
    }[kind]()
    content = streams.write(made.astype(dtype), alphabet)
    cursor = Cursor(content)
    found = streams.read(cursor, count, alphabet)
    cursor.finish()
    assert found.dtype == dtype
    assert (found == made).all()
    assert len(content) <= (count * streams.width(alphabet) + 7) // 8 + (count > 0)
    if count == 3000 and kind == "equal" and alphabet in (2, 16, 256):
        assert content[0] == streams.PACKED
    if count == 3000 and kind == "skewed":
        assert content[0] == streams.CODED
    if count == 3000 and kind == "cyclic" and alphabet <= 256:
        assert content[0] == streams.DEFLATED


# ---------------------------------------------------------------- damage

PLANE = bytes([streams.PACKED, 7])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "1 bytes are expected"),
        (bytes([9]), "by scheme 9"),
        (bytes([schemes.PLANES, 3]), "of kind 3"),
        (bytes([schemes.PLANES, streams.PACKED, 1, 2]), "4 bytes are expected where 2"),
        (bytes([schemes.PLANES, streams.CODED, 100]), "the length of a stream is 100"),
        (bytes([schemes.PLANES, streams.DEFLATED, 2, 1, 2]), "deflated bytes are damaged"),
        (bytes([schemes.CODEBOOK, 1]), "the size of a codebook is 1"),
        (bytes([schemes.CODEBOOK, 5]), "the size of a codebook is 5"),
        (bytes([schemes.CODEBOOK, 2, streams.PACKED, 9, 9, 0, 0]), "not ascending"),
        (bytes([schemes.CODEBOOK, 3, streams.PACKED, 1, 2, 3, streams.PACKED, 0b11000000]), "has symbol 3"),
        (bytes([schemes.CODEBOOK, 2, streams.PACKED, 1, 2, streams.PACKED, 0b00010001]), "bits beyond its end"),
        (bytes([schemes.BITMAP, 0]), "that are not 0 is 0"),
        (bytes([schemes.BITMAP, 4]), "that are not 0 is 4"),
        (bytes([schemes.BITMAP, 2, streams.PACKED, 0b10000000]), "does not have the 2 ones"),
        (bytes([schemes.BITMAP, 2, streams.PACKED, 0b11001000]), "does not have the 2 ones"),
        (bytes([schemes.BITMAP, 2, streams.PACKED, 0b11000000, schemes.GAPS]), "by scheme 4"),
        (bytes([schemes.GAPS, 2, 3]), "the number of gaps is 3"),
        (bytes([schemes.GAPS, 2, 2, streams.PACKED, 0, 255]), "do not lead to the 2 words"),
        (bytes([schemes.GAPS, 2, 2, streams.PACKED, 1, 2]), "lead beyond the 4 words"),
    ],
)
def test_bytes_that_are_no_words_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(Damaged, match=message):
        schemes.read(Cursor(content), 4, BYTE)


def test_deflated_bytes_stop_at_what_was_announced() -> None:
    """A thousandfold of the file, of which not one byte too many is made."""
    import zlib

    bomb = zlib.compress(bytes(10**7), 9)
    with pytest.raises(Damaged, match="are not the 4 that were announced"):
        schemes.read(Cursor(bytes([schemes.PLANES, streams.DEFLATED]) + varint(len(bomb)) + bomb), 4, BYTE)


def test_words_of_complex_numbers_are_their_parts() -> None:
    tensor = torch.tensor([1 + 2j, -1j])
    assert kind_of(tensor.dtype) == Kind(4, 2, True)
    assert words_of(tensor).view(np.float32).tolist() == [1, 2, 0, -1]
    assert torch.equal(tensor_of(words_of(tensor), torch.complex64, [2]), tensor)


def test_exponents_have_a_plane_of_their_own() -> None:
    """1.5 is sign 0, exponent 127, fraction 0x400000: rotated by one bit, byte 3 is the exponent."""
    planes = schemes._split(words_of(torch.tensor([1.5, -1.5])), FLOAT)
    assert [plane.tolist() for plane in planes] == [[0, 1], [0, 0], [128, 128], [127, 127]]
