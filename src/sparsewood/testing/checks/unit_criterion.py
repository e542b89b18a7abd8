"""The contract of a criterion of units."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsewood import unit_criteria
from sparsewood.data import augment
from sparsewood.errors import SparsewoodError
from sparsewood.shrinking.shrink import shrink
from sparsewood.structure import trace
from sparsewood.testing.checks.shared import check_value, expect, fingerprint, seeded
from sparsewood.unit_criteria import UnitCriterion, needs_data

__all__ = ["check_unit_criterion"]

EXAMPLES = 12
CLASSES = 5
ORDER = (3, 0, 5, 1, 4, 2)
REMOVED = 4

Batches = Sequence[tuple[Tensor, Tensor]]


def check_unit_criterion(criterion: UnitCriterion) -> None:
    """The contract of a criterion of units.

    It is a frozen dataclass whose repr rebuilds it, and its docstring gives the formula of score_j and a source. Its
    scores are float64[units] for every group that can be removed, finite, the same for the same generator; it says what
    it lacks when it lacks data or a loss. Scoring leaves no trace on the model. Unless scores are drawn, they follow
    the units when these change places, and do not depend on how the data are cut into batches. `shrink` removes exactly
    as many units by it as are asked for.

    The network has 6 and 8 units behind ReLUs; the inputs are images of one channel and 8 x 8 pixels of 5 classes.
    """
    check_value(criterion, UnitCriterion, {**vars(augment), **vars(unit_criteria)})
    _check_docstring(criterion)
    _check_scores(criterion)
    _check_needs(criterion)
    _check_no_trace(criterion)
    if not _draws(criterion):
        _check_permutation(criterion)
        _check_batches(criterion)
    _check_selection(criterion)


# ---------------------------------------------------------------- the network


def _network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, CLASSES),
        )  # fmt: skip
        norm = model[1]
        assert isinstance(norm, nn.BatchNorm2d)
        with torch.no_grad():
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.uniform_(-0.3, 0.3)
    return model


def _batches(size: int = 5) -> Batches:
    x = torch.rand(EXAMPLES, 1, 8, 8, generator=seeded(1))
    return list(zip(x.split(size), (torch.arange(EXAMPLES) % CLASSES).split(size), strict=True))


def _given(criterion: UnitCriterion, batches: Batches) -> Any:
    """The data in the form that the criterion takes."""
    return torch.cat([x for x, _ in batches]) if criterion.reads_images else batches


def _scores(criterion: UnitCriterion, model: nn.Module, batches: Batches, seed: int = 0) -> dict[str, Tensor]:
    structure = trace(model, batches[0][0][:2])
    data = _given(criterion, batches)
    return dict(criterion(model, structure, data=data, loss=F.cross_entropy, generator=seeded(seed)))


def _draws(criterion: UnitCriterion) -> bool:
    first, second = (_scores(criterion, _network(), _batches(), seed) for seed in (0, 1))
    return any(not torch.equal(first[name], second[name]) for name in first)


# ---------------------------------------------------------------- what is checked


def _check_docstring(criterion: UnitCriterion) -> None:
    text = type(criterion).__doc__ or ""
    for part, why in (("score_j = ", "give the formula of score_j"), ("Source:", "name its source")):
        expect(part in text, f"The docstring of {type(criterion).__name__} must {why}: {part!r} is not in it")


def _check_scores(criterion: UnitCriterion) -> None:
    model = _network()
    first, second = (_scores(criterion, model, _batches()) for _ in range(2))
    units = {group.name: group.units for group in trace(model, _batches()[0][0]).prunable}
    expect(set(first) == set(units), f"{criterion} gives scores to {sorted(first)}; the groups are {sorted(units)}")
    for name, scores in first.items():
        what = f"{criterion}: the scores of {name}"
        shown = f"{scores.dtype}{list(scores.shape)}"
        right = scores.dtype == torch.float64 and scores.shape == (units[name],)
        expect(right, f"{what} are {shown}; expected torch.float64[{units[name]}]")
        expect(bool(torch.isfinite(scores).all()), f"{what} are not all finite")
        expect(not scores.requires_grad, f"{what} require a gradient")
        expect(torch.equal(scores, second[name]), f"{what} differ between two calls with equal generators")


def _check_needs(criterion: UnitCriterion) -> None:
    """What it says that it reads is what it reads."""
    model, data = _network(), _given(criterion, _batches())
    lacking = {"data": (None, F.cross_entropy), "a loss": (data, None)}
    reads = {"data": needs_data(criterion), "a loss": criterion.reads_loss}
    for what, (given, loss) in lacking.items():
        said: Exception | None = None
        try:
            criterion(model, trace(model, _batches()[0][0]), data=given, loss=loss, generator=seeded())
        except Exception as error:
            said = error
        if reads[what]:
            got = "nothing" if said is None else repr(said)
            told = isinstance(said, SparsewoodError)
            expect(told, f"{criterion} reads {what}; without, it must raise a SparsewoodError. Got {got}")
        else:
            expect(said is None, f"{criterion} needs {what}, though it does not say that it reads any: {said!r}")


def _check_no_trace(criterion: UnitCriterion) -> None:
    model = _network()
    for i, parameter in enumerate(model.parameters()):  # mixed flags and gradients are what is hard to put back
        parameter.requires_grad_(i % 2 == 0)
        parameter.grad = torch.full_like(parameter, 3.0) if i % 3 == 0 else None
    before = fingerprint(model)
    _scores(criterion, model, _batches())
    after = fingerprint(model)
    changed = [what for what in before if before[what] != after.get(what)]
    expect(not changed and len(before) == len(after), f"{criterion}: scoring changed {', '.join(changed)}")


def _check_permutation(criterion: UnitCriterion) -> None:
    model, moved, order = _network(), _network(), torch.tensor(ORDER)
    with torch.no_grad():
        for name in ("0.weight", "1.weight", "1.bias"):
            moved.get_parameter(name).copy_(model.get_parameter(name)[order])
        moved.get_parameter("3.weight").copy_(model.get_parameter("3.weight")[:, order])
    before, after = (_scores(criterion, net, _batches()) for net in (model, moved))
    expect(
        _close(after["0"], before["0"][order]),
        f"{criterion}: permuting the units of a layer does not permute its scores",
    )
    expect(_close(after["3"], before["3"]), f"{criterion}: permuting the units of a layer changes those of the next")


def _check_batches(criterion: UnitCriterion) -> None:
    whole, cut = (_scores(criterion, _network(), _batches(size)) for size in (EXAMPLES, 5))
    for name, scores in whole.items():
        expect(
            _close(cut[name], scores), f"{criterion}: the scores of {name} depend on how the data are cut into batches"
        )


def _close(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


def _check_selection(criterion: UnitCriterion) -> None:
    batches, model = _batches(), _network()
    small = shrink(
        model, batches[0][0][:2], REMOVED, criterion=criterion, data=_given(criterion, batches),
        loss=F.cross_entropy, generator=seeded(),
    )  # fmt: skip
    gone = 6 + 8 - sum(len(small.model.get_parameter(name)) for name in ("0.weight", "3.weight"))
    expect(gone == REMOVED, f"{criterion}: {gone} units are removed where {REMOVED} are asked for")
