"""Attention: heads go as one, in the queries, keys, values and the projection behind them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsewood as sw
from sparsewood.structure import Structure
from sparsewood.structure.axes import axes_of
from sparsewood.structure.modes import Functions, Operations
from sparsewood.structure.tracer import Tracer
from sparsewood.testing import Coupled, check_structure

Rows = list[int] | None


class Traced:
    """A function of activations all of whose axes have labels: tensor i, axis j has 100 * i + 10 * j + 0, 1, ..."""

    def __init__(self, function: Callable[..., Any], *shapes: tuple[int, ...], real: bool = False) -> None:
        self.tracer = Tracer()
        self.tracer.begin(real=real)
        tensors = []
        for number, shape in enumerate(shapes):
            tensor = nn.Parameter(torch.randn(shape), requires_grad=False)
            self.tracer.register(str(number), tensor)
            tensors.append(tensor)
            axes = axes_of(self.tracer.stand_in(tensor))
            assert axes is not None
            axes.weight = False
        with torch.no_grad(), Operations(self.tracer), Functions(self.tracer):
            self.out = function(*tensors)

    def labels(self, number: int, axis: int) -> list[int]:
        span = next(one for one in self.tracer.spans if (one.param, one.axis) == (str(number), axis))
        return list(range(span.start, span.start + span.size))

    @property
    def frozen(self) -> set[str]:
        """The axes that stay, as NUMBER:AXIS."""
        held = {label for row, _ in self.tracer.frozen for label in row.tolist()}
        return {
            f"{one.param}:{one.axis}"
            for one in self.tracer.spans
            if held.issuperset(range(one.start, one.start + one.size))
        }

    @property
    def pairs(self) -> set[tuple[str, str]]:
        """The axes that are coupled, as NUMBER:AXIS."""
        names = {
            label: f"{one.param}:{one.axis}"
            for one in self.tracer.spans
            for label in range(one.start, one.start + one.size)
        }
        return {
            (names[int(a)], names[int(b)])
            for one, other, _ in self.tracer.edges
            for a, b in zip(one, other, strict=True)
        }

    def kinds(self) -> set[str]:
        return {kind for _, kind, _ in self.tracer.inexact_rows}


def attend(**options: Any) -> Callable[..., Tensor]:
    return lambda q, k, v, *mask: F.scaled_dot_product_attention(q, k, v, *mask, **options)


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """What is left of attention that is called from PyTorch's own functions, on a processor."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)[0]


Q, K, V = (2, 3, 5, 4), (2, 3, 7, 4), (2, 3, 7, 4)
BOTH = pytest.mark.parametrize("real", [False, True], ids=["meta", "real"])


@BOTH
@pytest.mark.parametrize(
    "function",
    [
        attend(),
        attend(is_causal=True),
        attend(dropout_p=0.5),
        fused,
        lambda q, k, v: F.scaled_dot_product_attention(query=q, key=k, value=v),
    ],
)
def test_heads_and_widths(function: Any, real: bool) -> None:
    traced = Traced(function, Q, K, V, real=real)
    assert traced.frozen >= {"0:2", "1:2", "2:2"}
    assert traced.pairs >= {("0:3", "1:3"), ("0:1", "1:1")}
    rows = traced.tracer.rows(traced.out)
    assert rows[1] is not None
    assert rows[3] is not None
    assert rows[3].tolist() == traced.labels(2, 3)
    assert traced.out.shape == (2, 3, 5, 4)
    assert traced.tracer.zero(traced.out)[3]


def test_one_step_that_says_what_it_does() -> None:
    traced = Traced(attend(), Q, K, V)
    tracer = traced.tracer
    rows = tracer.rows(traced.out)
    assert [None if row is None else row.tolist() for row in rows] == [
        traced.labels(0, 0),
        traced.labels(0, 1),
        None,
        traced.labels(2, 3),
    ]
    assert tracer.zero(traced.out) == (True, True, False, True)
    assert [row.tolist() for row in tracer.head_rows] == [traced.labels(0, 0), traced.labels(0, 1)]
    assert [cost.sizes for cost in tracer.costs] == [(2, 3, 5, 7, 4), (2, 3, 5, 7, 4)]
    assert tracer.costs[0].op == "scaled_dot_product_attention"
    step = tracer.steps[-1]
    assert (step.op, step.family, step.rows) == ("scaled_dot_product_attention", "contraction", rows)
    axes = axes_of(traced.out)
    assert axes is not None
    assert axes.step == len(tracer.steps) - 1
    assert {number for _, _, number in tracer.edges} == {axes.step}


@BOTH
@pytest.mark.parametrize("function", [attend(), fused], ids=["function", "operation"])
def test_the_width_of_a_head_sets_the_scale(function: Any, real: bool) -> None:
    assert Traced(function, Q, K, V, real=real).kinds() == {"attention scale"}


