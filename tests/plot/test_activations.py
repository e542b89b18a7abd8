"""Activations of one example (001-22): every call is seen, all channels are drawn, the model is left as found."""

from __future__ import annotations

import copy
import logging
import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks

from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.plot import activation_calls, activations
from sparsewood.plot.calls import of_example
from sparsewood.plot.panels import mosaic

pytest.importorskip("matplotlib")


class Block(nn.Module):
    """A module, functions and methods, in place and not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(5)
        self.act = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.conv(x)))
        x += 1  # writes over what came out of the module
        x = self.drop(F.relu(x - 1.5))
        x = torch.relu(x - 0.1).sub(0.1).relu_()
        return self.act(x)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Block(), nn.Flatten(), nn.Linear(5 * 16, 7), nn.GELU())


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def labels(figure: Any) -> list[str]:
    return [axes.get_label() for axes in figure.axes if not axes.get_label().startswith("colours")]


def test_001_22_modules_functions_and_methods_are_seen_in_order() -> None:
    seen = [(one.module, one.function, one.number) for one in activation_calls(network(), images())]
    assert seen == [
        ("0.act", "relu", 0),
        ("0", "relu", 0),
        ("0", "relu", 1),
        ("0", "relu", 2),
        ("0.act", "relu", 1),
        ("3", "gelu", 0),
    ]


def test_001_22_values_are_those_of_the_example_before_they_were_written_over() -> None:
    net, x = network().eval(), images()
    for example in (0, 2, -1):
        first, second, *_, last = activation_calls(net, x, example=example)
        block = net[0]
        assert isinstance(block, Block)
        with torch.no_grad():
            expected = F.relu(block.norm(block.conv(x)))[example]
            output = net(x)[example]
        torch.testing.assert_close(first.values, expected)
        torch.testing.assert_close(second.values, F.relu(expected - 0.5))
        torch.testing.assert_close(last.values, output)


CALLS: list[Callable[[Tensor], Tensor]] = [
    F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, lambda x: x.clamp(min=0),
    lambda x: torch.clamp_min(x, 0), lambda x: x.clamp_(0), nn.ReLU(True), lambda x: F.relu(x, inplace=True),
    lambda x: torch.clip(x, min=0.0),
]  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
def test_001_22_every_way_of_calling_relu_is_seen_once(call: Callable[[Tensor], Tensor]) -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return call(x * 1) * 2

    (one,) = activation_calls(Net(), torch.tensor([[-1.0, 3.0]]))
    assert one.function == "relu"
    assert one.values.tolist() == [0, 3]


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (nn.GELU(), "gelu"), (nn.SiLU(True), "silu"), (nn.Hardswish(), "hardswish"), (nn.ReLU6(), "relu6"),
        (nn.PReLU(), "prelu"), (nn.LeakyReLU(), "leaky_relu"), (nn.ELU(), "elu"), (nn.SELU(), "selu"),
        (nn.CELU(), "celu"), (nn.Mish(), "mish"), (nn.Softplus(), "softplus"), (nn.Sigmoid(), "sigmoid"),
        (nn.Tanh(), "tanh"), (nn.LogSigmoid(), "logsigmoid"), (nn.Hardtanh(), "hardtanh"), (nn.GLU(), "glu"),
        (nn.Hardsigmoid(), "hardsigmoid"), (nn.Softsign(), "softsign"), (nn.RReLU(), "rrelu"),
        (nn.Tanhshrink(), "tanhshrink"), (nn.Softshrink(), "softshrink"), (nn.Hardshrink(), "hardshrink"),
        (nn.Threshold(0.0, 0.0), "threshold"),
    ],
)  # fmt: skip
def test_001_22_activation_functions_of_pytorch_are_seen_once(module: nn.Module, name: str) -> None:
    x = torch.randn(2, 6)
    (one,) = activation_calls(nn.Sequential(module), x, example=1)
    assert (one.module, one.function) == ("0", name)
    torch.testing.assert_close(one.values, module.eval()(x.clone())[1].detach())


def test_clamps_between_other_limits_are_none() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x.clamp(0, 6).clamp(min=-1).clamp(max=0).clamp(min=x.mean()))

    assert len(activation_calls(Net(), torch.ones(1, 2))) == 1


def hooks(model: nn.Module) -> list[int]:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    own = [len(getattr(module, kind)) for module in model.modules() for kind in kinds]
    return [*own, *(len(getattr(module_hooks, f"_global{kind}")) for kind in kinds)]


@pytest.mark.parametrize("training", [True, False])
def test_001_22_the_model_is_left_as_found(training: bool) -> None:
    net, x = network().train(training), images()
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    net[2].requires_grad_(False)
    state, gradients = copy.deepcopy(net.state_dict()), [p.grad for p in net.parameters()]
    flags = [(m.training) for m in net.modules()]
    wants, counts, inputs = [p.requires_grad for p in net.parameters()], hooks(net), x.clone()
    generators = torch.get_rng_state(), random.getstate()
    activations(net, x)
    assert hooks(net) == counts
    assert [module.training for module in net.modules()] == flags
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert all(p.grad is gradient for p, gradient in zip(net.parameters(), gradients, strict=True))
    assert [p.requires_grad for p in net.parameters()] == wants
    assert {parameter.device.type for parameter in net.parameters()} == {"cpu"}
    assert torch.equal(torch.get_rng_state(), generators[0])
    assert random.getstate() == generators[1]
    assert torch.equal(x, inputs)


def test_001_22_nothing_is_left_behind_by_a_forward_that_fails() -> None:
    net = network()
    counts = hooks(net)
    with pytest.raises(SparsewoodError, match="The forward of Sequential"):
        activations(net, torch.randn(2, 4, 4, 4))
    assert hooks(net) == counts
    assert net.training
    assert torch.overrides._len_torch_function_stack() == 0


def test_001_22_all_channels_are_in_the_grid() -> None:
    net, x = network(), images()
    figure = activations(net, x, example=1)
    assert labels(figure) == ["input", "0.act: relu", "0: relu", "0: relu, call 2", "0: relu, call 3",
                              "0.act: relu, call 2", "3: gelu"]  # fmt: skip
    values = activation_calls(net, x, example=1)[0].values.numpy()
    axes = next(axes for axes in figure.axes if axes.get_label() == "0.act: relu")
    image = np.ma.filled(axes.images[0].get_array(), np.nan)
    tiles = np.minimum(values, axes.images[0].get_clim()[1]).repeat(4, 1).repeat(4, 2)
    np.testing.assert_allclose(image, mosaic(tiles, 5), rtol=1e-6)
    pixels = figure.axes[0].images[0].get_array()
    assert pixels is not None
    low, high = x[1].min(), x[1].max()
    np.testing.assert_allclose(pixels.transpose(2, 0, 1), (x[1] - low) / (high - low), atol=1e-6)


def test_channels_left_out_are_counted() -> None:
    net = nn.Sequential(nn.Conv2d(1, 70, 3), nn.ReLU())
    net[0].bias.data[:] = -100  # pyright: ignore[reportIndexIssue, reportOptionalMemberAccess]

    def told(most: int | None) -> str:
        axes = next(a for a in activations(net, torch.randn(1, 1, 6, 6), most=most).axes if a.get_label() == "1: relu")
        return axes.texts[1].get_text()

    assert told(64) == "70 x 4 x 4; the first 64 channels shown, 6 left out; 70 all 0; 0 ... 0"
    assert told(None) == "70 x 4 x 4; 70 all 0; 0 ... 0"


def test_features_are_read_line_by_line() -> None:
    net = nn.Sequential(nn.Linear(4, 100), nn.Tanh())
    x = torch.randn(2, 4)
    figure = activations(net, x)
    image = np.ma.filled(figure.axes[2].images[0].get_array(), np.nan)
    values = activation_calls(net, x)[0].values.numpy()
    limit = figure.axes[2].images[0].get_clim()[1]
    assert image.shape == (2, 64)
    np.testing.assert_allclose(image.reshape(-1)[:100], values.clip(-limit, limit), rtol=1e-6)
    assert np.isnan(image.reshape(-1)[100:]).all()


def test_positions_and_features_are_an_image_also_on_the_fast_path_of_transformers() -> None:
    """In eval mode without gradients encoder layers would run as one operation, in which nothing is seen."""
    for batch_first in (True, False):
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first)
        net = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
        x = torch.randn(3, 5, 8) if batch_first else torch.randn(5, 3, 8)
        calls = activation_calls(net, x)
        assert [one.module for one in calls] == ["layers.0", "layers.1"]
        if batch_first:
            assert calls[0].values.shape == (5, 16)
            axes = next(a for a in activations(net, x).axes if a.get_label() == "layers.0: relu")
            assert axes.images[0].get_array().shape == (5, 16)  # pyright: ignore[reportOptionalMemberAccess]


def test_channels_on_the_last_axis_and_slices() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x)

    def told(x: Tensor) -> str:
        return next(a for a in activations(Net(), x).axes if a.get_label() == "the model: relu").texts[1].get_text()

    assert told(torch.ones(1, 6, 6, 9)) == "6 x 6 x 9; channels on the last axis; 1 ... 1"
    assert told(torch.ones(2, 2, 3, 6, 6)) == "2 x 3 x 6 x 6; slices of each channel in turn; 1 ... 1"
    assert told(torch.ones(2, 5, 1, 1)) == "5 x 1 x 1; 1 ... 1"
    assert told(torch.tensor([[1.0, float("nan")]])) == "2; 1 ... 1; 1 NaN or infinite (grey)"


def test_whose_part_of_a_batch_is_an_example() -> None:
    assert of_example(torch.arange(6).reshape(3, 2), 3, 2).tolist() == [4, 5]
    assert of_example(torch.arange(12).reshape(6, 2), 3, 1).tolist() == [[4, 5], [6, 7]], "two windows of each"
    assert of_example(torch.arange(10).reshape(5, 2), 2, 1).tolist() == [1, 3, 5, 7, 9], "sequence first"
    assert of_example(torch.ones(4, 4), 3, 1).shape == (4, 4)
    assert of_example(torch.tensor(2.0), 3, 1).shape == ()


def test_only_some_layers() -> None:
    net, x = network(), images()
    assert labels(activations(net, x, layers="3")) == ["input", "3: gelu"]
    assert len(activation_calls(net, x, layers=["0", "3"])) == 6
    assert len(activation_calls(net, x, layers="*.act")) == 2
    with pytest.raises(UnknownName, match="'4'"):
        activation_calls(net, x, layers="4")


def test_several_inputs_by_position_and_by_name() -> None:
    class Net(nn.Module):
        def forward(self, ids: Tensor, image: Tensor) -> Tensor:
            return F.relu(image.mean((1, 2, 3)) + ids.sum(1))

    ids, image = torch.ones(2, 5, dtype=torch.long), torch.ones(2, 3, 4, 4)
    for inputs in ((ids, image), {"image": image, "ids": ids}):
        figure = activations(Net(), inputs, example=1)
        assert labels(figure) == ["input 0", "input 1", "the model: relu"]
    assert activation_calls(Net(), (ids, image))[0].values.tolist() == 6


def test_compiled_models_run_as_they_were_written() -> None:
    net, x = network(), images()
    expected = [(one.module, one.function) for one in activation_calls(net, x)]
    compiled = torch.compile(net, backend="eager")
    assert [(one.module, one.function) for one in activation_calls(compiled, x)] == expected  # pyright: ignore[reportArgumentType]


def test_what_cannot_be_seen_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(SparsewoodError, match="LSTM calls no activation function"):
        activations(nn.LSTM(3, 4), torch.randn(2, 5, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        scripted = torch.jit.script(nn.Sequential(nn.ReLU()))
    with caplog.at_level(logging.WARNING):
        activation_calls(nn.Sequential(scripted, nn.Tanh()), torch.ones(1, 2))
    assert "Not seen: activation functions inside 0" in caplog.text


@pytest.mark.parametrize(
    ("x", "example", "message"),
    [
        (images(), 3, "one of the 3 of the batch, 0 to 2. Got 3"),
        (images(), -4, "Got -4"),
        (images(0), 0, "at least one"),
        ("text", 0, "must hold a tensor"),
    ],
)
def test_examples_that_are_not_there_are_refused(x: Any, example: int, message: str) -> None:
    with pytest.raises(SparsewoodError, match=message):
        activations(network(), x, example=example)


def panel(figure: Any, name: str) -> Any:
    return next(axes for axes in figure.axes if axes.get_label() == name)


@pytest.mark.parametrize("shape", [(6, 1, 500), (6, 500, 1), (6, 2, 500), (6, 500, 2)])
def test_long_thin_channels_can_be_seen(shape: tuple[int, ...]) -> None:
    figure = activations(nn.ReLU(), torch.randn(2, *shape))
    _, _, width, height = panel(figure, "the model: relu").get_position().bounds
    across, high = figure.get_size_inches()
    assert min(width * across, height * high) > 0.07

    lines = panel(figure, "the model: relu").images[0].get_array()
    assert lines.shape == (6, 500) or 1 not in shape


def test_a_long_thin_picture_that_goes_in_can_be_seen() -> None:
    figure = activations(nn.ReLU(), torch.randn(1, 1, 2, 900))
    bounds = panel(figure, "input").get_position().bounds
    assert bounds[3] * figure.get_size_inches()[1] == pytest.approx(0.3)


def test_one_channel_on_the_last_axis_is_an_image() -> None:
    shown = panel(activations(nn.ReLU(), torch.rand(2, 16, 16, 1)), "the model: relu").images[0].get_array()
    assert shown.shape == (18, 18), "one tile of 16 x 16 in its frame"


def test_activations_without_values_have_a_place_of_their_own() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.relu() + x[:, :, :0].relu().sum() + x[..., None][:, :0].relu().sum()

    figure = activations(Net(), torch.randn(2, 3, 4))
    assert labels(figure) == ["input", *(f"the model: relu{again}" for again in ("", ", call 2", ", call 3"))]


def test_pictures_of_bytes_are_pictures() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.float().relu()

    figure = activations(Net(), torch.randint(0, 256, (2, 3, 8, 9)).byte())
    assert panel(figure, "input").images[0].get_array().shape == (8, 9, 3)


def test_complex_inputs_are_shown_by_their_absolute_values() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.real.relu()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = activations(Net(), torch.full((2, 8), 3 + 4j))
    assert float(panel(figure, "input, absolute values").images[0].get_array().max()) == 5


def test_a_module_that_failed_is_left_all_the_same() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wrong, self.right = nn.Linear(3, 4), nn.Linear(2, 4)

        def forward(self, x: Tensor) -> Tensor:
            try:
                y = self.wrong(x)
            except RuntimeError:
                y = self.right(x)
            return y.relu()

    (one,) = activation_calls(Net(), torch.randn(1, 2))
    assert one.module == ""


@pytest.mark.parametrize(("options", "message"), [({"example": 1.0}, "Got 1.0"), ({"layers": []}, "names no module")])
def test_what_says_nothing_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SparsewoodError, match=message):
        activations(network(), images(), **options)
