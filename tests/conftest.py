"""Every test runs on one thread and must leave the process as it found it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from sparsewood.testing import no_leaks

torch.set_num_threads(1)  # waiting for other threads costs more than they help on small tensors


@pytest.fixture(autouse=True)
def _no_leaks() -> Iterator[None]:
    with no_leaks():
        yield
