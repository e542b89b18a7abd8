"""What people and programs read of a structure: the table, explanations, JSON, graph and picture."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sparsewood as sw
from sparsewood.structure.graphs import owner_of, to_json
from sparsewood.structure.structure import Barrier, Structure


class Block(nn.Module):
    """A residual block with two layers."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(self.norm(x))))


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


def residual(blocks: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 6), *(Block(6, 9) for _ in range(blocks)), nn.Linear(6, 2))


@pytest.fixture(scope="module")
def structure() -> Structure:
    return sw.trace(small(), torch.zeros(1, 3, 16, 16))


@pytest.fixture(scope="module")
def stream() -> Structure:
    return sw.trace(residual(), torch.zeros(1, 5))


# ---------------------------------------------------------------- the table


def test_the_table_of_a_small_network(structure: Structure) -> None:
    assert str(structure) == structure.summary()
    assert str(structure).splitlines() == [
        "1,570 parameters, 99.4 % of them in units that can be removed: 2 groups, 24 units; 208 k multiply-adds",
        "",
        "group  units  params    MACs  made at -> read at",
        "-----  -----  ------  ------  ------------------",
        "0          8     173  26,028  0.weight[0], 1.*[0] -> 3.weight[1]",
        "3         16      83  10,378  3.*[0] -> 6.weight[1]",
        "params, MACs: what goes with one unit alone; +3: 3 more axes; a leading dot: the module of the group's name",
        "",
        "What stays, by number of parameters, and why:",
        "  10  it is an output of the network",
    ]


def test_layers_that_are_alike_share_a_line(stream: Structure) -> None:
    lines = stream.summary().splitlines()
    (alike,) = [line for line in lines if line.startswith("*.up")]
    assert alike.split() == ["*.up", "x4", "9", "13", "12", "yes", ".up.*[0]", "->", ".down.weight[1]"]
    assert any(line.startswith("0 ") and " no " in line for line in lines)
    assert lines[-1] == "Not exact: in 0, removing a unit is not the same as setting it to zero: normalised over units."


def test_long_tables_are_cut(stream: Structure) -> None:
    assert "and 4 more groups with 36 units" in stream.summary(groups=1)
    assert "summary(groups=2), or --groups 2" in stream.summary(groups=1)
    for width in (80, 90):
        assert max(map(len, stream.summary(width=width).splitlines())) <= width


def test_two_groups_that_are_alike_share_a_line() -> None:
    lines = sw.trace(residual(2), torch.zeros(1, 5)).summary().splitlines()
    assert [line.split()[:2] for line in lines if line.startswith("*.up")] == [["*.up", "x2"]]


def test_coarse_units_say_how_many_positions_go_together(structure: Structure) -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.heads = nn.Linear(4, 12), nn.Linear(12, 2), 3

        def forward(self, x: Tensor) -> Tensor:
            blocks = self.one(x).view(1, self.heads, -1)
            return self.two((blocks * torch.softmax(blocks, -1)).flatten(1))

    text = sw.trace(Halves(), torch.zeros(1, 4)).summary()
    header, _, line = text.splitlines()[2:5]
    assert "each" in header.split()
    assert line.split()[:3] == ["one", "3", "x4"]
    assert "each: so many positions" in " ".join(text.split())
    assert "each" not in structure.summary()


def test_long_names_are_cut() -> None:
    deep: nn.Module = residual(1)
    for _ in range(9):
        deep = nn.Sequential(nn.ModuleDict({"rather_long": deep})["rather_long"])
        deep = nn.Sequential()
        deep.add_module("a_rather_long_name_of_a_part", residual(1))
    lines = sw.trace(deep, torch.zeros(1, 5)).summary().splitlines()
    assert max(map(len, lines[2:6])) <= 120
    assert any("axes" in line or "..." in line for line in lines)


