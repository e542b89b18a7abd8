"""Every test runs on one thread and must leave the process as it found it."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch
from hypothesis import HealthCheck, settings

from sparsewood.testing import no_leaks

torch.set_num_threads(1)  # waiting for other threads costs more than they help on small tensors


# Shared machines pause at odd moments: no example fails for being slow. CI tries the same examples every time, so that
# a red run is due to the change; elsewhere new ones are tried.
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("local"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(autouse=True)
def _no_leaks() -> Iterator[None]:
    with no_leaks():
        yield


@pytest.fixture
def room_for() -> Callable[[int], AbstractContextManager[None]]:
    """A block in which no file may grow beyond so many bytes: what a full disk does, for this process alone."""

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)

    return limited
