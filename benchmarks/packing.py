"""Packed networks: bytes and processor seconds, beside zlib and lzma of the raw bytes.

    python benchmarks/packing.py                        # all cases; about five minutes of a processor
    python benchmarks/packing.py --cases lenet_300_100  # one network

Networks are those of torchvision and of this library with new weights, which are drawn anew the same every time, not
trained: a packed file's size follows from how many weights are zero and how many values there are, not from what they
compute. Sparse ones lose the weights of smallest magnitude of the whole network. Shared ones have the weights that are
left in each layer rounded to quantiles of theirs. zlib and lzma, at their default levels, get the bytes of the state
dict's tensors one after the other. Every file is unpacked, and every tensor compared bit by bit.
"""

from __future__ import annotations

import argparse
import datetime
import lzma
import os
import platform
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import sparsewood as sw
from sparsewood.models.sources import load_model
from sparsewood.report.table import Table, as_text


@dataclass(frozen=True)
class Case:
    """A network by name, the share of its weights that is zero, and how many values each layer has (None: all)."""

    network: str
    sparsity: float
    values: int | None

    @property
    def name(self) -> str:
        """What it is called in the table."""
        sparse = f", {100 * self.sparsity:g} % zero" if self.sparsity else ", dense"
        return self.network.rpartition(":")[2] + sparse + (f", {self.values} values" if self.values else "")


CASES = (
    Case("torchvision:resnet50", 0.0, None),
    Case("torchvision:resnet50", 0.9, None),
    Case("torchvision:resnet50", 0.9, 32),
    Case("lenet_300_100", 0.95, 16),
)


def build(name: str) -> nn.Module:
    """The network with the same new weights every time."""
    return load_model(name, generator=torch.Generator().manual_seed(0))


def prepared(case: Case) -> nn.Module:
    """The network of a case."""
    model = build(case.network)
    if case.sparsity:
        masks = sw.prune(model, sw.Magnitude(), sparsity=case.sparsity, protect_classifier=False)
        sw.apply_masks(model, masks)
    if case.values:
        for parameter in model.parameters():
            if parameter.dim() > 1:
                share(parameter.data, case.values)
    return model


def share(weights: Tensor, values: int) -> None:
    """Round what is not zero to the medians of `values` parts that have as many weights each."""
    kept = weights[weights != 0]
    ordered = kept.sort().values
    centres = ordered[((torch.arange(values) + 0.5) / values * len(ordered)).long()]
    weights[weights != 0] = centres[torch.bucketize(kept, (centres[1:] + centres[:-1]) / 2)]


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """What a function gives, and the seconds of a processor that it took, which other processes do not change much."""
    begun = time.process_time()
    found = function()
    return found, time.process_time() - begun


def raw_bytes(model: nn.Module) -> bytes:
    """The bytes of the state dict's tensors, one after the other."""
    return b"".join(
        value.detach().reshape(-1).view(torch.uint8).numpy().tobytes() for value in model.state_dict().values()
    )


def identical(one: nn.Module, other: nn.Module) -> bool:
    """Whether the states are the same bit by bit."""
    return raw_bytes(one) == raw_bytes(other)


def rows(case: Case, path: Path) -> list[tuple[str, ...]]:
    """A line for the packed file, and one for each general compressor."""
    model, fresh = prepared(case), build(case.network)
    report, packing = timed(lambda: sw.pack(model, path))
    found, unpacking = timed(lambda: sw.unpack(path, model=fresh))
    assert identical(found, model)
    assert report.bytes == path.stat().st_size
    raw = raw_bytes(model)
    lines = [line(case, "pack", report.bytes, len(raw), (packing, unpacking))]
    print(f"{case.name}: {report!r}, entropy {report.predicted_bytes:,.0f} bytes", flush=True)
    for name, library in (("zlib", zlib), ("lzma", lzma)):
        content, compressing = timed(lambda library=library: library.compress(raw))
        _, decompressing = timed(lambda library=library, content=content: library.decompress(content))
        lines.append(line(case, name, len(content), len(raw), (compressing, decompressing)))
    return lines


def line(case: Case, how: str, size: int, raw: int, seconds: tuple[float, float]) -> tuple[str, ...]:
    """One row of the table."""
    return case.name, how, f"{size:,}", f"{raw / size:.2f}", *(f"{one:.2f}" for one in seconds)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table of all cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cases", nargs="*", default=[], help="only networks whose name has one of these in it")
    chosen = parser.parse_args(arguments).cases
    torch.set_num_threads(1)
    found: list[tuple[str, ...]] = []
    with tempfile.TemporaryDirectory() as directory:
        for case in CASES:
            if not chosen or any(part in case.network for part in chosen):
                found += rows(case, Path(directory) / "network.swp")
    today = datetime.datetime.now(tz=datetime.UTC).date()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, one used"
    title = f"Bytes, raw bytes over them, and processor seconds; {machine}, {today}"
    print(as_text(Table(title, ("network", "by", "bytes", "ratio", "there [s]", "back [s]"), tuple(found))))


if __name__ == "__main__":
    main()
