"""Affine quantisation (001-11): the formulas, half a step at most, zero exact, channels no worse than the tensor."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsewood.errors import SparsewoodError
from sparsewood.quantization import affine_of, affine_parameters, dequantize, quantize

floats = st.floats(-1e6, 1e6, width=32)
kinds = st.sampled_from([(True, True), (False, True), (False, False)])


def tensor_of(seed: int, magnitude: float, shift: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = (torch.randn(5, 30, generator=generator) + shift) * 10**magnitude
    values *= 10 ** torch.linspace(-2, 0, 5)[:, None]  # channels of different widths
    values[torch.rand(values.shape, generator=generator) < 0.2] = 0
    return values


@pytest.mark.parametrize(
    ("limits", "symmetric", "signed", "scale", "integers"),
    [
        ((-1.0, 1.55), False, True, 0.01, (-28, -128, 127)),  # scale = (max - min) / 255, z = round(qmin - min / scale)
        ((0.0, 2.55), False, False, 0.01, (0, 0, 255)),
        ((-2.55, 0.0), False, True, 0.01, (127, -128, 127)),
        ((-2.55, 0.0), False, False, 0.01, (255, 0, 255)),
        ((1.0, 2.55), False, False, 0.01, (0, 0, 255)),  # widened to have 0 in it
        ((-2.55, -1.0), False, True, 0.01, (127, -128, 127)),
        ((-1.27, 0.5), True, True, 0.01, (0, -127, 127)),
        ((0.0, 0.0), False, True, 1.0, (0, -128, 127)),
        ((0.0, 0.0), True, True, 1.0, (0, -127, 127)),
    ],
)
def test_the_formulas(
    limits: tuple[float, float], symmetric: bool, signed: bool, scale: float, integers: tuple[int, int, int]
) -> None:
    """001-11. The integers are the zero point, the lowest and the highest."""
    found = affine_parameters(*limits, symmetric=symmetric, signed=signed)
    assert float(found.scale) == pytest.approx(scale, rel=1e-6)
    assert (int(found.zero_point), found.lowest, found.highest) == integers
    assert found.dtype is (torch.int8 if signed else torch.uint8)


@given(floats, floats, kinds, st.integers(2, 8), st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_half_a_step_at_most_inside_the_range(
    first: float, second: float, kind: tuple[bool, bool], bits: int, places: list[float]
) -> None:
    """001-11: abs error <= scale / 2, and 0 is an integer exactly."""
    low, high = min(first, second), max(first, second)
    affine = affine_parameters(low, high, bits=bits, symmetric=kind[0], signed=kind[1])
    inside = torch.tensor([low + place * (high - low) for place in places] + [low, high, 0.0])
    integers = quantize(inside, affine)
    assert int(integers.min()) >= affine.lowest
    assert int(integers.max()) <= affine.highest
    error = (dequantize(integers, affine).double() - inside.double()).abs()
    rounding = 1e-6 * max(abs(low), abs(high))  # of float32, which the scale and the values have
    assert float(error.max()) <= float(affine.scale) / 2 + rounding
    assert int(integers[-1]) == int(affine.zero_point)
    assert float(dequantize(integers, affine)[-1]) == 0.0
    if kind[0]:
        assert int(affine.zero_point) == 0


@given(st.integers(0, 10_000), st.floats(-6, 6), st.floats(-3, 3), kinds, st.integers(2, 8))
def test_tensors(seed: int, magnitude: float, shift: float, kind: tuple[bool, bool], bits: int) -> None:
    """Zeros stay, equal values stay equal, another pass changes nothing, channels are no worse (001-11, 001-12)."""
    values = tensor_of(seed, magnitude, shift)
    settings = {"bits": bits, "symmetric": kind[0], "signed": kind[1]}
    whole, channels = affine_of(values, **settings), affine_of(values, axis=0, **settings)
    errors = []
    for affine in (whole, channels):
        made = dequantize(quantize(values, affine), affine)
        assert bool((made[values == 0] == 0).all())
        assert torch.equal(quantize(made, affine), quantize(values, affine))
        assert all(len(a.unique()) <= len(b.unique()) for a, b in zip(made, values, strict=True))
        errors.append((made.double() - values.double()).abs().amax(1))
    # No channel's step is wider than the tensor's; a worst case of rounding is half a step.
    assert bool((channels.scale <= whole.scale).all())
    assert bool((errors[1] <= whole.scale / 2 * (1 + 1e-4)).all())


@given(st.integers(0, 10_000))
def test_channels_together_are_nearer_than_the_tensor(seed: int) -> None:
    """001-11: per-channel <= per-tensor error, of weights whose channels differ."""
    values = tensor_of(seed, 0.0, 0.0)
    squares = [
        float((dequantize(quantize(values, affine), affine) - values).square().sum())
        for affine in (affine_of(values, symmetric=True, axis=0), affine_of(values, symmetric=True))
    ]
    assert squares[0] < squares[1]


def test_axes_other_than_the_first() -> None:
    values = tensor_of(1, 0.0, 1.0)
    first, last = affine_of(values, axis=0), affine_of(values.T, axis=-1)
    assert last.axis == 1
    assert torch.equal(quantize(values, first), quantize(values.T, last).T)
    low, high = first.ends
    assert bool((low <= values.amin(1) + first.scale).all())
    assert bool((high >= values.amax(1) - first.scale).all())


def test_float64_has_scales_of_float64() -> None:
    values = tensor_of(2, 0.0, 0.0).double()
    assert affine_of(values).scale.dtype is torch.float64
    assert affine_of(values, axis=0).scale.dtype is torch.float64


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: affine_parameters(1.0, -1.0), "low <= high"),
        (lambda: affine_parameters(float("nan"), 1.0), "finite"),
        (lambda: affine_parameters(0.0, float("inf")), "finite"),
        (lambda: affine_parameters(0.0, 1.0, bits=9), "from 2 to 8"),
        (lambda: affine_parameters(0.0, 1.0, bits=1), "from 2 to 8"),
        (lambda: affine_parameters(0.0, 1.0, symmetric=True, signed=False), "signed=True"),
        (lambda: affine_of(torch.zeros(0, 3)), "no entries"),
        (lambda: affine_of(torch.tensor([1.0, float("inf")])), "not finite"),
    ],
)
def test_what_cannot_be_is_refused(call: object, words: str) -> None:
    assert callable(call)
    with pytest.raises(SparsewoodError, match=words):
        call()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("symmetric", [True, False])
def test_half_a_step_in_half_precision_too(dtype: torch.dtype, symmetric: bool) -> None:
    """Quotients are not rounded to the tensor's own few bits before they are rounded to integers."""
    tensor = torch.randn(1000, generator=torch.Generator().manual_seed(0)).to(dtype)
    affine = affine_of(tensor, symmetric=symmetric)
    off = (dequantize(quantize(tensor, affine), affine) - tensor.float()).abs().max() / affine.scale
    assert float(off) <= 0.5001
