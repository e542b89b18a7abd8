"""Normalisations, by module and by hand, and activation functions with parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sparsewood.testing.toys.toy import ANY, Coupled, Network, Toy, image, pool, sequence

__all__ = ["NORMS"]

_ALL = "conv.*:0 norm.*:0 head.weight:1"


def _forward(net: Any, x: Tensor) -> Tensor:
    return net.head(pool(net.act(net.norm(net.conv(x)))))


def _net(norm: nn.Module, act: nn.Module | None = None) -> nn.Module:
    return Network(_forward, conv=nn.Conv2d(3, 8, 1), norm=norm, act=act or nn.ReLU(), head=nn.Linear(8, 3))


def _channels_first(net: Any, x: Tensor) -> Tensor:
    x = net.conv(x)
    mean = x.mean(1, keepdim=True)
    variance = (x - mean).pow(2).mean(1, keepdim=True)
    x = (x - mean) / torch.sqrt(variance + 1e-5)
    return net.head(pool(net.weight[:, None, None] * x + net.bias[:, None, None]))


def _root_mean_square(net: Any, x: Tensor) -> Tensor:
    x = net.embed(x)
    return net.head(net.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)))


NORMS = (
    Toy("batch_norm", lambda: _net(nn.BatchNorm2d(8)), image(), (Coupled(8, _ALL),)),
    Toy(
        "prelu_one",
        lambda: _net(nn.Identity(), nn.PReLU()),
        image(),
        (Coupled(8, "conv.*:0 head.weight:1"),),
        {"act.weight:0": "only"},
    ),
    Toy(
        "prelu_and_instance_norm",
        lambda: _net(nn.InstanceNorm2d(8, affine=True), nn.PReLU(8)),
        image(),
        (Coupled(8, f"{_ALL} act.weight:0"),),
    ),
    Toy("group_norm_one", lambda: _net(nn.GroupNorm(1, 8)), image(), (Coupled(8, _ALL, "normalised over units"),)),
    Toy(
        "group_norm_pairs",
        lambda: _net(nn.GroupNorm(4, 8)),
        image(),
        (Coupled(4, "conv.*:0*2 norm.*:0*2 head.weight:1*2"),),
    ),
    Toy(
        "group_norm_halves",
        lambda: _net(nn.GroupNorm(2, 8)),
        image(),
        (Coupled(4, "conv.*:0*2 norm.*:0*2 head.weight:1*2", "normalised over units"),),
    ),
    Toy("group_norm_each", lambda: _net(nn.GroupNorm(8, 8)), image(), (Coupled(8, _ALL),)),
    Toy(
        "layer_norm",
        lambda: nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3)),
        sequence(),
        (Coupled(8, "0.*:0 1.*:0 3.weight:1", "normalised over units"),),
    ),
    Toy(
        "layer_norm_by_hand",
        lambda: Network(
            _channels_first,
            conv=nn.Conv2d(3, 8, 1),
            weight=nn.Parameter(torch.randn(8)),
            bias=nn.Parameter(torch.randn(8)),
            head=nn.Linear(8, 3),
        ),
        image(),
        (Coupled(8, "conv.*:0 weight:0 bias:0 head.weight:1", "over units"),),
    ),
    Toy(
        "rms_norm",
        lambda: nn.Sequential(nn.Linear(6, 8), nn.RMSNorm(8), nn.Linear(8, 3)),
        sequence(),
        (Coupled(8, "0.*:0 1.*:0 2.weight:1", "over units"),),
    ),
    Toy(
        "rms_norm_by_hand",
        lambda: Network(
            _root_mean_square, embed=nn.Linear(6, 8), weight=nn.Parameter(torch.randn(8)), head=nn.Linear(8, 3)
        ),
        sequence(),
        (Coupled(8, "embed.*:0 weight:0 head.weight:1", "mean over units"),),
    ),
    Toy(
        "local_response",
        lambda: _net(nn.LocalResponseNorm(3)),
        image(),
        (),
        {"conv.weight:0": ""},
    ),
    Toy(
        "dropout_of_channels",
        lambda: _net(nn.Dropout2d(0.5), nn.ELU()),
        image(),
        (Coupled(8, "conv.*:0 head.weight:1"),),
    ),
    Toy(
        "sigmoid_then_pool",
        lambda: _net(nn.BatchNorm2d(8), nn.Sigmoid()),
        image(),
        (Coupled(8, _ALL, ANY),),
    ),
)
