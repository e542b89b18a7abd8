"""Sizes in a forward: where integers come from, and what stays because of where they go."""

from __future__ import annotations

import copy
import enum
import math
import pickle
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsewood.structure import Structure, trace
from sparsewood.structure.expressions import Attribute, Constant, Operation, Size, evaluate, text
from sparsewood.structure.integers import attributes_tracked
from sparsewood.structure.modes import Functions, Operations
from sparsewood.structure.sizes import Comparison, SizeUse, Use, conflicts
from sparsewood.structure.tracer import Tracer
from sparsewood.structure.tracked import Number, Tracked, expression_of

HEADS = Attribute("net", "heads", (), 4)
DIM = Attribute("net", "dim", (), 3)


def units(structure: Structure, param: str, axis: int = 0) -> int:
    """How many units own positions of an axis."""
    slices = [one for group in structure.prunable for one in group.slices if (one.param, one.axis) == (param, axis)]
    return sum(len(set(one.owner[one.owner >= 0].tolist())) for one in slices)


def why(structure: Structure) -> str:
    return "\n".join(map(str, structure.barriers))


def attributes(structure: Structure) -> set[str]:
    uses = [use for use in structure.record.sizes if isinstance(use, SizeUse) and use.row is not None]
    return {text(use.expression) for use in uses if isinstance(use.expression, Attribute)}


# ---------------------------------------------------------------- integers that remember


def test_arithmetic_builds_expressions_and_the_rest_gives_plain_integers() -> None:
    uses: list[Any] = []
    heads, row = Tracked.of(4, HEADS, uses), np.arange(1, 13)
    size = Tracked.of(12, Size(row), uses)
    dim = size // heads
    assert dim == 3
    assert text((2 * dim - 1).expression) == "(2 * (12 // net.heads)) - 1"
    assert text((-dim).expression) == "-(12 // net.heads)"
    assert text((20 % heads).expression) == "20 % net.heads"
    assert text(math.prod([2, heads, 5]).expression) == "(2 * net.heads) * 5"
    assert text(sum([heads, heads]).expression) == "(0 + net.heads) + net.heads"
    for plain in (int(heads), heads | 1, heads << 1, round(heads), heads**2):
        assert type(plain) is int
    assert hash(heads) == hash(4)
    assert {4: "four"}[heads] == "four"
    assert f"{heads:03d}" == "004"
    assert type(copy.deepcopy(heads)) is type(pickle.loads(pickle.dumps(heads))) is int


def test_sizes_keep_tracked_integers_through_slicing_and_adding() -> None:
    uses: list[Any] = []
    size = torch.Size([2, Tracked.of(4, HEADS, uses)])
    assert all(type(one) is Tracked for one in ((size[1:] + size)[0], (*size,)[1], (*size[1:], 3)[0]))


@pytest.mark.parametrize("use", [lambda n: n**-0.5, lambda n: 1 / n, lambda n: n / 2, math.sqrt, lambda n: n * 0.5])
def test_what_becomes_a_fraction_is_noted(use: Callable[[int], float]) -> None:
    uses: list[Any] = []
    assert isinstance(use(Tracked.of(4, HEADS, uses)), float)
    assert [type(one) for one in uses] == [Number]


def test_integers_of_another_trace_count_for_nothing() -> None:
    assert expression_of(Tracked.of(4, HEADS, []), []) is None
    uses: list[Any] = []
    mixed = Tracked.of(4, HEADS, uses) + Tracked.of(3, DIM, [])
    assert text(mixed.expression) == "net.heads + 3"


def test_equal_sizes_have_to_stay_equal_and_other_comparisons_to_come_out_alike() -> None:
    uses: list[Any] = []
    row = np.arange(1, 5)
    heads, size = Tracked.of(4, HEADS, uses), Tracked.of(4, Size(row), uses)
    assert heads == size
    assert (heads != size) is False
    assert size > 3
    assert size != 3
    assert [(type(use), use.row is row) for use in uses[:2]] == [(SizeUse, True), (SizeUse, True)]
    assert [(use.symbol, use.outcome) for use in uses[2:]] == [(">", True), ("!=", True)]


def test_expressions_can_be_evaluated_elsewhere() -> None:
    expression = Operation("//", (Size(np.arange(12)), Operation("+", (HEADS, Constant(2)))))
    assert evaluate(expression, lambda one: one.value, len) == 2
    assert evaluate(expression, lambda _: 1, lambda _: 9) == 3


# ---------------------------------------------------------------- attributes while tracing


