"""Networks of 8 bits (001-11, 001-12, defect 15): integers really in the file, right ones, and what is not says why."""

from __future__ import annotations

import copy
import hashlib
import pickle
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

import sparsewood as sw
from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.exporting import Dynamic, Static, onnx_model
from sparsewood.inputs import describe
from sparsewood.quantization import Histogram, Percentile, affine_of, dequantize, quantize

ACTIVATIONS = [Static(), Static(Percentile(99.9)), Static(Histogram()), Static(symmetric=True), Dynamic()]


EXPORTED: dict[bytes, Any] = {}


@pytest.fixture(autouse=True)
def _export_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same network is exported once for all tests here: that takes most of the time."""

    def exported(model: nn.Module, example_inputs: Any, **settings: Any) -> Any:
        values = [(name, value.numpy().tobytes()) for name, value in model.state_dict().items()]
        key = hashlib.sha256(repr((str(model), describe(example_inputs), settings, values)).encode()).digest()
        if key not in EXPORTED:
            EXPORTED[key] = onnx_model(model, example_inputs, **settings)
        return EXPORTED[key]

    monkeypatch.setattr("sparsewood.exporting.int8.onnx_model", exported)


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4))


def rows(count: int = 64) -> torch.Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(1))


def test_the_file_holds_integers_in_a_quarter_of_the_bytes(tmp_path: Path) -> None:
    """001-11: really int8 storage, about 1/4; defect 15: never a silent no-op."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256))
    small = sw.quantize_int8(model, [torch.randn(32, 256)])
    small.save(tmp_path / "small.onnx")
    assert (tmp_path / "small.onnx").stat().st_size == small.bytes
    assert 0.25 < small.bytes / small.bytes_before < 0.29
    graph = onnx.load(tmp_path / "small.onnx").graph
    kinds = {one.name: one.data_type for one in graph.initializer}
    for row in small.layers:
        assert row.quantized
        assert row.kernel == "QGemm"
        assert kinds[f"{row.name}_quantized"] == onnx.TensorProto.INT8
        assert row.name not in kinds  # the float32 weight is gone
        assert row.integers is not None
        assert row.integers.dtype is torch.int8
        assert row.integers.shape == (256, 256)
        assert row.bytes_before == 4 * 256 * 256
        assert row.bytes_after == 256 * 256 + 256 * 5


@pytest.mark.parametrize("activations", ACTIVATIONS, ids=repr)
@pytest.mark.parametrize(("per_channel", "symmetric"), [(True, True), (False, True), (False, False)])
def test_integers_are_those_of_the_formula(activations: Static | Dynamic, per_channel: bool, symmetric: bool) -> None:
    """001-11: onnxruntime's integers are those of sparsewood.quantization.affine, and outputs are near."""
    model = mlp()
    small = sw.quantize_int8(model, [rows()], activations=activations, per_channel=per_channel, symmetric=symmetric)
    for row in small.layers:
        weight = model.get_parameter(row.name).detach()
        affine = affine_of(weight, symmetric=symmetric, axis=0 if per_channel else None)
        assert row.integers is not None
        assert row.scale is not None
        assert row.zero_point is not None
        assert torch.equal(row.integers, quantize(weight, affine))
        assert torch.equal(row.scale, affine.scale)
        assert torch.equal(row.zero_point.int(), affine.zero_point)
        assert row.axis == (0 if per_channel else None)
        assert torch.equal(row.weight, dequantize(row.integers, affine))
        if symmetric:
            assert not row.zero_point.any()
    found = small.agreement(model, [rows()])
    assert found.relative < 0.05
    assert found.top1 is not None
    assert found.top1 > 0.9
    assert found.examples == 64


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("activations", [Static(), Dynamic()], ids=repr)
def test_zeros_and_shared_weights_are_kept(symmetric: bool, activations: Static | Dynamic) -> None:
    """001-11, 001-12: sparsity stays exactly, and at most k integers of k values."""
    model = mlp()
    masks = sw.prune(model, sw.Magnitude(), 0.8)
    sw.apply_masks(model, masks)
    sharing = sw.share_weights(model, clusters=5, masks=masks)
    small = sw.quantize_int8(model, [rows()], per_channel=False, symmetric=symmetric, activations=activations)
    for row in small.layers:
        weight = model.get_parameter(row.name).detach()
        assert row.integers is not None
        assert row.weight is not None
        assert row.zero_point is not None
        assert torch.equal(row.weight == 0, (row.integers - row.zero_point) == 0)
        assert bool((row.weight[weight == 0] == 0).all())
        assert row.values <= len(weight.unique()) <= sharing.weights[row.name].unique + 1
    channels = sw.quantize_int8(model, [rows()], activations=activations)
    for row in channels.layers:
        weight = model.get_parameter(row.name).detach()
        assert row.integers is not None
        assert bool((row.integers[weight == 0] == 0).all())
        assert all(len(a.unique()) <= len(b.unique()) for a, b in zip(row.integers, weight, strict=True))


