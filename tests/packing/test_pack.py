"""Whole networks in one file, and back bit by bit."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsewood as sw
from sparsewood.errors import OutputError, SparsewoodError
from sparsewood.models.sources import load_model
from sparsewood.packing import container
from sparsewood.packing.report import PackedTensor
from sparsewood.packing.words import DTYPES
from sparsewood.shrinking.restoring import attached
from sparsewood.testing.networks import random_networks

RoomFor = Callable[[int], AbstractContextManager[None]]
Build = Callable[..., Any]
Same = Callable[[nn.Module, nn.Module], bool]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "network.swp"


def pruned(model: nn.Module, sparsity: float, values: int | None = None) -> nn.Module:
    """The model with zeros, and with the weights that are left rounded to quantiles of theirs."""
    sw.apply_masks(model, sw.prune(model, sw.Magnitude(), sparsity=sparsity))
    for tensor in model.parameters() if values else ():
        if tensor.dim() > 1:
            kept = tensor.data[tensor.data != 0]
            centres = torch.quantile(kept, (torch.arange(values) + 0.5) / values)
            nearest = torch.bucketize(kept, (centres[1:] + centres[:-1]) / 2)
            tensor.data[tensor.data != 0] = centres[nearest]
    return model


# ---------------------------------------------------------------- there and back


def test_tensors_of_every_kind_come_back(path: Path, everything: Build, same: Same) -> None:
    """Ties, BatchNorm, an LSTM, half precision, truth values, complex numbers, NaN, no entries, other layouts."""
    model, fresh = everything(), everything(None)
    before = copy.deepcopy(fresh.state_dict())
    report = sw.pack(model, path)
    found = sw.unpack(path, model=fresh)
    assert same(found, model)
    assert found.out.weight is found.embed.weight
    assert found.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found.outside, torch.ones(2))
    assert all(torch.equal(before[name], tensor) for name, tensor in fresh.state_dict().items())
    assert report.aliases == 1
    assert len(report.tensors) == len(model.state_dict()) - 1
    assert report.bytes == path.stat().st_size


def test_the_network_that_is_packed_stays_as_it_was(path: Path, everything: Build, same: Same) -> None:
    model = everything()
    sw.pack(model, path)
    assert same(model, everything())


@pytest.mark.parametrize("name", ["small_conv", "lenet5_caffe", "lenet_300_100", "resnet_cifar", "row_rnn"])
@pytest.mark.parametrize("values", [None, 8])
def test_reference_models_come_back(name: str, values: int | None, path: Path, same: Same) -> None:
    model = pruned(load_model(name), 0.8, values)
    report = sw.pack(model, path)
    assert same(sw.unpack(path, model=load_model(name)), model)
    assert report.bytes == path.stat().st_size
    assert report.bytes < report.raw_bytes


@pytest.mark.slow
def test_the_file_computes_what_the_network_did_in_another_process(path: Path, tmp_path: Path) -> None:
    model = pruned(load_model("small_conv", generator=torch.Generator().manual_seed(0)), 0.9).eval()
    inputs = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    sw.pack(model, path)
    torch.save((inputs, model(inputs)), tmp_path / "expected.pt")
    program = (
        "import torch, sparsewood as sw\n"
        "from sparsewood.models.sources import load_model\n"
        f"model = sw.unpack({str(path)!r}, model=load_model('small_conv')).eval()\n"
        f"inputs, expected = torch.load({str(tmp_path / 'expected.pt')!r})\n"
        "torch.set_num_threads(1)\n"
        "assert torch.equal(model(inputs), expected)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_a_shrunk_network_comes_back_from_one_of_full_size(
    path: Path, small: Build, shrunk: Build, same: Same, tmp_path: Path
) -> None:
    """As from what `save` wrote: the plan is in the file."""
    result = shrunk()
    sw.pack(result, path)
    fresh = small()
    found = sw.unpack(path, model=fresh)
    assert found[0].out_features == 8
    assert same(found, result.model)
    assert attached(found) is not None
    sw.save(result, tmp_path / "saved")
    assert same(found, sw.load(tmp_path / "saved", model=small()))
    assert fresh[0].out_features == 16
    # What was unpacked can go on: it knows its plan.
    again = sw.shrink(found, torch.ones(1, 4), sparsity=0.5)
    sw.pack(again.model, path)
    assert sw.unpack(path, model=small())[0].out_features == 4


def test_a_shrunk_network_whose_biases_were_made(path: Path, same: Same) -> None:
    """What removed units add goes to a bias that the full network does not have."""

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 16), nn.Sigmoid(), nn.Linear(16, 3, bias=False))

    model = build()
    model[0].weight.data[::2] = 0
    result = sw.shrink(model, torch.ones(1, 4), sparsity=0.5)
    assert result.plan.added == ("2.bias",)
    sw.pack(result, path)
    found = sw.unpack(path, model=build())
    assert same(found, result.model)
    assert found[2].bias is not None


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_comes_back(name: str, path: Path, same: Same) -> None:
    """All that a packed file is said to hold, with its number of entries that are not zero in the report."""
    dtype = DTYPES[name]

    def build(ones: int) -> nn.Module:
        raw = torch.zeros(6, dtype.itemsize, dtype=torch.uint8)
        raw[:ones] = 1
        model = nn.Module()
        model.register_buffer("values", raw.view(dtype).reshape(2, 3))
        return model

    report = sw.pack(build(4), path)
    assert same(sw.unpack(path, model=build(0)), build(4))
    assert report.tensors[0].dtype == name
    assert report.tensors[0].nonzeros == (
        6 if name == "float8_e8m0fnu" else 4
    )  # which has no zero: its bits 0 are 2^-127


def test_other_dtypes_than_those_of_the_fresh_network(path: Path, small: Build, same: Same) -> None:
    """The file's: a network that was packed in half precision comes back in it."""
    model = small().bfloat16()
    sw.pack(model, path)
    found = sw.unpack(path, model=small())
    assert same(found, model)
    assert found[0].weight.dtype is torch.bfloat16


