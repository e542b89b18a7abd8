"""Networks on disk: what was saved comes back, and what was altered does not."""

from __future__ import annotations

import copy
import hashlib
import inspect
import io
import json
import math
import subprocess
import sys
import types
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sparsewood.errors import FileFormatError, OutputError, SparsewoodError
from sparsewood.shrinking import planfile
from sparsewood.shrinking.cut import cut, named_tensors
from sparsewood.shrinking.files import (
    PLAN,
    WEIGHTS,
    attach,
    attached,
    fingerprint,
    from_json,
    load,
    save,
    to_json,
)
from sparsewood.shrinking.plan import Edit, Scaling, ShrinkPlan
from sparsewood.shrinking.shrink import shrink

RoomFor = Callable[[int], AbstractContextManager[None]]
KEPT = torch.tensor([0, 1, 2, 5, 7])
HALF = torch.tensor([0, 1, 2])
NAMES = ("conv.weight", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var", "ones")


class Network(nn.Module):
    """A tie, a buffer outside the state, sizes in attributes, tuples, lists and objects, and a layer without bias."""

    def __init__(self, width: int = 8, name: str = "small") -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, 6, bias=False)
        self.out = nn.Linear(6, 6)
        self.again = nn.Linear(6, 6)
        self.again.weight = self.out.weight
        self.register_buffer("ones", torch.ones(width), persistent=False)
        self.sizes = [2, (width, 4)]
        self.settings = types.SimpleNamespace(width=width, ratio=0.5, name=name)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x))) * self.ones[:, None, None]
        x = x.mean((2, 3)).reshape(-1, self.settings.width).reshape(-1, self.sizes[1][0])
        return self.again(self.out(self.head(x)))


def plan_of(model: nn.Module, *, bias: bool = True) -> ShrinkPlan:
    return ShrinkPlan(
        model="test.Network",
        shapes={name: tuple(tensor.shape) for name, tensor in named_tensors(model).items()},
        kept={**{name: {0: KEPT} for name in NAMES}, "head.weight": {1: KEPT}},
        edits=(
            Edit("conv", "out_channels", (), 8, 5),
            Edit("norm", "num_features", (), 8, 5),
            Edit("head", "in_features", (), 8, 5),
            Edit("", "settings", ("width",), 8, 5),
            Edit("", "sizes", (1, 0), 8, 5),
        ),
        added=("head.bias",) if bias else (),
        source=fingerprint(model),
        steps=({"sparsity": 0.375, "units": {"conv": [5, 8]}, "budget": None},),
        scalings=(Scaling("norm.weight", 0, torch.tensor([0, 1, 4]), 1.25, 1.0), Scaling("head.weight", 0, HALF, 0.5)),
    )


def small_network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = Network()
    plan = plan_of(model)
    cut(model, plan)
    model.head.bias.data.normal_()
    model.norm.running_var.uniform_(0.5, 2)
    attach(model, plan)
    return model.eval()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save(small_network(), tmp_path / "network")
    return tmp_path / "network"


def inputs() -> Tensor:
    return torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(3))


def equal(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and torch.equal(first[name], second[name]) for name in first
    )


