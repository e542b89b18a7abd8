"""Checkpoints: whole or refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sparsewood import checkpoint
from sparsewood.errors import FileFormatError, OutputError

RoomFor = Callable[[int], AbstractContextManager[None]]
VALUES = {"step": 3, "history": [{"loss": 0.1}], "name": "gr\u00f6\u00dfe"}


def tensors() -> dict[str, Tensor]:
    return {
        "model/weight": torch.arange(6.0).reshape(2, 3).T,
        "half": torch.tensor([1.5], dtype=torch.bfloat16),
        "scalar": torch.tensor(7),
        "empty": torch.zeros(0, 2),
        "mask/a": torch.tensor([True, False]),
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.safetensors"


def test_round_trip_keeps_bits_types_shapes_and_values(path: Path) -> None:
    checkpoint.write(path, tensors(), VALUES)
    found, values = checkpoint.read(path)
    assert values == VALUES
    assert found.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_the_same_content_gives_the_same_file(path: Path, tmp_path: Path) -> None:
    checkpoint.write(path, tensors(), VALUES)
    checkpoint.write(tmp_path / "again.safetensors", tensors(), VALUES)
    assert path.read_bytes() == (tmp_path / "again.safetensors").read_bytes()


@pytest.mark.parametrize("where", [0, 3, 40, 200, -1, -20, -30])
def test_one_altered_byte_is_found(path: Path, where: int) -> None:
    checkpoint.write(path, tensors(), VALUES)
    content = bytearray(path.read_bytes())
    content[where] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match=str(path)):
        checkpoint.read(path)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_truncated_file_is_found(path: Path, keep: int) -> None:
    checkpoint.write(path, tensors(), VALUES)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(FileFormatError, match=r"not a complete safetensors file|checksum"):
        checkpoint.read(path)


def test_other_files_and_versions_are_refused(path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"state\.safetensors"):
        checkpoint.read(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(FileFormatError, match="no checkpoint of this library"):
        checkpoint.read(path)
    header = {"version": 2, "values": {}, "sha256": ""}
    save_file({"a": torch.zeros(1)}, path, {checkpoint.KEY: json.dumps(header)})
    with pytest.raises(FileFormatError, match="version 2"):
        checkpoint.read(path)


def test_without_room_the_last_good_state_stays(path: Path, room_for: RoomFor) -> None:
    checkpoint.write(path, tensors(), VALUES)
    with room_for(2000), pytest.raises(OutputError, match=f"Cannot write file '{path}'"):
        checkpoint.write(path, {"large": torch.zeros(10_000)}, VALUES)
    assert checkpoint.read(path)[1] == VALUES
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_cannot_be_written_to(path: Path) -> None:
    path.parent.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="Permission denied"):
            checkpoint.write(path, tensors(), VALUES)
    finally:
        path.parent.chmod(0o700)


def test_nan_and_infinity_are_kept(path: Path) -> None:
    checkpoint.write(path, {"a": torch.tensor([float("nan"), float("inf"), -0.0])}, {})
    found = checkpoint.read(path)[0]["a"]
    assert found.isnan().tolist() == [True, False, False]
    assert float(found[2].signbit())