def test_equal_networks_equal_files(path: Path, everything: Build) -> None:
    sw.pack(everything(), path)
    content = path.read_bytes()
    sw.pack(everything(), path)
    assert path.read_bytes() == content


def test_packing_what_was_unpacked_gives_the_same_file(path: Path, shrunk: Build, small: Build) -> None:
    sw.pack(shrunk(), path)
    content = path.read_bytes()
    sw.pack(sw.unpack(path, model=small()), path)
    assert path.read_bytes() == content


@pytest.mark.slow
def test_random_networks_come_back(path: Path, same: Same) -> None:
    from hypothesis import given, settings

    @settings(max_examples=60)
    @given(random_networks())
    def check(drawn: tuple[nn.Module, Tensor]) -> None:
        model, _ = drawn
        report = sw.pack(model, path)
        fresh = copy.deepcopy(model)
        for tensor in fresh.state_dict().values():
            tensor.zero_()
        assert same(sw.unpack(path, model=fresh), model)
        assert report.bytes == path.stat().st_size

    check()


def test_mode_device_and_gradients_are_those_of_the_fresh_network(path: Path, small: Build) -> None:
    sw.pack(small().train(), path)
    fresh = small().eval()
    fresh[0].weight.requires_grad_(False)
    found = sw.unpack(path, model=fresh)
    assert not found.training
    assert [parameter.requires_grad for parameter in found.parameters()] == [False, True, True, True]


# ---------------------------------------------------------------- the report


