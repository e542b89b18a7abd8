"""Sparse kernels are chosen by measurement, layer by layer, and every choice is reported."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import sparsewood as sw
from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.exporting import sparse
from sparsewood.exporting.kernels import SparseConv2d, SparseLinear
from sparsewood.measurement import Latency


def thinned(model: nn.Module, density: float = 0.02) -> Any:
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data *= torch.rand(parameter.shape, generator=generator) < density
    return model


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Seconds by format, in place of a real clock; "csr" is that of every layer in compressed rows."""
    seconds = {"dense": 1.0, "csr": 0.5, "bsr": 0.75}

    def timed(models: Sequence[nn.Module], *_: Any) -> list[Latency]:
        kinds = [
            "dense" if not isinstance(one, SparseLinear | SparseConv2d) else "csr" if one.values.dim() == 1 else "bsr"
            for one in models
        ]
        return [Latency(seconds[kind], seconds[kind], seconds[kind], 1) for kind in kinds]

    monkeypatch.setattr(sparse, "time_in_turn", timed)
    return seconds


class Branches(nn.Module):
    """Every reason to leave a layer alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, groups=2)
        self.reflecting = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
        self.twice = nn.Linear(8, 8)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight
        self.hooked = nn.Linear(8, 8)
        self.hooked.register_forward_hook(lambda _module, _inputs, output: 2 * output)
        self.replaced = nn.Linear(8, 8)
        self.replaced.forward = lambda input: input + 1  # pyright: ignore
        self.unused = nn.Linear(8, 8)
        self.by_function = nn.Linear(8, 8)
        self.line = nn.Conv1d(8, 8, 1)
        self.full = nn.Linear(8, 8)
        thinned(self, 0.2)
        self.full.weight.data.fill_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.reflecting(self.grouped(self.conv(x))).mean((2, 3))
        y = self.second(self.first(self.twice(self.twice(y))))
        y = self.replaced(self.hooked(y)) @ self.by_function.weight
        return self.full(self.line(y[:, :, None])[:, :, 0])


@pytest.mark.usefixtures("clock")
def test_every_layer_is_reported_with_what_was_chosen_and_why() -> None:
    torch.default_generator.manual_seed(0)
    model, x = Branches(), torch.randn(2, 4, 8, 8)
    found = sw.sparse_kernels(model, x)
    reasons = {one.name: (one.chosen, one.reason) for one in found.layers}
    assert reasons == {
        "conv": ("csr", "2.00x"),
        "grouped": ("dense", "it is a convolution of 2 groups"),
        "reflecting": ("dense", "its padding is reflect, (1, 1)"),
        "twice": ("csr", "2.00x"),
        "first": ("dense", "its weight is shared with 'second'"),
        "second": ("dense", "its weight is shared with 'first'"),
        "hooked": ("dense", "it has hooks"),
        "replaced": ("dense", "its forward was replaced"),
        "unused": ("dense", "it is not run as a module on the example inputs"),
        "by_function": ("dense", "it is not run as a module on the example inputs"),
        "line": ("dense", "there is no sparse kernel for Conv1d"),
        "full": ("dense", "its zeros are fewer than min_sparsity=0.5"),
    }
    by_name = {one.name: one for one in found.layers}
    assert by_name["twice"].seconds["dense"] == 2.0  # it is called twice
    assert by_name["conv"].sparsity == float((model.conv.weight == 0).double().mean())
    with torch.no_grad():
        torch.testing.assert_close(found.model(x), model.eval()(x), atol=1e-5, rtol=1e-4)
    assert found.max_difference < 1e-5
    table = str(found)
    assert "2 of 12 layers sparse, measured on float32[2, 4, 8, 8] on cpu with 1 thread" in table
    assert all(reason in table for _, reason in reasons.values())


def test_the_network_is_not_changed() -> None:
    model, x = thinned(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))).train(), torch.randn(8, 64)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    modules = list(model.modules())
    sw.sparse_kernels(model, x, repeats=2)
    assert torch.equal(torch.get_rng_state(), state)
    assert list(model.modules()) == modules
    assert all(module.training for module in modules)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_gain_below_the_least_is_no_gain(clock: dict[str, float]) -> None:
    """1 / 0.95 = 1.05 is less than 1.1, unless less is asked for; slower never is chosen."""
    clock.update(csr=0.95, bsr=2.0)
    model, x = thinned(nn.Linear(64, 64)), torch.randn(8, 64)
    found = sw.sparse_kernels(model, x)
    assert [(one.chosen, one.reason) for one in found.layers] == [("dense", "csr is 1.05x, less than 1.1x")]
    assert type(found.model) is nn.Linear
    assert found.latency is None
    assert "No layer is faster with a sparse kernel" in str(found)
    assert type(sw.sparse_kernels(model, x, min_gain=1.04).model) is SparseLinear
    clock.update(csr=1.5)
    found = sw.sparse_kernels(model, x, min_gain=0.1)
    assert type(found.model) is nn.Linear
    assert found.layers[0].reason == "csr is 0.67x, less than 1x"


def test_the_fastest_format_is_chosen(clock: dict[str, float]) -> None:
    layer = nn.Linear(64, 64)
    layer.weight.data.zero_()
    layer.weight.data[:16, :16] = 1.0
    found = sw.sparse_kernels(layer, torch.randn(8, 64))
    assert found.layers[0].chosen == "csr"
    assert set(found.layers[0].seconds) == {"dense", "csr", "bsr 4x4", "bsr 16x16"}
    clock.update(bsr=0.1)
    found = sw.sparse_kernels(layer, torch.randn(8, 64))
    assert found.layers[0].chosen == "bsr 4x4"
    assert found.model.values.shape == (16, 4, 4)


@pytest.mark.usefixtures("clock")
def test_blocks_that_do_not_fit_are_skipped_with_the_reason() -> None:
    found = sw.sparse_kernels(thinned(nn.Linear(20, 20), 0.3), torch.randn(8, 20))
    assert found.layers[0].chosen == "csr"
    assert "does not divide into such blocks" in found.layers[0].skipped["bsr 16x16"]
    assert "of its blocks hold weights" in found.layers[0].skipped["bsr 4x4"]


def test_measured_on_this_machine() -> None:
    """By a real clock a layer of 99 % zeros is faster in compressed rows; a small dense one is not touched."""
    torch.default_generator.manual_seed(0)
    model = nn.Sequential(nn.Linear(2048, 1024), nn.ReLU(), nn.Linear(1024, 10))
    thinned(model[0], 0.01)
    x = torch.randn(64, 2048)
    found = sw.sparse_kernels(model, x)
    assert [one.chosen for one in found.layers] == ["csr", "dense"]
    assert found.layers[0].seconds["csr"] < found.layers[0].seconds["dense"]
    assert found.latency is not None
    assert found.latency.ratio > 1
    with torch.no_grad():
        torch.testing.assert_close(found.model(x), model(x), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.model(x[:1]), model(x[:1]), atol=1e-4, rtol=1e-4)


@pytest.mark.usefixtures("clock")
def test_masks_and_shrunk_networks() -> None:
    layer = prune.l1_unstructured(nn.Linear(64, 64), "weight", amount=0.9)
    found = sw.sparse_kernels(layer, torch.randn(8, 64))
    assert found.layers[0].sparsity == pytest.approx(0.9, abs=1e-3)
    assert type(found.model) is SparseLinear
    shrunk = sw.shrink(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)), torch.ones(1, 4), sparsity=0.5)
    found = sw.sparse_kernels(shrunk, torch.ones(1, 4), min_sparsity=0)
    assert [one.shape for one in found.layers] == [(8, 4), (3, 8)]


@pytest.mark.usefixtures("clock")
def test_one_module_under_two_names_is_replaced_under_both() -> None:
    layer = thinned(nn.Linear(64, 64), 0.2)
    found = sw.sparse_kernels(nn.Sequential(layer, nn.ReLU(), layer), torch.randn(8, 64))
    assert found.model[0] is found.model[2]
    assert type(found.model[0]) is SparseLinear
    assert found.layers[0].seconds["dense"] == 2.0


@pytest.mark.usefixtures("clock")
def test_a_module_that_is_called_past_its_name_is_left_alone() -> None:
    """A sparse layer in its place would not be called."""

    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.other = nn.Linear(64, 64), nn.Linear(64, 64)
            self.order = (self.fc,)

        def forward(self, x: Tensor) -> Tensor:
            return self.other(self.order[0](x))

    found = sw.sparse_kernels(thinned(Listed()), torch.randn(8, 64))
    assert {one.name: one.chosen for one in found.layers} == {"fc": "dense", "other": "csr"}
    assert found.layers[0].reason == "it is not run as a module on the example inputs"


@pytest.mark.usefixtures("clock")
def test_state_dicts_and_exports(tmp_path: Any) -> None:
    """The state is plain tensors; other formats need the dense network."""
    x = torch.randn(8, 64)
    model = thinned(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)), 0.1)
    first, second = sw.sparse_kernels(model, x).model, sw.sparse_kernels(model, x).model
    sw.export(first, tmp_path / "net.safetensors", x)
    for tensor in second.state_dict().values():
        tensor.zero_()
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(second(x), model(x))
    with pytest.raises(SparsewoodError, match="export the dense network"):
        sw.export(first, tmp_path / "net.pt2", x)


def test_attention_takes_its_own_way() -> None:
    """PyTorch's encoder reads weights past their modules where it can, so that a sparse one would be of no use."""
    model = thinned(nn.TransformerEncoderLayer(32, 2, 64, batch_first=True))
    found = sw.sparse_kernels(model, torch.randn(2, 5, 32), repeats=2)
    assert not found.replaced
    assert {one.reason for one in found.layers if one.name.startswith("linear")} == {
        "it is not run as a module on the example inputs"
    }


