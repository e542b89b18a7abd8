"""Quantisation-aware training (001-11): rounded forward, straight-through gradient; it beats rounding afterwards."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import sparsewood as sw
from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.quantization import QuantizationAware, affine_of, affine_parameters, dequantize, quantize


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10))


def batch(seed: int = 1) -> torch.Tensor:
    return torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def rounded(tensor: torch.Tensor, bits: int, **settings: object) -> torch.Tensor:
    affine = affine_of(tensor, bits=bits, **settings)  # type: ignore[arg-type]
    return dequantize(quantize(tensor, affine), affine)


def test_forward_is_that_of_rounded_numbers() -> None:
    """Layer by layer with the formulas of affine.py: weights per channel, what a layer reads as uint8."""
    model, x = small(), batch()
    with QuantizationAware(model, bits=4) as aware, torch.no_grad():
        got = model(x)
        assert aware.ranges["0"] == (float(x.min()), float(x.max()))
    expected = rounded(x, 8, signed=False)
    weight = rounded(model[0].weight.detach(), 4, symmetric=True, axis=0)
    expected = nn.functional.conv2d(expected, weight, model[0].bias).relu().flatten(1)
    weight = rounded(model[3].weight.detach(), 4, symmetric=True, axis=0)
    expected = nn.functional.linear(rounded(expected, 8, signed=False), weight, model[3].bias)
    torch.testing.assert_close(got, expected.detach(), rtol=0, atol=1e-6)


def test_gradients_go_straight_through() -> None:
    """The gradient of the unrounded weight is that of the rounded one; what was cut off has none."""
    layer = nn.Linear(3, 2, bias=False)
    x = torch.tensor([[-1.0, 2.0, 9.0]], requires_grad=True)
    with QuantizationAware(layer, bits=2) as aware:
        aware.ranges = {"": (-1.0, 3.0)}
        layer.eval()
        layer(x).sum().backward()
    read = dequantize(
        quantize(x.detach(), affine_parameters(-1.0, 3.0, signed=False)), affine_parameters(-1.0, 3.0, signed=False)
    )
    assert layer.weight.grad is not None
    assert x.grad is not None
    torch.testing.assert_close(layer.weight.grad, read.expand(2, 3))
    weight = rounded(layer.weight.detach(), 2, symmetric=True, axis=0)
    torch.testing.assert_close(x.grad, weight.sum(0, keepdim=True) * torch.tensor([1.0, 1.0, 0.0]))


def test_the_model_is_its_own_again() -> None:
    model, x = small(), batch()
    parameters, names = list(model.parameters()), list(model.state_dict())
    hooks = [(dict(m._forward_pre_hooks), dict(m._forward_hooks)) for m in model.modules()]
    optimizer = torch.optim.Adam(model.parameters())
    before = model(x).detach()
    with QuantizationAware(model, bits=2) as aware:
        assert not torch.equal(model(x).detach(), before)
        assert list(model.state_dict()) == names
        assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
        model(x).square().mean().backward()
        optimizer.step()
        with pytest.raises(RuntimeError):
            model(torch.ones(1, 3, 8, 8))
        assert all(isinstance(p, nn.Parameter) for p in model.parameters())  # put back, though the forward raised
    assert hooks == [(dict(m._forward_pre_hooks), dict(m._forward_hooks)) for m in model.modules()]
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert set(optimizer.state) == set(parameters)
    assert repr(aware) == "QuantizationAware(removed, 2 bits)"
    aware.remove()


def test_masks_stay() -> None:
    """Zeros that are enforced are zeros of the rounded weights, too."""
    model = small()
    masks = sw.prune(model, sw.Magnitude(), 0.8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with (
        sw.enforce(model, masks, optimizer),
        QuantizationAware(model, bits=3, symmetric=False, per_channel=False) as aware,
    ):
        for seed in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(batch(seed)), torch.arange(6)).backward()
            optimizer.step()
        aware.round_weights()
    assert sw.masks.not_held(model, masks) is None
    for name, mask in masks.items():
        weight = model.get_parameter(name)
        assert bool((weight[~mask] == 0).all())
        assert len(weight.detach().unique()) <= 8


def test_ranges_run_with_training_batches_until_frozen() -> None:
    layer = nn.Linear(2, 2)
    with QuantizationAware(layer, momentum=0.5, freeze_after=3) as aware:
        seen = []
        for high in (1.0, 3.0, 3.0, 99.0):
            layer(torch.tensor([[0.0, high]]))
            seen.append(aware.ranges[""][1])
        assert seen == [1.0, 2.0, 2.5, 2.5]
    with QuantizationAware(layer, momentum=1.0) as aware:
        layer(torch.tensor([[0.0, 1.0]]))
        layer.eval()(torch.tensor([[0.0, 5.0]]))
        assert aware.ranges == {"": (0.0, 1.0)}  # in eval mode they stay
        aware.calibrate([torch.tensor([[-1.0, 2.0]]), torch.tensor([[0.0, 4.0]])])
        assert aware.ranges == {"": (-1.0, 4.0)}
        aware.freeze()
        layer.train()(torch.tensor([[0.0, 50.0]]))
        assert aware.ranges == {"": (-1.0, 4.0)}
        with pytest.raises(SparsewoodError, match="empty"):
            aware.calibrate([])
        with pytest.raises(UnknownName):
            aware.ranges = {"nope": (0.0, 1.0)}


def test_values_that_are_not_finite_are_refused_by_the_layers_name() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    with QuantizationAware(model), pytest.raises(SparsewoodError, match="layer '0' reads values that are not finite"):
        model(torch.tensor([[float("nan"), 0.0]]))


@pytest.mark.parametrize("training", [True, False])
def test_attention_is_rounded_in_every_mode(training: bool) -> None:
    """Encoder layers compute in one fused operation in eval mode, which would pass the rounding by."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).train(training)
    x = torch.randn(2, 3, 8)
    with torch.no_grad():
        plain = layer(x)
        with QuantizationAware(layer, bits=2) as aware:
            got = layer(x)
            assert set(aware.layers) == {"self_attn", "linear1", "linear2"}
            assert set(aware.ranges) == {"self_attn", "linear1", "linear2"}
            assert not aware.skipped
        copied = copy.deepcopy(layer)
        for name, parameter in copied.named_parameters():
            if parameter.ndim == 2:
                parameter.copy_(rounded(parameter, 2, symmetric=True, axis=0))
            assert name
        weights_only = copied(x)
        assert float((got - weights_only).abs().max()) < 0.1 * float((got - plain).abs().max())
        assert torch.equal(layer(x), plain)


