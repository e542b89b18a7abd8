"""The Hessian times the gradient: of masked networks, in half precision, and of outputs of every form."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sparsewood as sw
from sparsewood.criteria import GraSP, Magnitude
from sparsewood.statistics import HessianGradient, collect

Batch = tuple[Tensor, Tensor]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def batches(count: int = 2) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(8 * count, 5, generator=generator, dtype=torch.float64)
    return list(zip(x.split(8), torch.randint(3, (8 * count,), generator=generator).split(8), strict=True))


def kept_norm(model: nn.Module, masks: sw.Masks, weights: dict[str, Tensor]) -> float:
    """|g|^2 of the weights that are kept, in the network of these weights."""
    variables = {name: value.detach().requires_grad_() for name, value in weights.items()}
    x, y = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    value = F.cross_entropy(torch.func.functional_call(model, variables, x), y)
    found = torch.autograd.grad(value, [variables[name] for name in masks])
    return sum(float((g * mask).square().sum()) for g, mask in zip(found, masks.values(), strict=True))


def test_004_50_of_a_masked_network_the_norm_is_that_of_what_is_kept() -> None:
    """score = half of how fast |g_kept|^2 falls as w goes to 0: w d/dw |g_kept|^2 / 2, by finite differences."""
    model = network()
    masks = sw.prune(model, Magnitude(), 0.5, protect_classifier=False)
    given: dict[str, Any] = {"data": batches(), "loss": F.cross_entropy, "protect_classifier": False}
    with sw.masks.masked(model, masks):
        weights = {name: p.detach().clone() for name, p in model.named_parameters()}
        found = collect(model, batches(), [HessianGradient()], F.cross_entropy, names=list(masks), masks=masks)
    for name, mask in masks.items():
        scores = weights[name] * found.sums[HessianGradient().kind][name] / found.samples
        for place in mask.nonzero().tolist()[::4]:
            moved = [{n: w.clone() for n, w in weights.items()} for _ in range(2)]
            for one, factor in zip(moved, (1 + 1e-5, 1 - 1e-5), strict=True):
                one[name][tuple(place)] *= factor
            change = (kept_norm(model, masks, moved[0]) - kept_norm(model, masks, moved[1])) / 2e-5
            assert float(scores[tuple(place)]) == pytest.approx(change / 2, rel=1e-5, abs=1e-9)
    sw.masks.apply_masks(model, masks)
    next_masks = sw.prune(model, GraSP(temperature=1), 0.8, masks=masks, **given)
    assert next_masks == sw.prune(
        model, GraSP(temperature=1), 0.8, masks=masks, statistics=found, protect_classifier=False
    )


def test_every_step_of_iterations_is_of_what_the_steps_before_left() -> None:
    model = network()
    given: dict[str, Any] = {"data": batches(), "loss": F.cross_entropy, "protect_classifier": False}
    first = sw.prune(model, GraSP(temperature=1), 1 - 0.2**0.5, **given)
    with sw.masks.masked(model, first):
        statistics = collect(model, batches(), [HessianGradient()], F.cross_entropy, names=list(first), masks=first)
        all_weights = collect(model, batches(), [HessianGradient()], F.cross_entropy, names=list(first))
    kind = HessianGradient().kind
    assert any(not torch.allclose(statistics.sums[kind][n], all_weights.sums[kind][n], rtol=0.1) for n in first)
    by_hand = sw.prune(model, GraSP(temperature=1), 0.8, masks=first, statistics=statistics, protect_classifier=False)
    assert sw.prune(model, GraSP(temperature=1), 0.8, iterations=2, **given) == by_hand
    forced = sw.prune(model, GraSP(temperature=1), 0.8, statistics=statistics, protect_classifier=False)
    assert sw.prune(model, GraSP(temperature=1), 0.8, iterations=2, revive=True, **given) == forced


def test_masks_of_tied_names_count_together_and_those_that_do_not_fit_are_refused() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5)).double()
    model[2].weight = model[0].weight
    rows, columns = torch.ones(5, 5, dtype=torch.bool), torch.ones(5, 5, dtype=torch.bool)
    rows[0], columns[:, 0] = False, False
    two, one = (
        collect(model, batches(), [HessianGradient()], lambda out, _: out.square().mean(), masks=masks).sums
        for masks in ({"0.weight": rows, "2.weight": columns}, {"0.weight": rows & columns})
    )
    torch.testing.assert_close(two, one, rtol=0, atol=0)
    with pytest.raises(sw.SparsewoodError, match="has shape"):
        collect(model, batches(), [HessianGradient()], F.cross_entropy, masks={"0.weight": rows[:2]})


def test_half_precision_is_summed_in_float32() -> None:
    """How the data are cut into batches changes no more than the rounding of each batch's gradient."""
    model = network().bfloat16()
    data = [(x.bfloat16(), y) for x, y in batches(64)]
    names = ["0.weight", "2.weight"]
    found = collect(model, data, [HessianGradient()], F.cross_entropy, names=names)
    exact = collect(
        model.double(), [(x.double(), y) for x, y in data], [HessianGradient()], F.cross_entropy, names=names
    )
    kind = HessianGradient().kind
    for name in names:
        one, other = found.sums[kind][name], exact.sums[kind][name]
        assert one.dtype is torch.float32
        assert float((one - other).norm() / other.norm()) < 0.02


