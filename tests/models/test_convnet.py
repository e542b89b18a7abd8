"""The convnet spec: layers in order, shapes, errors that name the entry, named outputs. [003 section 4.3]"""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML
from torch import nn

from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.models import convnet
from sparsewood.models.convnet import SPECS

SPEC = [["C", 4, 3, {"padding": "same"}], ["MP", 2, 2], ["DO", 0.5], ["F"], ["D", 6], ["O", 5]]


def names(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_children()]


def test_layers_stand_in_order() -> None:
    """Layer, BatchNorm, activation, dropout."""
    model = convnet(SPEC, size=8, batch_norm=True, activation="tanh", dropout=0.25)
    assert names(model) == [
        *("conv_1", "conv_1_bn", "conv_1_a", "conv_1_dr", "maxpool_1", "dropout_1", "flatten_1"),
        *("dense_1", "dense_1_bn", "dense_1_a", "dense_1_dr", "output_1"),
    ]
    kinds = {name: type(module) for name, module in model.named_children()}
    assert kinds["conv_1_bn"] is nn.BatchNorm2d
    assert kinds["dense_1_bn"] is nn.BatchNorm1d
    assert kinds["conv_1_a"] is kinds["dense_1_a"] is nn.Tanh
    rates = {name: module.p for name, module in model.named_children() if isinstance(module, nn.Dropout)}
    assert rates == {"conv_1_dr": 0.25, "dropout_1": 0.5, "dense_1_dr": 0.25}


def test_plain_layers_and_numbering() -> None:
    model = convnet([["C", 4, 3], ["C", 4, 3], ["GA"], ["D", 3], ["D", 3]], size=8)
    expected = ["conv_1", "conv_1_a", "conv_2", "conv_2_a", "gap_1", "dense_1", "dense_1_a", "dense_2", "dense_2_a"]
    assert names(model) == [*expected, "output_1"]
    assert isinstance(model.conv_1_a, nn.ReLU)


@pytest.mark.parametrize(("batch_norm", "options", "bias"), [(False, {}, True), (True, {}, False)])
def test_bias_is_left_to_batch_norm(batch_norm: bool, options: dict[str, Any], bias: bool) -> None:
    model = convnet([["C", 4, 3, options], ["GA"]], size=8, batch_norm=batch_norm)
    assert (model.conv_1.bias is not None) == bias
    other = convnet([["C", 4, 3, {"bias": not bias}], ["GA"]], size=8, batch_norm=batch_norm)
    assert (other.conv_1.bias is not None) == (not bias)