def test_half_precision_has_no_such_kernel_on_the_processor() -> None:
    found = sw.sparse_kernels(thinned(nn.Linear(64, 64)).half(), torch.randn(8, 64).half())
    assert found.layers[0].reason == "no format could be tried"
    assert "PyTorch cannot" in found.layers[0].skipped["csr"]
    assert "PyTorch cannot" in str(found)


def test_a_network_that_is_random_is_refused(clock: dict[str, float]) -> None:
    """What changes from call to call cannot be compared."""

    class Drifting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.calls = thinned(nn.Linear(64, 64), 0.2), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.fc(x) + (self.calls if isinstance(self.fc, SparseLinear) else 0)

    clock.update(csr=0.1)
    with pytest.raises(SparsewoodError, match="With sparse kernels Drifting computes something else"):
        sw.sparse_kernels(Drifting(), torch.randn(8, 64))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"formats": "csr"}, "formats must be a sequence"),
        ({"formats": ()}, "formats must be a sequence"),
        ({"min_gain": 0}, "min_gain > 0"),
        ({"min_sparsity": 1.5}, r"min_sparsity in \[0, 1\]"),
        ({"repeats": 0}, "repeats >= 1"),
        ({"seconds": 0}, "seconds > 0"),
    ],
)
def test_settings_that_mean_nothing(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SparsewoodError, match=message):
        sw.sparse_kernels(nn.Linear(4, 4), torch.ones(1, 4), **settings)
    with pytest.raises(UnknownName, match="Unknown format of sparse kernels 'csc'"):
        sw.sparse_kernels(nn.Linear(4, 4), torch.ones(1, 4), formats=("csc",))


