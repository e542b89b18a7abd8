"""Masks given to `shrink`: what limits them, and constants that nothing takes over."""

from __future__ import annotations

import copy
import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsewood as sw
from sparsewood.errors import SparsewoodError
from sparsewood.shrinking.report import ShrinkReport

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
TAKEN_OVER = "no bias can take over the constants that {} of its units are"


def perceptron() -> nn.Sequential:
    """Groups 0 (16 units) and 2 (8 units), each with a bias and without a function that makes it 0."""
    torch.default_generator.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.Sigmoid(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))


def silencing(model: nn.Module, **rows: int) -> dict[str, Tensor]:
    """Masks of the first rows of weights, by the names of their modules (`_` for a dot)."""
    masks = {}
    for name, count in rows.items():
        param = name.strip("_").replace("_", ".") + ".weight"
        masks[param] = torch.ones_like(model.get_parameter(param), dtype=torch.bool)
        masks[param][:count] = False
    return masks


def equal_to_masked(model: nn.Module, masks: dict[str, Tensor], inputs: Any, **options: Any) -> ShrinkReport:
    """The report, once the small network has given what the masked one gives, also for other inputs."""
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    shrunk = sw.shrink(model, inputs, masks=masks, **options)
    masked = copy.deepcopy(model)
    sw.apply_masks(masked, masks)
    for given in (inputs, tuple(x + torch.randn_like(x) if x.is_floating_point() else x for x in inputs)):
        with torch.no_grad():
            torch.testing.assert_close(shrunk.model(*given), masked(*given), rtol=1e-4, atol=1e-5)
    assert shrunk.report.exact
    return shrunk.report


class Pair(nn.Module):
    """Two groups: `first` (8 units), of which `read` makes an output, and `other` (6), which a layer reads."""

    def __init__(self, read: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.default_generator.manual_seed(0)
        self.first, self.other = nn.Linear(4, 8), nn.Linear(4, 6)
        self.last = nn.Linear(6, 3)
        self.act, self.read = nn.ReLU(), read

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.read(self.act(self.first(x))), self.last(self.other(x).sigmoid())


# ---------------------------------------------------------------- limits


@pytest.mark.parametrize("protect", ["0", ["0.weight"], "0*", lambda model: model[0]])
def test_protected_layers_keep_their_masked_units(protect: Any) -> None:
    model = perceptron()
    protect = protect(model) if callable(protect) else protect
    report = equal_to_masked(model, silencing(model, _0=6, _2=3), X, protect=protect)
    assert report.units == {"0": (16, 16), "2": (5, 8)}
    assert report.held == {"0": "it is protected"}
    assert report.asked == report.removed == 3


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({}, (10, 5)),
        ({"round_to": 2}, (10, 6)),
        ({"round_to": 4}, (12, 8)),
        ({"min_units": 6}, (10, 6)),
        ({"min_units": 14}, (14, 8)),
        ({"min_units": 5, "round_to": 3}, (12, 6)),
    ],
)
def test_masked_units_fill_up_what_has_to_stay(options: dict[str, Any], left: tuple[int, int]) -> None:
    """Multiples and floors count, and the function stays that of the masked network."""
    model = perceptron()
    masks = silencing(model, _0=6, _2=3)
    report = equal_to_masked(model, masks, X, **options)
    assert report.units == {"0": (left[0], 16), "2": (left[1], 8)}
    assert (report.asked, report.removed) == (9, 24 - sum(left))
    assert not report.held
    told = sw.preview(model, X, masks=masks, **options)
    assert (told.units, told.asked, told.removed) == (report.units, report.asked, report.removed)