def rewrite(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Alter the plan and make all checksums right again."""
    data = json.loads((directory / PLAN).read_text())
    change(data)
    data["weights"] = hashlib.sha256((directory / WEIGHTS).read_bytes()).hexdigest()
    data["sha256"] = planfile.digest(data)
    (directory / PLAN).write_text(planfile.render(data))


# ---------------------------------------------------------------- round trips


def test_what_was_saved_comes_back(saved: Path) -> None:
    fresh = Network()
    before = copy.deepcopy(fresh.state_dict())
    loaded = load(saved, model=fresh).eval()
    small = small_network()
    assert equal(loaded, small)
    assert torch.equal(loaded(inputs()), small(inputs()))
    assert (loaded.conv.out_channels, loaded.sizes, loaded.settings.width) == (5, [2, (5, 4)], 5)
    assert loaded.again.weight is loaded.out.weight
    assert loaded.ones.shape == (5,)
    assert type(loaded) is Network
    assert loaded is not fresh
    assert (fresh.conv.out_channels, fresh.sizes, fresh.settings.width) == (8, [2, (8, 4)], 8)
    assert all(torch.equal(before[name], tensor) for name, tensor in fresh.state_dict().items())
    assert attached(fresh) is None
    assert to_json(attached(loaded)) == to_json(attached(small))


def test_it_comes_back_in_another_process(saved: Path, tmp_path: Path) -> None:
    torch.save(small_network()(inputs()), tmp_path / "expected.pt")
    torch.save(inputs(), tmp_path / "inputs.pt")
    program = "\n".join(
        [
            "import sys, types, torch",
            "from torch import Tensor, nn",
            "from sparsewood.shrinking.files import load",
            inspect.getsource(Network),
            "directory, inputs, expected = sys.argv[1:]",
            "network = load(directory, model=Network()).eval()",
            "print(torch.equal(network(torch.load(inputs)), torch.load(expected)))",
        ]
    )
    arguments = [sys.executable, "-c", program, saved, tmp_path / "inputs.pt", tmp_path / "expected.pt"]
    ran = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=120)
    assert ran.stdout.strip() == "True", ran.stderr


def test_a_pair_of_network_and_plan_is_saved_as_it_is(tmp_path: Path) -> None:
    small = small_network()
    pair = types.SimpleNamespace(model=small, plan=attached(small))
    del small.__dict__["_sparsewood_plan"]
    assert attached(small) is None
    save(pair, tmp_path)
    assert equal(load(tmp_path, model=Network()), small)


def test_the_plan_survives_copies_and_pickles() -> None:
    small = small_network()
    stream = io.BytesIO()
    torch.save(small, stream)
    stream.seek(0)
    for other in (copy.deepcopy(small), torch.load(stream, weights_only=False)):
        assert to_json(attached(other)) == to_json(attached(small))
    assert type(vars(small)["_sparsewood_plan"]) is str


def test_a_network_that_never_shrank_has_an_empty_plan(tmp_path: Path) -> None:
    model = Network()
    save(model, tmp_path)
    data = json.loads((tmp_path / PLAN).read_text())
    assert (data["kept"], data["edits"], data["steps"]) == ({}, [], [])
    assert equal(load(tmp_path, model=Network()), model)


def test_training_goes_on_and_is_saved_again(saved: Path, tmp_path: Path) -> None:
    loaded = load(saved, model=Network()).train()
    loaded(inputs()).sum().backward()
    torch.optim.SGD(loaded.parameters(), lr=0.1).step()
    save(loaded, saved)
    assert equal(load(saved, model=Network()), loaded)
    save(loaded, tmp_path / "other")
    assert (saved / WEIGHTS).read_bytes() == (tmp_path / "other" / WEIGHTS).read_bytes()
    assert (saved / PLAN).read_bytes() == (tmp_path / "other" / PLAN).read_bytes()


def test_a_tensor_with_several_names_is_stored_once(saved: Path) -> None:
    data = json.loads((saved / PLAN).read_text())
    assert data["aliases"] == {"out.weight": "again.weight"}
    assert "out.weight" not in load_file(saved / WEIGHTS)
    assert (saved / WEIGHTS).stat().st_size < 4 * sum(p.numel() for p in small_network().parameters()) + 1500


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_dtype_of_the_file_comes_back(dtype: torch.dtype, tmp_path: Path) -> None:
    small = small_network().to(dtype)
    save(small, tmp_path)
    loaded = load(tmp_path, model=Network())
    assert equal(loaded, small)
    assert loaded.norm.num_batches_tracked.dtype is torch.int64
    assert loaded.again.weight is loaded.out.weight
    assert loaded.ones.dtype is torch.float32


def test_memory_formats_modes_and_gradients_are_those_of_the_fresh_network(tmp_path: Path) -> None:
    small = small_network().to(memory_format=torch.channels_last)
    save(small, tmp_path)
    fresh = Network().to(memory_format=torch.channels_last)
    fresh.conv.weight.requires_grad_(False)
    loaded = load(tmp_path, model=fresh)
    assert equal(loaded, small)
    assert loaded.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert [p.requires_grad for p in loaded.parameters()] == [False] + [True] * 7
    assert loaded.training


def test_views_of_one_memory_are_saved_with_their_values(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False))
    model[1].weight.data = model[0].weight.data[:2]
    save(model, tmp_path)
    assert load_file(tmp_path / WEIGHTS).keys() == {"0.weight", "1.weight"}
    fresh = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False))
    assert equal(load(tmp_path, model=fresh), model)


class Lazily(nn.Module):
    """Views that are conjugated and negated when they are read; of the same memory and layout as what they view."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.register_buffer("plain", values)
        self.register_buffer("conjugate", values.conj())
        self.register_buffer("negative", values.conj().imag)
        self.register_buffer("positive", values.imag)


def test_conjugates_and_negatives_are_saved_with_their_values(tmp_path: Path) -> None:
    model = Lazily(torch.tensor([1 + 2j, 3 - 4j]))
    save(model, tmp_path)
    assert {name: tensor.tolist() for name, tensor in load_file(tmp_path / WEIGHTS).items()} == {
        "plain": [1 + 2j, 3 - 4j],
        "conjugate": [1 - 2j, 3 + 4j],
        "negative": [-2.0, 4.0],
        "positive": [2.0, -4.0],
    }
    assert equal(load(tmp_path, model=Lazily(torch.zeros(2, dtype=torch.complex64))), model)
    apart = copy.deepcopy(Lazily(torch.zeros(2, dtype=torch.complex64)))
    assert equal(load(tmp_path, model=apart), model)


class Versioned(nn.Module):
    """A module that reads a state of version 2 only, as it is told by `_metadata`."""

    _version = 2

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(3))

    def _load_from_state_dict(self, state: Any, prefix: str, local_metadata: Any, *rest: Any) -> None:
        if local_metadata.get("version") != 2:
            raise ValueError(f"version should be 2 instead of {local_metadata.get('version')}")
        super()._load_from_state_dict(state, prefix, local_metadata, *rest)


