"""Pruner in several processes: one choice for all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

WORKER = """
import os
import sys
import torch
from torch import nn
from sparsewood.criteria import WeightTimesGradient
from sparsewood.pruning import Pruning
from sparsewood.schedules import OneShot
from sparsewood.train.pruner import Pruner
from sparsewood.types import Masks

rank, file = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 3))
data = [(torch.randn(8, 6, generator=torch.Generator().manual_seed(rank)), torch.zeros(8).long())]
pruning = Pruning(WeightTimesGradient(), OneShot(0.5))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
options = {"data": data, "loss": nn.functional.cross_entropy}
alone = pruning.choose(model, pruning.plan[0], Masks({}), **options)
masks = Pruner(model, optimizer, pruning, **options).finish()
print(alone.fingerprint(), masks.fingerprint(), flush=True)
torch.distributed.barrier()
torch.distributed.destroy_process_group()
os._exit(0)  # at the interpreter's end, threads of the connections may still run when what they use is gone
"""


@pytest.mark.slow
def test_the_choice_of_rank_0_holds_for_all(tmp_path: Path) -> None:
    """Each process has data of its own, and would choose differently."""
    command = [sys.executable, "-c", WORKER]
    processes = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "meet")], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    found = [process.communicate(timeout=120)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    (alone_0, masks_0), (alone_1, masks_1) = found
    assert alone_0 != alone_1
    assert masks_0 == masks_1 == alone_0
