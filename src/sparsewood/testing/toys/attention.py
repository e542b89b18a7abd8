"""Attention in the ways in which people write it.

Sizes: B sequences, N tokens, h heads, d places in a head, k heads of keys and values.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsewood.testing.toys.toy import ANY, Coupled, Network, Toy, sequence

__all__ = ["ATTENTION"]

_FUSED = Coupled(2, "qkv.*:0*12 last.weight:1*4")
_SEPARATE = Coupled(2, "q.*:0*4 k.*:0*4 v.*:0*4 last.weight:1*4")
_GROUPED = Coupled(2, "q.*:0*8 k.*:0*4 v.*:0*4 last.weight:1*8")


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(B, h, N, d) three times -> (B, N, h * d)."""
    weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def _heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, h * d) -> (B, h, N, d)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _fused(net: Any, x: Tensor) -> Tensor:
    b, n, _ = x.shape
    q, k, v = net.qkv(x).reshape(b, n, 3, net.heads, net.head_dim).permute(2, 0, 3, 1, 4)
    return net.last(_attend(q, k, v))


def _fused_chunks(net: Any, x: Tensor) -> Tensor:
    q, k, v = (_heads(part, net.heads) for part in net.qkv(x).chunk(3, -1))
    return net.last(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def _separate(net: Any, x: Tensor) -> Tensor:
    b, n, _ = x.shape
    q, k, v = (layer(x).view(b, n, net.heads, net.head_dim).transpose(1, 2) for layer in (net.q, net.k, net.v))
    return net.last(_attend(q, k, v))


def _einsum(net: Any, x: Tensor) -> Tensor:
    q, k, v = (layer(x).unflatten(-1, (net.heads, -1)) for layer in (net.q, net.k, net.v))
    weights = torch.einsum("bnhd,bmhd->bhnm", q, k).softmax(-1)
    return net.last(torch.einsum("bhnm,bmhd->bnhd", weights, v).flatten(2))


def _repeated(net: Any, x: Tensor) -> Tensor:
    q, k, v = _heads(net.q(x), net.heads), _heads(net.k(x), net.kv_heads), _heads(net.v(x), net.kv_heads)
    times = net.heads // net.kv_heads
    return net.last(_attend(q, k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)))


def _expanded(net: Any, x: Tensor) -> Tensor:
    q, k, v = _heads(net.q(x), net.heads), _heads(net.k(x), net.kv_heads), _heads(net.v(x), net.kv_heads)
    b, heads, n, d = k.shape
    times = net.heads // net.kv_heads
    k, v = (part[:, :, None].expand(b, heads, times, n, d).reshape(b, heads * times, n, d) for part in (k, v))
    return net.last(_attend(q, k, v))


def _grouped_kernel(net: Any, x: Tensor) -> Tensor:
    q, k, v = _heads(net.q(x), net.heads), _heads(net.k(x), net.kv_heads), _heads(net.v(x), net.kv_heads)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return net.last(y.transpose(1, 2).flatten(2))


def _multi_query(net: Any, x: Tensor) -> Tensor:
    q, k, v = _heads(net.q(x), net.heads), net.k(x)[:, None], net.v(x)[:, None]
    return net.last(_attend(q, k, v))


def _rotate(x: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[-2])[:, None] / 10.0 ** torch.arange(half)
    cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


def _rotary(net: Any, x: Tensor) -> Tensor:
    q, k, v = (_heads(layer(x), net.heads) for layer in (net.q, net.k, net.v))
    return net.last(_attend(_rotate(q), _rotate(k), v))


def _linear_attention(net: Any, x: Tensor) -> Tensor:
    q, k, v = (_heads(layer(x), net.heads) for layer in (net.q, net.k, net.v))
    q, k = F.elu(q) + 1, F.elu(k) + 1
    total = q @ k.sum(-2, keepdim=True).transpose(-2, -1)
    return net.last((q @ (k.transpose(-2, -1) @ v) / total).transpose(1, 2).flatten(2))