def test_modules_are_told_their_version(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 3), Versioned())
    save(model, tmp_path)
    assert equal(load(tmp_path, model=nn.Sequential(nn.Linear(2, 3), Versioned())), model)


class Spread(nn.Module):
    """A buffer whose entries share memory, which no values can be copied into."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("spread", torch.ones(4, 1).expand(4, 4))


class Picky(nn.Linear):
    """A module that raises an error of its own when it is filled."""

    def _load_from_state_dict(self, *_: Any) -> None:
        raise KeyError("nothing is good enough")


@pytest.mark.parametrize(
    ("build", "reason"), [(Spread, "more than one element"), (lambda: Picky(2, 2), "nothing is good enough")]
)
def test_what_cannot_be_filled_is_refused_with_the_file(
    build: Callable[[], nn.Module], reason: str, tmp_path: Path
) -> None:
    save(build(), tmp_path)
    with pytest.raises(SparsewoodError, match=reason) as caught:
        load(tmp_path, model=build())
    assert str(tmp_path / WEIGHTS) in str(caught.value)
    assert type(build()).__name__ in str(caught.value)
    assert "\n" not in str(caught.value)


def test_empty_tensors_and_nan_come_back(tmp_path: Path) -> None:
    model = nn.Module()
    model.register_buffer("none", torch.zeros(0, 3))
    model.register_buffer("nothing", torch.zeros(0, 3))
    model.register_buffer("odd", torch.tensor([float("nan"), float("inf"), -0.0]))
    save(model, tmp_path)
    fresh = copy.deepcopy(model)
    fresh.odd.zero_()
    loaded = load(tmp_path, model=fresh)
    assert torch.equal(loaded.odd.view(torch.int32), model.odd.view(torch.int32))
    assert loaded.none.shape == (0, 3)


def test_only_dense_tensors_with_values_can_be_saved(tmp_path: Path) -> None:
    with pytest.raises(SparsewoodError, match="UninitializedParameter"):
        save(nn.LazyLinear(3), tmp_path)
    with torch.device("meta"):
        meta = Network()
    with pytest.raises(SparsewoodError, match="on meta"):
        save(meta, tmp_path)
    with pytest.raises(SparsewoodError, match="complex128"):
        save(nn.Linear(1, 1, dtype=torch.complex128), tmp_path)
    with pytest.raises(SparsewoodError, match="Got dict"):
        save({"model": 1}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_network_that_its_plan_does_not_leave_is_not_saved(tmp_path: Path) -> None:
    small = small_network()
    small.head = nn.Linear(5, 7)
    with pytest.raises(SparsewoodError, match=r"head\.weight: expected \[6, 5\], got \[7, 5\]"):
        save(small, tmp_path)


def test_the_fingerprint_says_which_values_a_plan_came_from() -> None:
    model = Network()
    assert fingerprint(model) == fingerprint(copy.deepcopy(model)) == plan_of(model).source
    assert fingerprint(model) != fingerprint(Network())


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, 16), nn.Linear(16, 3)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(self.attention(x, x, x)[0])


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.LSTM(16, 8, num_layers=2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x)[0])


@pytest.mark.parametrize("build", [Attention, Recurrent])
def test_what_shrank_twice_comes_back(build: Callable[[], nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 16)
    small: Any = build().eval()
    for count in (1, 2):
        small = shrink(small, x, 0.3, attention="head_dims").model
        save(small, tmp_path)
        loaded = load(tmp_path, model=build()).eval()
        assert equal(loaded, small)
        assert torch.equal(loaded(x), small(x))
        assert len(attached(loaded).steps) == count
    assert bool(attached(small).replaced) == (build is Attention)
    assert sum(p.numel() for p in small.parameters()) < 0.7 * sum(p.numel() for p in build().parameters())


# ---------------------------------------------------------------- writing


def test_without_room_the_last_good_network_stays(saved: Path, room_for: RoomFor) -> None:
    large = nn.Linear(100, 100)
    with room_for(8000), pytest.raises(OutputError, match="Cannot write file"):
        save(large, saved)
    assert equal(load(saved, model=Network()), small_network())
    assert sorted(entry.name for entry in saved.iterdir()) == [WEIGHTS, PLAN]


def test_a_place_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot write to directory"):
        save(nn.Linear(1, 1), tmp_path / "file")


def test_a_mixed_pair_is_refused(saved: Path, tmp_path: Path) -> None:
    save(small_network(1), tmp_path / "other")
    (tmp_path / "other" / WEIGHTS).replace(saved / WEIGHTS)
    with pytest.raises(FileFormatError, match="of another network"):
        load(saved, model=Network())


# ---------------------------------------------------------------- damaged files


@pytest.mark.parametrize("name", [WEIGHTS, PLAN])
@pytest.mark.parametrize("flip", [0x01, 0x20])
def test_every_altered_byte_is_found(saved: Path, name: str, flip: int) -> None:
    content, fresh = (saved / name).read_bytes(), Network()
    for where in [*range(0, len(content), 97), len(content) - 1]:
        altered = bytearray(content)
        altered[where] ^= flip
        (saved / name).write_bytes(altered)
        with pytest.raises(FileFormatError, match=name):
            load(saved, model=fresh)


@pytest.mark.parametrize("name", [WEIGHTS, PLAN])
def test_truncated_and_lengthened_files_are_found(saved: Path, name: str) -> None:
    content, fresh = (saved / name).read_bytes(), Network()
    for end in [0, 1, 7, 100, len(content) // 2, len(content) - 1]:
        (saved / name).write_bytes(content[:end])
        with pytest.raises(FileFormatError, match=name):
            load(saved, model=fresh)
    (saved / name).write_bytes(content + b"\n")
    with pytest.raises(FileFormatError, match=name):
        load(saved, model=fresh)


def test_missing_files_are_named(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(tmp_path / "nowhere", model=Network())
    (saved / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match=r"has no model\.safetensors"):
        load(saved, model=Network())


@pytest.mark.parametrize("version", [0, 2, "1", 1.0, True, None])
def test_other_versions_are_refused(saved: Path, version: Any) -> None:
    rewrite(saved, lambda data: data.update(version=version))
    with pytest.raises(FileFormatError, match="format version"):
        load(saved, model=Network())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"format": NaN}',
        b'{"format": ' + b"9" * 5000 + b"}",
        b'{"a": 1e999, "format": "sparsewood plan", "version": 1}',
        b'{"a": "\\ud800", "format": "sparsewood plan", "version": 1}',
    ],
    ids=["empty", "null", "list", "object", "bytes", "deep", "NaN", "long", "endless", "half a character"],
)
def test_what_is_no_plan_is_refused(saved: Path, content: bytes) -> None:
    (saved / PLAN).write_bytes(content)
    with pytest.raises(FileFormatError, match=r"plan\.json"):
        load(saved, model=Network())


def change(edit: int = 0, **fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda data: data["edits"][edit].update(fields)


def scale(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda data: data["scalings"][0].update(fields)


def keep(name: str, axis: str, text: Any) -> Callable[[dict[str, Any]], object]:
    return lambda data: data["kept"].setdefault(name, {}).update({axis: text})


HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "descending": (keep("conv.weight", "0", "5,1"), "ascending"),
    "twice": (keep("conv.weight", "0", "1,1"), "ascending"),
    "overlapping": (keep("conv.weight", "0", "0-3,2-4"), "ascending"),
    "reversed": (keep("conv.weight", "0", "3-1"), "ascending"),
    "two spellings": (keep("conv.weight", "0", "0-1,2"), "ascending"),
    "zeros in front": (keep("conv.weight", "0", "00"), "ascending"),
    "negative": (keep("conv.weight", "0", "-1"), "'kept' is damaged"),
    "beyond the end": (keep("conv.weight", "0", "0-8"), "below 8"),
    "without end": (keep("conv.weight", "0", "0-999999999999999"), "below 8"),
    "a long number": (keep("conv.weight", "0", "9" * 5000), "'kept' is damaged"),
    "a list": (keep("conv.weight", "0", [0, 1]), "'kept' is damaged"),
    "Arabic digits": (keep("conv.weight", "0", "\u0661"), "'kept' is damaged"),
    "no axis": (keep("conv.weight", "4", "0"), "no axis"),
    "negative axis": (keep("conv.weight", "-1", "0"), "no axis"),
    "no tensor": (keep("nowhere", "0", "0"), "no shape"),
    "a huge shape": (lambda d: d["shapes"].update({"conv.weight": [2**62, 3, 3, 3]}), "expected"),
    "an impossible shape": (lambda d: d["shapes"].update({"conv.weight": [2**63]}), "'shapes' is damaged"),
    "a shape of fractions": (lambda d: d["shapes"].update({"conv.weight": [8.0, 3, 3, 3]}), "'shapes' is damaged"),
    "a negative shape": (lambda d: d["shapes"].update({"conv.weight": [-8, 3, 3, 3]}), "'shapes' is damaged"),
    "edits that are none": (lambda d: d.update(edits={}), "'edits' is damaged"),
    "an edit without path": (lambda d: d["edits"][0].pop("path"), "'edits' is damaged"),
    "an edit twice": (lambda d: d["edits"].append(d["edits"][0]), "'edits' is damaged"),
    "a class": (change(name="__class__"), "which no plan changes"),
    "a dunder in a path": (change(1, path=["__dict__", "width"]), "which no plan changes"),
    "hooks": (change(name="_forward_hooks", path=["0"]), "which no plan changes"),
    "submodules": (change(name="_modules", path=["conv", "stride"]), "which no plan changes"),
    "mode": (change(name="training", before=True, after=False), "which no plan changes"),
    "a module": (change(module="nowhere"), "no module 'nowhere'"),
    "an attribute": (change(name="nowhere"), "has no value"),
    "a step": (change(1, name="sizes", path=[7]), "has no value"),
    "a step by name in a list": (change(1, name="sizes", path=["append"]), "has no value"),
    "a negative step": (change(1, path=[-1]), "'edits' is damaged"),
    "another value before": (change(before=9), "made from a network in which"),
    "another type before": (change(before=8.0), "made from a network in which"),
    "a text for a number": (change(after="5"), "another kind of value"),
    "a truth value for a number": (change(after=True), "another kind of value"),
    "a list for a number": (change(after=[5]), "another kind of value"),
    "an object": (change(after={"a": 1}), "'edits' is damaged"),
    "a huge number": (change(after=10**30), "'edits' is damaged"),
    "a class of its own": (lambda d: d.update(replaced={"conv": "os.system"}), "does not know"),
    "no such attention": (lambda d: d.update(replaced={"conv": "MultiheadAttention"}), "MultiheadAttention"),
    "nowhere replaced": (lambda d: d.update(replaced={"nowhere": "MultiheadAttention"}), "no module 'nowhere'"),
    "a bias that is there": (lambda d: d.update(added=["out.bias"]), "no place for a bias"),
    "a bias without weight": (lambda d: d.update(added=["settings.bias"]), "no module 'settings'"),
    "a buffer for a bias": (lambda d: d.update(added=["conv.stride"]), "no place for a bias"),
    "biases twice": (lambda d: d.update(added=["conv.bias", "conv.bias"]), "'added' is damaged"),
    "steps of texts": (lambda d: d.update(steps=["x"]), "'steps' is damaged"),
    "a source that is no hash": (lambda d: d.update(source="../.."), "'source' is damaged"),
    "no source": (lambda d: d.pop("source"), "no field 'source'"),
    "an alias of an alias": (lambda d: d["aliases"].update(x="out.weight"), "'aliases' does not fit"),
    "an alias of a tensor": (lambda d: d["aliases"].update({"out.bias": "again.bias"}), "'aliases' does not fit"),
    "aliases of numbers": (lambda d: d.update(aliases={"x": 1}), "'aliases' is damaged"),
    "another name": (lambda d: d["aliases"].update(x="again.weight"), r"different tensors: \['x'\]"),
    "another format": (lambda d: d.update(format="pickle"), "no field 'format'"),
    "too deep": (lambda d: d.update(steps=[json.loads('{"a":' * 50 + "1" + "}" * 50)]), "levels"),
    "scalings that are none": (lambda d: d.update(scalings={}), "'scalings' is damaged"),
    "no scalings": (lambda d: d.pop("scalings"), "no field 'scalings'"),
    "a scaling without factor": (lambda d: d["scalings"][0].pop("factor"), "'scalings' is damaged"),
    "a factor of 0": (scale(factor=0.0), "'scalings' is damaged"),
    "a factor below 0": (scale(factor=-2.0), "'scalings' is damaged"),
    "a whole factor": (scale(factor=2), "'scalings' is damaged"),
    "an offset of text": (scale(offset="1"), "'scalings' is damaged"),
    "a scaled axis": (scale(axis=1), "no axis 1"),
    "a negative scaled axis": (scale(axis=-1), "'scalings' is damaged"),
    "scaled positions that went": (scale(positions="0-5"), "below 5"),
    "scaled in no order": (scale(positions="2,1"), "ascending"),
    "a scaled nothing": (scale(param="nowhere"), "no shape"),
    "a scaled buffer": (scale(param="norm.running_mean"), "no real parameter"),
    "scaled too often": (lambda d: d.update(_often(d)), "scales more than"),
    "fewer positions": (keep("norm.bias", "0", "0"), r"'norm\.bias' has shape"),
}


def _often(data: dict[str, Any]) -> dict[str, Any]:
    """Few bytes, and more positions than memory should hold."""
    one = {"param": "much", "axis": 0, "positions": f"0-{2**24}", "factor": 2.0, "offset": 0.0}
    return {"shapes": {**data["shapes"], "much": [2**25]}, "scalings": [one] * 8}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_plans_are_refused_before_anything_is_done(saved: Path, name: str) -> None:
    alter, message = HOSTILE[name]
    rewrite(saved, alter)
    fresh = Network()
    before = repr(vars(fresh.settings)), fresh.conv.out_channels, fingerprint(fresh), type(fresh.conv)
    with pytest.raises(SparsewoodError, match=message) as caught:
        load(saved, model=fresh)
    assert len(str(caught.value)) < 1000
    assert before == (repr(vars(fresh.settings)), fresh.conv.out_channels, fingerprint(fresh), type(fresh.conv))


def test_values_of_functions_and_classes_are_not_reached(saved: Path) -> None:
    def helper() -> None: ...

    helper.width = 8  # pyright: ignore[reportFunctionMemberAccess]
    fresh = Network()
    fresh.helper = helper
    rewrite(saved, change(1, name="helper", path=["width"]))
    with pytest.raises(FileFormatError, match="holds no settings"):
        load(saved, model=fresh)
    assert vars(helper) == {"width": 8}


def test_weights_that_are_no_safetensors_file_are_refused(saved: Path) -> None:
    for content in (b"", b"x" * 100, (2**40).to_bytes(8, "little") + b"{}"):
        (saved / WEIGHTS).write_bytes(content)
        rewrite(saved, lambda data: data)
        with pytest.raises(FileFormatError, match="not a complete safetensors file"):
            load(saved, model=Network())


def test_tensors_of_other_shapes_and_types_are_refused(saved: Path) -> None:
    tensors = load_file(saved / WEIGHTS)
    save_file({**tensors, "out.bias": torch.zeros(7)}, saved / WEIGHTS)
    rewrite(saved, lambda data: data)
    with pytest.raises(FileFormatError, match=r"'out\.bias' has shape \[7\]"):
        load(saved, model=Network())
    save_file({**tensors, "out.bias": torch.zeros(6, dtype=torch.int64)}, saved / WEIGHTS)
    rewrite(saved, lambda data: data)
    with pytest.raises(SparsewoodError, match=r"'out\.bias' is torch\.int64"):
        load(saved, model=Network())


# ---------------------------------------------------------------- the wrong network


def test_another_architecture_is_refused_with_the_first_differences(saved: Path) -> None:
    with pytest.raises(
        SparsewoodError, match=r"conv\.weight: expected \[8, 3, 3, 3\], got \[16, 3, 3, 3\].* and 3 more"
    ):
        load(saved, model=Network(16))
    with pytest.raises(SparsewoodError, match=r"conv\.weight: expected \[8, 3, 3, 3\], got no such tensor"):
        load(saved, model=nn.Linear(2, 2))
    with pytest.raises(SparsewoodError, match=r"expected \[8, 3, 3, 3\], got \[5, 3, 3, 3\]"):
        load(saved, model=small_network())
    with pytest.raises(SparsewoodError, match=r"torch\.nn\.Module"):
        load(saved, model=Network)  # pyright: ignore[reportArgumentType]


def test_a_class_of_another_name_with_the_same_tensors_is_fine(saved: Path) -> None:
    class Renamed(Network):
        pass

    assert equal(load(saved, model=Renamed()), small_network())


def test_other_settings_are_refused(saved: Path) -> None:
    fresh = Network()
    fresh.settings.width = 7
    with pytest.raises(SparsewoodError, match=r"settings\.width = 7"):
        load(saved, model=fresh)


def test_a_tie_that_the_saved_network_had_not_is_refused(tmp_path: Path) -> None:
    save(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), tmp_path)
    fresh = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    fresh[1].weight = fresh[0].weight
    with pytest.raises(SparsewoodError, match="one tensor in Sequential"):
        load(tmp_path, model=fresh)


def test_a_network_without_values_is_refused(saved: Path) -> None:
    with torch.device("meta"):
        fresh = Network()
    with pytest.raises(SparsewoodError, match="on meta"):
        load(saved, model=fresh)


# ---------------------------------------------------------------- plans as text


def test_a_plan_is_text_and_back() -> None:
    plan = plan_of(Network())
    again = from_json(to_json(plan))
    assert to_json(again) == to_json(plan)
    assert again.edits == tuple(sorted(plan.edits, key=lambda e: (e.module, e.name)))
    assert {name: axes.keys() for name, axes in again.kept.items()} == {
        name: axes.keys() for name, axes in plan.kept.items()
    }
    assert torch.equal(again.kept["head.weight"][1], KEPT)
    assert again.kept["head.weight"][1].dtype is torch.int64
    assert (again.shapes, again.added, again.source) == (plan.shapes, plan.added, plan.source)
    assert [(one.param, one.axis, one.positions.tolist(), one.factor, one.offset) for one in again.scalings] == [
        ("norm.weight", 0, [0, 1, 4], 1.25, 1.0),
        ("head.weight", 0, [0, 1, 2], 0.5, 0.0),
    ]
    assert json.loads(to_json(plan))["kept"]["head.weight"] == {"1": "0-2,5,7"}


@given(st.sets(st.integers(0, 40)))
def test_positions_are_ranges_and_back(positions: set[int]) -> None:
    kept = torch.tensor(sorted(positions), dtype=torch.int64)
    plan = ShrinkPlan("M", {"w": (41,)}, {"w": {0: kept}})
    again = from_json(to_json(plan)).kept["w"][0]
    assert torch.equal(again, kept)
    assert again.dtype is torch.int64


def test_values_of_edits_keep_their_types() -> None:
    values = [(8, 4), (0.5, 0.25), (True, False), (None, 0.125), ("a", "b"), ((8, 2), (4, 2)), (0.5, None)]
    edits = tuple(Edit("m", f"x{i}", (), before, after) for i, (before, after) in enumerate(values))
    again = from_json(to_json(ShrinkPlan("M", {}, {}, edits)))
    assert again.edits == edits
    assert [type(edit.after) for edit in again.edits] == [type(after) for _, after in values]


@pytest.mark.parametrize("value", [math.nan, math.inf, {1: 2}, object()], ids=["nan", "inf", "keys", "object"])
def test_what_json_cannot_hold_is_refused(value: Any) -> None:
    with pytest.raises(SparsewoodError, match="A plan holds"):
        to_json(ShrinkPlan("M", {}, {}, steps=({"value": value},)))


def test_a_plan_that_could_not_be_read_is_not_written() -> None:
    with pytest.raises(SparsewoodError, match=r"cannot be written: it changes 'm\.x' from 8 to 'a'"):
        planfile.to_dict(ShrinkPlan("M", {}, {}, (Edit("m", "x", (), 8, "a"),)))


def test_positions_of_biases_that_are_made_are_kept() -> None:
    plan = ShrinkPlan("M", {"a.weight": (4, 3)}, {"a.bias": {0: torch.tensor([0, 3])}}, added=("a.bias",))
    assert from_json(to_json(plan)).kept["a.bias"][0].tolist() == [0, 3]


def test_positions_that_are_none_are_refused() -> None:
    with pytest.raises(SparsewoodError, match="ascending"):
        to_json(ShrinkPlan("M", {"w": (4,)}, {"w": {0: torch.tensor([2, 1])}}))


@pytest.mark.parametrize("text", ["", "{}", "null", '{"format": "sparsewood plan", "version": 1}'])
def test_texts_that_are_no_plans_are_refused(text: str) -> None:
    with pytest.raises(FileFormatError, match="no plan of this library"):
        from_json(text)


# ---------------------------------------------------------------- the document


def test_the_document_names_every_field(saved: Path) -> None:
    document = (Path(__file__).parents[2] / "docs" / "format.md").read_text()
    data = json.loads((saved / PLAN).read_text())
    for key in data:
        assert f"| `{key}` |" in document
    assert f"| `version` | {planfile.VERSION}." in document
    for name in (WEIGHTS, PLAN, planfile.FORMAT):
        assert name in document
    example = document.partition("```json\n")[2].partition("```")[0]
    assert planfile.render(planfile.read(example.encode())) == example
    plan = from_json(
        json.dumps({k: v for k, v in json.loads(example).items() if k not in ("aliases", "sha256", "weights")})
    )
    assert plan.kept["0.weight"][0].tolist() == [0, 1, 3, 7]
    small = shrink(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), torch.ones(1, 3), 0.5)
    (step,) = small.plan.steps
    assert plan.steps[0] == step
