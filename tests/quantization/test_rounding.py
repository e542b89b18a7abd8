"""Codebooks of 8 bits (001-12): never more values, zeros stay, half a step at most, a byte a value in files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

import sparsewood as sw
from sparsewood.errors import SparsewoodError
from sparsewood.packing.schemes import write
from sparsewood.packing.words import kind_of, words_of
from sparsewood.quantization import PerChannel, round_codebooks


def layer_of(values: torch.Tensor) -> nn.Linear:
    layer = nn.Linear(values.shape[1], values.shape[0], bias=False).to(values.dtype)
    layer.weight.data.copy_(values)
    return layer


@example(seed=0, clusters=1, dtype=torch.float16, magnitude=-3.5, channels=False)
@given(
    st.integers(0, 10_000),
    st.integers(1, 300),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    st.floats(-6, 4),
    st.booleans(),
)
def test_never_more_values_and_half_a_step_at_most(
    seed: int, clusters: int, dtype: torch.dtype, magnitude: float, channels: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = (torch.randn(6, 40, generator=generator) * 10**magnitude).to(dtype)
    values[torch.rand(values.shape, generator=generator) < 0.3] = 0
    layer = layer_of(values)
    sharing = sw.share_weights(layer, clusters=clusters, **({"per": PerChannel()} if channels else {}))
    before = layer.weight.detach().clone()
    step = round_codebooks(layer, sharing)["weight"]
    after = layer.weight.detach()
    assert len(after.unique()) <= min(len(before.unique()), 255)  # 001-12
    assert bool((after[before == 0] == 0).all())
    assert not bool(after[after == 0].signbit().any())
    assert float((after.double() - before.double()).abs().max()) <= step / 2 * (1 + 1e-9)
    times = after.double() / step
    assert torch.equal(times, times.round())
    assert times.abs().max() <= 127
    again = round_codebooks(layer, sharing)["weight"]
    if dtype in (torch.float32, torch.float64):
        assert times.abs().max() == 127
        assert again == step
        assert torch.equal(layer.weight, after)  # idempotent


def test_files_have_a_byte_for_each_value(tmp_path: Path) -> None:
    layer = layer_of(torch.randn(100, 100, generator=torch.Generator().manual_seed(0)))
    sharing = sw.share_weights(layer, clusters=200)
    before = sw.pack(layer, tmp_path / "before.swp").bytes
    round_codebooks(layer, sharing)
    packed = write(words_of(layer.weight.detach()), kind_of(torch.float32))
    assert packed.scheme == "8-bit codebook"
    after = sw.pack(layer, tmp_path / "after.swp").bytes
    assert before - after > 2 * packed.distinct, "values took more than three bytes each"
    same = sw.unpack(tmp_path / "after.swp", model=nn.Linear(100, 100, bias=False))
    assert torch.equal(same.weight, layer.weight)


def test_zeros_of_sparse_weights_are_beside_the_codebook() -> None:
    values = torch.randn(100, 100, generator=torch.Generator().manual_seed(0))
    values[torch.rand(values.shape, generator=torch.Generator().manual_seed(1)) < 0.9] = 0
    layer = layer_of(values)
    round_codebooks(layer, sw.share_weights(layer, clusters=30))
    assert write(words_of(layer.weight.detach()), kind_of(torch.float32)).scheme.endswith("+ 8-bit codebook")


def test_weights_of_zeros_stay() -> None:
    layer = layer_of(torch.zeros(3, 4))
    assert round_codebooks(layer, sw.share_weights(layer, clusters=4)) == {"weight": 0.0}
    assert not layer.weight.any()


def test_what_cannot_be_rounded_is_refused() -> None:
    layer = layer_of(torch.ones(3, 4))
    sharing = sw.share_weights(layer, clusters=4)
    with pytest.raises(sw.UnknownName, match="weight"):
        round_codebooks(nn.Sequential(layer), sharing)
    layer.weight.data[0, 0] = torch.inf
    with pytest.raises(sw.SparsewoodError, match="'weight' are not finite"):
        round_codebooks(layer, sharing)


def test_values_next_to_what_the_dtype_holds_are_refused() -> None:
    layer = nn.Linear(2, 1, bias=False).half()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[65504.0, 3.0]]))
    before = layer.weight.detach().clone()
    with pytest.raises(SparsewoodError, match=r"beyond what torch\.float16 holds"):
        round_codebooks(layer, sw.share_weights(layer, clusters=2))
    assert torch.equal(layer.weight, before)
