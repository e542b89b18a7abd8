"""Masks.save, Masks.load: one bit per entry, and no damaged file is read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from torch import nn

from sparsewood import maskfile
from sparsewood.errors import FileFormatError, OutputError
from sparsewood.masks import apply_masks
from sparsewood.types import Masks


def some() -> Masks:
    generator = torch.Generator().manual_seed(0)
    return Masks(
        {
            "conv.weight": torch.rand(3, 2, 3, 3, generator=generator) < 0.5,
            "bias": torch.tensor([True, False, True]),
            "scale": torch.tensor(False),
            "empty": torch.ones(0, 4, dtype=torch.bool),
            "gr\u00f6\u00dfe": torch.zeros(8, dtype=torch.bool),
        }
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "masks.safetensors"


def rewrite(path: Path, masks: Masks, **changes: object) -> None:
    """A well-formed file whose metadata differ in `changes`."""
    shapes = {name: list(mask.shape) for name, mask in masks.items()}
    header = {"version": 1, "shapes": shapes, "fingerprint": masks.fingerprint()} | changes
    save_file(masks.packed(), path, {maskfile.KEY: json.dumps(header)})


def test_round_trip_keeps_names_order_shapes_and_bits(path: Path) -> None:
    some().save(path)
    loaded = Masks.load(path)
    assert loaded == some()
    assert list(loaded) == list(some())
    assert loaded.fingerprint() == some().fingerprint()


SHAPES = st.lists(st.integers(0, 5), max_size=3)


@given(st.dictionaries(st.text("ab.\u00e9", min_size=1, max_size=4), SHAPES, max_size=3), st.integers(0, 2**31))
def test_round_trip_of_any_masks(tmp_path_factory: pytest.TempPathFactory, shapes: dict, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    masks = Masks({name: torch.rand(shape, generator=generator) < 0.5 for name, shape in shapes.items()})
    path = tmp_path_factory.mktemp("any") / "masks.safetensors"
    masks.save(path)
    assert Masks.load(path) == masks


def test_7_8_loaded_masks_give_the_same_sparsity(path: Path) -> None:
    """Regression 7.8, after save and load."""
    layer = nn.Linear(10, 10)
    Masks({"weight": torch.rand(10, 10, generator=torch.Generator().manual_seed(0)) < 0.1}).save(path)
    masks = Masks.load(path)
    apply_masks(layer, masks)
    assert int((layer.weight == 0).sum()) == masks.removed > 0


def test_one_bit_per_entry_on_disk(path: Path) -> None:
    numel = 1_000_000
    Masks({"w": torch.rand(1000, 1000) < 0.1}).save(path)
    assert numel / 8 <= path.stat().st_size <= numel / 8 + 500


def test_equal_masks_equal_bytes(tmp_path: Path) -> None:
    contents = set()
    for index in range(5):
        some().save(tmp_path / str(index))
        contents.add((tmp_path / str(index)).read_bytes())
    assert len(contents) == 1


def test_loaded_masks_can_be_used_and_not_shared(path: Path) -> None:
    some().save(path)
    first, second = Masks.load(path), Masks.load(path)
    first["bias"].logical_not_()
    assert second == some()


def test_every_truncation_is_refused(path: Path) -> None:
    some().save(path)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(FileFormatError, match=r"masks\.safetensors' cannot be read"):
            Masks.load(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(FileFormatError):
        Masks.load(path)


def test_every_flipped_bit_is_refused(path: Path) -> None:
    some().save(path)
    content = path.read_bytes()
    for position in range(len(content)):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[position] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises(FileFormatError):
                Masks.load(path)


def test_foreign_files_are_refused(path: Path) -> None:
    for content in (b"", b"not masks", b"PK\x03\x04" + bytes(100), b"\xff" * 64):
        path.write_bytes(content)
        with pytest.raises(FileFormatError, match="not a complete safetensors file"):
            Masks.load(path)
    save_file({"w": np.zeros(3, np.float32)}, path)
    with pytest.raises(FileFormatError, match=r"no 'sparsewood\.masks' metadata"):
        Masks.load(path)


BAD = [
    ({"version": 2}, "format version 2, and this release reads version 1"),
    ({"shapes": {"w": [9]}}, r"tensor 'w' of shape \[9\] should be stored as \('U8', \[2\]\), and is \('U8', \[1\]\)"),
    ({"shapes": {"w": [10**30]}}, "should be stored as"),
    ({"shapes": {"v": [3]}}, r"shapes and its tensors differ in \['v', 'w'\]"),
    ({"shapes": {"w": [-3]}}, "shapes are damaged"),
    ({"shapes": [3]}, "shapes are damaged"),
    ({"shapes": {"w": [1, 3]}}, "does not match its fingerprint"),
    ({"shapes": {"w": [2]}}, "bits beyond its 2 entries"),
    ({"fingerprint": "0" * 64}, "does not match its fingerprint"),
]


@pytest.mark.parametrize(("changes", "reason"), BAD)
def test_inconsistent_files_are_refused_with_the_reason(path: Path, changes: dict, reason: str) -> None:
    rewrite(path, Masks({"w": torch.tensor([True, False, True])}), **changes)
    with pytest.raises(FileFormatError, match=reason):
        Masks.load(path)


@pytest.mark.parametrize("metadata", ["", "[]", "{}", '"x"', "7"])
def test_damaged_metadata_is_refused(path: Path, metadata: str) -> None:
    save_file({"w": np.zeros(1, np.uint8)}, path, {maskfile.KEY: metadata})
    with pytest.raises(FileFormatError, match="metadata is damaged"):
        Masks.load(path)


def test_the_rewritten_file_is_otherwise_good(path: Path) -> None:
    rewrite(path, some())
    assert Masks.load(path) == some()
    assert {array.dtype.name for array in load_file(path).values()} == {"uint8"}


def test_writing_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no-such-directory"):
        some().save(tmp_path / "no-such-directory" / "masks.safetensors")


def test_a_missing_file_or_a_directory(tmp_path: Path) -> None:
    for missing in (tmp_path / "none", tmp_path):
        with pytest.raises(FileNotFoundError, match="No mask file at"):
            Masks.load(missing)