@pytest.mark.parametrize(("silent", "left"), [(3, 6), (4, 6), (5, 4)])
def test_what_cannot_go_counts_for_the_multiple(silent: int, left: int) -> None:
    """At a zero-padded border one constant stays and carries the others."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sigmoid(), nn.Conv2d(8, 4, 3, padding=1)).eval()
    report = equal_to_masked(model, silencing(model, _0=silent), torch.randn(2, 3, 9, 9), round_to=2)
    assert report.units == {"0": (left, 8)}


def test_constants_that_stay_are_told() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sigmoid(), nn.Conv2d(8, 4, 3, padding=1)).eval()
    report = equal_to_masked(model, silencing(model, _0=3), torch.randn(2, 3, 9, 9))
    assert report.units == {"0": (6, 8)}
    assert report.held == {"0": TAKEN_OVER.format(1)}
    assert f"held: 0: {TAKEN_OVER.format(1)}" in str(report)


@pytest.mark.parametrize("inexact", [True, False])
def test_constants_that_a_normalisation_counts_stay(inexact: bool) -> None:
    """Behind it they depend on the input, and none carries the others; without being asked to, and if asked to."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    masks = silencing(model, _0=3, _2=2)
    report = equal_to_masked(model, masks, X, inexact=inexact)
    assert report.units == {"0": (8, 8), "2": (4, 6)}
    assert report.held["0"] == (
        TAKEN_OVER.format(3) if inexact else "removing its units is not exact: normalised over units"
    )