def _window(net: Any, x: Tensor) -> Tensor:
    """Windows of 2 x 2 in a 4 x 4 image, with a learnt bias for every offset."""
    x = x.view(2, 2, 2, 2, 2, -1).transpose(2, 3).reshape(8, 4, -1)
    q, k, v = net.qkv(x).unflatten(-1, (3, net.heads, net.head_dim)).permute(2, 0, 3, 1, 4)
    bias = net.table[net.index.flatten()].view(4, 4, -1).permute(2, 0, 1)
    weights = (q @ k.transpose(-2, -1) + bias[None]).softmax(-1)
    return net.last((weights @ v).transpose(1, 2).flatten(2))


def _offsets() -> Tensor:
    places = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    offsets = places[:, None] - places[None] + 1
    return offsets[..., 0] * 3 + offsets[..., 1]


def _cached_bias(net: Any, x: Tensor) -> Tensor:
    """The learnt bias is looked up once and kept in a dict of the module, as inference code does."""
    if "bias" not in net.cache:
        net.cache["bias"] = net.table[net.index]
    q, k, v = (_heads(part, net.heads) for part in net.qkv(x).chunk(3, -1))
    weights = (q @ k.transpose(-2, -1) + net.cache["bias"].permute(2, 0, 1)).softmax(-1)
    return net.last((weights @ v).transpose(1, 2).flatten(2))


def _over_channels(net: Any, x: Tensor) -> Tensor:
    b, n, _ = x.shape
    q, k, v = net.qkv(x).reshape(b, n, 3, net.heads, -1).permute(2, 0, 3, 4, 1)
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    weights = (q @ k.transpose(-2, -1) * net.temperature).softmax(-1)
    return net.last((weights @ v).permute(0, 3, 1, 2).reshape(b, n, -1))


def _self_attention(net: Any, x: Tensor) -> Tensor:
    x = net.embed(x).relu()
    return net.head(net.attention(x, x, x, need_weights=False)[0])


def _cross_attention(net: Any, x: Tensor, y: Tensor) -> Tensor:
    x, y = net.embed(x).relu(), net.other(y).relu()
    return net.head(net.attention(x, y, y)[0])


def _encoder(net: Any, x: Tensor) -> Tensor:
    return net.head(net.encoder(net.embed(x)).mean(1))


def _encoder_decoder(net: Any, x: Tensor, y: Tensor) -> Tensor:
    return net.head(net.both(net.embed(x), net.other(y)))


def _hand(run: Any, *, fused: bool = False, last: int = 8, **more: Any) -> nn.Module:
    parts: dict[str, Any] = {"heads": 2, "head_dim": 4, **more}
    if fused:
        parts["qkv"] = nn.Linear(6, 24)
    else:
        keys = 4 * parts.get("kv_heads", parts["heads"])
        parts |= {"q": nn.Linear(6, 4 * parts["heads"]), "k": nn.Linear(6, keys), "v": nn.Linear(6, keys)}
    return Network(run, last=nn.Linear(last, 3), **parts)


_MODEL = "embed.*:0 {0}.self_attn.in_proj_weight:1 {0}.self_attn.out_proj.*:0 {0}.linear1.weight:1 {0}.linear2.*:0"
_LAYER = "encoder.layers.0"

