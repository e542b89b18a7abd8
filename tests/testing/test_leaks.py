"""What leaks is found, named and put back."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sparsewood.testing import no_leaks
from sparsewood.testing.leaks import SETTINGS


def register_hook() -> None:
    nn.modules.module.register_module_forward_hook(lambda *_: None)


def set_variable() -> None:
    os.environ["SPARSEWOOD_LEAK"] = "1"


LEAKS: dict[str, Callable[[], object]] = {
    "the default dtype": lambda: torch.set_default_dtype(torch.float64),
    "the default device": lambda: torch.set_default_device("meta"),
    "the number of threads": lambda: torch.set_num_threads(2),
    "grad mode": lambda: torch.set_grad_enabled(False),
    "deterministic algorithms": lambda: torch.use_deterministic_algorithms(True),
    "anomaly detection": lambda: torch.autograd.set_detect_anomaly(True),
    "CPU autocast": lambda: torch.set_autocast_enabled("cpu", True),
    "the matmul precision": lambda: torch.set_float32_matmul_precision("medium"),
    "mkldnn": lambda: setattr(torch.backends.mkldnn, "enabled", False),
    "cuDNN": lambda: setattr(torch.backends.cudnn, "enabled", False),
    "cuDNN benchmark": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "cuDNN deterministic": lambda: setattr(torch.backends.cudnn, "deterministic", True),
    "the attention fast path": lambda: torch.backends.mha.set_fastpath_enabled(False),
    "flash attention": lambda: torch.backends.cuda.enable_flash_sdp(False),
    "efficient attention": lambda: torch.backends.cuda.enable_mem_efficient_sdp(False),
    "plain attention": lambda: torch.backends.cuda.enable_math_sdp(False),
    "global module hooks": register_hook,
    "Python's random state": random.random,
    "NumPy's global random state": np.random.rand,
    "environment variables": set_variable,
    "the working directory": lambda: os.chdir(Path(__file__).parent),
}


def test_every_setting_is_tried() -> None:
    assert set(LEAKS) == set(SETTINGS)


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
@pytest.mark.parametrize("what", LEAKS)
def test_a_leak_is_named_and_put_back(what: str) -> None:
    before = {name: read() for name, (read, _) in SETTINGS.items()}
    with pytest.raises(AssertionError, match=f"Left changed: {what}"), no_leaks():
        LEAKS[what]()
    assert {name: read() for name, (read, _) in SETTINGS.items()} == before


def test_an_error_passes_through_and_everything_is_put_back() -> None:
    def fail() -> None:
        torch.set_default_dtype(torch.float64)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"), no_leaks():
        fail()
    assert torch.get_default_dtype() == torch.float32


def test_torch_random_numbers_may_be_used() -> None:
    state = torch.get_rng_state()
    with no_leaks():
        torch.randn(3)
    assert torch.equal(torch.get_rng_state(), state)


def test_it_is_cheap_enough_to_surround_every_test() -> None:
    def once() -> float:
        start = time.thread_time()
        with no_leaks():
            pass
        return time.thread_time() - start

    assert min(once() for _ in range(20)) < 1e-2