def test_reasons_are_sorted_and_cut() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.out = nn.Linear(4, 30), nn.Linear(30, 20), nn.Linear(20, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.two(self.one(x).sort(-1).values).sort(-1).values)

    frozen = sw.trace(Odd(), torch.zeros(1, 4))
    lines = frozen.summary(reasons=1).splitlines()
    assert "Nothing can be removed." in lines
    first, advice, last = lines[-3:]
    numbers = [int(line.split()[0].replace(",", "")) for line in (first, last)]
    assert sum(numbers) == sum(p.numel() for p in Odd().parameters())
    assert "more reason" in last
    assert "summary(reasons=" in last
    assert "sort" in first
    assert advice.strip() == "-> nothing: a sort mixes its positions"


def test_long_reasons_go_on_below() -> None:
    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a_layer_with_a_long_name, self.two = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.a_layer_with_a_long_name(x).view(1, 2, 3).flatten(1))

    text = sw.trace(Written(), torch.zeros(1, 4)).summary(width=60)
    assert max(map(len, text.splitlines())) <= 60
    assert "..." not in text
    assert "its size 2 is written in the forward" in " ".join(text.split())
    assert "-> use -1 or an attribute of the module there" in " ".join(text.split())


def test_a_network_without_parameters() -> None:
    text = str(sw.trace(nn.ReLU(), torch.zeros(1, 4)))
    assert text == "Nothing to prune: the network has no parameters."


# ---------------------------------------------------------------- names


def test_whose_the_units_of_a_layer_are(stream: Structure) -> None:
    assert [group.name for group in stream.group_of("1.down.weight")] == ["0"]
    assert [group.name for group in stream.group_of("1.down.weight", -1)] == ["1.up"]
    assert stream.group_of("5.bias") == ()
    with pytest.raises(sw.UnknownName, match=r"^Unknown group '1.down': the units of 1.down belong to group '0'\.$"):
        stream.group("1.down")
    with pytest.raises(sw.UnknownName, match=r"Unknown group '5': none of its units can be removed. explain\('5'\)"):
        stream.group("5")
    with pytest.raises(sw.UnknownName, match=r"^Unknown group 'zzz'. Known: '0', '1.up', .*'4.up'\.$"):
        stream.group("zzz")
    with pytest.raises(sw.UnknownName, match=r"Unknown parameter '1.down'"):
        stream.group_of("1.down")
    with pytest.raises(sw.SparsewoodError, match=r"'5.bias' has 1 axes, the first is 0. Got axis 1"):
        stream.group_of("5.bias", 1)
    for ask in (stream.explain, stream.group):
        with pytest.raises(sw.SparsewoodError, match=r"asked for by its name, a text such as 'conv1'. Got 3"):
            ask(3)  # pyright: ignore


def test_what_every_kernel_has_is_not_told(structure: Structure) -> None:
    inherent = [one for one in structure.barriers if one.inherent]
    assert inherent
    assert {one.why for one in inherent} == {"it is a place in a kernel"}
    assert repr(structure) == "Structure(24 removable units in 2 groups, 1 barriers)"
    assert "kernel" not in structure.summary() + json.dumps(structure.to_json()["barriers"])


def test_operations_have_short_names_everywhere() -> None:
    one = Barrier("aten.addmm.default", "fc", "", "there is no rule for this operation", 3)
    assert str(one) == "there is no rule for this operation (addmm in fc)"
    assert one.advice.startswith("register a rule")
    assert str(Barrier("", "", "", "it is an output of the network")) == "it is an output of the network"


@pytest.mark.parametrize(
    ("why", "expected"),
    [
        ("its size 12 is written in the forward", "use -1 or an attribute of the module there"),
        ("its size x.shape[1] is that of another axis", "take the size from the tensor itself"),
        ("it is an output of the network", "nothing: it is what the network returns; leave hidden states out"),
        ("it is a rectangle (...): for the blocks, its size 2 is written in the forward; ...", "use -1"),
        ("no such reason", ""),
    ],
)
def test_what_it_would_take(why: str, expected: str) -> None:
    assert Barrier("", "", "", why).advice.startswith(expected)


# ---------------------------------------------------------------- explanations


