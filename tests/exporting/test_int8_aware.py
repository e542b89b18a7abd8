"""From quantisation-aware training to integers (001-11): what was trained for is what comes out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sparsewood as sw
from sparsewood.errors import SparsewoodError
from sparsewood.exporting import Static
from sparsewood.quantization import QuantizationAware, fold_batchnorm


def images(count: int = 32) -> torch.Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 4),
    )  # fmt: skip


@pytest.mark.parametrize(("per_channel", "symmetric"), [(True, True), (False, False)])
def test_trained_for_is_what_comes_out(per_channel: bool, symmetric: bool) -> None:
    model = network().train()
    for _ in range(5):
        model(images())  # statistics that are not those of the start
    model = fold_batchnorm(model, images()).model.train()
    masks = sw.prune(model, sw.Magnitude(), 0.5)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    labels = torch.arange(32) % 4
    settings = {"per_channel": per_channel, "symmetric": symmetric}
    with sw.enforce(model, masks, optimizer), QuantizationAware(model, **settings) as aware:
        for _ in range(20):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images()), labels).backward()
            optimizer.step()
        aware.calibrate([images()])
        with torch.no_grad():
            rounded = model.eval()(images())
        with pytest.raises(SparsewoodError, match="QuantizationAware"):
            sw.quantize_int8(model, [images()])
    small = sw.quantize_int8(model, [images()], **settings)
    scale = float(rounded.abs().max())
    step = float((small(images()) - rounded).abs().max()) / scale
    plain = float((model(images()).detach() - rounded).abs().max()) / scale
    # onnxruntime rounds what QuantizationAware rounds, and biases to 32 bits: the rest is values that fall on the other
    # side of a step.
    assert step < 0.01
    assert step < plain
    assert bool((small(images()).argmax(1) == rounded.argmax(1)).all())
    for name, mask in masks.items():
        row = small.layer(name)
        assert row.weight is not None
        assert bool((row.weight[~mask] == 0).all())


def test_rounded_weights_have_the_same_integers() -> None:
    model = network()[5:]
    x = torch.randn(16, 128, generator=torch.Generator().manual_seed(2))
    before = sw.quantize_int8(model, [x])
    with QuantizationAware(model) as aware:
        aware.round_weights()
    after = sw.quantize_int8(model, [x], activations=Static())
    assert before.integers.keys() == after.integers.keys()
    assert all(torch.equal(before.integers[name], after.integers[name]) for name in before.integers)
    for row in after.layers:
        assert row.weight is not None
        torch.testing.assert_close(row.weight, model.get_parameter(row.name).detach(), rtol=1e-6, atol=0)