def test_what_takes_no_part_is_said() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.lstm = nn.Embedding(5, 4), nn.LSTM(4, 4)
            self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)

    aware = QuantizationAware(Mixed(), exclude="last")
    assert aware.layers == ("first",)
    assert "Embedding" in aware.skipped["embedding.weight"]
    assert "LSTM" in aware.skipped["lstm.weight_hh_l0"]
    assert "excluded" in aware.skipped["last.weight"]
    assert "parametrisation" in aware.skipped["normed.parametrizations.weight.original1"]
    with pytest.raises(SparsewoodError, match="no layer of Embedding"):
        QuantizationAware(nn.Embedding(3, 3))


def test_what_cannot_be_is_refused() -> None:
    model = small()
    for settings in ({"bits": 1}, {"bits": 9}, {"activation_bits": 0}, {"momentum": 0.0}, {"freeze_after": 0}):
        with pytest.raises(SparsewoodError, match=next(iter(settings))):
            QuantizationAware(model, **settings)  # type: ignore[arg-type]
    with pytest.raises(UnknownName):
        QuantizationAware(model, include="nope")
    with QuantizationAware(model), pytest.raises(SparsewoodError, match="rounded already"):
        QuantizationAware(model)


def test_copies_have_ranges_of_their_own() -> None:
    model = small()
    with QuantizationAware(model, momentum=1.0) as aware:
        model(batch())
        ranges = aware.ranges
        copied = copy.deepcopy(model)
        assert torch.equal(copied.eval()(batch()), model.eval()(batch()))
        copied.train()(10 * batch())
        assert aware.ranges == ranges