def test_a_given_scale_does_not_change() -> None:
    assert not Traced(attend(scale=0.5), Q, K, V).kinds()


def test_a_sum_of_what_is_not_zero() -> None:
    traced = Traced(lambda q, k, v: F.scaled_dot_product_attention(q + 1, k + 1, v, scale=0.5), Q, K, V)
    assert traced.kinds() == {"sum of non-zero entries"}
    assert not Traced(lambda q, k, v: F.scaled_dot_product_attention(q + 1, k, v, scale=0.5), Q, K, V).kinds()


def test_values_of_another_width() -> None:
    traced = Traced(attend(), Q, K, (2, 3, 7, 6))
    assert traced.out.shape == (2, 3, 5, 6)
    assert [cost.sizes[-1] for cost in traced.tracer.costs] == [4, 6]
    assert not any("2:3" in pair for pair in traced.pairs)


@BOTH
def test_grouped_queries_stay_in_whole_groups(real: bool) -> None:
    traced = Traced(attend(enable_gqa=True), (1, 6, 5, 4), (1, 2, 5, 4), (1, 2, 5, 4), real=real)
    edges = {(int(a), int(b)) for one, other, _ in traced.tracer.edges for a, b in zip(one, other, strict=True)}
    queries, keys, values = (traced.labels(number, 1) for number in range(3))
    assert edges >= {(query, keys[head // 3]) for head, query in enumerate(queries)}
    assert edges >= {(query, values[head // 3]) for head, query in enumerate(queries)}
    assert not traced.frozen & {"0:1", "1:1", "2:1"}
    assert traced.tracer.rows(traced.out)[1].tolist() == queries  # pyright: ignore[reportOptionalMemberAccess]


def test_a_single_head_of_keys_stays_and_queries_may_go() -> None:
    traced = Traced(attend(enable_gqa=True), (1, 6, 5, 4), (1, 1, 5, 4), (1, 1, 5, 4))
    assert traced.frozen & {"0:1", "1:1", "2:1"} == {"1:1", "2:1"}
    assert not traced.tracer.zero(traced.out)[1]


@pytest.mark.parametrize(
    ("mask", "frozen", "pairs"),
    [
        ((2, 3, 5, 7), {"3:2", "3:3"}, {("0:1", "3:1"), ("0:0", "3:0")}),
        ((3, 5, 7), {"3:1", "3:2"}, {("0:1", "3:0")}),
        ((1, 1, 5, 7), {"3:0", "3:1", "3:2", "3:3"}, set()),
        ((5, 7), {"3:0", "3:1"}, set()),
    ],
)
def test_a_learnt_mask_has_heads_and_places(
    mask: tuple[int, ...], frozen: set[str], pairs: set[tuple[str, str]]
) -> None:
    traced = Traced(attend(), Q, K, V, mask)
    assert {name for name in traced.frozen if name[0] == "3"} == frozen
    assert {pair for pair in traced.pairs if pair[1][0] == "3"} == pairs


def test_a_mask_with_heads_that_nobody_owns_keeps_them() -> None:
    mask = torch.zeros(2, 3, 5, 7)
    traced = Traced(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, mask), Q, K, V)
    assert traced.frozen >= {"0:0", "0:1"}


def test_constants_need_no_rule() -> None:
    x = torch.randn(1, 2, 3, 4)
    traced = Traced(lambda w: F.scaled_dot_product_attention(x, x, x).sum() + w.sum(), (2,))
    assert not any(step.op == "scaled_dot_product_attention" for step in traced.tracer.steps)


def test_a_layer_in_one_operation_is_a_barrier() -> None:
    names = ("0:0", "0:1", "0:2", "1:0", "1:1", "2:0", "3:0", "3:1", "4:0")
    call = torch.ops.aten._native_multi_head_attention
    traced = Traced(
        lambda x, *w: call(x, x, x, 4, 2, *w, need_weights=False)[0], (1, 3, 4), (12, 4), (12,), (4, 4), (4,), real=True
    )
    assert traced.frozen == set(names)
    assert {reason.why for reason in traced.tracer.reasons} == {"it is a transformer layer in one operation"}


# ---------------------------------------------------------------- nn.MultiheadAttention


class Net(nn.Module):
    """An embedding, attention, and a head; `more` and `options` go to the attention and to its call."""

    def __init__(
        self,
        *,
        options: dict[str, Any] | None = None,
        cross: tuple[int, int] | None = None,
        memory: bool = False,
        **more: Any,
    ) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.options = options or {}
        self.cross = cross
        if cross is not None:
            self.key, self.value = nn.Linear(6, cross[0]), nn.Linear(6, cross[1])
            more |= {"kdim": cross[0], "vdim": cross[1]}
        self.memory = nn.Linear(6, 8) if memory else None
        self.attention = nn.MultiheadAttention(8, 2, **{"batch_first": True, **more})
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.embed(x)
        key, value = (self.key(x), self.value(x)) if self.cross is not None else (y, y)
        if self.memory is not None:
            key = value = self.memory(x)
        return self.head(self.attention(y, key, value, **self.options)[0])


def footprints(structure: Structure) -> Counter[tuple[int, frozenset[tuple[str, int, int]]]]:
    """(units, {(name, axis, positions of a unit)}) of every removable group."""
    return Counter(
        (group.units, frozenset((one.param, one.axis, int((one.owner == 0).sum())) for one in group.slices))
        for group in structure.prunable
    )


IN, OUT = Coupled(8, "embed.*:0 attention.in_proj_weight:1"), Coupled(8, "attention.out_proj.*:0 head.weight:1")
HEADS = Coupled(2, "attention.in_proj_*:0*12 attention.out_proj.weight:1*4")
_CROSS = "attention.?_proj_weight:0*4 attention.in_proj_bias:0*12 attention.out_proj.weight:1*4"

LAYERS: dict[str, tuple[Callable[[], Net], Sequence[Coupled]]] = {
    "weights not asked for": (lambda: Net(options={"need_weights": False}), (IN, HEADS, OUT)),
    "weights asked for": (Net, (IN, HEADS, OUT)),
    "weights of every head": (lambda: Net(options={"average_attn_weights": False}), (IN, HEADS, OUT)),
    "time first": (lambda: Net(batch_first=False, options={"need_weights": False}), (IN, HEADS, OUT)),
    "without bias": (
        lambda: Net(bias=False, options={"need_weights": False}),
        (IN, HEADS, Coupled(8, "attention.out_proj.weight:0 head.weight:1")),
    ),
    "a zero for nobody": (lambda: Net(add_zero_attn=True, options={"need_weights": False}), (IN, OUT)),
    "separate projections": (
        lambda: Net(cross=(5, 7), options={"need_weights": False}),
        (
            Coupled(8, "embed.*:0 attention.q_proj_weight:1"),
            Coupled(5, "key.*:0 attention.k_proj_weight:1"),
            Coupled(7, "value.*:0 attention.v_proj_weight:1"),
            Coupled(2, _CROSS),
            OUT,
        ),
    ),
    "a memory whose keys are its values": (
        lambda: Net(memory=True, options={"need_weights": False}),
        (Coupled(8, "embed.*:0 memory.*:0 attention.in_proj_weight:1"), HEADS, OUT),
    ),
    "such a memory, without bias": (
        lambda: Net(memory=True, bias=False),
        (
            Coupled(8, "embed.*:0 memory.*:0 attention.in_proj_weight:1"),
            HEADS,
            Coupled(8, "attention.out_proj.weight:0 head.weight:1"),
        ),
    ),
    "a learnt token": (
        lambda: Net(add_bias_kv=True, options={"need_weights": False}),
        (IN, Coupled(2, "attention.in_proj_*:0*12 attention.bias_?:2*4 attention.out_proj.weight:1*4"), OUT),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_heads_of_the_module(name: str) -> None:
    make, stated = LAYERS[name]
    torch.manual_seed(0)
    model, x = make(), torch.randn(3, 5, 6)
    structure = sw.trace(model, x)
    assert not structure.record.fallback
    assert footprints(structure) == Counter((one.units, one.footprint(structure.shapes)) for one in stated)
    check_structure(model, x, structure)


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("cross", [None, (5, 7)])
def test_places_in_heads_set_the_scale(cross: tuple[int, int] | None, need_weights: bool) -> None:
    model = Net(cross=cross, options={"need_weights": need_weights})
    structure = sw.trace(model, torch.randn(3, 5, 6), attention="head_dims")
    queries = "attention.in_proj_weight" if cross is None else "attention.q_proj_weight"
    groups = [
        group for group in structure.prunable if any((one.param, one.axis) == (queries, 0) for one in group.slices)
    ]
    assert [group.units for group in groups] == [4]
    assert groups[0].inexact == ("attention scale",)


def test_a_decoder_loses_heads_and_width() -> None:
    """Its layers take keys and values from one memory."""

    class Translation(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(6, 16)
            self.layers = nn.Transformer(16, 4, 1, 1, 24, batch_first=True)
            self.head = nn.Linear(16, 3)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.head(self.layers(self.embed(x), self.embed(y)))

    torch.manual_seed(0)
    model, example = Translation().eval(), (torch.randn(2, 5, 6), torch.randn(2, 4, 6))
    structure = sw.trace(model, example)
    assert sorted(group.units for group in structure.prunable) == [4, 4, 4, 16, 24, 24]
    small = sw.shrink(model, example, 0.4).model
    assert small(*example).shape == (2, 4, 3)
    assert sum(p.numel() for p in small.parameters()) < 0.6 * sum(p.numel() for p in model.parameters())
