"""Where the time of a forward pass goes."""

from __future__ import annotations

from itertools import count

import pytest
import torch
from torch import Tensor, nn

from sparsewood.measurement.module_times import call_overhead, module_times


class Twice(nn.Module):
    """Calls one module twice."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4))

    def forward(self, x: Tensor, *, scale: float = 1.0) -> Tensor:
        return self.inner(self.inner(x)) * scale


def test_every_module_is_charged_for_itself_alone() -> None:
    ticks = count()  # every look at the clock takes a second
    times = module_times(Twice(), torch.zeros(2, 4), repeats=1, clock=lambda: float(next(ticks)))
    assert times.total == 1.0
    assert set(times.own) == {"", "inner", "inner.0"}
    assert times.own == {"inner.0": 2.0, "inner": 4.0, "": 3.0}  # 2 calls; before and after each child


def test_the_shapes_that_enter_are_noted_once_per_call() -> None:
    times = module_times(Twice(), {"x": torch.zeros(2, 4), "scale": 2.0}, repeats=3)
    assert times.inputs["inner.0"] == [((2, 4), False)] * 2
    assert times.inputs[""] == [((2, 4), False)]


@pytest.mark.parametrize(("layout", "last"), [(torch.contiguous_format, False), (torch.channels_last, True)])
def test_the_memory_format_is_noted(layout: torch.memory_format, last: bool) -> None:
    x = torch.zeros(2, 3, 5, 5).contiguous(memory_format=layout)
    times = module_times(nn.Sequential(nn.Conv2d(3, 4, 3)), x, repeats=1)
    assert times.inputs["0"] == [((2, 3, 5, 5), last)]


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout()).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    module_times(model, torch.ones(8, 4), repeats=2)
    assert model.training
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_after_so_many_seconds_no_more_passes_begin() -> None:
    seen: list[int] = []

    class Counted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(1)
            return x

    ticks = count()
    module_times(Counted(), torch.ones(1), repeats=100, seconds=10, clock=lambda: float(next(ticks)))
    assert 3 <= len(seen) < 20


def test_a_call_takes_time() -> None:
    ticks = count()
    assert call_overhead(repeats=2, clock=lambda: float(next(ticks))) == 0.5
    assert 0 < call_overhead(repeats=2) < 0.1
