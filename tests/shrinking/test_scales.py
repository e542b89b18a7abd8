"""Widths that a forward divides by are folded into weights: what is left computes what the masked network does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsewood as sw
from sparsewood.shrinking.build import build
from sparsewood.shrinking.plan import Edit, Scaling
from sparsewood.shrinking.proof import Probe, distance, masked_outputs
from sparsewood.shrinking.scales import Scales, apply_scalings, fold_scales
from sparsewood.testing.toys.toy import Network

_TOKENS = torch.Generator().manual_seed(3)
_X = torch.randn(2, 5, 6, generator=_TOKENS, dtype=torch.float64)


class _Case:
    """A network in float64 that loses the last of every two or three units, and how far it then is from the mask."""

    def __init__(self, model: nn.Module, *, attention: Any = "heads", only: str = "") -> None:
        self.model = model.double().eval()
        for parameter in self.model.parameters():
            nn.init.normal_(parameter, std=0.7)
        self.structure = sw.trace(self.model, _X, attention=attention)
        groups = [group for group in self.structure.prunable if group.name.startswith(only) and group.units > 1]
        self.keep = {group.name: np.arange(group.units) % (2 if group.units < 4 else 3) < 1 for group in groups}
        self.inexact = {group.name for group in groups if not group.exact}
        self.probe = Probe(self.model, _X, torch.Generator().manual_seed(0))

    def small(self) -> nn.Module:
        return build(self.model, self.structure, self.keep).model

    def far(self, small: nn.Module) -> float:
        return distance(self.probe, self.probe.of(small), masked_outputs(self.probe, self.structure, self.keep))

    def guessed(self) -> tuple[Scales, float]:
        small = self.small()
        assert self.far(small) > 1e-3, "nothing to fold"
        return fold_scales(small, self.structure, self.keep), self.far(small)

    def tried(self) -> tuple[Scales, float]:
        small = self.small()
        folded = fold_scales(small, self.structure, self.keep, lambda: self.far(small))
        return folded, self.far(small)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# ---------------------------------------------------------------- root mean squares


class _Norm(nn.Module):
    """As libraries write it; the name of the small number is the writer's."""

    def __init__(self, width: int, *, added: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.smallest = 1e-3
        self.added = added

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.smallest)
        return x * (self.added + self.weight) if self.added else self.weight * x


def _normed(norm: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), norm, nn.Linear(8, 3))


@pytest.mark.parametrize(
    ("norm", "name"),
    [
        (lambda: nn.RMSNorm(8, eps=1e-3), "eps"),
        (lambda: _Norm(8), "smallest"),
        (lambda: _Norm(8, added=1.0), "smallest"),
    ],
)
def test_root_mean_square(norm: Callable[[], nn.Module], name: str) -> None:
    case = _Case(_normed(norm()))
    folded, far = case.guessed()
    assert far < 1e-12
    assert case.inexact == {"0"}
    assert folded.edits == (Edit("1", name, (), 1e-3, 1e-3 * 8 / 3),)
    (scaling,) = folded.scalings
    assert (scaling.param, scaling.factor) == ("1.weight", pytest.approx((8 / 3) ** 0.5))
    assert scaling.offset == (1.0 if getattr(case.model[1], "added", 0) else 0.0)  # type: ignore[index]
    assert not folded.reasons


def test_no_epsilon_of_its_own() -> None:
    """PyTorch then adds the step of the numbers, which is no more than rounding."""
    case = _Case(_normed(nn.RMSNorm(8)))
    folded, far = case.guessed()
    assert far < 1e-12
    assert (len(folded.scalings), folded.edits) == (1, ())


def test_two_small_numbers() -> None:
    """Which of them is added to the mean is found by trying; by itself the first is taken."""
    norm = _Norm(8)
    vars(norm).pop("smallest")
    vars(norm).update(clip=1e-5, smallest=1e-3)
    case = _Case(_normed(norm))
    assert case.guessed()[1] > 1e-6
    folded, far = case.tried()
    assert far < 1e-12
    assert [edit.name for edit in folded.edits] == ["smallest"]


