"""On what a result was obtained: versions and machine."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version

__all__ = ["machine", "versions"]

PACKAGES = ("sparsewood", "torch", "numpy", "lightning-fabric", "scikit-learn", "matplotlib", "torchvision", "timm")


def versions() -> dict[str, str | None]:
    """Of Python and the packages that matter; None for one that is not installed.

    >>> versions()["torch"] is not None
    True
    """
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def machine() -> dict[str, object]:
    """Platform, processor, number of cores, and accelerator if there is one."""
    import torch

    found = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "accelerators": found,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
