import time

import pytest
import torch
from torch import nn

from sparsewood.errors import SparsewoodError
from sparsewood.measurement import Latency, LatencyComparison, compare_latency, latency


class Sleeps(nn.Module):
    """Takes `seconds`, and notes how it was called."""

    def __init__(self, seconds: float, log: list[str] | None = None, name: str = "") -> None:
        super().__init__()
        self.seconds, self.log, self.name = seconds, log, name
        self.modes: set[tuple[bool, bool]] = set()
        self.passes = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds)
        self.passes += 1
        self.modes.add((self.training, torch.is_grad_enabled()))
        if self.log is not None:
            self.log.append(self.name)
        return x


def test_time_is_in_seconds():
    timed = latency(Sleeps(0.01), torch.ones(1), repeats=5, warmup=1)
    assert 0.01 <= timed.q25 <= timed.median <= timed.q75
    assert timed.median < 1
    assert timed.repeats == 5


def test_runs_in_eval_mode_without_gradients_and_restores():
    model = Sleeps(0)
    latency(model, torch.ones(1), repeats=4, warmup=2)
    assert model.modes == {(False, False)}
    assert model.passes == 6
    assert model.training


def test_time_bound():
    model = Sleeps(0.05)
    timed = latency(model, torch.ones(1), repeats=1000, warmup=1, seconds=0.2)
    assert 1 <= timed.repeats <= 4
    assert latency(model, torch.ones(1), repeats=1000, warmup=1000, seconds=0.0).repeats == 1


def test_two_models_are_timed_in_turn():
    log: list[str] = []
    slow, fast = Sleeps(0.02, log, "slow"), Sleeps(0.005, log, "fast")
    compared = compare_latency(slow, fast, torch.ones(1), repeats=3, warmup=1)
    assert log == ["slow", "fast"] * 4
    assert 1.5 < compared.ratio < 6


def test_ratio_is_of_medians():
    first, second = Latency(3.0, 1.0, 9.0, 5), Latency(2.0, 1.0, 9.0, 5)
    assert LatencyComparison(first, second).ratio == 1.5


def test_takes_keyword_inputs():
    assert latency(nn.Linear(2, 2), {"input": torch.ones(1, 2)}, repeats=1).repeats == 1


@pytest.mark.parametrize("counts", [{"repeats": 0}, {"warmup": 0}])
def test_counts_below_one(counts):
    with pytest.raises(SparsewoodError, match="repeats >= 1 and warmup >= 1"):
        latency(nn.Identity(), torch.ones(1), **counts)


def test_meta_device():
    with pytest.raises(SparsewoodError, match="cannot be timed on the meta device"):
        latency(nn.Linear(2, 2, device="meta"), torch.ones(1, 2))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_waits_for_the_device():
    model = nn.Linear(8192, 8192, device="cuda")
    timed = latency(model, torch.ones(8192, 8192), repeats=5)  # a teraflop
    assert timed.median > 1e-3
