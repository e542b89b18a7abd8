"""Single families: what their layers compute, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from sparsewood.errors import SparsewoodError
from sparsewood.models import (
    densenet_cifar,
    lenet5_caffe,
    mlp,
    preact_resnet,
    resnet9,
    resnet18,
    resnet34,
    resnet50,
    vgg,
    wide_resnet,
)
from sparsewood.models.densenet_cifar import DenseLayer
from sparsewood.models.preactivated import BasicUnit, BottleneckUnit
from sparsewood.models.wheels import ensure_torchvision


@pytest.fixture
def torchvision() -> Any:
    ensure_torchvision()
    return pytest.importorskip("torchvision")


@pytest.mark.parametrize("model", [resnet18, resnet34, resnet50])
def test_resnets_compute_what_torchvisions_do(torchvision: Any, model: Callable[..., nn.Module]) -> None:
    """[001-07] Same names, same shapes, same outputs: its weights can be loaded."""
    ours = model(7, generator=torch.Generator().manual_seed(0)).eval()
    theirs = torchvision.models.get_model(model.__name__, num_classes=7).eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(1, 3, 40, 40)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
def test_vgg_has_torchvisions_layers(torchvision: Any, depth: int) -> None:
    with torch.device("meta"):
        ours = vgg(depth, classifier="imagenet", batch_norm=False, classes=1000, size=224)
        theirs = torchvision.models.get_model(f"vgg{depth}")
    assert [p.shape for p in ours.parameters()] == [p.shape for p in theirs.parameters()]
    kinds = [type(m) for m in ours.features]
    assert kinds == [type(m) for m in theirs.features]


def test_vgg_ends_differ_in_what_follows_the_features() -> None:
    """[001-07] The 512-512 end has BatchNorm in place of dropout; [003 section 4.3] the others are the paper's."""
    kinds = {
        end: [type(m).__name__ for m in vgg(11, classifier=end).classifier] for end in ("cifar", "imagenet", "conv")
    }
    assert kinds["cifar"] == ["Flatten", *["Linear", "BatchNorm1d", "ReLU"] * 2, "Linear"]
    assert kinds["imagenet"] == ["Flatten", *["Linear", "ReLU", "Dropout"] * 2, "Linear"]
    assert kinds["conv"] == [*["Conv2d", "ReLU", "Dropout"] * 2, "Flatten", "Linear"]


@pytest.mark.parametrize("end", ["cifar", "imagenet", "conv", "gap"])
def test_vgg_of_other_sizes(end: str) -> None:
    with torch.device("meta"):
        assert vgg(11, classifier=end, size=70)(torch.empty(2, 3, 70, 70)).shape == (2, 10)


def test_pointwise_vgg() -> None:
    """[004-26] Configuration C: the third convolution of stages 3 to 5 is 1 x 1."""
    with torch.device("meta"):
        kernels = [m.kernel_size[0] for m in vgg(pointwise=True).features if isinstance(m, nn.Conv2d)]
    assert kernels == [3, 3, 3, 3, 3, 3, 1, 3, 3, 1, 3, 3, 1]


def test_conv_and_fc_ends_are_the_same_function() -> None:
    conv, fc = (vgg(11, classifier=end, size=32).eval() for end in ("conv", "imagenet"))
    state = conv.state_dict()
    renamed = {"classifier.0": "classifier.1", "classifier.3": "classifier.4", "classifier.7": "classifier.7"}
    for ours, theirs in renamed.items():
        state[f"{theirs}.weight"], state[f"{theirs}.bias"] = (
            conv.state_dict()[f"{ours}.weight"].flatten(1),
            conv.state_dict()[f"{ours}.bias"],
        )
    fc.load_state_dict({key: state[key] for key in fc.state_dict()})
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(conv(x), fc(x))


def test_a_dense_layer_keeps_its_input() -> None:
    layer = DenseLayer(4, 3, None, 0.0).eval()
    x = torch.randn(1, 4, 5, 5)
    out = layer(x)
    assert out.shape == (1, 7, 5, 5)
    assert torch.equal(out[:, :4], x)
    torch.testing.assert_close(out[:, 4:], layer.branch(x))


