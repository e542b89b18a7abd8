"""Real data where they are, small made sets in the original formats elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sparsewood.data import Part, Pixels
from sparsewood.data.part import Normalization

ROOT = os.environ.get("SPARSEWOOD_DATA")


@pytest.fixture(autouse=True)
def _no_default_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made sets are not to be taken for real ones."""
    monkeypatch.delenv("SPARSEWOOD_DATA", raising=False)


@pytest.fixture
def real() -> Callable[[str], Path]:
    """The data root, if it has the folder that is asked for; else the test is skipped."""

    def find(folder: str) -> Path:
        if not ROOT:
            pytest.skip("SPARSEWOOD_DATA is not set")
        if not (Path(ROOT) / folder).is_dir():
            pytest.skip(f"SPARSEWOOD_DATA has no folder {folder}")
        return Path(ROOT)

    return find


@pytest.fixture
def ten() -> Part:
    """Ten training images of 3x4x4 pixels; every pixel of image i is 10 i, and its label is i mod 2."""
    images = torch.arange(10, dtype=torch.uint8).mul(10).reshape(10, 1, 1, 1).expand(10, 3, 4, 4).contiguous()
    normalization = Normalization((0.5, 0.4, 0.3), (0.5, 0.25, 0.2))
    return Part(Pixels(images), torch.arange(10) % 2, normalization, training=True)
