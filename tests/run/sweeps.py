"""A grid for tests of sweeps, and a worker function that misbehaves where it is told to."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch
from torch import nn

GRID = """
name: tiny
problems:
  digits: {{data: digits, model: {model}}}
methods:
  magnitude: {{}}
  snip: {{at_step: 0, pruning: {{criterion: WeightTimesGradient, recovery: {{name: Rewind, step: 0}}}}}}
compressions: [2, 8]
controls: [{controls}]
training: {{epochs: 1, batch_size: 128}}
seeds: {seeds}
latency: false
"""
SMALL = "{name: small_conv, widths: [4, 8], hidden: 16}"


def write_grid(directory: Path, *, model: str = SMALL, controls: str = "random, dense_tuned", seeds: int = 1) -> Path:
    path = directory / "tiny.yaml"
    path.write_text(GRID.format(model=model, controls=controls, seeds=seeds))
    return path


class Fragile(nn.Module):
    """A network whose forward fails, kills its process, or takes long, if a file says so."""

    def __init__(self, trouble: str = "") -> None:
        super().__init__()
        self.hidden, self.last = nn.Linear(64, 16), nn.Linear(16, 10)
        self.trouble = trouble

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found = self.last(torch.relu(self.hidden(images.flatten(1))))
        if self.training and self.trouble and images.device.type != "meta":
            make_trouble(Path(self.trouble), sparse=float(self.hidden.weight.eq(0).float().mean()) > 0.8)
        return found


def make_trouble(path: Path, *, sparse: bool) -> None:
    """What the file says is done to networks that are pruned much, once if it says so."""
    what = path.read_text().strip() if path.is_file() else ""
    if not sparse or not what:
        return
    if what.endswith("once"):
        path.unlink()
    if what.startswith("raise"):
        raise ArithmeticError("the network does not like that")
    if what.startswith("kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    if what.startswith("sleep"):
        time.sleep(600)
    if what.startswith("memory"):
        torch.zeros(4 * 2**30)


def fragile(trouble: str = "", classes: int = 10, channels: int = 1, size: int = 8) -> nn.Module:  # noqa: ARG001
    """The network as a recipe names it."""
    return Fragile(trouble)
