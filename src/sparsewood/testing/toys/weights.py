"""Weights that are not simply a module's parameter: computed, normalised, shared, tied."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

from sparsewood.testing.toys.toy import ANY, Coupled, Network, Toy, image, pool, sequence, tokens

__all__ = ["WEIGHTS"]


class Scaled(nn.Module):
    """A parametrization: every row times a factor."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.rand(rows))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.factor[:, None]


class Symmetric(nn.Module):
    """A parametrization: the upper triangle, mirrored."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).T


def _random(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape))


def _loop(net: Any, x: Tensor) -> Tensor:
    state = torch.tanh(net.first(x[:, 0]))
    for step in range(1, x.shape[1]):
        state = torch.tanh(net.first(x[:, step]) + net.again(state))
    return net.head(state)


def _two_scales(net: Any, x: Tensor) -> Tensor:
    x = net.stem(x).relu()
    return net.head(pool(net.shared(x).relu()) + pool(net.shared(F.avg_pool2d(x, 2)).relu()))


def _language(net: Any, x: Tensor) -> Tensor:
    x = net.embedding(x)
    x = net.down(net.up(x).relu()).relu()
    return F.linear(x, net.embedding.weight)


def _tied_linear() -> nn.Module:
    net = Network(_language, embedding=nn.Embedding(11, 8), up=nn.Linear(8, 12), down=nn.Linear(12, 8))
    net.output = nn.Linear(8, 11, bias=False)
    net.output.weight = net.embedding.weight  # pyright: ignore[reportAttributeAccessIssue]
    return net


WEIGHTS = (
    Toy(
        "weight_norm",
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3)),
        sequence(),
        (Coupled(8, "0.bias:0 0.parametrizations.weight.original?:0 2.weight:1", ANY),),
    ),
    Toy(
        "weight_norm_twice",
        lambda: nn.Sequential(
            parametrizations.weight_norm(nn.Linear(6, 8)),
            nn.ReLU(),
            parametrizations.weight_norm(nn.Linear(8, 5)),
            nn.ReLU(),
            nn.Linear(5, 3),
        ),
        sequence(),
        (
            Coupled(8, "0.bias:0 0.parametrizations.weight.original?:0 2.parametrizations.weight.original1:1", ANY),
            Coupled(5, "2.bias:0 2.parametrizations.weight.original?:0 4.weight:1", ANY),
        ),
    ),
    Toy(
        "spectral_norm",
        lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3)),
        sequence(),
        (Coupled(8, "0.bias:0 0.parametrizations.weight.original:0 0.parametrizations.weight.0._u:0 2.weight:1", ANY),),
    ),
    Toy(
        "parametrization",
        lambda: nn.Sequential(
            parametrize.register_parametrization(nn.Linear(6, 8), "weight", Scaled(8)), nn.ReLU(), nn.Linear(8, 3)
        ),
        sequence(),
        (Coupled(8, "0.bias:0 0.parametrizations.weight.original:0 0.parametrizations.weight.0.factor:0 2.weight:1"),),
    ),
    Toy(
        "symmetric_parametrization",
        lambda: nn.Sequential(
            nn.Linear(6, 8),
            parametrize.register_parametrization(nn.Linear(8, 8), "weight", Symmetric()),
            nn.Linear(8, 3),
        ),
        sequence(),
    ),
    Toy(
        "functional_weight",
        lambda: Network(
            lambda net, x: net.head(pool(F.conv2d(x, net.kernel, net.shift).relu())),
            kernel=_random(8, 3, 1, 1),
            shift=_random(8),
            head=nn.Linear(8, 3),
        ),
        image(),
        (Coupled(8, "kernel:0 shift:0 head.weight:1"),),
    ),
    Toy(
        "factored_weight",
        lambda: Network(
            lambda net, x: net.head(F.linear(x, net.left @ net.right).relu()),
            left=_random(8, 4),
            right=_random(4, 6),
            head=nn.Linear(8, 3),
        ),
        sequence(),
        (Coupled(8, "left:0 head.weight:1"), Coupled(4, "left:1 right:0")),
    ),
    Toy(
        "low_rank_adapter",
        lambda: Network(
            lambda net, x: net.head((net.base(x) + net.up(net.down(x))).relu()),
            base=nn.Linear(6, 8),
            down=nn.Linear(6, 2, bias=False),
            up=nn.Linear(2, 8, bias=False),
            head=nn.Linear(8, 3),
        ),
        sequence(),
        (Coupled(8, "base.*:0 up.weight:0 head.weight:1"), Coupled(2, "down.weight:0 up.weight:1")),
    ),
    Toy(
        "einsum_weight",
        lambda: Network(
            lambda net, x: net.head(pool(torch.einsum("bchw,oc->bohw", net.conv(x).relu(), net.mix))),
            conv=nn.Conv2d(3, 8, 1),
            mix=_random(6, 8),
            head=nn.Linear(6, 3),
        ),
        image(),
        (Coupled(8, "conv.*:0 mix:1"), Coupled(6, "mix:0 head.weight:1")),
    ),
    Toy(
        "matmul_parameter",
        lambda: Network(
            lambda net, x: net.head((x @ net.first).relu() @ net.second + net.shift),
            first=_random(6, 8),
            second=_random(8, 5),
            shift=_random(5),
            head=nn.Linear(5, 3),
        ),
        sequence(),
        (Coupled(8, "first:1 second:0"), Coupled(5, "second:1 shift:0 head.weight:1")),
    ),
    Toy(
        "shared_at_two_scales",
        lambda: Network(_two_scales, stem=nn.Conv2d(3, 8, 1), shared=nn.Conv2d(8, 5, 1), head=nn.Linear(5, 3)),
        image(),
        (Coupled(8, "stem.*:0 shared.weight:1"), Coupled(5, "shared.*:0 head.weight:1")),
    ),
    Toy(
        "recurrent_loop",
        lambda: Network(_loop, first=nn.Linear(6, 8), again=nn.Linear(8, 8), head=nn.Linear(8, 3)),
        sequence(),
        (Coupled(8, "first.*:0 again.*:0 again.weight:1 head.weight:1"),),
    ),
    Toy(
        "tied_embedding",
        _tied_linear,
        tokens(),
        (Coupled(8, "embedding.weight:1 up.weight:1 down.*:0"), Coupled(12, "up.*:0 down.weight:1")),
        {"embedding.weight:0": ""},
    ),
    Toy(
        "tied_transposed",
        lambda: Network(lambda net, x: F.linear(net.code(x).relu(), net.code.weight.T), code=nn.Linear(6, 5)),
        sequence(),
        (Coupled(5, "code.*:0"),),
        {"code.weight:1": ""},
    ),
    Toy(
        "bilinear",
        lambda: Network(
            lambda net, x: net.head(net.both(net.a(x).relu(), net.b(x).relu())),
            a=nn.Linear(6, 8),
            b=nn.Linear(6, 7),
            both=nn.Bilinear(8, 7, 5),
            head=nn.Linear(5, 3),
        ),
        sequence(),
        (
            Coupled(8, "a.*:0 both.weight:1"),
            Coupled(7, "b.*:0 both.weight:2"),
            Coupled(5, "both.*:0 head.weight:1"),
        ),
    ),
    Toy(
        "embedding_bag",
        lambda: nn.Sequential(nn.EmbeddingBag(11, 8, mode="mean"), nn.ReLU(), nn.Linear(8, 3)),
        tokens(),
        (Coupled(8, "0.weight:1 2.weight:1"),),
        {"0.weight:0": ""},
    ),
    Toy(
        "scalar_parameter",
        lambda: Network(
            lambda net, x: net.head(net.first(x).relu() * net.scale),
            first=nn.Linear(6, 8),
            scale=nn.Parameter(torch.tensor(0.5)),
            head=nn.Linear(8, 3),
        ),
        sequence(),
        (Coupled(8, "first.*:0 head.weight:1"),),
    ),
    Toy(
        "parameters_of_size_one",
        lambda: Network(
            lambda net, x: net.head(net.first(x).relu() * net.scale + net.shift),
            first=nn.Linear(6, 8),
            scale=_random(1),
            shift=_random(1, 1, 1),
            head=nn.Linear(8, 3),
        ),
        sequence(),
        (Coupled(8, "first.*:0 head.weight:1", ANY),),
        {"scale:0": ""},
    ),
)
