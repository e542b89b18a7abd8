"""The small convolutional network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsewood.errors import SparsewoodError
from sparsewood.models import small_conv


def test_parameters_in_closed_form() -> None:
    model = small_conv((8, 32), hidden=128)
    expected = (8 * 9 + 8) + (32 * 8 * 9 + 32) + (32 * 16 * 128 + 128) + (128 * 10 + 10)
    assert sum(p.numel() for p in model.parameters()) == expected == 69370


@pytest.mark.parametrize(("widths", "size"), [((4,), 8), ((4, 8), 8), ((4, 8, 8), 28), ((4,) * 6, 32)])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_any_depth_and_size(widths: tuple[int, ...], size: int, batch_norm: bool) -> None:
    model = small_conv(widths, channels=3, size=size, classes=7, hidden=16, batch_norm=batch_norm)
    assert model(torch.zeros(2, 3, size, size)).shape == (2, 7)
    assert any(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == batch_norm


def test_weights_follow_the_generator_and_leave_the_global_state() -> None:
    before = torch.get_rng_state()
    one, two, other = (small_conv(generator=torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.hidden.weight, two.hidden.weight)
    assert not torch.equal(one.hidden.weight, other.hidden.weight)


@pytest.mark.parametrize(("widths", "size"), [((), 8), ((4, 4, 4, 4), 2)])
def test_too_small_an_image_is_refused(widths: tuple[int, ...], size: int) -> None:
    with pytest.raises(SparsewoodError, match=f"size={size}"):
        small_conv(widths, size=size)


def test_widths_must_be_counts() -> None:
    with pytest.raises(SparsewoodError, match=r"'widths' of small_conv must be a whole number >= 1. Got 0"):
        small_conv((4, 0))