# ---------------------------------------------------------------- two of four


def two_of_four(rows: int, columns: int) -> nn.Linear:
    layer = nn.Linear(columns, rows)
    sw.apply_masks(layer, sw.prune(layer, sw.Magnitude(), granularity=sw.NM(2, 4), protect_classifier=False))
    return layer


def test_two_of_four_is_reported_as_skipped_on_the_processor() -> None:
    found = sw.sparse_kernels(thinned(nn.Linear(64, 64)), torch.randn(8, 64), formats=("2:4",))
    needs = "it needs an NVIDIA device of compute capability 8.0, and the network is on cpu"
    assert dict(found.skipped) == {"2:4": needs}
    assert f"2:4 skipped: {needs}" in str(found)
    assert found.layers[0].chosen == "dense"
    assert found.layers[0].reason == "no format could be tried"


def test_two_of_four_says_which_layers_do_not_fit() -> None:
    """What is asked before a device is."""
    cases = {
        "only Linear": nn.Conv2d(4, 4, 1),
        "it needs float16 or bfloat16, and the weight is torch.float32": nn.Linear(8, 8),
        "more than two of four weights": nn.Linear(8, 8).half(),
    }
    for message, module in cases.items():
        layer = sparse.Layer("x", module, module.weight.detach())  # pyright: ignore
        with pytest.raises(sparse.Unsuitable, match=message):
            sparse._two_of_four(layer)


@pytest.mark.gpu
def test_two_of_four_on_a_device_that_has_it() -> None:
    if not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] < 8:
        pytest.skip("needs a CUDA device of compute capability 8.0")
    torch.default_generator.manual_seed(0)
    layer = two_of_four(1024, 1024).half().cuda()
    x = torch.randn(256, 1024, dtype=torch.float16, device="cuda")
    found = sw.sparse_kernels(layer, x, formats=("2:4",), min_gain=1e-6)
    assert not found.skipped
    assert set(found.layers[0].seconds) == {"dense", "2:4"}
    made = sparse._two_of_four(sparse.Layer("x", layer, layer.weight.detach()))
    with torch.no_grad():
        torch.testing.assert_close(made(x), layer(x), atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(made.state_dict()["weight"], layer.weight.detach())