def test_written_epsilon() -> None:
    """Better than nothing, but not exact, and said so."""

    def run(net: Any, x: Tensor) -> Tensor:
        x = net.embed(x)
        return net.head(net.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-4)))

    case = _Case(Network(run, embed=nn.Linear(6, 8), weight=nn.Parameter(torch.ones(8)), head=nn.Linear(8, 3)))
    folded, far = case.guessed()
    assert 1e-9 < far < 1e-2
    assert len(folded.scalings) == 1
    assert folded.reasons == ("Network: what is added to its mean square is not among its attributes",)


def test_shared_epsilon_and_residuals() -> None:
    """Two norms of one stream, each with its own weight: one factor, all exact."""

    def run(net: Any, x: Tensor) -> Tensor:
        x = net.embed(x)
        x = x + net.down(F.silu(net.up(net.first(x))))
        return net.head(net.second(x))

    parts = {"embed": nn.Linear(6, 8), "up": nn.Linear(8, 12), "down": nn.Linear(12, 8), "head": nn.Linear(8, 3)}
    case = _Case(Network(run, **parts, first=_Norm(8), second=_Norm(8, added=1.0)))
    folded, far = case.guessed()
    assert far < 1e-12
    assert {one.param: one.offset for one in folded.scalings} == {"first.weight": 0.0, "second.weight": 1.0}
    assert not folded.reasons


def test_no_weight() -> None:
    case = _Case(_normed(nn.RMSNorm(8, elementwise_affine=False)))
    folded, _ = case.guessed()
    assert (folded.scalings, folded.edits) == ((), ())
    assert folded.reasons == ("1: a mean over units, behind which no weight scales them",)


def test_weight_that_is_used_elsewhere() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        return net.head(net.norm(net.embed(x)))

    norm, other = _Norm(8), nn.Module()
    other.weight = norm.weight
    case = _Case(Network(run, embed=nn.Linear(6, 8), norm=norm, head=nn.Linear(8, 3), other=other))
    folded, _ = case.guessed()
    assert not folded.scalings
    assert folded.reasons == ("norm: norm.weight, which scales the units, is used elsewhere, too",)


@pytest.mark.parametrize("norm", [nn.LayerNorm(8), nn.Sequential(nn.LayerNorm(8), nn.GELU())])
def test_layer_norm_stays_inexact(norm: nn.Module) -> None:
    folded, far = _Case(_normed(norm)).tried()
    assert far > 1e-3
    assert not folded.scalings


def test_a_mean_that_is_no_norm() -> None:
    """The mean over channels that gates them: nothing is changed."""

    def run(net: Any, x: Tensor) -> Tensor:
        x = net.embed(x)
        return net.head(net.weight * x * torch.sigmoid(x.mean(-1, keepdim=True)))

    case = _Case(Network(run, embed=nn.Linear(6, 8), weight=nn.Parameter(torch.ones(8)), head=nn.Linear(8, 3)))
    folded, _ = case.guessed()
    assert not folded.scalings
    assert "no weight scales them" in folded.reasons[0]


# ---------------------------------------------------------------- scales of attention


def _heads(x: Tensor, count: int) -> Tensor:
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


def _separate(net: Any, x: Tensor) -> Tensor:
    q, k, v = (_heads(layer(x), net.heads) for layer in (net.q, net.k, net.v))
    if "norm" in net._modules:
        q = net.norm(q)
    if net.by_hand:
        y = (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1) @ v
    else:
        y = F.scaled_dot_product_attention(q, k, v)
    return net.last(y.transpose(1, 2).flatten(2))


