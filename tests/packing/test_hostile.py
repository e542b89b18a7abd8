"""Files that are damaged, altered or made to harm: refused with the path and the reason, and nothing else happens."""

from __future__ import annotations

import hashlib
import json
import random
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sparsewood as sw
from sparsewood.errors import FileFormatError, SparsewoodError
from sparsewood.packing import schemes, streams
from sparsewood.packing.container import MAGIC, PREFIX, most_header, split
from sparsewood.packing.cursor import varint
from sparsewood.shrinking import planfile

FIELDS = struct.Struct("<8sIII")
MOST_MEMORY = 2**26
"""Bytes; the networks here have some thousands, and a header of the greatest length that is allowed about 2^20."""
Change = Callable[[dict[str, Any]], object]


def build() -> nn.Module:
    """A network whose tensors are packed by all schemes."""
    return nn.Sequential(nn.Linear(40, 60), nn.BatchNorm1d(60), nn.ReLU(), nn.Linear(60, 30), nn.Linear(30, 3))


def network() -> nn.Module:
    """Shrunk, then sparse, with shared weights in one layer and all of them in another."""
    torch.default_generator.manual_seed(0)
    model = sw.shrink(build(), torch.ones(2, 40), sparsity=0.3).model
    first, last = model[0].weight.data, model[3].weight.data
    first[first.abs() < 0.07] = 0
    last[:] = (last * 30).round() / 30
    assert [len(tensor.unique()) for tensor in (first, last)] == [sum(1 for _ in first.unique()), len(last.unique())]
    return model


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("packed") / "network.swp"
    report = sw.pack(network(), path)
    assert len({one.scheme for one in report.tensors}) >= 3
    return path.read_bytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "network.swp"


def sealed(altered: bytes) -> bytes:
    """With the checksum that fits."""
    fields, rest = altered[: FIELDS.size], altered[PREFIX:]
    return fields + hashlib.sha256(fields + rest).digest() + rest


def parts(whole: bytes) -> tuple[dict[str, Any], bytes]:
    """The header's object and all that follows the header."""
    size = FIELDS.unpack_from(whole)[2]
    return json.loads(zlib.decompress(whole[PREFIX : PREFIX + size])), whole[PREFIX + size :]


def joined(text: bytes, sections: bytes, *, version: int = 1, length: int | None = None) -> bytes:
    """A file with this header, whatever it says."""
    header = zlib.compress(text, 9)
    fields = FIELDS.pack(MAGIC, version, len(header), len(text) if length is None else length)
    return sealed(fields + bytes(32) + header + sections)


def altered(whole: bytes, change: Change) -> bytes:
    """The file with another header, all checksums right."""
    data, sections = parts(whole)
    change(data)
    return joined(planfile.render(data).encode(), sections)


def boundaries(whole: bytes) -> list[int]:
    """Where the prefix, the header and each section begin, and the end."""
    data, _ = parts(whole)
    places = [0, len(MAGIC), 12, 16, FIELDS.size, PREFIX, PREFIX + FIELDS.unpack_from(whole)[2]]
    for one in data["tensors"]:
        places.append(places[-1] + one["bytes"])
    assert places[-1] == len(whole)
    return places


def refused(path: Path, what: bytes, fresh: nn.Module, match: str = r"network\.swp") -> None:
    path.write_bytes(what)
    with pytest.raises(FileFormatError, match=match) as caught:
        sw.unpack(path, model=fresh)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000


# ---------------------------------------------------------------- what the checksum finds


def test_truncated_files_are_refused(content: bytes, path: Path) -> None:
    """At every boundary, a byte before and after, and at a hundred other places."""
    fresh, generator = build(), random.Random(0)
    ends = {place + more for place in boundaries(content) for more in (-1, 0, 1)}
    ends |= {generator.randrange(len(content)) for _ in range(100)}
    for end in sorted(end for end in ends if 0 <= end < len(content)):
        refused(path, content[:end], fresh)


def test_lengthened_files_are_refused(content: bytes, path: Path) -> None:
    for more in (b"\0", content, bytes(100)):
        refused(path, content + more, build(), "checksum")


