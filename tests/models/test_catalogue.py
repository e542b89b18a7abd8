"""What holds for every reference model. [000-13, 001-07, 003 section 4.3, 004-14, 004-26, 7.21, 7.24]"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sparsewood import models
from sparsewood.errors import SparsewoodError
from sparsewood.models import load_model
from sparsewood.recovery import Reinitialize

EXAMPLES: Mapping[str, tuple[Mapping[str, Any], tuple[int, int, int]]] = {
    # name: (parameters of a small variant, (channels, height, width) of an image)
    "alexnet_cifar10": ({}, (3, 32, 32)),
    "alexnet_imagenet": ({"size": 163}, (3, 163, 163)),
    "convnet": ({"spec": [["C", 4, 3, {"padding": "same"}], ["MP", 2, 2], ["F"], ["D", 8]], "size": 8}, (3, 8, 8)),
    "densenet_cifar": ({"depth": 10, "growth": 4, "bottleneck": True}, (3, 16, 16)),
    "lenet5_caffe": ({"size": 16}, (1, 16, 16)),
    "lenet_300_100": ({}, (1, 28, 28)),
    "medium_conv": ({}, (3, 32, 32)),
    "mlp": ({"depth": 3, "width": 8, "activation": "tanh", "inputs": 48}, (3, 4, 4)),
    "morcos_conv": ({"size": 16, "batch_norm": True}, (3, 16, 16)),
    "morcos_convfc": ({"size": 16}, (3, 16, 16)),
    "preact_resnet": ({"depth": 11}, (3, 16, 16)),
    "resnet18": ({"stem": "cifar"}, (3, 16, 16)),
    "resnet20": ({}, (3, 16, 16)),
    "resnet34": ({}, (3, 33, 28)),
    "resnet50": ({"stem": "cifar"}, (3, 8, 8)),
    "resnet9": ({"size": 16}, (3, 16, 16)),
    "resnet_cifar": ({"depth": 8, "shortcut": "B"}, (3, 16, 16)),
    "row_rnn": ({"hidden": 6, "layers": 2, "embedding": 5, "size": 8}, (1, 9, 8)),
    "small_conv": ({"batch_norm": True}, (1, 8, 8)),
    "vgg": ({"depth": 11}, (3, 32, 32)),
    "wide_resnet": ({"depth": 10, "width": 2, "dropout": 0.3}, (3, 16, 16)),
}


def build(name: str, **more: Any) -> nn.Module:
    return getattr(models, name)(**EXAMPLES[name][0], **more)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(name: str, count: int = 2) -> Tensor:
    return torch.randn(count, *EXAMPLES[name][1], generator=seeded(9))


def same(one: nn.Module, two: nn.Module) -> bool:
    first, second = one.state_dict(), two.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_every_model_has_an_example() -> None:
    assert sorted(EXAMPLES) == sorted(models.__all__)


@pytest.mark.parametrize("name", models.__all__)
def test_logits_and_gradients(name: str) -> None:
    """Finite logits in both modes, no softmax at the end, and a gradient for every parameter."""
    model = build(name, classes=7, generator=seeded(0))
    assert isinstance(model, nn.Module)
    assert model.training
    out = model(images(name))
    assert out.shape == (2, 7)
    assert out.isfinite().all()
    assert not torch.allclose(out.exp().sum(1), torch.ones(2), atol=1e-3)
    assert not torch.allclose(out.sum(1), torch.ones(2), atol=1e-3)
    nn.functional.cross_entropy(out, torch.tensor([0, 6])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    with torch.no_grad():
        alone = model.eval()(images(name)[:1])
        assert alone.isfinite().all()
        torch.testing.assert_close(model(images(name))[:1], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", models.__all__)
def test_weights_follow_the_generator(name: str) -> None:
    """[7.24] Equal seeds, equal weights; another seed, other weights; the global state stays as it was."""
    before = torch.get_rng_state()
    one, two, other = (build(name, generator=seeded(seed)) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    assert same(one, two)
    weights = [(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True) if a.dim() > 1]
    assert weights
    assert not any(torch.equal(a, b) for a, b in weights)


@pytest.mark.parametrize("name", models.__all__)
def test_by_name_is_by_function(name: str) -> None:
    assert same(load_model(name, generator=seeded(5), **EXAMPLES[name][0]), build(name, generator=seeded(5)))


def test_without_generator_the_global_state_decides() -> None:
    torch.manual_seed(3)
    one = models.mlp(2, 4, inputs=3)
    torch.manual_seed(3)
    two = models.mlp(2, 4, inputs=3)
    assert same(one, two)
    assert not same(two, models.mlp(2, 4, inputs=3))


def test_one_generator_gives_different_models_in_turn() -> None:
    generator = seeded(5)
    assert not same(models.mlp(2, 4, inputs=3, generator=generator), models.mlp(2, 4, inputs=3, generator=generator))


@pytest.mark.parametrize("name", models.__all__)
def test_new_weights_can_be_drawn(name: str) -> None:
    """`Reinitialize` finds a reset_parameters everywhere, and no parameter keeps its trained value."""
    model = build(name, generator=seeded(0))
    start = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(17)
    Reinitialize()(model, start, seeded(1))
    assert not any((parameter == 17).any() for parameter in model.parameters())


@pytest.mark.parametrize("name", models.__all__)
def test_no_module_or_parameter_is_used_under_two_names(name: str) -> None:
    """A hook or a mask on one layer concerns that layer alone: every activation is its own module."""
    model = build(name)
    assert len(list(model.modules())) == len(list(model.named_modules(remove_duplicate=False)))
    calls: dict[str, int] = {}

    def count(key: str) -> None:
        calls[key] = calls.get(key, 0) + 1

    for key, module in model.named_modules():
        if not list(module.children()):
            module.register_forward_pre_hook(lambda *_, key=key: count(key))
    with torch.no_grad():
        model.eval()(images(name))
    assert set(calls.values()) == {1}


@pytest.mark.parametrize("name", models.__all__)
def test_signatures_can_be_written_in_a_recipe(name: str) -> None:
    """Typed, named parameters; `classes` and `generator` in every model; no **keywords that swallow."""
    parameters = inspect.signature(getattr(models, name)).parameters
    assert {"classes", "generator"} <= parameters.keys()
    for parameter in parameters.values():
        assert parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        assert parameter.annotation is not parameter.empty
        assert parameter.default is not parameter.empty


TAKES_CHANNELS = [n for n in models.__all__ if "channels" in inspect.signature(getattr(models, n)).parameters]


@pytest.mark.parametrize("name", TAKES_CHANNELS)
def test_input_channels(name: str) -> None:
    model, (_, height, width) = build(name, channels=5), EXAMPLES[name][1]
    assert model.eval()(torch.randn(2, 5, height, width)).shape == (2, 10)
    first = next(m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    read = first.in_channels if isinstance(first, nn.Conv2d) else first.in_features // width
    assert read == 5


def test_which_models_take_no_channels() -> None:
    assert set(models.__all__) - set(TAKES_CHANNELS) == {"mlp", "lenet_300_100"}


@pytest.mark.parametrize("name", models.__all__)
@pytest.mark.parametrize("value", [0, -1, True, 2.0, "10"])
def test_classes_must_be_a_count(name: str, value: Any) -> None:
    with pytest.raises(SparsewoodError, match=r"'classes' of \w+ must be a whole number >= 1") as caught:
        build(name, classes=value)
    assert repr(value) in str(caught.value)


@pytest.mark.gpu
def test_weights_on_a_gpu_follow_the_generator() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    before = torch.cuda.get_rng_state()
    with torch.device("cuda"):
        one, two = (models.small_conv(generator=seeded(5)) for _ in range(2))
    assert next(one.parameters()).is_cuda
    assert same(one, two)
    assert torch.equal(torch.cuda.get_rng_state(), before)