def _thirds(net: Any, x: Tensor) -> Tensor:
    q, k, v = net.qkv(x).unflatten(-1, (3, net.heads, net.head_dim)).permute(2, 0, 3, 1, 4)
    return net.last(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def _values_first(net: Any, x: Tensor) -> Tensor:
    """Not what the guess is."""
    v, k, q = net.qkv(x).unflatten(-1, (3, net.heads, net.head_dim)).permute(2, 0, 3, 1, 4)
    return net.last(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def _attending(run: Any, **parts: Any) -> nn.Module:
    fused = {"qkv": nn.Linear(6, 24)}
    separate = {name: nn.Linear(6, 8) for name in "qkv"}
    layers: Any = separate if run is _separate else fused
    return Network(run, heads=2, head_dim=4, last=nn.Linear(8, 3), **layers, **parts)


@pytest.mark.parametrize(
    ("model", "scaled"),
    [
        (lambda: _attending(_separate, by_hand=False), {"q.weight": 4, "q.bias": 4}),
        (lambda: _attending(_separate, by_hand=True), {"q.weight": 4, "q.bias": 4}),
        (lambda: _attending(_thirds), {"qkv.weight": 4, "qkv.bias": 4}),
        (lambda: _attending(_separate, by_hand=False, norm=nn.RMSNorm(4, eps=1e-3)), {"norm.weight": 2}),
    ],
)
def test_scale_of_attention(model: Callable[[], nn.Module], scaled: dict[str, int]) -> None:
    """Two of four places of every head stay: queries that are sqrt(2 / 4) times as large make up for it."""
    case = _Case(model(), attention="head_dims")
    folded, far = case.guessed()
    assert far < 1e-12
    assert case.inexact
    assert not folded.reasons
    by_attention = [one for one in folded.scalings if one.factor < 1]
    assert {one.param: len(one.positions) for one in by_attention} == scaled
    assert all(one.factor == pytest.approx(0.5**0.5) for one in by_attention)


def test_where_the_queries_stand_is_found_by_trying() -> None:
    """And if it is the keys that are found, these make up for it as well."""
    case = _Case(_attending(_values_first), attention="head_dims")
    assert case.guessed()[1] > 1e-3
    folded, far = case.tried()
    assert far < 1e-12
    assert not folded.reasons


def test_nothing_is_changed_if_it_is_no_better() -> None:
    case = _Case(_attending(_thirds), attention="head_dims")
    small = case.small()
    before = {name: tensor.clone() for name, tensor in small.state_dict().items()}
    folded = fold_scales(small, case.structure, case.keep, lambda: 1.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in small.state_dict().items())
    assert not folded.scalings
    assert folded.reasons == ("Network: no weight was found that makes up for its width",)


def test_replaced_attention_keeps_its_scale() -> None:
    def run(net: Any, x: Tensor) -> Tensor:
        x = net.embed(x)
        return net.head(net.attention(x, x, x, need_weights=False)[0])

    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    model = Network(run, embed=nn.Linear(6, 8), attention=attention, head=nn.Linear(8, 3))
    case = _Case(model, attention="head_dims")
    small = case.small()
    folded = fold_scales(small, case.structure, case.keep)
    assert case.far(small) < 1e-12
    assert case.inexact == {"attention.in_proj_weight"}
    assert not folded.reasons
    assert not folded.scalings


# ---------------------------------------------------------------- the same again


def test_apply_to_another_copy() -> None:
    """What was folded in float64 is folded into the network's own numbers."""
    case = _Case(_normed(_Norm(8, added=1.0)))
    folded, _ = case.guessed()
    small = case.small().float()
    apply_scalings(small, folded.scalings)
    for edit in folded.edits:
        setattr(small.get_submodule(edit.module), edit.name, edit.after)
    assert case.far(small) < 1e-5
    assert small.get_parameter("1.weight").dtype == torch.float32


def test_apply_scalings() -> None:
    layer = nn.Linear(2, 3, bias=False)
    before = layer.weight.detach().clone()
    apply_scalings(layer, [Scaling("weight", 1, torch.tensor([1]), 3.0), Scaling("weight", 0, torch.tensor([2]), 2.0)])
    torch.testing.assert_close(layer.weight.detach() / before, torch.tensor([[1.0, 3], [1, 3], [2, 6]]))


def test_nothing_removed() -> None:
    case = _Case(_normed(nn.RMSNorm(8)))
    whole = {name: np.ones_like(units) for name, units in case.keep.items()}
    folded = fold_scales(case.small(), case.structure, whole, lambda: pytest.fail("there is nothing to try"))
    assert (folded.scalings, folded.edits, folded.reasons) == ((), (), ())
