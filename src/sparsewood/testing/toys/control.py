"""Python around the tensors: branches, values, unused parts, containers, all kinds of inputs and outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sparsewood.testing.toys.toy import ANY, Coupled, Network, Toy, image, pool, sequence

__all__ = ["CONTROL"]

_FIRST_HEAD = Coupled(8, "first.*:0 head.weight:1")


@dataclass
class Answer:
    """An output as a dataclass."""

    scores: Tensor
    hidden: Tensor


class Pair(NamedTuple):
    """An output as a named tuple."""

    scores: Tensor
    name: str


def _hidden(net: Any, x: Tensor) -> Tensor:
    return net.first(x).relu()


def _mlp(run: Any, **more: Any) -> Network:
    return Network(run, first=nn.Linear(6, 8), head=nn.Linear(8, 3), **more)


def _plain(net: Any, x: Tensor) -> Tensor:
    return net.head(_hidden(net, x))


def _branch(net: Any, x: Tensor) -> Tensor:
    x = _hidden(net, x)
    y = net.a(x) if x.sum() > 10 else net.b(x)
    return net.head(y.relu())


def _item(net: Any, x: Tensor) -> Tensor:
    x = _hidden(net, x)
    return net.head(x / (1 + x.max().item()))


def _unused_branch(net: Any, x: Tensor) -> Tensor:
    x = _hidden(net, x)
    return net.head(net.extra(x) if net.use_extra else x)


def _modules(net: Any, x: Tensor) -> Tensor:
    for layer in net.layers:
        x = layer(x).relu()
    return sum(head(x) for head in net.heads.values())  # pyright: ignore[reportReturnType]


def _list_input(net: Any, xs: list[Tensor]) -> Tensor:
    return net.head(sum(net.first(x) for x in xs).relu())  # pyright: ignore[reportAttributeAccessIssue]


def _keywords(net: Any, *, x: Tensor, mask: Tensor, scale: float = 1.0) -> Tensor:
    return net.head((_hidden(net, x) * scale).masked_fill(~mask[..., None], 0.0))


def _experts(net: Any, x: Tensor) -> Tensor:
    weights = net.gate(x).softmax(-1)
    return sum(weights[..., i, None] * expert(x) for i, expert in enumerate(net.experts))  # pyright: ignore


def _top_experts(net: Any, x: Tensor) -> Tensor:
    flat = x.flatten(0, 1)
    weights, chosen = net.gate(flat).softmax(-1).topk(2)
    out = flat.new_zeros(len(flat), 3)
    for number, expert in enumerate(net.experts):
        rows, place = torch.where(chosen == number)
        out.index_add_(0, rows, weights[rows, place, None] * expert(flat[rows]))
    return out.view(*x.shape[:2], 3)


def _expert() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))


def _with_experts(run: Any) -> Network:
    return Network(run, gate=nn.Linear(6, 3), experts=nn.ModuleList([_expert(), _expert(), _expert()]))


def _half_frozen() -> nn.Module:
    net = _mlp(_plain)
    net.get_submodule("first").requires_grad_(False)
    return net


_EXPERTS = tuple(Coupled(4, f"experts.{i}.0.*:0 experts.{i}.2.weight:1") for i in range(3))

CONTROL = (
    Toy(
        "branch",
        lambda: Network(_branch, first=nn.Linear(6, 8), a=nn.Linear(8, 4), b=nn.Linear(8, 4), head=nn.Linear(4, 3)),
        sequence(),
        (Coupled(8, "first.*:0 a.weight:1 b.weight:1", ANY), Coupled(4, "a.*:0 b.*:0 head.weight:1")),
    ),
    Toy("item", lambda: _mlp(_item), sequence()),
    Toy(
        "unused_module",
        lambda: _mlp(_plain, extra=nn.Linear(4, 4)),
        sequence(),
        (_FIRST_HEAD,),
        {"extra.weight:0": "does not use"},
    ),
    Toy(
        "unused_branch",
        lambda: _mlp(_unused_branch, extra=nn.Linear(8, 8), use_extra=False),
        sequence(),
        (_FIRST_HEAD,),
        {"extra.weight:1": "does not use"},
    ),
    Toy(
        "containers",
        lambda: Network(
            _modules,
            layers=nn.ModuleList([nn.Linear(6, 8), nn.Linear(8, 5)]),
            heads=nn.ModuleDict({"one": nn.Linear(5, 3), "two": nn.Linear(5, 3)}),
        ),
        sequence(),
        (
            Coupled(8, "layers.0.*:0 layers.1.weight:1"),
            Coupled(5, "layers.1.*:0 heads.one.weight:1 heads.two.weight:1"),
        ),
    ),
    Toy(
        "nested_sequential",
        lambda: nn.Sequential(
            nn.Sequential(nn.Linear(6, 8), nn.Sequential(nn.ReLU(), nn.Linear(8, 5))), nn.Sequential(nn.Linear(5, 3))
        ),
        sequence(),
        (Coupled(8, "0.0.*:0 0.1.1.weight:1"), Coupled(5, "0.1.1.*:0 1.0.weight:1")),
    ),
    Toy("compiled", lambda: torch.compile(_mlp(_plain)), sequence()),  # pyright: ignore[reportArgumentType]
    Toy("half_frozen", _half_frozen, sequence(), (_FIRST_HEAD,)),
    Toy("half_precision", lambda: _mlp(_plain).bfloat16(), lambda g: sequence()(g).bfloat16(), (_FIRST_HEAD,)),
    Toy(
        "dict_output",
        lambda: _mlp(lambda net, x: {"scores": _plain(net, x), "shape": x.shape}),
        sequence(),
        (_FIRST_HEAD,),
    ),
    Toy(
        "hidden_is_output",
        lambda: _mlp(lambda net, x: Answer(_plain(net, x), _hidden(net, x))),
        sequence(),
        (),
        {"first.weight:0": "output"},
    ),
    Toy("named_tuple_output", lambda: _mlp(lambda net, x: Pair(_plain(net, x), "name")), sequence(), (_FIRST_HEAD,)),
    Toy(
        "keyword_inputs",
        lambda: _mlp(_keywords),
        lambda g: {"x": sequence()(g), "mask": torch.rand(2, 5, generator=g) > 0.3, "scale": 0.5},
        (_FIRST_HEAD,),
    ),
    Toy("list_input", lambda: _mlp(_list_input), lambda g: [sequence()(g), sequence()(g)], (_FIRST_HEAD,)),
    Toy(
        "two_inputs",
        lambda: Network(
            lambda net, x, y: net.head(net.a(x) * net.b(y)), a=nn.Linear(6, 8), b=nn.Linear(4, 8), head=nn.Linear(8, 3)
        ),
        lambda g: (sequence()(g), sequence(4)(g)),
        (Coupled(8, "a.*:0 b.*:0 head.weight:1"),),
    ),
    Toy("experts", lambda: _with_experts(_experts), sequence(), _EXPERTS, {"gate.weight:0": ""}),
    Toy("top_experts", lambda: _with_experts(_top_experts), sequence(), None, {"gate.weight:0": ""}),
    Toy("no_parameters", lambda: nn.Sequential(nn.ReLU(), nn.Flatten()), image(), ()),
    Toy("only_a_buffer", lambda: Network(lambda net, x: pool(x) * net.gate, gate=torch.rand(3)), image(), ()),
)