def test_tied_weights_and_transposed_convolutions() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    with QuantizationAware(model, bits=3, activation_bits=None), torch.no_grad():
        weight = rounded(model[0].weight, 3, symmetric=True, axis=0)
        torch.testing.assert_close(model(x), x @ weight.T @ weight.T)
    for groups, axis in ((1, 1), (2, None)):
        layer = nn.ConvTranspose1d(4, 4, 3, groups=groups, bias=False)
        with QuantizationAware(layer, bits=3, activation_bits=None) as aware, torch.no_grad():
            got = layer(x[:, :, None])
            weight = rounded(layer.weight, 3, symmetric=True, axis=axis)
            torch.testing.assert_close(got, nn.functional.conv_transpose1d(x[:, :, None], weight, groups=groups))
            aware.round_weights()
            assert torch.equal(layer.weight, weight)


def accuracy(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    with torch.no_grad():
        return float((model(images).argmax(1) == labels).float().mean())


def test_training_for_few_bits_beats_rounding_afterwards() -> None:
    """001-11, on scikit-learn's digits: 2 bits for weights, 4 for activations, three seeds."""
    split = sw.data.digits()
    images, labels = split.train.batch(torch.arange(len(split.train)))
    held, held_labels = split.validation.batch(torch.arange(len(split.validation)))

    def train(model: nn.Module, epochs: int, rate: float, generator: torch.Generator) -> None:
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        for _ in range(epochs):
            for index in torch.randperm(len(labels), generator=generator).split(64):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(images[index]), labels[index]).backward()
                optimizer.step()

    gains = []
    for seed in range(3):
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)
        )
        train(model, 15, 3e-3, generator)
        full = accuracy(model, held, held_labels)
        with QuantizationAware(model, bits=2, activation_bits=4) as aware:
            aware.calibrate([images])
            after = accuracy(model.eval(), held, held_labels)
            train(model.train(), 10, 1e-3, generator)
            trained = accuracy(model.eval(), held, held_labels)
        gains.append((full, after, trained))
    assert all(full > 0.93 for full, _, _ in gains), gains
    assert all(trained > after + 0.05 for _, after, trained in gains), gains
    assert all(trained > full - 0.05 for full, _, trained in gains), gains


def test_only_batches_in_training_count_for_freezing() -> None:
    torch.manual_seed(0)
    model, x = nn.Linear(4, 2).train(), torch.randn(8, 4)
    with QuantizationAware(model, freeze_after=2, momentum=0.5) as aware:
        aware.calibrate([x, x, x])
        before = aware.ranges
        model(4 * x)
        model(4 * x)
        learnt = aware.ranges
        model(40 * x)
        assert before != learnt
        assert aware.ranges == learnt


def test_what_was_removed_is_not_used_again() -> None:
    model = nn.Linear(4, 2)
    with QuantizationAware(model) as aware:
        model(torch.ones(3, 4))
    ranges = aware.ranges
    with pytest.raises(SparsewoodError, match="was removed"), aware:
        pass
    with pytest.raises(SparsewoodError, match="was removed"):
        aware.calibrate([torch.ones(3, 4)])
    assert aware.ranges == ranges


def test_gradients_under_autocast() -> None:
    """What a layer reads in bfloat16 is within its range, and has gradients."""
    torch.manual_seed(0)
    layer, x = nn.Linear(64, 64), torch.randn(64, 64).bfloat16().requires_grad_()
    with QuantizationAware(layer), torch.autocast("cpu", torch.bfloat16):
        layer(x).float().sum().backward()
    assert x.grad is not None
    assert float((x.grad == 0).float().mean()) < 0.001