@given(
    st.integers(5, 20), st.integers(1, 5), st.integers(1, 3), st.sampled_from(["valid", "same", 0, 1]), st.booleans()
)
def test_shapes_are_foreseen(size: int, kernel: int, stride: int, padding: str | int, pair: bool) -> None:
    """The linear layer behind fits whatever the convolution leaves; "same" leaves ceil(size / stride)."""
    if padding == "same" and kernel % 2 == 0:
        return
    shown: Any = [kernel, kernel] if pair else kernel
    model = convnet([["C", 2, shown, {"strides": stride, "padding": padding}], ["F"]], size=size, channels=1)
    _, nodes = model.return_nodes(torch.zeros(1, 1, size, size), ["conv_1", "output_1"])
    edge = nodes["conv_1"].shape[-1]
    assert nodes["output_1"].shape == (1, 10)
    if padding == "same":
        assert edge == -(-size // stride)
    elif padding != 1:
        assert edge == (size - kernel) // stride + 1


def test_rectangles_and_groups() -> None:
    spec = [["C", 4, [3, 1], {"groups": 2, "strides": [1, 2]}], ["MP", [2, 1], [2, 1]], ["F"]]
    model = convnet(spec, size=8, channels=2)
    _, nodes = model.return_nodes(torch.zeros(1, 2, 8, 8), ["conv_1", "maxpool_1"])
    assert nodes["conv_1"].shape == (1, 4, 6, 4)
    assert nodes["maxpool_1"].shape == (1, 4, 3, 4)
    assert model.conv_1.weight.shape == (4, 1, 3, 1)


def test_return_nodes() -> None:
    model = convnet(SPEC, size=8).eval()
    x = torch.randn(2, 3, 8, 8)
    logits, nodes = model.return_nodes(x, ["dense_1_a", "conv_1"])
    assert list(nodes) == ["dense_1_a", "conv_1"]
    torch.testing.assert_close(logits, model(x), rtol=0, atol=0)
    torch.testing.assert_close(nodes["conv_1"], model.conv_1(x), rtol=0, atol=0)
    torch.testing.assert_close(logits, model.output_1(nodes["dense_1_a"]), rtol=0, atol=0)
    with pytest.raises(UnknownName, match=r"Unknown node of the convnet 'conv_3'. Did you mean 'conv_1'"):
        model.return_nodes(x, ["conv_3"])


@pytest.mark.parametrize("name", SPECS)
def test_rebuilt_from_its_spec(name: str) -> None:
    size = 224 if name == "alexnet_imagenet" else 32
    with torch.device("meta"):
        model = convnet(name, size=size, batch_norm=True, dropout=0.1, classes=3)
        saved = json.loads(json.dumps(model.spec))
        again = convnet(**saved)
    assert saved == model.spec == again.spec
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    assert shapes == {key: value.shape for key, value in again.state_dict().items()}
    assert str(model) == str(again)


def test_the_spec_is_a_copy() -> None:
    given_spec = [["C", 4, 3, {"strides": 1}], ["GA"]]
    model = convnet(given_spec, size=8)
    given_spec[0][3]["strides"] = 5
    model.spec["spec"][0][1] = 99
    assert model.spec["spec"] == [["C", 4, 3, {"strides": 1}], ["GA"], ["O", 10]]


def test_a_spec_from_yaml() -> None:
    text = "[[C, 4, 3, {padding: same}], [MP, 2, 2], [DO, 0.5], [F], [D, 6], [O, 5]]"
    assert convnet(YAML().load(text), size=8).spec == convnet(SPEC, size=8).spec


def test_the_output_layer() -> None:
    body = [["C", 4, 3], ["GA"]]
    assert convnet(body, size=8).output_1.out_features == 10
    assert convnet(body, size=8, classes=3).output_1.out_features == 3
    assert convnet([*body, ["O", 3]], size=8).output_1.out_features == 3
    assert convnet([*body, ["O", 3]], size=8, classes=3).output_1.out_features == 3
    with pytest.raises(SparsewoodError, match=re.escape("ends with ['O', 3], but classes=4")):
        convnet([*body, ["O", 3]], size=8, classes=4)


WRONG = [
    # spec, which entry, what the message says
    ([["C", 4]], 0, "expected the form [C, units, kernel] or [C, units, kernel, {strides, padding, groups, bias}]"),
    ([["C", 4, 3, 1]], 0, "expected the form [C, units"),
    ([["C", 0, 3]], 0, "'units' must be a whole number >= 1. Got 0"),
    ([["C", True, 3]], 0, "'units' must be a whole number >= 1. Got True"),
    ([["C", 4, 3.0]], 0, "'kernel' must be a whole number >= 1. Got 3.0"),
    ([["C", 4, [3, 3, 3]]], 0, "'kernel' must be a whole number >= 1. Got [3, 3, 3]"),
    ([["C", 4, 3, {"stride": 2}]], 0, "Unknown option 'stride'. Did you mean 'strides'?"),
    ([["C", 4, 3, {"strides": 0}]], 0, "'strides' must be a whole number >= 1. Got 0"),
    ([["C", 4, 3, {"padding": "full"}]], 0, "'padding' must be 'valid', 'same' or a whole number >= 0. Got 'full'"),
    ([["C", 4, 3, {"padding": -1}]], 0, "'padding' must be 'valid', 'same' or a whole number >= 0. Got -1"),
    ([["C", 4, 2, {"padding": "same"}]], 0, "padding 'same' needs a kernel of odd size. Got [2, 2]"),
    ([["C", 4, 3, {"groups": 2}]], 0, "2 groups do not divide 3 input channels and 4 units"),
    ([["C", 4, 3, {"bias": "no"}]], 0, "'bias' must be true or false. Got 'no'"),
    ([["C", 4, 3], ["C", 4, 7]], 1, "a window of 7 x 7 does not fit into a map of 6 x 6 pixels"),
    ([["MP", 2]], 0, "expected the form [MP, pool, stride]"),
    ([["MP", 9, 1]], 0, "a window of 9 x 9 does not fit into a map of 8 x 8 pixels"),
    ([["C", 4, 3], ["D", 8]], 1, "it needs flat features, but a map of 4 x 6 x 6 comes in. Put [F] before it"),
    ([["F"], ["C", 4, 3]], 1, "it needs a map of pixels, but what comes before is flat (192 features)"),
    ([["F"], ["F"]], 1, "it needs a map of pixels"),
    ([["GA"], ["MP", 2, 2]], 1, "it needs a map of pixels"),
    ([["GA"], ["GA"]], 1, "it needs a map of pixels"),
    ([["F", 1]], 0, "expected the form [F]"),
    ([["F"], ["DO", 0]], 1, "the rate must be a number between 0 and 1. Got 0"),
    ([["F"], ["DO", "0.5"]], 1, "the rate must be a number between 0 and 1. Got '0.5'"),
    ([["F"], ["D", "8"]], 1, "'units' must be a whole number >= 1. Got '8'"),
    ([["F"], ["O", 3], ["D", 3]], 1, "must be the last entry"),
    ([["X", 3]], 0, "no kind of layer is called 'X'. There are C, MP, D, DO, O, F, GA"),
    ([[["C"], 3]], 0, "no kind of layer is called ['C']"),
    (["F"], 0, "an entry must be a list that starts with one of C, MP, D, DO, O, F, GA"),
    ([[]], 0, "an entry must be a list that starts with one of"),
    ([{"C": 4}], 0, "an entry must be a list that starts with one of"),
]


@pytest.mark.parametrize(("spec", "index", "message"), WRONG)
def test_errors_name_the_entry(spec: list[Any], index: int, message: str) -> None:
    with pytest.raises(SparsewoodError) as caught:
        convnet(spec, size=8)
    assert str(caught.value).startswith(f"spec[{index}] = {spec[index]!r}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("spec", [[], None, 3, {"C": 1}])
def test_what_is_no_spec(spec: Any) -> None:
    with pytest.raises(SparsewoodError, match=r"must be a list of layers, as \[\[C, 16, 3\], \[GA\]\]. Got"):
        convnet(spec)


def test_other_errors() -> None:
    with pytest.raises(UnknownName, match=r"Unknown convnet spec 'medium'\. (Did you mean|Known)"):
        convnet("medium")
    with pytest.raises(SparsewoodError, match=r"'activation' of convnet must be one of 'relu', .* Got 'swish'"):
        convnet(activation="swish")
    with pytest.raises(SparsewoodError, match=r"'dropout' of convnet must be a number in \[0, 1\)\. Got 1"):
        convnet(dropout=1)
    with pytest.raises(SparsewoodError, match="'size' of convnet must be a whole number"):
        convnet(size=0)