class Five(nn.Module):
    """What it computes depends on the width of one layer being 5, which it is not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3, padding=1)
        self.last = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).sigmoid()
        return self.last(self.second(-x if x.shape[1] == 5 else x).relu())


def test_sizes_are_those_with_the_constants_that_stay() -> None:
    """Four of eight could go, but one stays for a border: the width would be 5."""
    torch.manual_seed(0)
    model, inputs = Five(), torch.randn(2, 3, 9, 9)
    masks = silencing(model, first=4, second=2)
    report = equal_to_masked(model, masks, inputs)
    assert report.units["first"] == (8, 8)
    assert "depends on whether" in report.held["first"]
    assert report.units["second"][0] < 6
    assert equal_to_masked(model, masks, inputs, round_to=2).units["first"] == (6, 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protect": "nonsense"}, "Unknown layer or parameter in protect 'nonsense'"),
        ({"round_to": 0}, "round_to must be a whole number >= 1"),
        ({"min_units": -1}, "min_units must be a whole number >= 1"),
        ({"protect": nn.Linear}, "every group is held"),
        ({"protect": "0"}, "No unit of Sequential goes .*it is protected"),
        ({"round_to": 16}, "multiples of round_to=16 leave no choice"),
        ({"criterion": sw.Random()}, "criterion would be ignored"),
        ({"scope": sw.PerLayer(), "normalize": True}, "scope and normalize would be ignored"),
    ],
)
def test_what_masks_do_not_go_with(options: dict[str, Any], message: str) -> None:
    model = perceptron()
    with pytest.raises(SparsewoodError, match=message):
        sw.shrink(model, X, masks=silencing(model, _0=6), **options)


# ---------------------------------------------------------------- the proof fails


def test_what_fails_the_proof_can_be_protected() -> None:
    """Said to be exact, it is not, even where units are 0; the advice of the error helps."""
    model = Pair(lambda x: x.exp() @ x.exp().T)
    with torch.no_grad():
        model.first.bias[:3] = -1
    masks = silencing(model, first=3, other=2)
    structure = sw.trace(model, X)
    groups = tuple(dataclasses.replace(group, exact=True, inexact=()) for group in structure.groups)
    lying = dataclasses.replace(structure, groups=groups)
    with pytest.raises(SparsewoodError, match=r"differs from the masked one .*protect=\[...\] leaves layers out"):
        sw.shrink(model, X, masks=masks, structure=lying)
    report = equal_to_masked(model, masks, X, structure=lying, protect=["first"])
    assert report.units == {"first": (8, 8), "other": (4, 6)}


# ---------------------------------------------------------------- constants that no weight reads


READERS: dict[str, Callable[[Tensor], Tensor]] = {
    "gram": lambda x: x @ x.T,
    "gram of squares": lambda x: x**2 @ x.T,
    "distances": lambda x: (x @ x.T) / (1 + x.square().sum(1)),
    "cosine": lambda x: F.cosine_similarity(x, x.flip(0)),
    "sum": lambda x: x.sum(1),
    "energy": lambda x: torch.einsum("bi,bi->b", x, x.roll(1, 0)),
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_constants_that_no_weight_reads_stay(read: Callable[[Tensor], Tensor]) -> None:
    """They stay, with the reason, and what is 0, or is read by a weight, goes."""
    model = Pair(read)
    with torch.no_grad():
        model.first.bias[:4] = torch.tensor([1.0, -1.0, 0.5, -0.5])
    report = equal_to_masked(model, silencing(model, first=4, other=2), X)
    assert report.units == {"first": (6, 8), "other": (4, 6)}
    assert report.held == {"first": TAKEN_OVER.format(2)}
    assert (report.asked, report.removed) == (6, 4)


def test_constants_that_cancel_go() -> None:
    model = Pair(lambda x: (x - x.flip(0)).abs().sum(1))
    with torch.no_grad():
        model.first.bias[:3] = 1
    report = equal_to_masked(model, silencing(model, first=3), X)
    assert report.units["first"] == (5, 8)
    assert not report.held


def test_the_constants_that_stay_count_for_the_multiple() -> None:
    model = Pair(READERS["gram"])
    with torch.no_grad():
        model.first.bias[:4] = torch.tensor([1.0, -1.0, -0.5, -0.5])
    report = equal_to_masked(model, silencing(model, first=4), X, round_to=2)
    assert report.units["first"] == (6, 8)


def test_where_all_constants_stay_nothing_goes() -> None:
    model = Pair(READERS["gram"])
    with torch.no_grad():
        model.first.bias[:3] = 1
    with pytest.raises(SparsewoodError, match=f"No unit of Pair goes .{TAKEN_OVER.format(3)}"):
        sw.shrink(model, X, masks=silencing(model, first=3))


class Interaction(nn.Module):
    """Features of an image and of a number, all multiplied with one another, as recommendation models do."""

    def __init__(self) -> None:
        super().__init__()
        torch.default_generator.manual_seed(0)
        self.image, self.number = nn.Conv2d(2, 8, 3), nn.Linear(4, 8)
        self.top = nn.Linear(8 + 1, 3)

    def forward(self, image: Tensor, number: Tensor) -> Tensor:
        rows = torch.stack([self.image(image).mean((2, 3)), self.number(number)], 1)
        products = rows @ rows.transpose(1, 2)
        return self.top(torch.cat([rows[:, 1], products[:, 0, 1:2]], 1))


def test_products_of_features() -> None:
    model = Interaction()
    inputs = (torch.randn(6, 2, 5, 5), X)
    with torch.no_grad():
        model.image.get_parameter("bias")[0] = 0
        model.number.get_parameter("bias")[0] = 0
    report = equal_to_masked(model, silencing(model, image=3, number=3), inputs)
    (units,) = report.units.values()
    assert units == (7, 8)


def test_dead_units_go_by_their_scores() -> None:
    """Without masks a constant goes like any other unit where nothing can take it over."""
    model = Pair(READERS["gram"])
    with torch.no_grad():
        model.first.weight[:3], model.first.bias[:3] = 0, 0.1
    shrunk = sw.shrink(model, X, {"first": 3})
    assert shrunk.report.exact
    assert shrunk.report.units["first"] == (5, 8)
    features = model.first(X).relu()[:, 3:]
    torch.testing.assert_close(shrunk.model(X)[0], features @ features.T)


@pytest.mark.parametrize(
    "read", [lambda x: x.sum(1).clamp(0, 4), lambda x: (3 - x.sum(1)).relu()], ids=["clamped", "rectified"]
)
def test_constants_that_make_a_difference_only_together_stay(read: Callable[[Tensor], Tensor]) -> None:
    model = Pair(read)
    with torch.no_grad():
        model.first.weight.mul_(0.01)
        model.first.bias.zero_()
        model.first.bias[:3] = 5.0
    report = equal_to_masked(model, silencing(model, first=3, other=2), X)
    assert report.units == {"first": (8, 8), "other": (4, 6)}
    assert report.held == {"first": TAKEN_OVER.format(3)}


def test_the_network_that_is_returned_is_compared_itself_if_nothing_is_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("sparsewood.shrinking.shrink")
    net, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(5, 4)
    assert sw.shrink(net, x, 0.5).report.rounding is None
    build = module.build

    def inaccurate(*given: Any, **named: Any) -> Any:
        built = build(*given, **named)
        with torch.no_grad():
            for parameter in built.model.parameters():
                parameter.mul_(1 + 1e-5)
        return built

    monkeypatch.setattr(module, "build", inaccurate)
    with pytest.raises(SparsewoodError, match="differ"):
        sw.shrink(net, x, 0.5)
