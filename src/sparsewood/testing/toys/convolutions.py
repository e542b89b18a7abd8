"""Convolutions: grouped, depthwise, transposed, in one and three dimensions, flattened."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsewood.testing.toys.toy import Coupled, Network, Toy, image, pool

__all__ = ["CONVOLUTIONS"]


def _chain(net: Any, x: Tensor) -> Tensor:
    return net.head(pool(net.b(net.a(x).relu()).relu()))


def _residual(net: Any, x: Tensor) -> Tensor:
    x = net.a(x).relu()
    return net.head(pool(x + net.b(x)))


def _flattened(net: Any, x: Tensor) -> Tensor:
    return net.head(net.norm(net.conv(x).relu().flatten(1)))


def _unet(net: Any, x: Tensor) -> Tensor:
    down = net.down(x).relu()
    up = net.up(net.middle(down).relu()).relu()
    return net.last(net.fuse(torch.cat([down, up], 1)).relu())


def _two(b: nn.Module, outputs: int) -> Network:
    return Network(_chain, a=nn.Conv2d(3, 8, 1), b=b, head=nn.Linear(outputs, 3))


CONVOLUTIONS = (
    Toy(
        "grouped",
        lambda: _two(nn.Conv2d(8, 12, 1, groups=2), 12),
        image(),
        (Coupled(4, "a.*:0*2 b.weight:1"), Coupled(6, "b.*:0*2 head.weight:1*2")),
    ),
    Toy(
        "grouped_residual",
        lambda: Network(_residual, a=nn.Conv2d(3, 8, 1), b=nn.Conv2d(8, 8, 1, groups=2), head=nn.Linear(8, 3)),
        image(),
        (Coupled(4, "a.*:0*2 b.weight:1 b.*:0*2 head.weight:1*2"),),
    ),
    Toy(
        "depthwise",
        lambda: _two(nn.Conv2d(8, 8, 3, groups=8), 8),
        image(),
        (Coupled(8, "a.*:0 b.*:0 head.weight:1"),),
    ),
    Toy(
        "depth_multiplier",
        lambda: _two(nn.Conv2d(8, 16, 3, groups=8), 16),
        image(),
        (Coupled(8, "a.*:0 b.*:0*2 head.weight:1*2"),),
    ),
    Toy(
        "transposed",
        lambda: _two(nn.ConvTranspose2d(8, 12, 2), 12),
        image(),
        (Coupled(8, "a.*:0 b.weight:0"), Coupled(12, "b.weight:1 b.bias:0 head.weight:1")),
    ),
    Toy(
        "grouped_transposed",
        lambda: _two(nn.ConvTranspose2d(8, 12, 2, groups=2), 12),
        image(),
        (Coupled(4, "a.*:0*2 b.weight:0*2"), Coupled(6, "b.weight:1 b.bias:0*2 head.weight:1*2")),
    ),
    Toy(
        "flattened_norm",
        lambda: Network(_flattened, conv=nn.Conv2d(3, 4, 1), norm=nn.BatchNorm1d(16), head=nn.Linear(16, 3)),
        image(2, 3, 2, 2),
        (Coupled(4, "conv.*:0 norm.*:0*4 head.weight:1*4"),),
    ),
    Toy(
        "adaptive_pool",
        lambda: Network(
            lambda net, x: net.head(F.adaptive_avg_pool2d(net.conv(x).relu(), 2).flatten(1)),
            conv=nn.Conv2d(3, 4, 1),
            head=nn.Linear(16, 3),
        ),
        image(),
        (Coupled(4, "conv.*:0 head.weight:1*4"),),
    ),
    Toy(
        "max_pool_flatten",
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(3), nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 3)
        ),
        image(),
        (Coupled(4, "0.*:0 4.weight:1*4"), Coupled(5, "4.*:0 6.weight:1")),
    ),
    Toy(
        "literal_view",
        lambda: Network(
            lambda net, x: net.head(net.conv(x).relu().view(-1, 16)), conv=nn.Conv2d(3, 4, 1), head=nn.Linear(16, 3)
        ),
        image(2, 3, 2, 2),
    ),
    Toy(
        "one_dimension",
        lambda: nn.Sequential(
            nn.Conv1d(3, 8, 3),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.Conv1d(8, 4, 3),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(4, 3),
        ),
        image(2, 3, 9),
        (Coupled(8, "0.*:0 1.*:0 3.weight:1"), Coupled(4, "3.*:0 6.weight:1")),
    ),
    Toy(
        "three_dimensions",
        lambda: nn.Sequential(
            nn.Conv3d(3, 8, 3),
            nn.BatchNorm3d(8),
            nn.ReLU(),
            nn.Conv3d(8, 4, 1),
            nn.AdaptiveMaxPool3d(1),
            nn.Flatten(),
            nn.Linear(4, 3),
        ),
        image(2, 3, 4, 4, 4),
        (Coupled(8, "0.*:0 1.*:0 3.weight:1"), Coupled(4, "3.*:0 6.weight:1")),
    ),
    Toy(
        "unet",
        lambda: Network(
            _unet,
            down=nn.Conv2d(3, 8, 3, padding=1),
            middle=nn.Conv2d(8, 12, 2, stride=2),
            up=nn.ConvTranspose2d(12, 7, 2, stride=2),
            fuse=nn.Conv2d(15, 6, 1),
            last=nn.Conv2d(6, 2, 1),
        ),
        image(),
        (
            Coupled(8, "down.*:0 middle.weight:1 fuse.weight:1"),
            Coupled(12, "middle.*:0 up.weight:0"),
            Coupled(7, "up.weight:1 up.bias:0 fuse.weight:1"),
            Coupled(6, "fuse.*:0 last.weight:1"),
        ),
    ),
)