def mutations(content: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Bits flipped, bytes replaced, taken out, put in, exchanged; every byte of the prefix among the first."""
    generator = random.Random(seed)
    for number in range(count):
        changed = bytearray(content)
        place = number if number < PREFIX else generator.randrange(len(content))
        kind = generator.randrange(5) if number >= PREFIX else 0
        if kind == 0:
            changed[place] ^= 1 << generator.randrange(8)
        elif kind == 1:
            changed[place : place + generator.randrange(1, 9)] = generator.randbytes(generator.randrange(1, 9))
        elif kind == 2:
            del changed[place : place + generator.randrange(1, 9)]
        elif kind == 3:
            changed[place:place] = generator.randbytes(generator.randrange(1, 9))
        else:
            other = generator.randrange(len(content))
            changed[place : place + 8], changed[other : other + 8] = (
                changed[other : other + 8],
                changed[place : place + 8],
            )
        if changed != content:
            yield bytes(changed)


def test_mutations_are_refused(content: bytes, path: Path) -> None:
    fresh = build()
    for changed in mutations(content, 300):
        refused(path, changed, fresh)


# ---------------------------------------------------------------- what it does not find


def outcome(path: Path, what: bytes, fresh: nn.Module) -> str:
    """What becomes of a file that somebody sealed: "refused", or "read" and then a network of its plan's shapes."""
    path.write_bytes(what)
    try:
        found = sw.unpack(path, model=fresh)
    except SparsewoodError as error:
        return "refused" if str(path) in str(error) else "refused without a place"
    assert found.state_dict().keys() == fresh.state_dict().keys()
    assert found(torch.zeros(2, 40)).shape == (2, 3)
    return "read"


def sealed_mutations(content: bytes, count: int, path: Path) -> dict[str, int]:
    """Outcomes of mutations, half of them in sections, with the checksum made right again."""
    fresh, found = build(), {"refused": 0, "read": 0}  # any other outcome has no place here
    begin = boundaries(content)[6]
    for changed in mutations(content, count, seed=1):
        found[outcome(path, sealed(changed), fresh)] += 1
    for changed in mutations(content[begin:], count, seed=2):
        found[outcome(path, sealed(content[:begin] + changed), fresh)] += 1
    return found


def test_sealed_mutations_are_refused_or_give_a_network(content: bytes, path: Path) -> None:
    """In bounded memory."""
    tracemalloc.start()
    try:
        found = sealed_mutations(content, 40, path)
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()
    assert found["refused"] > 10
    assert found["read"] > 0  # a byte of a plane has no wrong value


@pytest.mark.slow
def test_thousands_of_mutations(content: bytes, path: Path) -> None:
    fresh, count = build(), 0
    for changed in mutations(content, 5000, seed=3):
        refused(path, changed, fresh)
        count += 1
    found = sealed_mutations(content, 1000, path)
    print(f"{count} mutations refused; with the checksum made right: {found}")  # noqa: T201
    assert count > 4900
    assert sum(found.values()) > 1900


# ---------------------------------------------------------------- headers


def tensor(number: int = 0, **fields: Any) -> Change:
    return lambda data: data["tensors"][number].update(fields)


HOSTILE: dict[str, tuple[Change, str]] = {
    "no tensors": (lambda d: d.pop("tensors"), "'tensors' is damaged"),
    "tensors by name": (lambda d: d.update(tensors={}), "'tensors' is damaged"),
    "a tensor of nothing": (lambda d: d["tensors"].append(None), "'tensors' is damaged"),
    "a tensor with more": (tensor(code="os.system"), "'tensors' is damaged"),
    "a tensor without name": (lambda d: d["tensors"][0].pop("name"), "'tensors' is damaged"),
    "a name of numbers": (tensor(name=3), "'tensors' is damaged"),
    "no such dtype": (tensor(dtype="object"), "'tensors' is damaged"),
    "a dtype of another kind": (tensor(dtype=["float32"]), "'tensors' is damaged"),
    "a huge shape": (tensor(shape=[2**62]), "has shape"),
    "an impossible shape": (tensor(shape=[2**63]), "'tensors' is damaged"),
    "a negative shape": (tensor(shape=[-1]), "'tensors' is damaged"),
    "a shape of truth values": (tensor(shape=[True]), "'tensors' is damaged"),
    "more axes": (tensor(shape=[1] * 1000), "'tensors' is damaged"),
    "a long name": (tensor(-1, name="z" * 10_000), "different tensors"),
    "huge sections": (tensor(bytes=2**62), "bytes are expected where"),
    "a negative section": (tensor(bytes=-1), "'tensors' is damaged"),
    "a section of fractions": (tensor(bytes=1.5), "'tensors' is damaged"),
    "a longer section": (lambda d: d["tensors"][-1].update(bytes=d["tensors"][-1]["bytes"] + 1), "are expected where"),
    "a shorter section": (lambda d: d["tensors"][-1].update(bytes=0), "bytes follow its end"),
    "sections that overlap": (lambda d: d["tensors"][0].update(bytes=d["tensors"][0]["bytes"] + 3), "bytes"),
    "another order": (lambda d: d["tensors"].reverse(), "not in the order of their names"),
    "a tensor twice": (lambda d: d["tensors"].append(d["tensors"][-1]), "not in the order of their names"),
    "one tensor fewer": (lambda d: d["tensors"].pop(), "bytes follow its end"),
    "another name": (tensor(-1, name="z"), "different tensors"),
    "another shape": (tensor(1, shape=[3]), "has shape"),
    "a wider dtype": (tensor(1, dtype="float64"), "is damaged"),
    "an integer dtype": (tensor(1, dtype="int32"), "is torch.int32"),
    "no aliases": (lambda d: d.pop("aliases"), "'aliases' is damaged"),
    "aliases of lists": (lambda d: d.update(aliases=[]), "'aliases' is damaged"),
    "an alias of nothing": (lambda d: d["aliases"].update(x="nowhere"), "'aliases' does not fit"),
    "an alias of a tensor": (lambda d: d["aliases"].update({"0.bias": "3.bias"}), "'aliases' does not fit"),
    "an alias too many": (lambda d: d["aliases"].update(x="0.bias"), r"different tensors: \['x'\]"),
    "another format": (lambda d: d.update(format="pickle"), "no field 'format'"),
    "another version of the plan": (lambda d: d.update(version=2), "format version 2"),
    "no plan": (lambda d: d.pop("kept"), "no field 'kept'"),
    "positions without end": (lambda d: d["kept"]["0.bias"].update({"0": "0-999999999"}), "below 60"),
    "an edit of a class": (lambda d: d["edits"][0].update(name="__class__"), "which no plan changes"),
    "a class of its own": (lambda d: d.update(replaced={"0": "os.system"}), "does not know"),
    "another network": (lambda d: d["shapes"].update({"0.bias": [61]}), "expected"),
    "another value before": (lambda d: d["edits"][0].update(before=1), "made from a network in which"),
    "too deep": (lambda d: d.update(steps=[json.loads('{"a":' * 50 + "1" + "}" * 50)]), "levels"),
    "a huge number": (lambda d: d["edits"][0].update(after=10**30), "'edits' is damaged"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_are_refused(name: str, content: bytes, path: Path) -> None:
    """Sealed: only what they say tells."""
    change, message = HOSTILE[name]
    path.write_bytes(altered(content, change))
    fresh = build()
    tracemalloc.start()
    try:
        with pytest.raises(SparsewoodError, match=message) as caught:
            sw.unpack(path, model=fresh)
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1500
    assert fresh[0].out_features == 60


def test_a_header_in_other_words_is_refused(content: bytes, path: Path) -> None:
    data, sections = parts(content)
    refused(path, joined(json.dumps(data).encode(), sections), build(), "not spelled as it should be")


def test_the_helper_alters_nothing_by_itself(content: bytes) -> None:
    assert altered(content, lambda _: None) == content


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not complete JSON"),
        (b"null", "no field 'format'"),
        (b"[" * 100_000, "not complete JSON"),
        (b"\xff\xfe", "not complete JSON"),
        (b'{"format": NaN}', "not complete JSON"),
        (b'{"format": ' + b"9" * 5000 + b"}", "not complete JSON"),
        (b'{"a": 1, "format": "sparsewood plan", "version": 1}', "no field 'model'"),
        (b'{"a": 1e999, "format": "sparsewood plan", "version": 1}', "no plan: Out of range"),
        (b'{"a": "\\ud800", "format": "sparsewood plan", "version": 1}', "no plan: .* can't encode"),
    ],
)
def test_what_is_no_header_is_refused(text: bytes, message: str, path: Path) -> None:
    refused(path, joined(text, b""), build(), message)


def test_the_prefix_is_checked(content: bytes, path: Path) -> None:
    fresh, (text, sections) = build(), parts(content)
    header = planfile.render(text).encode()
    refused(path, b"", fresh, "does not begin as a packed file")
    refused(path, b"PK\x03\x04" + content[4:], fresh, "does not begin as a packed file")
    refused(path, MAGIC + bytes(10), fresh, "at least 52")
    for version in (0, 2, 2**32 - 1):
        refused(path, joined(header, sections, version=version), fresh, f"format version {version}, and this release")
    for length in (0, len(header) - 1, len(header) + 1):
        refused(path, joined(header, sections, length=length), fresh, "that were announced")
    refused(path, joined(header, sections, length=2**32 - 1), fresh, "header has 4294967295 bytes")
    changed = bytearray(content)
    changed[12:16] = (2**32 - 1).to_bytes(4, "little")
    refused(path, sealed(bytes(changed)), fresh, "4294967295 bytes are expected where")


def test_a_header_that_grows_without_end_is_not_made(path: Path) -> None:
    """A thousandth of its size on disk; refused by what it announces, or once it is longer than that."""
    shapes = {name: tuple(value.shape) for name, value in build().state_dict().items()}
    text = b" " * (most_header(shapes) + 1)
    refused(path, joined(text, b""), build(), "that of this network at most")
    bomb = joined(b" " * 10**8, b"", length=100)
    tracemalloc.start()
    try:
        refused(path, bomb, build(), "that were announced")
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()


def test_a_file_larger_than_any_of_this_network_is_not_read(path: Path) -> None:
    with path.open("wb") as stream:
        stream.write(MAGIC)
        stream.truncate(2**33)  # a hole, which takes no room
    with pytest.raises(FileFormatError, match="it has 8589934592 bytes, and a packed file of this network has at most"):
        sw.unpack(path, model=build())


def section_of(content: bytes, name: str, section: bytes) -> bytes:
    """The file with other bytes for one tensor."""
    contents = split(content, 2**30)
    found = [section if one.name == name else bytes(one.content) for one in contents.sections]
    data, _ = parts(content)
    for one, other in zip(data["tensors"], found, strict=True):
        one["bytes"] = len(other)
    return joined(planfile.render(data).encode(), b"".join(found))


def test_sections_that_would_fill_the_memory_are_refused(content: bytes, path: Path) -> None:
    """What they announce is measured by the network's shape; the tensor is named."""
    bomb = zlib.compress(bytes(10**8), 9)
    cases = {
        bytes([schemes.PLANES, streams.DEFLATED]) + varint(len(bomb)) + bomb: "are not the",
        bytes([schemes.CODEBOOK]) + varint(2**60): "the size of a codebook is",
        bytes([schemes.BITMAP]) + varint(2**60): "that are not 0 is",
        bytes([schemes.GAPS, 1]) + varint(2**60): "the number of gaps is",
        bytes([schemes.PLANES, streams.CODED]) + varint(2**60): "the length of a stream is",
        bytes([schemes.PLANES, streams.CODED, 8, 6, 32, 32]) + varint(2**30): "the number of lanes is",
        b"": "1 bytes are expected",
        bytes([schemes.CONSTANT]) + bytes(5): "1 bytes follow its end",
    }
    tracemalloc.start()
    try:
        for section, message in cases.items():
            refused(
                path, section_of(content, "3.weight", section), build(), f"tensor '3.weight' is damaged: .*{message}"
            )
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()