def test_activations_that_are_all_zero() -> None:
    """Nothing gets through the first layer: the second one's bias is all there is, and stays precise."""
    model = mlp()
    model[0].bias.data.fill_(-100.0)
    found = sw.quantize_int8(model, [rows()]).agreement(model, [rows()])
    assert found.relative < 0.02


def test_calls_as_the_network() -> None:
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor, *, y: torch.Tensor) -> dict[str, object]:
            hidden = self.a(x) + y
            return {"hidden": hidden, "rest": (self.b(hidden.relu()), hidden.mean())}

    model, given = Several(), {"x": torch.randn(6, 4), "y": torch.randn(6, 4)}
    small = sw.quantize_int8(model, [given])
    swapped = small(y=given["y"][:2], x=given["x"][:2])
    expected = model(given["x"][:2], y=given["y"][:2])
    assert set(swapped) == {"hidden", "rest"}
    assert isinstance(swapped["rest"], tuple)
    torch.testing.assert_close(swapped["rest"][0], expected["rest"][0], atol=0.05, rtol=0.05)
    torch.testing.assert_close(swapped["hidden"], expected["hidden"], atol=0.05, rtol=0.05)
    assert swapped["rest"][1].shape == ()
    for copied in (copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
        assert torch.equal(copied(**given)["hidden"], small(**given)["hidden"])
    with pytest.raises(SparsewoodError, match="takes 2 tensors"):
        small(given["x"])
    assert "Int8Network(2 of 2 layers" in repr(small)
    with pytest.raises(UnknownName):
        small.layer("c")


def test_it_is_timed_and_evaluated_as_any_network() -> None:
    model = mlp()
    small = sw.quantize_int8(model, [rows()], threads=1)
    compared = sw.compare_latency(model, small, rows(4), repeats=3, warmup=1)
    assert compared.second.median > 0
    assert sw.latency(small, rows(4), repeats=2).repeats == 2
    assert sw.evaluate(small, [(rows(), model(rows()).argmax(1))]).top[1] > 0.9
    assert not list(small.parameters())


def test_selectors() -> None:
    model = mlp()
    small = sw.quantize_int8(model, [rows()], exclude=["2", "4.weight"])
    assert [row.quantized for row in small.layers] == [True, False, False]
    assert small.layer("2.weight").reason == "excluded"
    assert small.layer("2.weight").scheme == "float32"
    small = sw.quantize_int8(model, [rows()], include="2.weight")
    assert [row.quantized for row in small.layers] == [False, True, False]
    with pytest.raises(UnknownName, match="nope"):
        sw.quantize_int8(model, [rows()], exclude="nope")
    with pytest.raises(SparsewoodError, match=r"nothing in Sequential was quantised \(0.weight: excluded"):
        sw.quantize_int8(model, [rows()], exclude=[nn.Linear])


def nan_in(model: nn.Module) -> nn.Module:
    next(model.parameters()).data[0, 0] = float("nan")
    return model


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: sw.quantize_int8(mlp(), []), "calibration data is empty"),
        (lambda: sw.quantize_int8(mlp(), iter(())), "calibration data is empty"),
        (lambda: sw.quantize_int8(mlp()), "needs calibration data"),
        (lambda: sw.quantize_int8(mlp(), activations=Dynamic()), "example_inputs"),
        (lambda: sw.quantize_int8(mlp(), rows()), r"\[batch\]"),
        (lambda: sw.quantize_int8(mlp(), [rows(), rows() * float("inf")]), "batch 1 .* not finite"),
        (lambda: sw.quantize_int8(nan_in(mlp()), [rows()]), "1 of 128 values of '0.weight' are not finite"),
        (lambda: sw.quantize_int8(mlp().double(), [rows().double()]), "'0.weight' is torch.float64"),
        (lambda: sw.quantize_int8(mlp(), [rows()], symmetric=False), "per_channel=False"),
        (lambda: sw.quantize_int8(mlp(), [rows()], activations="static"), "must be Static"),  # type: ignore[arg-type]
        (lambda: sw.quantize_int8(mlp(), [rows()], activations=Static(Percentile)), "calibrator"),  # type: ignore[arg-type]
        (lambda: sw.quantize_int8(nn.BatchNorm1d(8), [rows()]), "nothing in BatchNorm1d"),
        (lambda: sw.quantize_int8(mlp(), [rows()]).agreement(mlp(), []), "empty"),
    ],
)
def test_what_cannot_be_is_refused(call: object, words: str) -> None:
    assert callable(call)
    with pytest.raises(SparsewoodError, match=words):
        call()