@pytest.mark.parametrize("unit", [lambda a, b, s: BasicUnit(a, b, s, 0.0), BottleneckUnit])
def test_a_silent_unit_is_its_shortcut(unit: Callable[[int, int, int], Any]) -> None:
    x = torch.randn(1, 8, 4, 4)
    plain, wider = unit(8, 8, 1).eval(), unit(8, 16, 2).eval()
    for module in (plain, wider):
        last = [m for name, m in module.named_children() if name.startswith("conv")][-1]
        nn.init.zeros_(last.weight)
    assert torch.equal(plain(x), x)
    # Not of x itself: after BatchNorm, which here divides by sqrt(1 + eps), and ReLU.
    torch.testing.assert_close(wider(x), wider.shortcut((x / (1 + 1e-5) ** 0.5).relu()))


def test_residuals_of_resnet9() -> None:
    """[000-13] With silent 4th and 8th convolutions it is the network without them."""
    model = resnet9(size=8).eval()
    for unit in (model.conv4, model.conv8):
        nn.init.zeros_(unit.bn.weight)
    x = torch.randn(2, 3, 8, 8)
    inner = model.pool1(model.conv2(model.conv1(x)))
    inner = model.pool3(model.conv6(model.pool2(model.conv5(inner))))
    torch.testing.assert_close(model(x), model.fc(inner.amax((2, 3))))


def test_only_one_relu_in_lenet5() -> None:
    """As in Caffe: the convolutions are followed by their maximum alone."""
    names = [name for name, _ in lenet5_caffe().named_children()]
    assert names == ["conv1", "pool1", "conv2", "pool2", "flatten", "fc1", "relu1", "fc2"]


REFUSED: list[tuple[Callable[..., nn.Module], dict[str, Any], str]] = [
    (preact_resnet, {"depth": 163}, r"'depth' of preact_resnet must be 9n \+ 2 .* Got 163"),
    (preact_resnet, {"depth": 2}, "Got 2"),
    (wide_resnet, {"depth": 27}, r"'depth' of wide_resnet must be 6n \+ 4 .* Got 27"),
    (wide_resnet, {"depth": 4}, "Got 4"),
    (wide_resnet, {"dropout": 1.0}, r"'dropout' of wide_resnet must be a number in \[0, 1\)\. Got 1.0"),
    (wide_resnet, {"width": 0}, "'width' of wide_resnet"),
    (densenet_cifar, {"depth": 41}, r"without bottleneck must be 3n \+ 4 .* Got 41"),
    (densenet_cifar, {"depth": 43, "bottleneck": True}, r"with bottleneck must be 6n \+ 4 .* Got 43"),
    (densenet_cifar, {"depth": 4}, "Got 4"),
    (densenet_cifar, {"dropout": -0.1}, "'dropout' of densenet_cifar .* Got -0.1"),
    (resnet34, {"stem": "mnist"}, "'stem' of resnet34 must be 'imagenet' or 'cifar'. Got 'mnist'"),
    (resnet50, {"channels": 0}, "'channels' of resnet50 must be a whole number >= 1. Got 0"),
    (vgg, {"depth": 12}, "'depth' of vgg must be one of 11, 13, 16, 19. Got 12"),
    (vgg, {"classifier": "fc"}, "'classifier' of vgg must be one of 'cifar', 'imagenet', 'conv', 'gap'. Got 'fc'"),
    (vgg, {"size": 31}, "'size' of vgg must be at least 32 pixels.* Got 31"),
    (vgg, {"depth": 19, "pointwise": True}, "'pointwise' is a variant of vgg of depth 16. Got depth=19"),
    (resnet9, {"size": 7}, "'size' of resnet9 must be at least 8 pixels. Got 7"),
    (lenet5_caffe, {"size": 15}, "'size' of lenet5_caffe must be at least 16 pixels. Got 15"),
    (mlp, {"depth": 0}, "'depth' of mlp must be a whole number >= 1. Got 0"),
    (mlp, {"activation": "sine"}, "'activation' of mlp must be one of 'linear', 'tanh', 'relu'. Got 'sine'"),
]


@pytest.mark.parametrize(("model", "parameters", "message"), REFUSED)
def test_what_cannot_be_built_is_refused(
    model: Callable[..., nn.Module], parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(SparsewoodError, match=message):
        model(**parameters)


@pytest.mark.parametrize(("model", "size"), [(lenet5_caffe, 16), (resnet9, 8)])
def test_smallest_images(model: Callable[..., nn.Module], size: int) -> None:
    assert model(size=size, channels=3).eval()(torch.randn(1, 3, size, size)).shape == (1, 10)