class Colour(enum.IntEnum):
    RED = 3


@dataclass
class Config:
    heads: int = 4
    sizes: tuple[int, ...] = (8, 8)


class Holder(nn.Module):
    """Integers wherever a module may hold them."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.width = 8
        self.none, self.one, self.yes, self.colour = 0, 1, True, Colour.RED
        self.pair, self.listed, self.mixed = (8, 4), [8, 4], (8, "x", None)
        self.config, self.space = config, SimpleNamespace(n=5)
        self.inner = nn.Linear(8, 8)


def _contents(model: nn.Module) -> list[tuple[str, str, int]]:
    found = []
    for name, module in model.named_modules():
        for holder in (
            module,
            *(value for value in vars(module).values() if isinstance(value, Config | SimpleNamespace)),
        ):
            found += [(name, key, id(value)) for key, value in vars(holder).items()]
            found += [
                (name, key, id(one)) for key, value in vars(holder).items() if type(value) is list for one in value
            ]
    return found


def test_attributes_are_tracked_and_put_back() -> None:
    config = Config()
    model = nn.Sequential(Holder(config), Holder(config))
    before = _contents(model)
    tracer = Tracer()
    holder: Any = model[0]
    with attributes_tracked(model, tracer):
        for value, name in [
            (holder.width, "0.width"),
            (holder.pair[1], "0.pair[1]"),
            (holder.listed[0], "0.listed[0]"),
            (holder.mixed[0], "0.mixed[0]"),
            (config.heads, "0.config.heads"),
            (config.sizes[1], "0.config.sizes[1]"),
            (holder.space.n, "0.space.n"),
            (holder.inner.in_features, "0.inner.in_features"),
        ]:
            assert text(value.expression) == name
        assert all(type(one) is not Tracked for one in (holder.none, holder.one, holder.yes, holder.colour))
        assert holder.mixed[1:] == ("x", None)
        assert text(model[1].width.expression) == "1.width"
    assert _contents(model) == before


def test_attributes_are_put_back_after_an_error_and_what_the_forward_wrote_stays() -> None:
    model = Holder(Config())
    before = _contents(model)
    with pytest.raises(RuntimeError, match="forward"), attributes_tracked(model, Tracer()):
        raise RuntimeError("forward")
    assert _contents(model) == before
    with attributes_tracked(model, Tracer()):
        model.width += 1
        del model.one
        model.listed.clear()
    assert (type(model.width), model.width) == (int, 9)
    assert not hasattr(model, "one")
    assert model.listed == []


# ---------------------------------------------------------------- attention by hand


class Attention(nn.Module):
    """A transformer block's attention, with everything that sizes could be taken from."""

    def __init__(self, run: Callable[..., Tensor], *, embed: bool = True, **more: Any) -> None:
        super().__init__()
        self.heads, self.head_dim = 4, 2
        self.dim = self.split_size = 8
        self.embed = nn.Linear(5, 8) if embed else nn.Identity()
        self.qkv, self.out, self.head = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 3)
        self.run = run
        for name, value in more.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.run(self, self.embed(x)))


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float = 0.5) -> Tensor:
    return ((q @ k.transpose(-2, -1)) * scale).softmax(-1) @ v


def _by_attributes(net: Any, x: Tensor) -> Tensor:
    b, n, _ = x.shape
    q, k, v = net.qkv(x).reshape(b, n, 3, net.heads, net.head_dim).permute(2, 0, 3, 1, 4)
    return net.out(_attend(q, k, v).transpose(1, 2).reshape(b, n, -1))


def _by_input_size(net: Any, x: Tensor) -> Tensor:
    b, n, c = x.shape
    q, k, v = net.qkv(x).reshape(b, n, 3, net.heads, net.head_dim).permute(2, 0, 3, 1, 4)
    return net.out(_attend(q, k, v).transpose(1, 2).reshape(b, n, c))