def test_a_group_is_explained(structure: Structure) -> None:
    text = structure.explain("0")
    assert text == structure.explain(structure.group("0"))
    lines = text.splitlines()
    assert lines[0] == "0: 8 units; with one alone go 173 parameters, 2 entries of buffers, 26,028 multiply-adds"
    assert lines[lines.index("Made at:") + 1 : lines.index("Read at:")] == [
        "  0.weight[0]",
        "  1.{weight,bias,running_mean,running_var}[0]",
    ]
    assert lines[lines.index("Read at:") + 1] == "  3.weight[1]"
    ran = lines[lines.index("Coupled by, in the order in which it ran:") + 1 :]
    assert "native_batch_norm in 1" in ran[0]
    assert ran[-1] == "  convolution in 3: 0.weight[0] = 3.weight[1]"


def test_equal_steps_are_counted(stream: Structure) -> None:
    lines = stream.explain("0").splitlines()
    assert lines[0].startswith("0: 6 units; with one alone go ")
    assert "  add in *: 0.weight[0] = *.down.weight[0]  x4" in lines
    assert "  *.down.{weight,bias}[0]  x4" in lines
    assert lines[lines.index("Removing a unit is not the same as setting it to zero:") + 1] == "  normalised over units"


def test_rectangles_are_explained() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.o = (nn.Linear(12, 12, bias=False) for _ in range(4))
            self.heads, self.size, self.value_size = 3, 4, 4

        def forward(self, x: Tensor) -> Tensor:
            q, k = (part(x).view(1, 5, self.heads, self.size).transpose(1, 2) for part in (self.q, self.k))
            v = self.v(x).view(1, 5, self.heads, self.value_size).transpose(1, 2)
            y = torch.softmax(q @ k.transpose(2, 3), -1) @ v
            return self.o(y.transpose(1, 2).flatten(2))

    x = torch.zeros(1, 5, 12)
    heads = sw.trace(Attention(), x).explain("q")
    assert heads.startswith("q: 3 units; with one alone go 192 parameters")
    assert "q.weight[0] (4 positions for each unit)" in heads
    assert "view: q.weight[0] as 3 blocks of 4: whole blocks go (of 3)" in heads
    assert "the 3 blocks of q.weight[0] = the 3 blocks of k.weight[0]" in heads
    dims = sw.trace(Attention(), x, attention="head_dims")
    assert any("places in all blocks go (of 4)" in dims.explain(group) for group in dims.prunable)


def test_a_rectangle_that_stays_says_why_both_sides_do() -> None:
    class Written(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(x).view(1, 2, 3).flatten(1))

    text = sw.trace(Written(), torch.zeros(1, 4)).explain("one.weight")
    assert "view: one.weight[0] as 2 blocks of 3: neither can go; the blocks: " in text
    assert "the blocks: its size 2 is written in the forward (view)" in text


def test_what_stays_is_explained(structure: Structure) -> None:
    output = next(group for group in structure.groups if "output" in (group.frozen_by or ""))
    lines = structure.explain(output.name).splitlines()
    assert lines[0] == f"{output.name}: 10 units that stay"
    assert lines[1:4] == ["Held by:", "  10 units: it is an output of the network", "What it would take:"]
    assert lines[4].startswith("  nothing: it is what the network returns")
    assert "  6.{weight,bias}[0]" in lines


def test_a_parameter_and_a_module_are_explained(structure: Structure) -> None:
    lines = structure.explain("3.weight").splitlines()
    assert lines[0] == "3.weight: parameter [16, 8, 3, 3], 1,152 entries"
    assert lines[lines.index("axis 1 (8):") + 1] == "  8 positions: units of 0, read here"
    assert lines[lines.index("axis 2 (3):") + 1] == "  3 positions that stay:"
    assert "convolution in 3" in lines[lines.index("axis 2 (3):") + 2]
    module = structure.explain("1")
    assert [line.split(":")[0] for line in module.splitlines() if "entries" in line] == [
        "1.weight",
        "1.bias",
        "1.running_mean",
        "1.running_var",
        "1.num_batches_tracked",
    ]
    with pytest.raises(sw.UnknownName, match=r"Unknown group, parameter or module '4.weight'. Did you mean"):
        structure.explain("4.weight")


# ---------------------------------------------------------------- other programs


