"""Parameter counts against published numbers, built without memory on the meta device."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from sparsewood import models
from sparsewood.models import (
    alexnet_cifar10,
    alexnet_imagenet,
    convnet,
    densenet_cifar,
    lenet5_caffe,
    lenet_300_100,
    medium_conv,
    mlp,
    morcos_conv,
    morcos_convfc,
    preact_resnet,
    resnet9,
    resnet18,
    resnet34,
    resnet50,
    vgg,
    wide_resnet,
)


def parameters(build: Callable[[], nn.Module]) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build().parameters())


def layers(build: Callable[[], nn.Module]) -> int:
    with torch.device("meta"):
        return sum(isinstance(module, nn.Conv2d | nn.Linear) for module in build().modules())


def test_lenets() -> None:
    """[004-26] 266,610 and 431,080, the numbers that the pruning literature gives."""
    assert parameters(lenet_300_100) == 266_610
    assert parameters(lenet5_caffe) == 431_080


@pytest.mark.parametrize("depth", [3, 5, 7])
def test_mlp(depth: int) -> None:
    """[004-26] mlp-7 is 784-100x6-10: six hidden layers, seven in all."""
    hidden = depth - 1
    expected = (784 * 100 + 100) + (hidden - 1) * (100 * 100 + 100) + (100 * 10 + 10)
    assert parameters(lambda: mlp(depth)) == expected
    assert layers(lambda: mlp(depth)) == depth


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_mlp_activations(activation: str) -> None:
    names = [name for name, _ in mlp(3, 4, activation=activation, inputs=2).named_children()]
    assert names == ["flatten", "fc1", f"{activation}1", "fc2", f"{activation}2", "fc3"]


def test_a_linear_mlp_is_linear() -> None:
    model = mlp(3, 4, inputs=2)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
    x = torch.randn(5, 2)
    torch.testing.assert_close(model(-3 * x), -3 * model(x))


IMAGENET = [(resnet18, 11_689_512), (resnet34, 21_797_672), (resnet50, 25_557_032)]


@pytest.mark.parametrize(("model", "count"), IMAGENET)
def test_resnets_for_imagenet(model: Callable[..., nn.Module], count: int) -> None:
    """[001-07] torchvision's counts."""
    assert parameters(lambda: model(1000)) == count


@pytest.mark.parametrize(("model", "count"), IMAGENET)
def test_cifar_stem(model: Callable[..., nn.Module], count: int) -> None:
    """[001-07] Nothing but the first kernel is smaller: 3 x 3 in place of 7 x 7."""
    assert parameters(lambda: model(1000, stem="cifar")) == count - 3 * 64 * (49 - 9)


def test_rows_of_resnet50() -> None:
    """[004-03] 15,901,248 rows of (out, in, kh) in the convolutions of the variant for CIFAR."""
    with torch.device("meta"):
        weights = [m.weight for m in resnet50(stem="cifar").modules() if isinstance(m, nn.Conv2d)]
    assert len(weights) == 53
    assert sum(math.prod(weight.shape[:3]) for weight in weights) == 15_901_248


# Table 2 of Simonyan and Zisserman: millions of parameters of configurations A, B, D, E; and C.
VGG_MILLIONS = [(11, False, 133), (13, False, 133), (16, False, 138), (19, False, 144), (16, True, 134)]


@pytest.mark.parametrize(("depth", "pointwise", "millions"), VGG_MILLIONS)
def test_vgg_of_the_paper(depth: int, pointwise: bool, millions: int) -> None:
    """[004-14] A, B, D, E; [004-26] C, with 1 x 1 convolutions."""

    def build() -> nn.Module:
        ends = {"classifier": "imagenet", "classes": 1000, "size": 224}
        return vgg(depth, batch_norm=False, pointwise=pointwise, **ends)

    assert round(parameters(build) / 1e6) == millions
    assert layers(build) == depth


def test_vgg_ends() -> None:
    """[001-07] 512-512 with BatchNorm; [003 section 4.3] fc, conv and gap ends. In closed form."""
    linear = 512 * 512 + 512
    body = parameters(lambda: vgg(classifier="gap")) - 5130
    assert body == 14_714_688 + 2 * 4224 - 4224  # kernels and biases of VGG-16; BatchNorms have two, biases none
    assert parameters(vgg) == body + 2 * (linear + 1024) + 5130
    assert parameters(lambda: vgg(batch_norm=False)) == 14_714_688 + 2 * linear + 5130
    large = [parameters(lambda end=end: vgg(classifier=end, size=64)) - body for end in ("imagenet", "conv")]
    assert large == [(2048 * 4096 + 4096) + (4096 * 4096 + 4096) + 40_970] * 2