def test_the_report_says_what_the_file_takes(path: Path) -> None:
    """[001-10, 001-13] The file's size exactly; the entropy of sparse, shared weights within 2 % of it."""
    model = pruned(load_model("lenet_300_100", generator=torch.Generator().manual_seed(0)), 0.9, 16)
    report = sw.pack(model, path)
    assert report.bytes == path.stat().st_size == report.header_bytes + sum(one.bytes for one in report.tensors)
    largest = max(report.tensors, key=lambda one: one.entries)
    assert largest.shape == (300, 784)
    assert largest.distinct == 17
    assert largest.scheme.endswith("codebook")
    assert largest.nonzeros == int(model.state_dict()[largest.name].count_nonzero())
    assert largest.predicted_bits <= 8 * largest.bytes <= 1.02 * largest.predicted_bits + 8 * 250
    assert report.raw_bytes == 4 * 266_610
    assert report.ratio == report.raw_bytes / report.bytes > 20
    assert report.predicted_bytes == pytest.approx(report.bytes, rel=0.05)


def test_shared_tensors_are_counted_once(path: Path) -> None:
    layer = nn.Linear(50, 50, bias=False)
    report = sw.pack(nn.Sequential(layer, nn.ReLU(), layer), path)
    assert report.raw_bytes == 10_000
    assert [one.name for one in report.tensors] == ["0.weight"]
    assert report.aliases == 1


def test_the_report_is_a_table(path: Path, small: Build) -> None:
    report = sw.pack(small(), path)
    lines = str(report).splitlines()
    assert lines[0].split() == [
        "tensor", "scheme", "entries", "non-zero", "distinct", "bits/entry", "predicted", "bytes", "raw", "ratio",
    ]  # fmt: skip
    assert [line.split()[0] for line in lines[1:]] == ["0.bias", "0.weight", "2.bias", "2.weight", "header", "all"]
    assert f"{report.bytes:,}" in lines[-1]
    assert repr(report) == f"PackReport(4 tensors, {report.raw_bytes:,} -> {report.bytes:,} bytes)"
    shorter = report.table(1).splitlines()
    assert [line.split()[0] for line in shorter[1:]] == ["0.weight", "3", "header", "all"]
    assert shorter[2].split()[1:4] == ["more", "tensors", "67"]
    with pytest.raises(SparsewoodError, match="most must be a whole number >= 1"):
        report.table(0)


def test_a_network_without_entries_has_a_report(path: Path) -> None:
    report = sw.pack(nn.ReLU(), path)
    assert str(report).splitlines()[-1].split()[0] == "all"
    assert report.bytes == path.stat().st_size
    assert not sw.unpack(path, model=nn.ReLU()).state_dict()
    assert PackedTensor("a", "float32", (0, 2), "empty", 0, 0, 0, 0, 0.0).entries == 0


# ---------------------------------------------------------------- what cannot be


@pytest.mark.parametrize("thing", [None, {}, 3, nn.Linear])
def test_other_things_than_networks_are_refused(thing: Any, path: Path) -> None:
    with pytest.raises(SparsewoodError, match="pack takes a network, or what shrink returned"):
        sw.pack(thing, path)
    with pytest.raises(SparsewoodError, match=r"must be a torch\.nn\.Module"):
        sw.unpack(path, model=thing)


def test_tensors_without_values_are_refused(path: Path) -> None:
    with pytest.raises(SparsewoodError, match=r"'weight', a Parameter on meta"):
        sw.pack(nn.Linear(2, 2, device="meta"), path)
    assert not path.exists()


def test_a_place_that_cannot_be_written_is_refused(path: Path, small: Build, room_for: RoomFor) -> None:
    path.mkdir()
    with pytest.raises(OutputError, match="no regular file"):
        sw.pack(small(), path)
    path.rmdir()
    path.write_bytes(b"before")
    with room_for(100), pytest.raises(OutputError, match="Cannot write"):
        sw.pack(small(), path)
    assert path.read_bytes() == b"before"
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_a_directory_is_made(tmp_path: Path, small: Build, same: Same) -> None:
    model = small()
    sw.pack(model, tmp_path / "a" / "b" / "network")
    assert same(sw.unpack(str(tmp_path / "a" / "b" / "network"), model=small()), model)