def test_dynamic_needs_no_data() -> None:
    model = mlp()
    small = sw.quantize_int8(model, activations=Dynamic(), example_inputs=rows(2))
    assert all(row.kernel == "DynamicQuantizeMatMul" for row in small.layers)
    assert small.agreement(model, [rows()]).relative < 0.03


def test_weights_of_a_parametrisation() -> None:
    """PyTorch keeps such a weight in a class that copies have in common: the model's must survive the export."""
    model = mlp()
    nn.utils.parametrizations.weight_norm(model[0])
    expected = model(rows()).detach()
    small = sw.quantize_int8(model, [rows()])
    assert torch.equal(model(rows()).detach(), expected)
    assert small.layer("0.weight").quantized
    torch.testing.assert_close(small(rows()), expected, atol=0.05, rtol=0)


def test_weights_of_seven_bits() -> None:
    """For processors whose sums of 8-bit products overflow."""
    model = mlp()
    small = sw.quantize_int8(model, [rows()], reduce_range=True)
    assert all(32 <= int(integers.abs().max()) <= 64 for integers in small.integers.values())
    assert small.agreement(model, [rows()]).relative < 0.08


def test_batches_with_targets_and_loaders() -> None:
    model = mlp()
    dataset = torch.utils.data.TensorDataset(rows(), torch.zeros(64, dtype=torch.long))
    loader = torch.utils.data.DataLoader(dataset, batch_size=16)
    plain, pairs = sw.quantize_int8(model, [rows()]), sw.quantize_int8(model, loader)
    assert torch.equal(plain(rows()), pairs(rows()))
    assert pairs.agreement(model, loader) == plain.agreement(model, loader)
    assert pairs.agreement(model, loader).examples == 64


def test_what_is_too_large_for_one_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsewood.exporting.int8_graph.LARGEST", 100)
    with pytest.raises(SparsewoodError, match="files of 100 at most"):
        sw.quantize_int8(mlp(), [rows()])


@pytest.mark.parametrize("per_channel", [True, False])
def test_channels_that_are_all_zero(per_channel: bool) -> None:
    """A removed channel is a constant, which must not be rounded in steps of the scale 1 that zeros have."""
    torch.manual_seed(0)
    images = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 3)
    )
    model[1].bias.data.uniform_(0.3, 0.9)
    model[0].weight.data[1], model[3].weight.data[:] = 0.0, 0.0
    small = sw.quantize_int8(model, [images], per_channel=per_channel)
    assert bool((small.integers["0.weight"][1] == 0).all())
    assert not small.integers["3.weight"].any()
    found = small.agreement(model, [images])
    assert found.relative < 0.01
    first = sw.quantize_int8(model[:3], [images], per_channel=per_channel)
    constant = first(images)[:, 1]
    assert float((constant - model[:3].eval()(images)[:, 1].detach()).abs().max()) < 0.02
