"""Channels moved about, reduced, gated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsewood.testing.toys.toy import ANY, Coupled, Network, Toy, image, pool

__all__ = ["CHANNELS"]

_CONV_HEAD = "conv.*:0 head.weight:1"


def _shuffle(net: Any, x: Tensor) -> Tensor:
    x = net.conv(x).relu()
    batch, channels, height, width = x.shape
    x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)
    return net.head(pool(x))


def _then_head(function: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    return lambda net, x: net.head(pool(function(net, net.conv(x).relu())))


def _between(function: Callable[[Tensor], Tensor], *, inner: int = 8, outer: int = 8) -> Callable[[], nn.Module]:
    """A convolution with `inner` outputs, a function that makes `outer` channels of them, and a head."""

    def forward(net: Any, x: Tensor) -> Tensor:
        return net.head(pool(function(net.conv(x).relu())))

    return lambda: Network(forward, conv=nn.Conv2d(3, inner, 1), head=nn.Linear(outer, 3))


def _squeeze_excite(net: Any, x: Tensor) -> Tensor:
    x = net.conv(x).relu()
    gate = net.excite(net.squeeze(pool(x)).relu()).sigmoid()
    return net.head(pool(x * gate[:, :, None, None]))


def _efficient_attention(net: Any, x: Tensor) -> Tensor:
    gate = net.mix(x.mean((2, 3))[:, None]).sigmoid()
    return x * gate[:, 0, :, None, None]


def _block_attention(net: Any, x: Tensor) -> Tensor:
    seen = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
    return x * net.look(seen).sigmoid()


def _cosine(net: Any, x: Tensor) -> Tensor:
    return F.linear(F.normalize(pool(net.conv(x).relu())), F.normalize(net.directions))


def _pixel_unshuffle(net: Any, x: Tensor) -> Tensor:
    return net.head(pool(net.after(F.pixel_unshuffle(net.conv(x).relu(), 2))))


def _fourier(net: Any, x: Tensor) -> Tensor:
    return torch.fft.irfft2(torch.fft.rfft2(x) * torch.view_as_complex(net.filter), s=x.shape[2:])


def _expanded_mean(net: Any, x: Tensor) -> Tensor:
    """The axis of copies is as long as the one with the channels, and has none of them."""
    return net.head(torch.cat([x, x.sum(1, keepdim=True).expand_as(x)], 1))


def _unscaled_norm(channels: int) -> nn.Module:
    """Statistics that are not those of a new network: a mask does not make its output 0."""
    norm = nn.BatchNorm2d(channels, affine=False)
    assert norm.running_mean is not None
    norm.running_mean.uniform_(-1, 0)
    return norm


CHANNELS = (
    Toy(
        "channel_shuffle",
        lambda: Network(_shuffle, conv=nn.Conv2d(3, 8, 1), head=nn.Linear(8, 3)),
        image(),
        (Coupled(4, "conv.*:0*2 head.weight:1*2"),),
    ),
    Toy(
        "channel_shuffle_module",
        lambda: Network(
            _then_head(lambda net, x: net.shuffle(x)),
            conv=nn.Conv2d(3, 8, 1),
            shuffle=nn.ChannelShuffle(2),
            head=nn.Linear(8, 3),
        ),
        image(),
        (Coupled(4, "conv.*:0*2 head.weight:1*2"),),
    ),
    Toy("flip", _between(lambda x: x.flip(1)), image(), (Coupled(8, _CONV_HEAD),)),
    Toy("roll", _between(lambda x: x.roll(3, 1)), image(), (), {"conv.weight:0": "", "head.weight:1": ""}),
    Toy("roll_space", _between(lambda x: x.roll((1, 2), (2, 3))), image(), (Coupled(8, _CONV_HEAD),)),
    Toy(
        "pixel_shuffle",
        _between(lambda x: F.pixel_shuffle(x, 2), inner=16, outer=4),
        image(),
        (Coupled(4, "conv.*:0*4 head.weight:1"),),
    ),
    Toy(
        "pixel_unshuffle",
        lambda: Network(_pixel_unshuffle, conv=nn.Conv2d(3, 4, 1), after=nn.Conv2d(16, 5, 1), head=nn.Linear(5, 3)),
        image(),
        (Coupled(4, "conv.*:0 after.weight:1*4"), Coupled(5, "after.*:0 head.weight:1")),
    ),
    Toy(
        "broadcast_parameter",
        lambda: Network(
            _then_head(lambda net, x: x + net.shift),
            conv=nn.Conv2d(3, 8, 1),
            shift=nn.Parameter(torch.randn(8, 1, 1)),
            head=nn.Linear(8, 3),
        ),
        image(),
        (Coupled(8, f"{_CONV_HEAD} shift:0"),),
    ),
    Toy(
        "squeeze_excite",
        lambda: Network(
            _squeeze_excite,
            conv=nn.Conv2d(3, 8, 1),
            squeeze=nn.Linear(8, 4),
            excite=nn.Linear(4, 8),
            head=nn.Linear(8, 3),
        ),
        image(),
        (Coupled(8, f"{_CONV_HEAD} squeeze.weight:1 excite.*:0"), Coupled(4, "squeeze.*:0 excite.weight:1")),
    ),
    Toy(
        "efficient_attention",
        lambda: Network(
            _then_head(_efficient_attention),
            conv=nn.Conv2d(3, 8, 1),
            mix=nn.Conv1d(1, 1, 3, padding=1, bias=False),
            head=nn.Linear(8, 3),
        ),
        image(),
        (),
        {"conv.weight:0": "", "head.weight:1": ""},
    ),
    Toy(
        "block_attention",
        lambda: Network(
            _then_head(_block_attention),
            conv=nn.Conv2d(3, 8, 1),
            look=nn.Conv2d(2, 1, 3, padding=1),
            head=nn.Linear(8, 3),
        ),
        image(),
        (Coupled(8, _CONV_HEAD, "over units"),),
        {"look.weight:0": ""},
    ),
    Toy(
        "layer_scale",
        lambda: Network(
            _then_head(lambda net, x: x + net.scale[:, None, None] * net.inner(x)),
            conv=nn.Conv2d(3, 8, 1),
            inner=nn.Conv2d(8, 8, 1),
            scale=nn.Parameter(torch.randn(8)),
            head=nn.Linear(8, 3),
        ),
        image(),
        (Coupled(8, f"{_CONV_HEAD} inner.*:0 inner.weight:1 scale:0"),),
    ),
    Toy(
        "buffer_gate",
        lambda: Network(
            _then_head(lambda net, x: x * net.gate[:, None, None]),
            conv=nn.Conv2d(3, 8, 1),
            gate=torch.rand(8),
            head=nn.Linear(8, 3),
        ),
        image(),
        (Coupled(8, f"{_CONV_HEAD} gate:0"),),
    ),
    Toy(
        "mean_over_channels",
        lambda: Network(
            lambda net, x: net.head(net.conv(x).relu().mean(1).flatten(1)),
            conv=nn.Conv2d(3, 8, 1),
            head=nn.Linear(64, 3),
        ),
        image(),
        (Coupled(8, "conv.*:0", "mean over units"),),
    ),
    Toy(
        "sum_over_channels",
        lambda: Network(
            lambda net, x: net.head(net.conv(x).relu().sum(1).flatten(1)),
            conv=nn.Conv2d(3, 8, 1),
            head=nn.Linear(64, 3),
        ),
        image(),
        (Coupled(8, "conv.*:0"),),
    ),
    Toy(
        "sum_of_sigmoids",
        lambda: Network(
            lambda net, x: net.head(net.conv(x).sigmoid().sum(1).flatten(1)),
            conv=nn.Conv2d(3, 8, 1),
            head=nn.Linear(64, 3),
        ),
        image(),
        (Coupled(8, "conv.*:0", "non-zero"),),
    ),
    Toy(
        "sum_of_unscaled_norm",
        lambda: Network(
            lambda net, x: net.head(net.norm(net.conv(x)).relu().sum(1).flatten(1)),
            conv=nn.Conv2d(3, 8, 1),
            norm=_unscaled_norm(8),
            head=nn.Linear(64, 3),
        ),
        image(),
        (Coupled(8, "conv.*:0 norm.*:0", "non-zero"),),
    ),
    Toy(
        "sum_of_shifted",
        lambda: Network(
            lambda net, x: net.head((net.conv(x) + net.shift).sum(1).flatten(1)),
            conv=nn.Conv2d(3, 8, 1),
            shift=torch.rand(8, 1, 1),
            head=nn.Linear(64, 3),
        ),
        image(),
        (Coupled(8, "conv.*:0 shift:0", "non-zero"),),
    ),
    Toy(
        "mean_expanded_as",
        lambda: Network(
            lambda net, x: _expanded_mean(net, net.conv(x).relu()),
            conv=nn.Conv2d(3, 8, 1),
            head=nn.Conv2d(16, 3, 1),
        ),
        image(),
    ),
    Toy("softmax_over_channels", _between(lambda x: x.softmax(1)), image(), (), {"conv.weight:0": ""}),
    Toy("cumsum_over_channels", _between(lambda x: x.cumsum(1)), image(), (), {"conv.weight:0": ""}),
    Toy("sort_over_channels", _between(lambda x: x.sort(1)[0]), image(), (), {"conv.weight:0": ""}),
    Toy(
        "gather_channels",
        lambda: Network(
            _then_head(lambda net, x: x[:, net.order]),
            conv=nn.Conv2d(3, 8, 1),
            order=torch.tensor([3, 1, 0, 2, 7, 6, 5, 4]),
            head=nn.Linear(8, 3),
        ),
        image(),
    ),
    Toy(
        "fourier_over_space",
        lambda: Network(
            _then_head(_fourier),
            conv=nn.Conv2d(3, 8, 1),
            filter=nn.Parameter(torch.randn(8, 8, 5, 2)),
            head=nn.Linear(8, 3),
        ),
        image(),
    ),
    Toy(
        "fourier_over_channels",
        _between(lambda x: torch.fft.fft(x, dim=1).real),
        image(),
        (),
        {"conv.weight:0": ""},
    ),
    Toy(
        "cosine_head",
        lambda: Network(_cosine, conv=nn.Conv2d(3, 8, 1), directions=nn.Parameter(torch.randn(4, 8))),
        image(),
        (Coupled(8, "conv.*:0 directions:1", ANY),),
    ),
    Toy(
        "squeezed_channel",
        lambda: Network(
            lambda net, x: net.head(net.conv(x).squeeze(1).flatten(1)), conv=nn.Conv2d(3, 1, 1), head=nn.Linear(64, 3)
        ),
        image(),
        (),
        {"conv.weight:0": "only position"},
    ),
)
