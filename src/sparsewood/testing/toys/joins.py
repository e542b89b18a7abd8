"""Tensors joined and taken apart along channels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsewood.testing.toys.toy import Coupled, Network, Toy, image, pool, sequence

__all__ = ["JOINS"]


def _dense_block(net: Any, x: Tensor) -> Tensor:
    first = net.a(x).relu()
    second = net.b(first).relu()
    third = net.c(torch.cat([first, second], 1)).relu()
    return net.head(pool(torch.cat([first, second, third], 1)))


def _split_by(sizes: tuple[int, int] | None) -> Any:
    def forward(net: Any, x: Tensor) -> Tensor:
        first, second = net.conv(x).relu().split(net.sizes if sizes is None else sizes, 1)
        return net.a(pool(first)) + net.b(pool(second))

    return forward


def _slices(net: Any, x: Tensor) -> Tensor:
    x = pool(net.conv(x).relu())
    return net.a(x[:, :4]) + net.b(x[:, 4:])


def _in_place(net: Any, x: Tensor) -> Tensor:
    out = x.new_zeros(len(x), 8, *x.shape[2:])
    out[:, :4] = net.a(x)
    out[:, 4:] = net.b(x)
    return net.head(pool(out.relu()))


def _cat_into(net: Any, x: Tensor) -> Tensor:
    blank = x.new_zeros(len(x), 2, *x.shape[2:])
    return net.head(pool(torch.cat([net.a(x).relu(), blank], 1)))


def _option_a(net: Any, x: Tensor) -> Tensor:
    x = net.a(x).relu()
    return net.head(pool((net.b(x) + F.pad(x, (0, 0, 0, 0, 2, 2))).relu()))


def _gate(net: Any, x: Tensor) -> Tensor:
    value, gate = net.up(x).chunk(2, -1)
    return net.down(value * F.silu(gate))


def _stack(net: Any, x: Tensor) -> Tensor:
    return net.head(pool(torch.stack([net.a(x), net.b(x)]).mean(0).relu()))


def _outer(net: Any, x: Tensor) -> Tensor:
    a, b = net.a(x).relu(), net.b(x).relu()
    return net.head((a[..., :, None] * b[..., None, :]).flatten(-2))


def _conv(outputs: int, inputs: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 1)


JOINS = (
    Toy(
        "concat",
        lambda: Network(
            lambda net, x: net.head(pool(torch.cat([net.a(x), net.b(x)], 1))),
            a=_conv(4),
            b=_conv(6),
            head=nn.Linear(10, 3),
        ),
        image(),
        (Coupled(4, "a.*:0 head.weight:1"), Coupled(6, "b.*:0 head.weight:1")),
        {"head.weight:0": "output", "a.weight:1": "no parameter owns"},
    ),
    Toy(
        "dense_block",
        lambda: Network(_dense_block, a=_conv(4), b=_conv(5, 4), c=_conv(6, 9), head=nn.Linear(15, 3)),
        image(),
        (
            Coupled(4, "a.*:0 b.weight:1 c.weight:1 head.weight:1"),
            Coupled(5, "b.*:0 c.weight:1 head.weight:1"),
            Coupled(6, "c.*:0 head.weight:1"),
        ),
    ),
    Toy(
        "concat_input",
        lambda: Network(lambda net, x: net.head(torch.cat([x, net.a(x).relu()], 1)), a=_conv(4), head=_conv(3, 7)),
        image(),
        (Coupled(4, "a.*:0 head.weight:1"),),
        {"head.weight:1": "no parameter owns"},
    ),
    Toy(
        "two_flattens",
        lambda: Network(
            lambda net, x: net.head(torch.cat([net.a(x).flatten(1), net.b(x).flatten(1)], 1)),
            a=_conv(4),
            b=_conv(5),
            head=nn.Linear(36, 3),
        ),
        image(2, 3, 2, 2),
        (Coupled(4, "a.*:0 head.weight:1*4"), Coupled(5, "b.*:0 head.weight:1*4")),
    ),
    Toy(
        "split_literal",
        lambda: Network(_split_by((3, 5)), conv=_conv(8), a=nn.Linear(3, 2), b=nn.Linear(5, 2)),
        image(),
    ),
    Toy(
        "split_attribute",
        lambda: Network(_split_by(None), sizes=(3, 5), conv=_conv(8), a=nn.Linear(3, 2), b=nn.Linear(5, 2)),
        image(),
    ),
    Toy("slices", lambda: Network(_slices, conv=_conv(8), a=nn.Linear(4, 2), b=nn.Linear(4, 2)), image()),
    Toy("slice_assignment", lambda: Network(_in_place, a=_conv(4), b=_conv(4), head=nn.Linear(8, 3)), image()),
    Toy(
        "concat_zeros",
        lambda: Network(_cat_into, a=_conv(4), head=nn.Linear(6, 3)),
        image(),
        (Coupled(4, "a.*:0 head.weight:1"),),
    ),
    Toy(
        "pad_channels",
        lambda: Network(_option_a, a=_conv(4), b=_conv(8, 4), head=nn.Linear(8, 3)),
        image(),
        (Coupled(4, "a.*:0 b.weight:1 b.*:0 head.weight:1"),),
        {"b.weight:0": ""},
    ),
    Toy(
        "glu",
        lambda: Network(lambda net, x: net.head(pool(F.glu(net.conv(x), 1))), conv=_conv(16), head=nn.Linear(8, 3)),
        image(),
        (Coupled(8, "conv.*:0*2 head.weight:1"),),
    ),
    Toy(
        "chunk_gate",
        lambda: Network(_gate, up=nn.Linear(6, 16), down=nn.Linear(8, 3)),
        sequence(),
        (Coupled(8, "up.*:0*2 down.weight:1"),),
    ),
    Toy(
        "stack",
        lambda: Network(_stack, a=_conv(4), b=_conv(4), head=nn.Linear(4, 3)),
        image(),
        (Coupled(4, "a.*:0 b.*:0 head.weight:1"),),
    ),
    Toy(
        "outer_product",
        lambda: Network(_outer, a=nn.Linear(6, 4), b=nn.Linear(6, 5), head=nn.Linear(20, 3)),
        sequence(),
        (Coupled(5, "b.*:0 head.weight:1*4"),),
        {"a.weight:0": "rectangle"},
    ),
)
