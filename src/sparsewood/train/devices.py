"""Where a training runs: a Lightning Fabric with errors that say what is there instead."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch

from sparsewood.errors import SparsewoodError
from sparsewood.train.settings import PRECISIONS

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["make_fabric"]

# Lightning sets it for the whole process and its children, which are none of ours.
_SET_ON_IMPORT = "PYTORCH_NVML_BASED_CUDA_CHECK"

KINDS = ("auto", "cpu", "cuda", "mps")


def make_fabric(device: str = "auto", devices: int = 1, strategy: str = "auto", precision: str = "32-true") -> Fabric:
    """The Fabric that training runs on.

    Args:
        device: "cpu", "cuda", "cuda:1", "mps", or "auto" for an accelerator if there is one.
        devices: how many of them, one process each. With more than one, call `launch()` on the result first.
        strategy: how several processes share the work; "auto" for "ddp", data-parallel training.
        precision: "32-true", "bf16-mixed" or "64-true".

    Raises `SparsewoodError` if Lightning Fabric is not installed, or if there is no such device.

    >>> make_fabric("cpu").device
    device(type='cpu')
    """
    kind, index = _parsed(device)
    if precision not in PRECISIONS:
        raise SparsewoodError(f"precision must be one of {', '.join(PRECISIONS)}. Got {precision!r}.")
    if isinstance(devices, bool) or not isinstance(devices, int) or devices < 1:
        raise SparsewoodError(f"devices must be a whole number >= 1. Got {devices!r}.")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    _require_there(device, kind, index, devices)
    settings: Any = {"accelerator": kind, "devices": devices if index is None else [index], "precision": precision}
    if strategy != "auto" or devices > 1:
        settings["strategy"] = "ddp" if strategy == "auto" else strategy
    fabric = fabric_class()
    try:
        return fabric(**settings)
    except (ValueError, RuntimeError) as error:  # among them Lightning's own MisconfigurationException
        raise SparsewoodError(
            f"Cannot train on {devices} x {device} with strategy {strategy!r}: {error} Use strategy 'ddp' for several "
            "processes, 'auto' for one."
        ) from error


def fabric_class() -> type[Fabric]:
    """Lightning's class, or a `SparsewoodError` that says how to install it."""
    before = os.environ.get(_SET_ON_IMPORT)
    try:
        from lightning_fabric import Fabric
    except ImportError as error:
        raise SparsewoodError(
            f"Training needs Lightning Fabric, and importing it failed: {error}. Run: pip install 'sparsewood[train]'"
        ) from error
    finally:
        if before is None:
            os.environ.pop(_SET_ON_IMPORT, None)
    return Fabric


def _parsed(device: str) -> tuple[str, int | None]:
    kind, _, index = device.partition(":") if isinstance(device, str) else ("", "", "")
    if kind not in KINDS or (index and not (index.isdecimal() and kind == "cuda")):
        raise SparsewoodError(f"device must be 'auto', 'cpu', 'cuda', 'cuda:INDEX' or 'mps'. Got {device!r}.")
    return kind, int(index) if index else None


def _require_there(device: str, kind: str, index: int | None, devices: int) -> None:
    if kind == "cpu":
        return
    there = torch.cuda.device_count() if kind == "cuda" else int(torch.backends.mps.is_available())
    if index is not None and devices > 1:
        raise SparsewoodError(f"{device!r} is one device. Got devices={devices}; use device='cuda' for several.")
    if (index or 0) + devices > there:
        raise SparsewoodError(
            f"Asked for {devices} x {device!r}; PyTorch {torch.__version__} sees {there} {kind} devices here. Use "
            "device='cpu' or 'auto'" + (f", or at most {there} devices." if there else ".")
        )
