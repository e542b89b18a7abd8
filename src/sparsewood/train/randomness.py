"""Random numbers of a training: all follow from the seed and the number of the step, and none are left used."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any

import torch

from sparsewood.errors import SparsewoodError
from sparsewood.seeds import derive
from sparsewood.train.protocols import Batches


def forked(device: torch.device) -> AbstractContextManager[None]:
    """PyTorch's random state, on the CPU and on `device`, is afterwards what it was before."""
    if device.type == "cpu":
        return torch.random.fork_rng(devices=[])
    return torch.random.fork_rng(devices=[device], device_type=device.type)


def seed_start(seed: int, device: torch.device) -> None:
    """Random numbers drawn before the first step follow from the seed, too."""
    _seed(derive(seed, "start"), device)


def seed_step(seed: int, step: int, rank: int, device: torch.device) -> None:
    """Random numbers drawn from here on are those of this step."""
    _seed(derive(seed, "step", step, rank), device)


def batches(train: Batches, epoch: int, start: int, seed: int, device: torch.device) -> Generator[Any]:
    """The batches of one epoch (from 0) from batch `start` on.

    Data that have no epochs of their own are gone through anew, after seeding what such loaders draw their order and
    transforms from; batches before `start` are read and dropped.
    """
    if hasattr(train, "epoch"):
        yield from train.epoch(epoch, start=start)  # pyright: ignore[reportAttributeAccessIssue]
        return
    _seed(derive(seed, "order", epoch), device)
    # Batches are fetched between steps, from whatever random state the last step left; seeding first makes that of a
    # training that was taken up again in the middle the same.
    every = iter(train)
    for _ in islice(every, start):
        pass
    for number in range(start, len(train)):
        if number:
            _seed(derive(seed, "fetch", epoch, number), device)
        try:
            batch = next(every)
        except StopIteration:
            raise SparsewoodError(
                f"The training data has {len(train)} batches by its length, but gave {number} in epoch {epoch + 1}. "
                "Pass a loader or a list; a generator can be read only once."
            ) from None
        yield batch


def _seed(seed: int, device: torch.device) -> None:
    # torch.manual_seed would cost 0.1 ms, most of it for noting where it was called.
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
    elif device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)