@pytest.mark.parametrize("make", [lambda s: s.to_json(), lambda s: s.to_dot(), lambda s: s.to_svg(), str])
def test_the_same_network_gives_the_same_text(make: Callable[[Structure], Any]) -> None:
    first, second = (make(sw.trace(residual(), torch.zeros(1, 5))) for _ in range(2))
    assert first == second


def test_json_has_all_of_it(structure: Structure) -> None:
    told = json.loads(json.dumps(structure.to_json()))
    assert (told["format"], told["version"]) == ("sparsewood structure", 1)
    assert told["parameters"] == 1570
    assert told["shapes"]["3.weight"] == [16, 8, 3, 3]
    assert "1.running_mean" in told["buffers"]
    assert [group["name"] for group in told["groups"]] == [group.name for group in structure.groups]
    first = told["groups"][0]
    assert (first["units"], first["parameters"], first["macs"], first["entries"]) == (8, 173, 26028, 8 * 27 + 16 + 1152)
    assert first["exact"]
    assert first["frozen_by"] is None
    assert first["slices"][0] == {"param": "0.weight", "axis": 0, "role": "out", "owner": [[0, 8, 1]]}
    for group, said in zip(structure.groups, told["groups"], strict=True):
        for one, of in zip(group.slices, said["slices"], strict=True):
            assert np.array_equal(owner_of(of["owner"]), one.owner)
    assert {barrier["why"] for barrier in told["barriers"]} == {
        barrier.why for barrier in structure.barriers if not barrier.inherent
    }


@pytest.mark.parametrize(
    "owner", [[], [-1], [0, 1, 2], [0, 0, 1, 1], [-1, 0, 1, -1, -1, 2], [2, 1, 0], [0, 1, 0, 1], [5, 5, 6, 7, 7]]
)
def test_owners_as_runs(owner: list[int]) -> None:
    from sparsewood.structure.graphs import _runs

    runs = _runs(np.array(owner, np.int64))
    assert owner_of(runs).tolist() == owner
    assert sum(length for _, length, _ in runs) == len(owner)
    assert len(runs) <= len(owner)


class Awkward(nn.Module):
    """Names that mean something to XML and to Graphviz."""

    def __init__(self) -> None:
        super().__init__()
        self.add_module('a"<b>&\\', nn.Linear(3, 4))
        self.last = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        first, last = self.children()
        return last(torch.relu(first(x)))


@pytest.mark.parametrize("network", ["small", "stream", "awkward", "nothing"])
def test_the_picture_is_xml_with_a_mark_for_every_slice(network: str, structure: Structure, stream: Structure) -> None:
    made = {"small": structure, "stream": stream}.get(network)
    if made is None:
        model = Awkward() if network == "awkward" else nn.ReLU()
        made = sw.trace(model, torch.zeros(1, 3))
    text = made.to_svg(title="a <title> & more")
    assert text.isascii()
    root = ET.fromstring(text)
    space = "{http://www.w3.org/2000/svg}"
    texts = {element.text for element in root.iter(f"{space}text")}
    assert "a <title> & more" in texts
    assert {f"{group.name} ({group.units:,})" for group in made.prunable} <= {one.strip() for one in texts if one}
    told = " ".join(element.text or "" for element in root.iter(f"{space}title"))
    parameters = made.record.parameters
    assert all(f"{one.param}[{one.axis}]" in told for g in made.prunable for one in g.slices if one.param in parameters)


def test_the_graph_has_a_node_for_every_tensor_and_group(structure: Structure) -> None:
    text = structure.to_dot()
    assert text.startswith("digraph structure {")
    assert text.count("{") == text.count("}")
    for name in structure.shapes:
        assert f'"{name}" [shape=box' in text
    assert '"0.weight" -> "group 0"' in text
    assert '"group 0" -> "3.weight"' in text
    awkward = sw.trace(Awkward(), torch.zeros(1, 3)).to_dot()
    assert '"group a\\"<b>&\\\\"' in awkward


def test_tied_weights_are_read_and_made() -> None:
    told = to_json(sw.trace(residual(1), torch.zeros(1, 5)))
    roles = {slice_["role"] for group in told["groups"] for slice_ in group["slices"]}
    assert roles <= {"out", "in", "both"}
