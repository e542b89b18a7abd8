"""The activation of every unit for every example, on disk: safetensors shards with a JSON index."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from sparsewood.errors import FileFormatError, OutputError, SparsewoodError, UnknownName
from sparsewood.files import writable_directory, write_atomically

__all__ = ["ActivationMatrix", "MatrixWriter"]

FORMAT = "sparsewood activations"
VERSION = 1
INDEX = "index.json"
SHARD_BYTES = 64 << 20


@dataclass(frozen=True)
class ActivationMatrix:
    """What `MatrixWriter` wrote to a directory: for every layer float32[examples, units].

    Row i belongs to example i of the data. Only what is asked for is read.
    """

    directory: Path
    examples: int
    layers: Mapping[str, int]
    shards: tuple[tuple[str, int], ...]

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> ActivationMatrix:
        """Read the index; raises `FileFormatError` if it is no such directory, or one that is not complete."""
        path = Path(directory) / INDEX
        try:
            index: Any = json.loads(path.read_text(encoding="utf-8"))
            if index["format"] != FORMAT or index["version"] != VERSION:
                raise FileFormatError(
                    f"'{path}' has format {index['format']!r}, version {index['version']!r}. "
                    f"This reads {FORMAT!r}, version {VERSION}."
                )
            shards = tuple((str(one["file"]), int(one["examples"])) for one in index["shards"])
            found = cls(Path(directory), int(index["examples"]), dict(index["layers"]), shards)
        except FileNotFoundError as error:
            raise FileFormatError(
                f"'{directory}' holds no {INDEX}: nothing was written there, or not to its end."
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, FileFormatError):
                raise
            raise FileFormatError(f"'{path}' is no index of activations: {type(error).__name__}: {error}.") from error
        missing = [name for name, _ in shards if Path(name).name != name or not (found.directory / name).is_file()]
        if missing or sum(count for _, count in shards) != found.examples:
            raise FileFormatError(f"'{path}' and the files beside it do not fit together. Missing: {missing}.")
        return found

    def layer(self, name: str) -> Tensor:
        """float32[examples, units] of one layer; raises `UnknownName` for a layer that is not there."""
        if name not in self.layers:
            raise UnknownName.among("layer", name, self.layers)
        parts = []
        for file, _ in self.shards:
            with safe_open(self.directory / file, framework="pt") as shard:
                parts.append(shard.get_tensor(name))
        return torch.cat(parts) if parts else torch.zeros(0, self.layers[name])


class MatrixWriter:
    """Writes rows of activations to a new directory, a shard at a time, and at the end the index.

    Without the index a directory is not complete and is not read. Raises `OutputError` if the directory holds
    activations already or cannot be written.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        if (self.directory / INDEX).exists():
            raise OutputError(f"'{self.directory}' holds activations already. Choose another directory.")
        self.directory.mkdir(parents=True, exist_ok=True)
        writable_directory(self.directory)
        self._rows: list[Mapping[str, Tensor]] = []
        self._shards: list[tuple[str, int]] = []
        self._bytes = 0
        self._layers: dict[str, int] = {}

    def add(self, rows: Mapping[str, Tensor]) -> None:
        """The next examples: for every layer [examples, units]."""
        own = {name: one.to("cpu", torch.float32) for name, one in rows.items()}
        layers = {name: one.shape[1] for name, one in own.items()}
        if self._layers and layers != self._layers:
            raise SparsewoodError(f"Rows of other layers than before: {list(layers)}, not {list(self._layers)}.")
        self._layers = layers
        self._rows.append(own)
        self._bytes += sum(one.numel() * 4 for one in own.values())
        if self._bytes >= SHARD_BYTES:
            self._write()

    def close(self) -> ActivationMatrix:
        """Write what is left, and the index."""
        if self._rows:
            self._write()
        index = {
            "format": FORMAT,
            "version": VERSION,
            "examples": sum(count for _, count in self._shards),
            "layers": self._layers,
            "shards": [{"file": name, "examples": count} for name, count in self._shards],
        }
        text = json.dumps(index, indent=1)
        write_atomically(self.directory / INDEX, lambda path: Path(path).write_text(text, encoding="utf-8"))
        return ActivationMatrix.open(self.directory)

    def _write(self) -> None:
        name = f"activations-{len(self._shards):05d}.safetensors"
        tensors = {layer: torch.cat([rows[layer] for rows in self._rows]).contiguous() for layer in self._layers}
        write_atomically(self.directory / name, lambda path: save_file(tensors, path))
        self._shards.append((name, len(next(iter(tensors.values())))))
        self._rows, self._bytes = [], 0
