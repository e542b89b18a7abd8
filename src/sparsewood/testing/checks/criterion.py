"""The contract of a criterion."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsewood.criteria import Criterion, Inputs
from sparsewood.granularity import Element, Filter
from sparsewood.parameters import Entry
from sparsewood.statistics import Statistic
from sparsewood.testing.checks.shared import check_value, count_units, expect, fingerprint, prune_toy, score_toy, seeded
from sparsewood.testing.toys import ARCHITECTURES, Architecture
from sparsewood.types import Statistics

Observed = tuple[str, Tensor, Mapping[str, Tensor]]


def check_criterion(criterion: Criterion) -> None:
    """The contract of a criterion.

    It is a frozen dataclass whose repr rebuilds it, and its docstring gives the formula of the score and a source. Its
    scores have the parameter's shape, are finite, and are the same for the same generator; they follow the output units
    when these are permuted (unless they depend on the generator); if `pointwise`, they can be computed in pieces.
    Scoring leaves no trace on the model, works in float64 and bfloat16, for single weights and for whole units, and
    selects exactly.
    """
    check_value(criterion, Criterion)
    _check_docstring(criterion)
    toy = next(architecture for architecture in ARCHITECTURES if architecture.name == "conv_norm")
    model = toy.build()
    _check_scores(criterion, toy, model)
    _check_no_trace(criterion, toy)
    for dtype in (torch.float64, torch.bfloat16):
        scores = score_toy(criterion, toy, toy.build().to(dtype))
        expect(all(torch.isfinite(s).all() for s in scores.values()), f"{criterion}: scores of {dtype} are not finite")
    if not _is_random(criterion, toy, model):
        _check_permutation(criterion, toy, model)
    if criterion.pointwise:
        _check_pieces(criterion, toy, model)
    _check_selection(criterion, toy, model)


def _check_docstring(criterion: Criterion) -> None:
    text = type(criterion).__doc__ or ""
    for part, why in (("score", "say what the score is"), ("Source:", "name its source")):
        expect(part in text, f"The docstring of {type(criterion).__name__} must {why}: {part!r} is not in it")
    expect("=" in text or "~" in text, f"The docstring of {type(criterion).__name__} must give a formula")


def _check_scores(criterion: Criterion, toy: Architecture, model: nn.Module) -> None:
    parameters = dict(model.named_parameters())
    first, second = score_toy(criterion, toy, model), score_toy(criterion, toy, model)
    for name, scores in first.items():
        what = f"{criterion}: the scores of {name}"
        expect(scores.shape == parameters[name].shape, f"{what} have shape {tuple(scores.shape)}")
        expect(
            scores.dtype in {torch.float32, torch.float64}, f"{what} are {scores.dtype}; expected float32 or float64"
        )
        expect(bool(torch.isfinite(scores).all()), f"{what} are not all finite")
        expect(not scores.requires_grad, f"{what} require a gradient")
        expect(torch.equal(scores, second[name]), f"{what} differ between two calls with equal generators")
    by_filter = score_toy(criterion, toy, model, Filter())
    for name, scores in by_filter.items():
        units = (len(parameters[name]),) + (1,) * (parameters[name].ndim - 1)
        expect(scores.shape == units, f"{criterion}: {units[0]} filters of {name} have scores {tuple(scores.shape)}")
        expect(bool(torch.isfinite(scores).all()), f"{criterion}: scores of filters of {name} are not all finite")


def _check_no_trace(criterion: Criterion, toy: Architecture) -> None:
    model = toy.build()
    for i, parameter in enumerate(model.parameters()):  # mixed flags and gradients are what is hard to put back
        parameter.requires_grad_(i % 2 == 0)
        parameter.grad = torch.full_like(parameter, 3.0) if i % 3 == 0 else None
    before = fingerprint(model)
    score_toy(criterion, toy, model)
    after = fingerprint(model)
    changed = [what for what in before if before[what] != after.get(what)]
    expect(not changed and len(before) == len(after), f"{criterion}: scoring changed {', '.join(changed)}")


def _check_permutation(criterion: Criterion, toy: Architecture, model: nn.Module) -> None:
    for name, weight, statistics in _observed(criterion, toy, model):
        order = torch.randperm(len(weight), generator=seeded())
        scores = criterion(Inputs(name, weight, statistics, seeded()))
        permuted = criterion(Inputs(name, weight[order], _rows(statistics, len(weight), order), seeded()))
        close = torch.allclose(permuted, scores[order], rtol=1e-5, atol=0)
        expect(close, f"{criterion}: permuting the output units of {name} does not permute its scores")


def _check_pieces(criterion: Criterion, toy: Architecture, model: nn.Module) -> None:
    for name, weight, statistics in _observed(criterion, toy, model):
        whole = criterion(Inputs(name, weight, statistics, seeded()))
        for row in range(len(weight)):
            part = slice(row, row + 1)
            piece = criterion(Inputs(name, weight[part], _rows(statistics, len(weight), part), seeded()))
            expect(
                torch.equal(piece, whole[part]),
                f"{criterion} is pointwise, but row {row} of {name} by itself has other scores than in the whole",
            )
        flat = {kind: tensor.expand(weight.shape).reshape(-1) for kind, tensor in statistics.items()}
        again = criterion(Inputs(name, weight.reshape(-1), flat, seeded()))
        expect(torch.equal(again, whole.reshape(-1)), f"{criterion} is pointwise, but flat {name} has other scores")


def _check_selection(criterion: Criterion, toy: Architecture, model: nn.Module) -> None:
    for granularity in (Element(), Filter()):
        masks = prune_toy(criterion, model, 0.5, toy=toy, granularity=granularity)
        total, kept = count_units(model, masks, granularity)
        expect(kept == total - round(0.5 * total), f"{criterion}: {kept} of {total} units are kept at sparsity 0.5")


@dataclass(frozen=True)
class _Spy(Criterion):
    """Stands in for a criterion and notes what it is given."""

    spied: Criterion
    seen: list[Inputs]

    @property
    def needs(self) -> tuple[Statistic, ...]:
        return self.spied.needs

    @property
    def reads(self) -> tuple[str, ...]:
        return self.spied.reads

    def across(self, weights: Mapping[str, Tensor], statistics: Statistics) -> Statistics:
        return self.spied.across(weights, statistics)

    def covers(self, entry: Entry) -> bool:
        return self.spied.covers(entry)

    def __call__(self, inputs: Inputs) -> Tensor:
        self.seen.append(inputs)
        return inputs.weight


def _observed(criterion: Criterion, toy: Architecture, model: nn.Module) -> Iterable[Observed]:
    """Name, weight and mean statistics of what the criterion covers."""
    spy = _Spy(criterion, [])
    score_toy(spy, toy, model)
    return [(inputs.name, inputs.weight, inputs.statistics) for inputs in spy.seen]


def _rows(statistics: Mapping[str, Tensor], rows: int, part: Tensor | slice) -> dict[str, Tensor]:
    return {kind: tensor[part] if len(tensor) == rows else tensor for kind, tensor in statistics.items()}


def _is_random(criterion: Criterion, toy: Architecture, model: nn.Module) -> bool:
    first, second = score_toy(criterion, toy, model), score_toy(criterion, toy, model, seed=1)
    return any(not torch.equal(first[name], second[name]) for name in first)