def _by_division(net: Any, x: Tensor) -> Tensor:
    b, n, c = x.shape
    q, k, v = net.qkv(x).reshape(b, n, 3, net.heads, c // net.heads).permute(2, 0, 3, 1, 4)
    return net.out(_attend(q, k, v).transpose(1, 2).flatten(2))


def _by_numbers(net: Any, x: Tensor) -> Tensor:
    b, n, _ = x.shape
    q, k, v = net.qkv(x).reshape(b, n, 3, 4, 2).permute(2, 0, 3, 1, 4)
    return net.out(_attend(q, k, v).transpose(1, 2).flatten(2))


def _by_split_size(net: Any, x: Tensor) -> Tensor:
    q, k, v = net.qkv(x).split(net.split_size, dim=2)
    shape = (*q.shape[:-1], -1, net.head_dim)
    q, k, v = (one.view(shape).transpose(1, 2) for one in (q, k, v))
    attended = _attend(q, k, v).transpose(1, 2)
    return net.out(attended.reshape(*attended.shape[:-2], -1).contiguous())


def _by_chunks(net: Any, x: Tensor) -> Tensor:
    q, k, v = (one.unflatten(2, (net.heads, -1)).transpose(1, 2) for one in net.qkv(x).chunk(3, dim=-1))
    return net.out(_attend(q, k, v).transpose(1, 2).flatten(-2))


def _by_all_attributes(net: Any, x: Tensor) -> Tensor:
    b, n = x.shape[:2]
    q, k, v = net.qkv(x).view(b, n, 3, net.heads, net.dim // net.heads).permute(2, 0, 3, 1, 4)
    return net.out(_attend(q, k, v).transpose(1, 2).reshape(b, n, net.dim))


def _checked(net: Any, x: Tensor) -> Tensor:
    assert x.shape[-1] == net.dim
    return _by_attributes(net, x)


X = torch.zeros(2, 6, 5)


def test_heads_are_free_where_sizes_are_attributes() -> None:
    structure = trace(Attention(_by_attributes), X)
    assert units(structure, "qkv.weight") == units(structure, "out.weight", 1) == 4
    assert units(structure, "embed.weight") == units(structure, "qkv.weight", 1) == 8
    assert attributes(structure) == {"heads", "head_dim"}
    heads = [use for use in structure.record.sizes if isinstance(use, SizeUse) and text(use.expression) == "heads"]
    assert [(use.function, use.module, use.count) for use in heads] == [("reshape", "", 4)]


def test_heads_go_with_the_input_where_the_size_is_that_of_the_input() -> None:
    structure = trace(Attention(_by_input_size), X)
    (group,) = [group for group in structure.prunable if any(one.param == "qkv.bias" for one in group.slices)]
    assert group.units == units(structure, "embed.weight") == 4
    assert units(structure, "out.weight") == 8
    assert ("reshape", "8") in {
        (use.function, text(use.expression)) for use in structure.record.sizes if isinstance(use, SizeUse)
    }


def test_heads_stay_where_their_width_is_computed_from_the_input() -> None:
    structure = trace(Attention(_by_division), X)
    assert units(structure, "qkv.weight") == units(structure, "embed.weight") == 0
    assert "its size 8 // heads is that of another axis" in why(structure)


def test_heads_stay_where_sizes_are_numbers() -> None:
    structure = trace(Attention(_by_numbers), X)
    assert units(structure, "qkv.weight") == 0
    assert units(structure, "embed.weight") == 8
    assert "its size 4 is written in the forward" in {reason.why for reason in structure.record.reasons}


@pytest.mark.parametrize(("run", "used"), [(_by_split_size, {"split_size", "head_dim"}), (_by_chunks, {"heads"})])
def test_parts_of_one_size_lose_the_same_heads(run: Callable[..., Tensor], used: set[str]) -> None:
    structure = trace(Attention(run), X)
    (group,) = [group for group in structure.prunable if any(one.param == "qkv.bias" for one in group.slices)]
    owner = next(one.owner for one in group.slices if one.param == "qkv.bias").reshape(3, 4, 2)
    assert group.units == 4
    assert (owner == np.arange(4)[:, None]).all()
    assert attributes(structure) == used


def test_an_attribute_that_is_computed_with_is_not_solved_for() -> None:
    structure = trace(Attention(_by_all_attributes), X)
    assert units(structure, "qkv.weight") == 4  # dim follows from the second view, dim // heads from both
    assert attributes(structure) == {"heads", "dim"}


def test_an_assertion_ties_an_attribute_to_the_size_that_it_checks() -> None:
    structure = trace(Attention(_checked), X)
    assert units(structure, "embed.weight") == 8
    assert units(structure, "qkv.weight") == 4
    assert attributes(structure) == {"heads", "head_dim", "dim"}


def test_axes_whose_size_is_one_attribute_shrink_together() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Linear(5, 8), nn.Linear(5, 8), nn.Linear(16, 3)
            self.width = 8

        def forward(self, x: Tensor) -> Tensor:
            a, b = (layer(x).view(-1, self.width) for layer in (self.first, self.second))
            return self.head(torch.cat([a, b], 1))

    structure = trace(Two(), torch.zeros(2, 5))
    (group,) = structure.prunable
    assert group.units == 8
    assert {one.param for one in group.slices} >= {"first.weight", "second.weight"}


def test_a_config_that_two_layers_share() -> None:
    config = SimpleNamespace(heads=4, head_dim=2)

    def run(net: Any, x: Tensor) -> Tensor:
        b, n = x.shape[:2]
        q, k, v = net.qkv(x).view(b, n, 3, net.config.heads, net.config.head_dim).permute(2, 0, 3, 1, 4)
        return net.out(_attend(q, k, v).transpose(1, 2).flatten(2))

    class Stack(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = Attention(run, config=config)
            self.b = Attention(run, config=config)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) + self.b(x)

    structure = trace(Stack(), X)
    shared = [group for group in structure.prunable if any(one.param == "a.qkv.bias" for one in group.slices)]
    assert [group.units for group in shared] == [4]
    assert {one.param for one in shared[0].slices} >= {"a.qkv.weight", "b.qkv.weight"}
    assert attributes(structure) == {"a.config.heads", "a.config.head_dim"}
    alone = trace(Attention(run, config=config), X)
    assert units(alone, "qkv.weight") == 4
    assert attributes(alone) == {"config.heads", "config.head_dim"}


def test_a_scale_computed_from_a_size_makes_its_removal_inexact() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = net.qkv(x).view(b, n, 3, 4, net.head_dim).permute(2, 0, 3, 1, 4)
        return net.out(_attend(q, k, v, net.head_dim**-0.5).transpose(1, 2).flatten(2))

    structure = trace(Attention(run), X)
    (group,) = [group for group in structure.prunable if any(one.param == "qkv.bias" for one in group.slices)]
    assert group.units == 2
    assert "scaled by the number of units" in group.inexact


# ---------------------------------------------------------------- other functions that take sizes


class Run(nn.Module):
    def __init__(self, run: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.run = run
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 3)
        for name, value in parts.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.run(self, self.first(x)))


FUNCTIONS: list[tuple[str, Callable[..., Any], dict[str, Any], int]] = [
    ("layer norm", lambda net, x: net.norm(x), {"norm": nn.LayerNorm(8)}, 8),
    ("layer norm of its own size", lambda _, x: F.layer_norm(x, x.shape[-1:]), {}, 8),
    ("layer norm of a number", lambda _, x: F.layer_norm(x, (8,)), {}, 0),
    ("group norm", lambda net, x: net.norm(x), {"norm": nn.GroupNorm(2, 8)}, 4),
    ("group norm of a number", lambda _, x: F.group_norm(x, 2), {}, 4),
    ("instance norm", lambda _, x: F.group_norm(x, 8), {}, 0),
    ("instance norm of its own size", lambda _, x: F.group_norm(x, x.shape[1]), {}, 8),
    ("factor", lambda _, x: x * x.shape[-1], {}, 8),
    ("zeros of its size", lambda _, x: x + torch.zeros(x.shape[-1]), {}, 8),
    ("a constant expanded to its size", lambda _, x: x + torch.ones(1).expand(x.shape[-1]), {}, 8),
    ("a power", lambda _, x: x.pow(x.shape[-1]), {}, 8),
    ("rolled by half", lambda _, x: x.roll(x.shape[-1] // 2, 0), {}, 0),
    ("in_features", lambda net, x: x.view(-1, net.last.in_features), {}, 8),
    ("half of out_features", lambda net, x: x.view(-1, 2, net.first.out_features // 2).flatten(1), {}, 4),
    ("more than a number", lambda _, x: x if x.shape[-1] > 7 else x + 1, {}, 0),
    ("not a number", lambda _, x: x if x.shape[-1] != 7 else x + 1, {}, 0),
    ("not another number", lambda _, x: x if x.shape[-1] != 100 else x + 1, {}, 8),
    ("number of tokens", lambda _, x: x.view(x.shape[0] // 2, 2, -1).view(x.shape), {}, 8),
]


@pytest.mark.parametrize(
    ("run", "parts", "free"), [case[1:] for case in FUNCTIONS], ids=[case[0] for case in FUNCTIONS]
)
def test_sizes_given_to_functions(run: Callable[..., Any], parts: dict[str, Any], free: int) -> None:
    structure = trace(Run(run, **parts), torch.zeros(4, 5))
    assert not structure.record.fallback
    assert units(structure, "first.weight") == free, why(structure)


@pytest.mark.parametrize(("groups", "free"), [(8, 8), (2, 4)])
def test_groups_of_a_convolution_are_an_attribute(groups: int, free: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=groups), nn.Conv2d(8, 2, 1))
    structure = trace(model, torch.zeros(2, 3, 4, 4))
    assert units(structure, "1.weight") == free
    assert attributes(structure) == {"1.groups"}


def test_groups_of_a_convolution_that_are_a_number() -> None:
    class Depthwise(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
            self.weight = nn.Parameter(torch.zeros(8, 1, 3, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.last(F.conv2d(self.first(x), self.weight, groups=8))

    structure = trace(Depthwise(), torch.zeros(2, 3, 4, 4))
    assert not units(structure, "first.weight")
    assert "its size 8 is written in the forward" in why(structure)


def test_numbers_in_a_scripted_function_count_as_written() -> None:
    def flat(x: Tensor) -> Tensor:
        return x.view(-1, 8)

    def free(x: Tensor) -> Tensor:
        return x.unsqueeze(1).flatten(1)

    with pytest.warns(DeprecationWarning, match="script"):
        scripted = torch.jit.script(flat)
    assert units(trace(Run(lambda _, x: scripted(x)), torch.zeros(4, 5)), "first.weight") == 0
    assert units(trace(Run(lambda _, x: free(x)), torch.zeros(4, 5)), "first.weight") == 8


def test_shapes_without_labels_are_plain() -> None:
    tracer = Tracer()
    weight = nn.Parameter(torch.zeros(4, 3))
    tracer.register("weight", weight)
    tracer.begin(real=False)
    with torch.no_grad(), Operations(tracer), Functions(tracer):
        plain = torch.zeros(2, 3)
        assert [type(size) for size in plain.shape] == [int, int]
        assert [type(size) for size in (plain @ weight.t()).shape] == [int, Tracked]
        assert type(weight.size(0)) is type(weight.size(dim=-1)) is type(weight.numel()) is Tracked
        assert weight.size() == weight.shape == (4, 3)
        assert text(weight.numel().expression) == "(1 * 4) * 3"
        with pytest.raises(IndexError):
            weight.size(2)
    assert "weight" in tracer.used


# ---------------------------------------------------------------- conflicts


def _use(row: np.ndarray | None, expression: Any, count: int | None = None) -> SizeUse:
    return SizeUse(0, "", "view", row, len(row) if count is None and row is not None else count or 0, expression)


def _found(uses: list[Use], size: int = 30, frozen: tuple[int, ...] = ()) -> dict[str, set[int]]:
    flags = np.zeros(size, bool)
    flags[[0, *frozen]] = True
    found: dict[str, set[int]] = {}
    for row, reason in conflicts(uses, np.arange(size), flags):
        found.setdefault(reason, set()).update(row.tolist())
    return found


A, B = np.arange(1, 5), np.arange(5, 8)


def test_no_uses_no_conflicts() -> None:
    assert _found([]) == {}
    assert _found([_use(A, Size(A)), _use(A, HEADS), _use(B, DIM)]) == {}


def test_another_row_of_the_same_size() -> None:
    other = A + 10
    assert _found([_use(A, Size(other))]) == {"its size 4 is that of another axis": {*A.tolist(), *other.tolist()}}
    assert _found([_use(A, Size(other))], frozen=(*A.tolist(), *other.tolist())) == {}


def test_components_decide_not_labels() -> None:
    component = np.arange(20)
    component[A + 10] = component[A]
    assert not conflicts([_use(A, Size(A + 10))], component, np.zeros(20, bool))


def test_positions_that_nobody_owns_count() -> None:
    padded = np.concatenate([A, np.zeros(2, np.int64)])
    assert _found([_use(padded, Operation("+", (Size(A), Constant(2))))]) == {}
    assert len(_found([_use(padded, Operation("*", (Size(A), Constant(2))), 6)])) == 1


def test_multiples_follow() -> None:
    twice = np.repeat(A, 2)
    assert _found([_use(twice, Operation("*", (Constant(2), Size(A))))]) == {}
    assert _found([_use(A, Operation("//", (Size(twice), Constant(2))))]) == {}
    assert _found([_use(A, Operation("-", (Size(twice), Size(A))))]) == {}


def test_rounding_fails_for_the_second_unit() -> None:
    row = np.arange(1, 6)
    half = Operation("//", (Size(row), Constant(2)))
    assert _found([_use(None, half, 2)]) == {"5 // 2 is also used where it has to stay 2 (view)": {1, 2, 3, 4, 5}}


def test_rounding_that_fails_only_together() -> None:
    # 7 // 4 is 1 without one or two of three units of either kind, but not without some of both.
    both = np.concatenate([A, B])
    half = Operation("//", (Operation("+", (Size(both), Constant(0))), Constant(4)))
    found = _found([_use(None, half, 1), _use(A, HEADS), _use(B, DIM)])
    assert set().union(*found.values()) == {*A.tolist(), *B.tolist()}


def test_an_attribute_may_change_if_all_its_uses_agree() -> None:
    twice = np.repeat(A, 2)
    product = Operation("*", (HEADS, Constant(2)))
    assert _found([_use(A, HEADS), _use(twice, product)]) == {}
    assert _found([_use(A, HEADS), _use(A + 10, HEADS)]) == {
        "attribute net.heads has to serve axes of different sizes": {*A.tolist(), *(A + 10).tolist()}
    }
    fixed = _found([_use(A, HEADS), _use(None, HEADS, 4)])
    assert fixed == {"attribute net.heads has to serve axes of different sizes": set(A.tolist())}


def test_an_attribute_without_an_axis_of_its_own_stays() -> None:
    found = _found([_use(A, Operation("//", (Attribute("net", "dim", (), 8), Constant(2))))])
    assert found == {"its size net.dim // 2 is that of another axis": set(A.tolist())}


def test_division_by_nothing_is_a_conflict() -> None:
    one = A[:1]
    expression = Operation("//", (Constant(4), Size(one)))
    assert list(_found([_use(None, expression, 4)]).values()) == [{1}]


def test_comparisons_have_to_come_out_alike_without_one_unit() -> None:
    assert _found([Comparison(Size(A), ">", Constant(3), True)]) == {
        "the forward depends on whether 4 > 3": set(A.tolist())
    }
    assert _found([Comparison(Size(A), ">", Constant(2), True), Comparison(HEADS, "==", Constant(9), False)]) == {}
    changed = [_use(A, HEADS), Comparison(HEADS, "!=", Constant(3), True)]
    assert set().union(*_found(changed).values()) == set(A.tolist())


def test_only_the_units_that_do_not_follow_stay() -> None:
    whole = np.concatenate([A, B])
    uses: list[Use] = [_use(whole, Operation("+", (Size(A), Constant(3))))]
    assert _found(uses) == {"its size 4 + 3 is that of another axis": set(B.tolist())}


def test_many_rows_take_no_time() -> None:
    rows = [np.arange(1, 4097) for _ in range(500)]
    uses: list[Use] = [_use(row, Operation("+", (Size(np.arange(1, 4097)), Constant(0)))) for row in rows]
    assert _found(uses, 5000) == {}


# ---------------------------------------------------------------- einops


_EINOPS = """
def split_heads(x, pattern, **axes_lengths):
    heads = int(axes_lengths["h"])  # as its cache does, which forgets where integers come from
    return x.reshape(*map(int, x.shape[:-1]), heads, int(x.shape[-1]) // heads)
"""


@pytest.mark.parametrize(("heads", "free"), [(lambda net: net.heads, 4), (lambda _: 4, 2)], ids=["attribute", "number"])
def test_einops_is_given_names(heads: Callable[[Any], int], free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    library = ModuleType("einops.einops")
    exec(_EINOPS, vars(library))
    monkeypatch.setitem(sys.modules, "einops", library)

    def run(net: Any, x: Tensor) -> Tensor:
        parts = net.qkv(x).chunk(3, dim=-1)
        q, k, v = (library.split_heads(one, "b n (h d)", h=heads(net)).transpose(1, 2) for one in parts)
        return net.out(_attend(q, k, v).transpose(1, 2).flatten(2))

    structure = trace(Attention(run), X)
    assert units(structure, "qkv.weight") == free
    assert attributes(structure) == ({"heads"} if free == 4 else set())


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (lambda n: n > 7.5, True),
        (lambda n: n >= 8.0, True),
        (lambda n: n < 8.5, True),
        (lambda n: n <= 7.5, False),
        (lambda n: n == 7.5, False),
        (lambda n: n != 7.5, True),
        (lambda n: n == 8.0, True),
        (lambda n: n < float("inf"), True),
    ],
)
def test_comparisons_with_fractions(outcome: Callable[[Any], bool], expected: bool) -> None:
    assert outcome(Tracked.of(8, Size(np.arange(1, 9)), [])) is expected