# ---------------------------------------------------------------- outputs


class Output(OrderedDict[str, Any]):
    """Read by key and by attribute, as of Hugging Face."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.__dict__.update(given)

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, value)
        self.__dict__[name] = value


@dataclass
class Data:
    logits: Tensor


class Pair(NamedTuple):
    logits: Tensor
    other: Tensor


class Wrapped(nn.Module):
    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.inner, self.make = network(), make

    def forward(self, x: Tensor) -> Any:
        return self.make(self.inner(x))


GOOD: list[tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]] = [
    (lambda x: (x, "other"), lambda o: o[0]),
    (lambda x: [x], lambda o: o[0]),
    (lambda x: Pair(x, x), lambda o: o.logits),
    (lambda x: {"logits": x, "loss": x.mean()}, lambda o: o["logits"]),
    (lambda x: Output(logits=x, states=(x, x)), lambda o: o.logits),
    (lambda x: Output(logits=x), lambda o: o["logits"]),
    (lambda x: MappingProxyType({"logits": x}), lambda o: o["logits"]),
]


@pytest.mark.parametrize(("make", "read"), GOOD, ids=range(len(GOOD)))
def test_the_temperature_divides_outputs_of_every_form(make: Any, read: Any) -> None:
    plain = sw.score(network(), GraSP(10), data=batches(), loss=F.cross_entropy)
    found = sw.score(Wrapped(make), GraSP(10), data=batches(), loss=lambda o, y: F.cross_entropy(read(o), y))
    for name, one in plain.items():
        torch.testing.assert_close(found[f"inner.{name}"], one, rtol=1e-12, atol=1e-15)


def test_004_50_the_outputs_are_divided() -> None:
    scores = sw.score(network(), GraSP(10), data=batches(), loss=F.cross_entropy)
    by_hand = sw.score(network(), GraSP(1), data=batches(), loss=lambda o, y: F.cross_entropy(o / 10, y))
    torch.testing.assert_close(scores, by_hand)


BAD: list[tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]] = [
    (Data, lambda o: o.logits.square().mean()),
    (lambda x: {"logits": x, "loss": x.square().mean()}, lambda o: o["loss"]),
    (lambda x: Output(logits=x, loss=x.square().mean()), lambda o: o.loss),
    (lambda x: x.square().mean(), lambda o: o),
]


@pytest.mark.parametrize(("make", "read"), BAD, ids=range(len(BAD)))
def test_a_loss_that_no_temperature_reaches_is_refused(make: Any, read: Any) -> None:
    with pytest.raises(sw.SparsewoodError, match=r"temperature 200 divides the outputs, but the loss of batch 0"):
        sw.score(Wrapped(make), GraSP(), data=batches(), loss=lambda o, _: read(o))
    scores = sw.score(Wrapped(make), GraSP(1), data=batches(), loss=lambda o, _: read(o))
    assert any(bool(one.any()) for one in scores.values())