def test_a_file_that_is_not_there(tmp_path: Path, small: Build) -> None:
    with pytest.raises(FileNotFoundError, match=r"No packed network at .*nowhere"):
        sw.unpack(tmp_path / "nowhere", model=small())


def test_another_network_is_refused_with_names(path: Path, small: Build, shrunk: Build) -> None:
    sw.pack(small(), path)
    with pytest.raises(SparsewoodError, match=r"0\.weight: expected \[16, 4\], got \[8, 4\]"):
        sw.unpack(path, model=shrunk().model)
    with pytest.raises(SparsewoodError, match=r"2\.weight: expected \[3, 16\], got no such tensor"):
        sw.unpack(path, model=nn.Sequential(nn.Linear(4, 16)))
    fresh = small()
    fresh.register_buffer("steps", torch.tensor(0))
    with pytest.raises(SparsewoodError, match=r"steps: expected no such tensor, got \[\]"):
        sw.unpack(path, model=fresh)
    fresh = small()
    fresh[0].weight.data = fresh[0].weight.data.to(torch.complex64)
    with pytest.raises(
        SparsewoodError, match=r"'0\.weight' is torch\.float32 in .* and torch\.complex64 in Sequential"
    ):
        sw.unpack(path, model=fresh)


def test_a_tensor_that_is_no_part_of_the_state_is_named(path: Path, everything: Build) -> None:
    sw.pack(everything(), path)
    fresh = everything(None)
    fresh._non_persistent_buffers_set.add("ids")
    with pytest.raises(SparsewoodError, match=r"different tensors: \['ids'\]"):
        sw.unpack(path, model=fresh)


def test_ties_that_there_were_not_are_refused(path: Path) -> None:
    sw.pack(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), path)
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    with pytest.raises(SparsewoodError, match=r"'1\.weight' and '0\.weight' are one tensor"):
        sw.unpack(path, model=tied)


def test_what_reading_would_refuse_is_not_written(path: Path, small: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsewood.packing.api.most_header", lambda _: 10)
    with pytest.raises(SparsewoodError, match=r"cannot be packed: its header has \d+ bytes"):
        sw.pack(small(), path)
    assert not path.exists()


class Recording(nn.Linear):
    """Extra state is in what `state_dict` returns, and is no parameter or buffer."""

    def __init__(self, record: Tensor) -> None:
        super().__init__(4, 2)
        self.record = record

    def get_extra_state(self) -> Tensor:
        return self.record

    def set_extra_state(self, state: Tensor) -> None:
        self.record = state


def test_extra_state_that_is_larger_than_the_network_comes_back(path: Path, same: Same) -> None:
    record = torch.randint(-(2**62), 2**62, (300_000,), generator=torch.Generator().manual_seed(0))
    model = Recording(record)
    sw.pack(model, path)
    assert path.stat().st_size > container.most_bytes({"weight": (2, 4), "bias": (2,)})
    assert same(sw.unpack(path, model=Recording(torch.zeros_like(record))), model)


def test_a_file_that_would_be_too_large_to_read_is_not_written(
    path: Path, small: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparsewood.packing.api.most_bytes", lambda _: 10)
    with pytest.raises(SparsewoodError, match=r"cannot be packed: it has \d+ bytes.* at most 10"):
        sw.pack(small(), path)
    assert not path.exists()


def test_networks_without_shapes_are_not_filled(path: Path, small: Build) -> None:
    sw.pack(small(), path)
    with pytest.raises(SparsewoodError, match="UninitializedParameter"):
        sw.unpack(path, model=nn.LazyLinear(3))


def test_the_bounds_leave_room(everything: Build, path: Path) -> None:
    """For headers with every position of every axis by itself, and for tensors whose bits are random."""
    model = everything()
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    longest = sum(len(",".join(str(i) for i in range(0, size, 2))) for shape in shapes.values() for size in shape)
    assert container.most_header(shapes) > 2**20 + longest
    sw.pack(model, path)
    assert path.stat().st_size < container.most_bytes(shapes)
