"""Inputs of networks of 8 bits (001-11): the same by position and by name, and what cannot be calibrated on."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import sparsewood as sw
from sparsewood.errors import SparsewoodError
from sparsewood.exporting import Dynamic, Static
from sparsewood.quantization.ranges import Observed


class Two(nn.Module):
    """Two inputs of the same shape and of other magnitudes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, y: Tensor, z: Tensor | None = None) -> Tensor:
        return 100 * self.first(x) + self.second(y) + (0 if z is None else z)


def pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(32, 4, generator=generator), 100 * torch.randn(32, 4, generator=generator)


def test_the_order_of_names_does_not_matter() -> None:
    model, (x, y) = Two(), pair()
    batches = [{"x": x, "y": y}, {"y": y, "x": x}]
    for example in ((x, y), {"y": y, "x": x}):
        small = sw.quantize_int8(model, batches, example_inputs=example)
        expected = model(x, y).detach()
        for got in (small(x, y), small(y=y, x=x), small(x=x, y=y), small(x, y=y)):
            torch.testing.assert_close(got, expected, atol=0.03 * float(expected.abs().max()), rtol=0)
        assert small.agreement(model, batches).relative < 0.03


def test_inputs_by_position_and_by_name() -> None:
    model, (x, y), z = Two(), pair(), torch.full((32, 4), 1000.0)
    small = sw.quantize_int8(model, example_inputs=(x, y, z), activations=Dynamic())
    assert torch.equal(small(x, z=z, y=y), small(x, y, z))
    with pytest.raises(SparsewoodError, match=r"takes 3 tensors.*Got x, y"):
        small(x, y)
    with pytest.raises(SparsewoodError, match="x by position and by name"):
        small(x, y, x=z)


class Constant:
    """A calibrator that returns what it was told."""

    bins = 0

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def __call__(self, observed: Observed) -> tuple[float, float]:  # noqa: ARG002
        return self.low, self.high


@pytest.mark.parametrize("ends", [(1.0, -1.0), (math.nan, 1.0), (-math.inf, 1.0)])
def test_calibrators_that_return_no_range_are_refused(ends: tuple[float, float]) -> None:
    with pytest.raises(SparsewoodError, match="must return finite low <= high"):
        sw.quantize_int8(nn.Linear(4, 4), [pair()[0]], activations=Static(Constant(*ends)))


def test_batches_that_the_network_cannot_take_are_named() -> None:
    model, x = nn.Linear(4, 4), pair()[0]
    with pytest.raises(SparsewoodError, match="cannot run on calibration batch 1"):
        sw.quantize_int8(model, [x, x[:3]], dynamic_batch=False)
    assert sw.quantize_int8(model, [x, x[:0]]).layers[0].quantized
    with pytest.raises(SparsewoodError, match="have no examples"):
        sw.quantize_int8(model, [x[:0]], example_inputs=x)


def test_an_agreement_does_not_pass_over_what_is_no_number() -> None:
    class Bad(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.tensor([1.0, math.nan, 1.0, 1.0])

    x = pair()[0]
    small = sw.quantize_int8(nn.Linear(4, 4), [x])
    assert small.agreement(Bad(), [x]).largest == math.inf
    assert small.agreement(Bad(), [x]).mean == math.inf
    with pytest.raises(SparsewoodError, match="empty"):
        small.agreement(nn.Linear(4, 4), [x[:0]])