ATTENTION = (
    Toy("attention_fused", lambda: _hand(_fused, fused=True), sequence(), (_FUSED,)),
    Toy("attention_chunks", lambda: _hand(_fused_chunks, fused=True), sequence(), (_FUSED,)),
    Toy("attention_separate", lambda: _hand(_separate), sequence(), (_SEPARATE,), {"q.weight:1": "no parameter owns"}),
    Toy("attention_einsum", lambda: _hand(_einsum), sequence(), (_SEPARATE,)),
    Toy("grouped_repeated", lambda: _hand(_repeated, last=16, heads=4, kv_heads=2), sequence(), (_GROUPED,)),
    Toy("grouped_expanded", lambda: _hand(_expanded, last=16, heads=4, kv_heads=2), sequence(), (_GROUPED,)),
    Toy("grouped_kernel", lambda: _hand(_grouped_kernel, last=16, heads=4, kv_heads=2), sequence(), (_GROUPED,)),
    Toy(
        "multi_query",
        lambda: _hand(_multi_query, last=16, heads=4, kv_heads=1),
        sequence(),
        (Coupled(4, "q.*:0*4 last.weight:1*4"),),
        {"k.weight:0": "", "v.weight:0": ""},
    ),
    Toy("rotary", lambda: _hand(_rotary), sequence(), (_SEPARATE,)),
    Toy("linear_attention", lambda: _hand(_linear_attention), sequence(), (_SEPARATE,)),
    Toy(
        "window_attention",
        lambda: _hand(_window, fused=True, table=nn.Parameter(torch.randn(9, 2)), index=_offsets()),
        sequence(6, 16),
        (Coupled(2, "qkv.*:0*12 table:1 last.weight:1*4"),),
    ),
    Toy(
        "cached_bias",
        lambda: _hand(_cached_bias, fused=True, table=nn.Parameter(torch.randn(9, 2)), index=_offsets(), cache={}),
        sequence(6, 4),
        (Coupled(2, "qkv.*:0*12 table:1 last.weight:1*4"),),
    ),
    Toy(
        "attention_over_channels",
        lambda: _hand(_over_channels, fused=True, temperature=nn.Parameter(torch.ones(2, 1, 1))),
        sequence(),
        (Coupled(2, "qkv.*:0*12 temperature:0 last.weight:1*4"),),
    ),
    Toy(
        "multihead_attention",
        lambda: Network(
            _self_attention,
            embed=nn.Linear(6, 8),
            attention=nn.MultiheadAttention(8, 2, batch_first=True),
            head=nn.Linear(8, 3),
        ),
        sequence(),
        (
            Coupled(8, "embed.*:0 attention.in_proj_weight:1"),
            Coupled(2, "attention.in_proj_*:0*12 attention.out_proj.weight:1*4"),
            Coupled(8, "attention.out_proj.*:0 head.weight:1"),
        ),
    ),
    Toy(
        "cross_attention",
        lambda: Network(
            _cross_attention,
            embed=nn.Linear(6, 8),
            other=nn.Linear(4, 7),
            attention=nn.MultiheadAttention(8, 2, kdim=7, vdim=7, batch_first=True),
            head=nn.Linear(8, 3),
        ),
        lambda g: (sequence()(g), sequence(4, 7)(g)),
        (
            Coupled(8, "embed.*:0 attention.q_proj_weight:1"),
            Coupled(7, "other.*:0 attention.k_proj_weight:1 attention.v_proj_weight:1"),
            # Its mean of the weights over heads is not used, but computed.
            Coupled(2, "attention.?_proj_weight:0*4 attention.in_proj_bias:0*12 attention.out_proj.weight:1*4", ANY),
            Coupled(8, "attention.out_proj.*:0 head.weight:1"),
        ),
    ),
    Toy(
        "transformer_encoder",
        lambda: Network(
            _encoder,
            embed=nn.Linear(6, 8),
            encoder=nn.TransformerEncoder(
                nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1, enable_nested_tensor=False
            ),
            head=nn.Linear(8, 3),
        ),
        sequence(),
        (
            Coupled(8, f"{_MODEL.format(_LAYER)} {_LAYER}.norm?.*:0 head.weight:1", "normalised over units"),
            Coupled(2, f"{_LAYER}.self_attn.in_proj_*:0*12 {_LAYER}.self_attn.out_proj.weight:1*4"),
            Coupled(16, f"{_LAYER}.linear1.*:0 {_LAYER}.linear2.weight:1"),
        ),
    ),
    Toy(
        "transformer",
        lambda: Network(
            _encoder_decoder,
            embed=nn.Linear(6, 8),
            other=nn.Linear(6, 8),
            both=nn.Transformer(8, 2, 1, 1, 16, batch_first=True),
            head=nn.Linear(8, 3),
        ),
        lambda g: (sequence()(g), sequence(6, 4)(g)),
    ),
)
