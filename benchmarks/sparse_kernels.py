"""Single layers with sparse kernels beside the dense ones, by sparsity and batch, as `sparse_kernels` measures them.

    python benchmarks/sparse_kernels.py              # all layers; about two minutes
    python benchmarks/sparse_kernels.py --threads 2

Weights are drawn anew, and a random share of them is zero: single ones, or blocks of 4 x 4 ("blocks"). Cells are how
many times as fast as dense a format is: median over median of calls in turn; below 1 it is slower. The dense time is
that at the first sparsity. What a format cannot be tried on has no number.
"""

from __future__ import annotations

import argparse
import datetime
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import sparsewood as sw
from sparsewood.report.table import Table, as_text


@dataclass(frozen=True)
class Case:
    """A layer, the shape of its input, and the sides of the blocks that are zero."""

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    block: int = 1


CASES = (
    Case("Linear 784 -> 300, batch 1", lambda: nn.Linear(784, 300), (1, 784)),
    Case("Linear 784 -> 300, batch 64", lambda: nn.Linear(784, 300), (64, 784)),
    Case("Linear 1024 -> 1024, batch 1", lambda: nn.Linear(1024, 1024), (1, 1024)),
    Case("Linear 1024 -> 1024, batch 16", lambda: nn.Linear(1024, 1024), (16, 1024)),
    Case("Linear 1024 -> 1024, batch 128", lambda: nn.Linear(1024, 1024), (128, 1024)),
    Case("Linear 1024 -> 4096, batch 128", lambda: nn.Linear(1024, 4096), (128, 1024)),
    Case("Linear 1024 -> 1024, batch 128, blocks", lambda: nn.Linear(1024, 1024), (128, 1024), 4),
    Case("Conv 1x1 64 -> 256, 56x56, batch 1", lambda: nn.Conv2d(64, 256, 1), (1, 64, 56, 56)),
    Case("Conv 1x1 2048 -> 512, 7x7, batch 16", lambda: nn.Conv2d(2048, 512, 1), (16, 2048, 7, 7)),
    Case("Conv 3x3 64 -> 64, 56x56, batch 1", lambda: nn.Conv2d(64, 64, 3, padding=1), (1, 64, 56, 56)),
    Case("Conv 3x3 256 -> 256, 14x14, batch 1", lambda: nn.Conv2d(256, 256, 3, padding=1), (1, 256, 14, 14)),
    Case("Conv 3x3 512 -> 512, 7x7, batch 16", lambda: nn.Conv2d(512, 512, 3, padding=1), (16, 512, 7, 7)),
)
SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.99)


def thin(weight: Tensor, sparsity: float, block: int) -> None:
    """Make a share of the weights zero, in blocks of the weight as a matrix."""
    matrix = weight.flatten(1)
    rows, columns = matrix.shape
    generator = torch.Generator().manual_seed(0)
    kept = torch.rand(rows // block, columns // block, generator=generator) >= sparsity
    matrix.mul_(kept.repeat_interleave(block, 0).repeat_interleave(block, 1))


def row(case: Case, formats: Sequence[str], repeats: int) -> list[tuple[str, ...]]:
    """A line for each format: the dense time, then the gain at each sparsity."""
    dense, gains = 0.0, {kind: [] for kind in formats}
    for sparsity in SPARSITIES:
        torch.default_generator.manual_seed(0)
        layer = case.build()
        with torch.no_grad():
            thin(layer.weight.data, sparsity, case.block)  # pyright: ignore[reportArgumentType, reportCallIssue]
        found = sw.sparse_kernels(layer, torch.randn(case.shape), min_sparsity=0.0, repeats=repeats)
        seconds = found.layers[0].seconds
        dense = dense or seconds["dense"]
        for kind in formats:
            gains[kind].append(f"{seconds['dense'] / seconds[kind]:.2f}" if kind in seconds else "")
    lines = [(case.name, kind, f"{1000 * dense:.3f}", *gains[kind]) for kind in formats]
    return [line for line in lines if any(line[3:])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=25)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    lines = [line for case in CASES for line in row(case, ("csr", "bsr 4x4"), arguments.repeats)]
    headers = ("layer", "format", "dense [ms]", *(f"{100 * one:g} %" for one in SPARSITIES))
    about = f"PyTorch {torch.__version__}, {platform.machine()}, {arguments.threads} threads, {datetime.date.today()}"
    print(as_text(Table(f"Gain of sparse kernels over dense ones ({about})", headers, tuple(lines))))


if __name__ == "__main__":
    main()
