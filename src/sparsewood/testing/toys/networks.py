"""Whole small networks that put several difficulties together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sparsewood.testing.toys.toy import Coupled, Network, Toy, image, sequence, tokens

__all__ = ["NETWORKS"]


def _class_token(net: Any, x: Tensor) -> Tensor:
    x = net.embed(x)
    x = torch.cat([net.token.expand(len(x), -1, -1), x], 1) + net.position
    return net.head(torch.tanh(x)[:, 0])


def _position(net: Any, x: Tensor) -> Tensor:
    return net.head(torch.tanh(net.embed(x) + net.position[:, : x.shape[1]]).mean(1))


def _channels_last(net: Any, x: Tensor) -> Tensor:
    return net.head(net.mix(net.conv(x).transpose(1, 2)).relu().transpose(1, 2).mean(2))


def _mixer(net: Any, x: Tensor) -> Tensor:
    x = net.embed(x)
    x = x + net.token_down(net.token_up(net.norm1(x).transpose(1, 2)).relu()).transpose(1, 2)
    x = x + net.down(net.up(net.norm2(x)).relu())
    return net.head(x.mean(1))


def _conv_mixer(net: Any, x: Tensor) -> Tensor:
    x = net.norm1(net.stem(x).relu())
    x = x + net.norm2(net.depth(x).relu())
    x = net.norm3(net.point(x).relu())
    return net.head(x.mean((2, 3)))


def _decoder(net: Any, x: Tensor) -> Tensor:
    """A block of a language model: attention over the past, a gated feed-forward part, output tied to input."""
    b, n = x.shape
    x = net.embedding(x)
    y = net.norm1(x)
    q, k, v = (net.qkv(y).view(b, n, 3, net.heads, net.head_dim)).permute(2, 0, 3, 1, 4)
    weights = (q @ k.transpose(-2, -1) / net.head_dim**0.5).masked_fill(net.mask[:n, :n], float("-inf")).softmax(-1)
    x = x + net.out((weights @ v).transpose(1, 2).reshape(b, n, -1))
    y = net.norm2(x)
    x = x + net.down(nn.functional.silu(net.gate(y)) * net.up(y))
    return nn.functional.linear(x, net.embedding.weight)


def _state_space(net: Any, x: Tensor) -> Tensor:
    """A recurrence h = a * h + b * x over time, one a channel, as in state-space models."""
    values, gate = net.into(x).chunk(2, -1)
    values = net.conv(values.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2)
    decay = torch.exp(-nn.functional.softplus(net.decay))
    state = torch.zeros_like(values[:, 0])
    states = []
    for step in range(x.shape[1]):
        state = decay * state + values[:, step]
        states.append(state)
    return net.out(torch.stack(states, 1) * nn.functional.silu(gate))


def _autoencoder(net: Any, x: Tensor) -> Tensor:
    mean, log_variance = net.encode(x).chunk(2, -1)
    return net.decode(mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance) * net.training)


NETWORKS = (
    Toy(
        "class_token",
        lambda: Network(
            _class_token,
            embed=nn.Linear(6, 8),
            token=nn.Parameter(torch.randn(1, 1, 8)),
            position=nn.Parameter(torch.randn(1, 6, 8)),
            head=nn.Linear(8, 3),
        ),
        sequence(),
        (Coupled(8, "embed.*:0 token:2 position:2 head.weight:1"),),
        {"position:1": "no parameter owns"},
    ),
    Toy(
        "position",
        lambda: Network(
            _position, embed=nn.Linear(6, 8), position=nn.Parameter(torch.randn(1, 9, 8)), head=nn.Linear(8, 3)
        ),
        sequence(),
        (Coupled(8, "embed.*:0 position:2 head.weight:1"),),
        {"position:1": ""},
    ),
    Toy(
        "linear_on_channels",
        lambda: Network(_channels_last, conv=nn.Conv1d(3, 8, 1), mix=nn.Linear(8, 5), head=nn.Linear(5, 3)),
        image(2, 3, 9),
        (Coupled(8, "conv.*:0 mix.weight:1"), Coupled(5, "mix.*:0 head.weight:1")),
    ),
    Toy(
        "mixer",
        lambda: Network(
            _mixer,
            embed=nn.Linear(6, 8),
            norm1=nn.LayerNorm(8),
            token_up=nn.Linear(5, 7),
            token_down=nn.Linear(7, 5),
            norm2=nn.LayerNorm(8),
            up=nn.Linear(8, 16),
            down=nn.Linear(16, 8),
            head=nn.Linear(8, 3),
        ),
        sequence(),
        (
            Coupled(8, "embed.*:0 norm?.*:0 up.weight:1 down.*:0 head.weight:1", "normalised over units"),
            Coupled(7, "token_up.*:0 token_down.weight:1"),
            Coupled(16, "up.*:0 down.weight:1"),
        ),
        {"token_up.weight:1": "no parameter owns", "token_down.weight:0": "no parameter owns"},
    ),
    Toy(
        "conv_mixer",
        lambda: Network(
            _conv_mixer,
            stem=nn.Conv2d(3, 8, 2, 2),
            norm1=nn.BatchNorm2d(8),
            depth=nn.Conv2d(8, 8, 3, padding=1, groups=8),
            norm2=nn.BatchNorm2d(8),
            point=nn.Conv2d(8, 8, 1),
            norm3=nn.BatchNorm2d(8),
            head=nn.Linear(8, 3),
        ),
        image(),
        (
            Coupled(8, "stem.*:0 norm1.*:0 depth.*:0 norm2.*:0 point.weight:1"),
            Coupled(8, "point.*:0 norm3.*:0 head.weight:1"),
        ),
    ),
    Toy(
        "decoder",
        lambda: Network(
            _decoder,
            heads=2,
            head_dim=4,
            embedding=nn.Embedding(11, 8),
            norm1=nn.LayerNorm(8),
            qkv=nn.Linear(8, 24, bias=False),
            out=nn.Linear(8, 8, bias=False),
            norm2=nn.LayerNorm(8),
            gate=nn.Linear(8, 12, bias=False),
            up=nn.Linear(8, 12, bias=False),
            down=nn.Linear(12, 8, bias=False),
            mask=torch.ones(9, 9, dtype=torch.bool).triu(1),
        ),
        tokens(),
        (
            Coupled(
                8,
                "embedding.weight:1 norm?.*:0 qkv.weight:1 out.weight:0 gate.weight:1 up.weight:1 down.weight:0",
                "normalised over units",
            ),
            Coupled(2, "qkv.weight:0*12 out.weight:1*4"),
            Coupled(12, "gate.weight:0 up.weight:0 down.weight:1"),
        ),
    ),
    Toy(
        "state_space",
        lambda: Network(
            _state_space,
            into=nn.Linear(6, 16),
            conv=nn.Conv1d(8, 8, 3, padding=2, groups=8),
            decay=nn.Parameter(torch.randn(8)),
            out=nn.Linear(8, 3),
        ),
        sequence(),
        (Coupled(8, "into.*:0*2 conv.*:0 decay:0 out.weight:1"),),
    ),
    Toy(
        "variational",
        lambda: Network(
            _autoencoder,
            encode=nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 10)),
            decode=nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6)),
        ),
        sequence(),
        (
            Coupled(8, "encode.0.*:0 encode.2.weight:1"),
            Coupled(5, "encode.2.*:0*2 decode.0.weight:1"),
            Coupled(7, "decode.0.*:0 decode.2.weight:1"),
        ),
    ),
)
