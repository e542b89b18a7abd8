"""Several processes: sums of all, and masks that must be the same in each.

Without `torch.distributed` there is one process, rank 0, and every sum is its own.
"""

from __future__ import annotations

import hashlib

import torch
import torch.distributed as dist
from torch import Tensor

from sparsewood.errors import SparsewoodError
from sparsewood.types import Masks, Statistics

__all__ = ["rank", "reduce_statistics", "require_same_masks", "total", "world"]


def rank() -> int:
    """The number of this process, from 0.

    >>> rank(), world()
    (0, 1)
    """
    return dist.get_rank() if _running() else 0


def world() -> int:
    """How many processes there are."""
    return dist.get_world_size() if _running() else 1


def total(tensor: Tensor) -> Tensor:
    """The sum of `tensor` over all processes: a new tensor on its device, or `tensor` itself if there is one process.

    Every process must call it, with tensors of one shape and dtype.
    """
    if world() == 1:
        return tensor
    own = tensor.detach().to(_meeting_place(tensor), copy=True).contiguous()
    dist.all_reduce(own)
    return own.to(tensor.device)


def reduce_statistics(statistics: Statistics) -> Statistics:
    """The statistics of all processes together, the same in each: every sum and the sample count added up.

    Call it in every process, with statistics that `collect` made of this process's share of the data. The result is
    that of one process over all the data, up to the rounding of a sum taken in another order. With one process it is
    `statistics` itself.

    Raises `SparsewoodError`, in every process, if kinds, parameters or shapes differ between them.
    """
    if world() == 1:
        return statistics
    _require_same_layout(statistics)
    sums = {kind: {name: total(of[name]) for name in sorted(of)} for kind, of in sorted(statistics.sums.items())}
    in_order = {kind: {name: sums[kind][name] for name in of} for kind, of in statistics.sums.items()}
    return Statistics(in_order, int(total(torch.tensor(statistics.samples))))


def require_same_masks(masks: Masks) -> None:
    """Raise `SparsewoodError`, in every process, unless all have the same masks. Every process must call it.

    Weights that are averaged between processes with different masks would be zero in none of them.
    """
    if world() == 1:
        return
    own = {name: _digest(masks[name]) for name in masks}
    gathered: list[dict[str, str]] = [{} for _ in range(world())]
    dist.all_gather_object(gathered, own)
    different = [number for number, other in enumerate(gathered) if other != gathered[0]]
    if not different:
        return
    other = gathered[different[0]]
    name = next(name for name in sorted(gathered[0] | other) if gathered[0].get(name) != other.get(name))
    shown = {number: found.get(name, "none")[:12] for number, found in enumerate(gathered)}
    raise SparsewoodError(
        f"The masks differ between processes: rank {', '.join(map(str, different))} has others than rank 0. First "
        f"parameter: {name!r}, with fingerprints {shown}. Add up the statistics with reduce_statistics before pruning, "
        "and give every rank the same weights, settings and generator seed."
    )


def _running() -> bool:
    return dist.is_available() and dist.is_initialized()


def _meeting_place(tensor: Tensor) -> torch.device:
    """Where this process group's backend wants tensors: NCCL knows only those of a GPU."""
    if dist.get_backend() == "nccl" and tensor.device.type != "cuda":
        return torch.device("cuda", torch.cuda.current_device())
    return tensor.device if dist.get_backend() != "gloo" else torch.device("cpu")


def _digest(mask: Tensor) -> str:
    return Masks.adopt({"": mask}).fingerprint()


def _require_same_layout(statistics: Statistics) -> None:
    layout = {
        kind: {name: (tuple(t.shape), str(t.dtype)) for name, t in sorted(of.items())}
        for kind, of in sorted(statistics.sums.items())
    }
    own = hashlib.sha256(repr(layout).encode()).hexdigest()
    gathered: list[str] = [""] * world()
    dist.all_gather_object(gathered, own)
    different = [number for number, digest in enumerate(gathered) if digest != gathered[0]]
    if different:
        held = ", ".join(f"{kind!r} of {len(of)} parameters" for kind, of in statistics.sums.items())
        raise SparsewoodError(
            f"The statistics of rank {', '.join(map(str, different))} have other kinds, parameters or shapes than "
            f"those of rank 0, so they cannot be added up. Rank {rank()} has {held}. Collect the same statistics of "
            "the same model in every process."
        )