# Tables of Zagoruyko and Komodakis 2016.
WIDE_MILLIONS = [
    *((40, 1, 0.6), (40, 2, 2.2), (40, 4, 8.9), (40, 8, 35.7), (28, 10, 36.5), (28, 12, 52.5)),
    *((22, 8, 17.2), (22, 10, 26.8), (16, 8, 11.0), (16, 10, 17.1)),
]


@pytest.mark.parametrize(("depth", "width", "millions"), WIDE_MILLIONS)
def test_wide_resnets(depth: int, width: int, millions: float) -> None:
    assert round(parameters(lambda: wide_resnet(depth, width)) / 1e6, 1) == millions


def test_wide_resnet_of_two_units_per_stage() -> None:
    """[004-26] wrn-16 with k = 6: stages of 2, 2, 2."""
    with torch.device("meta"):
        model = wide_resnet(16, 6)
    assert [len(stage) for stage in (model.stage1, model.stage2, model.stage3)] == [2, 2, 2]
    assert layers(lambda: wide_resnet(16, 6)) == 16 + 1  # the name counts convolutions, shortcuts among them


# Table 2 of Huang et al. 2017.
DENSE_MILLIONS = [
    *((40, 12, False, 1.0), (100, 12, False, 7.0), (100, 24, False, 27.2)),
    *((100, 12, True, 0.8), (250, 24, True, 15.3), (190, 40, True, 25.6)),
]


@pytest.mark.parametrize(("depth", "growth", "bottleneck", "millions"), DENSE_MILLIONS)
def test_densenets(depth: int, growth: int, bottleneck: bool, millions: float) -> None:
    """[004-14] DenseNet-40-12 and the paper's others."""

    def build() -> nn.Module:
        return densenet_cifar(depth, growth, bottleneck=bottleneck)

    assert round(parameters(build) / 1e6, 1) == millions
    assert layers(build) == depth


def test_preactivated_resnet() -> None:
    """[004-14] 1.7 M for depth 164 (He et al. 2016), of which three convolutions are shortcuts."""
    assert round(parameters(preact_resnet) / 1e6, 1) == 1.7
    for depth in (11, 110, 164):
        assert layers(lambda depth=depth: preact_resnet(depth)) == depth + 3


def test_resnet9_in_closed_form() -> None:
    """[000-13] Eight convolutions of 32/64/64/64/128/256/256/256 channels."""
    widths = [3, 32, 64, 64, 64, 128, 256, 256, 256]
    kernels = sum(9 * a * b for a, b in itertools.pairwise(widths))
    assert parameters(resnet9) == kernels + 2 * sum(widths[1:]) + 2570
    assert layers(resnet9) == 9


def conv(inputs: int, units: int, kernel: int) -> int:
    return inputs * units * kernel**2 + units


def dense(*widths: int) -> int:
    return sum(a * b + b for a, b in itertools.pairwise(widths))


def test_networks_of_mean_replacement_pruning() -> None:
    """[003 section 4.3] The sums of the layers of deadunits' definitions, with maps as TensorFlow has them."""
    # 32 -> 28 -> 14 -> 12 -> 6 -> 4 -> 2
    small = conv(3, 32, 5) + conv(32, 64, 3) + conv(64, 128, 3) + dense(128 * 4, 512, 128, 10)
    assert parameters(lambda: convnet("small_conv")) == small
    medium = conv(3, 64, 5) + conv(64, 128, 3) + conv(128, 256, 3) + dense(256 * 4, 1024, 256, 10)
    assert parameters(medium_conv) == medium
    widths = (3, 64, 64, 128, 128, 128, 256, 256, 256, 512, 512, 512)
    convs = sum(conv(a, b, 3) for a, b in itertools.pairwise(widths))
    assert parameters(morcos_conv) == convs + dense(512 * 16, 10)
    widths = (3, 64, 128, 128, 256, 256, 512, 512)
    convs = sum(conv(a, b, 3) for a, b in itertools.pairwise(widths))
    assert parameters(morcos_convfc) == convs + dense(512 * 16, 1024, 128, 10)
    rest = conv(96, 256, 5) + conv(256, 384, 3) + conv(384, 384, 3) + conv(384, 256, 3)
    assert parameters(alexnet_cifar10) == conv(3, 96, 5) + rest + dense(256 * 16, 256, 10)
    # 224 -> 54 -> 26 -> 22 -> 10 -> 8 -> 6 -> 4
    assert parameters(lambda: alexnet_imagenet(1000)) == conv(3, 96, 11) + rest + dense(256 * 16, 4096, 4096, 1000)


@pytest.mark.parametrize("depth", [38, 50, 74, 152])
def test_other_depths_of_cifar_resnets(depth: int) -> None:
    """[004-14] 6n + 2 layers."""
    assert layers(lambda: models.resnet_cifar(depth)) == depth
