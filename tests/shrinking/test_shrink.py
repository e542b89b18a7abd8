"""What `shrink` and `preview` are asked for, refuse, hold back and report; that the proof can fail."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sparsewood as sw
from sparsewood.errors import SparsewoodError
from sparsewood.shrinking.cut import named_tensors
from sparsewood.structure import Group, Slice

Network = tuple[nn.Module, Tensor]


def perceptron(*widths: int, seed: int = 0) -> nn.Sequential:
    torch.default_generator.manual_seed(seed)
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*[part for layer in layers[:-1] for part in (layer, nn.ReLU())], layers[-1])


def run(model: nn.Module, inputs: Any) -> Tensor:
    with torch.no_grad():
        return model(inputs)


X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))

# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 1.5}, r"Sparsity must be a number in \[0, 1\]. Got 1.5"),
        ({"sparsity": "half"}, "An amount must be an int"),
        ({"sparsity": 1.0}, r"At most 22 of 24 units of 0, 2 can go \(min_units=1\), but 24 should"),
        ({"sparsity": 24}, r"At most 22 of 24 units of 0, 2 can go \(min_units=1\), but 24 should"),
        ({"round_to": 0}, "round_to must be a whole number >= 1. Got 0"),
        ({"min_units": 0}, "min_units must be a whole number >= 1. Got 0"),
        ({"criterion": "l1"}, "criterion must be a Criterion"),
        ({"protect": "nonsense"}, "Unknown layer or parameter in protect 'nonsense'"),
        ({"protect": nn.Linear}, "every group is held"),
        ({"budget": sw.Params(0.01)}, r"The least that can be reached is \d+"),
        ({"budget": sw.MACs(0.001)}, "The least that can be reached is"),
        ({"masks": {"0.weigh": torch.ones(16, 4, dtype=torch.bool)}}, "Did you mean '0.weight'"),
        ({"optimizer": torch.optim.SGD([nn.Parameter(torch.ones(1))])}, "holds none of the"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    """Each is refused with what was got and expected, and nothing has changed."""
    model = perceptron(4, 16, 8, 3)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(SparsewoodError, match=message):
        sw.shrink(model, X, **options)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_no_model_and_no_inputs() -> None:
    with pytest.raises(SparsewoodError, match=r"must be a torch.nn.Module. Got int"):
        sw.shrink(3, X)  # pyright: ignore[reportArgumentType]
    with pytest.raises(SparsewoodError, match=r"failed on the inputs \(float32\[1, 5\] on cpu\)"):
        sw.shrink(perceptron(4, 8, 3), torch.ones(1, 5))


@pytest.mark.parametrize("sparsity", [0.1, 0.25, 1 / 3, 0.5, 0.9, 1, 7, sw.Density(0.4)])
def test_the_number_that_goes_is_the_number_asked_for(sparsity: Any) -> None:
    model = perceptron(4, 16, 8, 3)
    gone = (
        sparsity
        if isinstance(sparsity, int)
        else round(24 * (1 - 0.4 if not isinstance(sparsity, float) else sparsity))
    )
    report = sw.shrink(model, X, sparsity).report
    assert report.asked == report.removed == gone
    assert sum(whole - kept for kept, whole in report.units.values()) == gone


def test_each_layer_its_own_amount() -> None:
    report = sw.shrink(perceptron(4, 16, 8, 3), X, {"0": 0.75, "2": 2}).report
    assert report.units == {"0": (4, 16), "2": (6, 8)}
    report = sw.shrink(perceptron(4, 16, 8, 3), X, {"2": 0.5}).report
    assert report.units == {"0": (16, 16), "2": (4, 8)}


@pytest.mark.parametrize("protect", ["0", ["0.weight"], "0*", lambda model: model[0]])
def test_protected_layers_stay(protect: Any) -> None:
    model = perceptron(4, 16, 8, 3)
    shrunk = sw.shrink(model, X, 0.5, protect=protect(model) if callable(protect) else protect)
    assert shrunk.report.units == {"0": (16, 16), "2": (4, 8)}
    assert shrunk.report.held == {"0": "it is protected"}


def test_round_to_and_min_units() -> None:
    report = sw.shrink(perceptron(4, 16, 12, 3), X, 0.6, round_to=4, min_units=5, scope=sw.PerLayer()).report
    assert report.units == {"0": (8, 16), "2": (8, 12)}


@pytest.mark.parametrize("budget", [sw.Params(0.5), sw.MACs(0.5), sw.Bytes(0.5)])
def test_budgets_are_met(budget: Any, conv: Network) -> None:
    model, inputs = conv
    shrunk = sw.shrink(model, inputs, budget=budget)
    before, after = shrunk.report.before, shrunk.report.after
    kind = {sw.Params: "params", sw.MACs: "macs", sw.Bytes: "bytes"}[type(budget)]
    assert 0.4 < getattr(after, kind) / getattr(before, kind) <= 0.5
    assert after.params == sum(p.numel() for p in shrunk.model.parameters())
    met = shrunk.report.budget
    assert met.budget == budget
    assert met.reached == getattr(after, kind) <= met.allowed == getattr(before, kind) // 2


def test_without_proof_the_report_says_so(conv: Network) -> None:
    report = sw.shrink(*conv, 0.5, verify=False).report
    assert (report.verified, report.exact, report.max_difference, report.conditions) == (False, False, None, ())
    assert "not verified" in str(report)
    proven = sw.shrink(*conv, 0.5).report
    assert (proven.verified, proven.exact) == (True, True)
    assert proven.max_difference is not None
    assert proven.max_difference <= 1e-9
    assert "equal to the masked network" in str(proven)


def test_progress_tells_the_stages(conv: Network) -> None:
    model, inputs = conv
    stages: list[str] = []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    report = sw.shrink(model, inputs, 0.5, progress=stages.append, optimizer=optimizer).report
    assert stages == ["trace", "scores", "choice", "build", "proof", "optimizer"]
    assert set(report.seconds) == set(stages)


def test_it_is_the_same_every_time(conv: Network) -> None:
    model, inputs = conv
    first, second = (sw.shrink(model, inputs, 0.5, criterion=sw.Random()) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True))


# ---------------------------------------------------------------- preview


@pytest.mark.parametrize(
    "options",
    [
        {"sparsity": 0.5},
        {"sparsity": 0.3, "scope": sw.PerLayer(), "round_to": 2},
        {"budget": sw.MACs(0.4)},
        {"sparsity": 0.5, "protect": "stem"},
    ],
)
def test_preview_says_what_shrink_does(conv: Network, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = conv
    done = sw.shrink(model, inputs, **options).report

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("preview builds nothing")

    shrink_module = sys.modules["sparsewood.shrinking.shrink"]
    for name in ("build", "duplicate"):
        monkeypatch.setattr(shrink_module, name, never)
    told = sw.preview(model, inputs, **options)
    for one in ("before", "after", "units", "asked", "removed", "held", "budget"):
        assert getattr(told, one) == getattr(done, one), one
    assert not told.verified


def test_preview_says_why_the_rest_stays(conv: Network) -> None:
    report = sw.preview(*conv, 0.5, protect="expand")
    assert report.held == {"expand": "it is protected"}
    assert any("output of the network" in barrier.why for barrier in report.barriers)
    assert "held: expand: it is protected" in str(report)


# ---------------------------------------------------------------- what masks have silenced


def pruned(model: nn.Module, sparsity: float) -> tuple[nn.Module, Any]:
    """A copy whose filters are 0, while the shifts behind them are left; and the masks."""
    masks = sw.prune(model, sw.Magnitude(), sparsity, granularity=sw.Filter(), include=[nn.Conv2d])
    masked = copy.deepcopy(model)
    sw.apply_masks(masked, masks)
    return masked, masks


def inner(padding: int) -> Network:
    """Filters behind which a normalisation shifts, read by a convolution with or without a border."""
    torch.default_generator.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3, padding=padding),
        nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip
    with torch.no_grad():
        for norm in (model[1], model[4]):
            norm.bias.uniform_(0.2, 1.0)
            norm.running_mean.normal_()
    return model.double().eval(), torch.randn(2, 3, 9, 9, dtype=torch.float64)


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_masked_filters_go_and_the_function_stays(padding: int, dtype: torch.dtype, close: float) -> None:
    """Their constants move into the readers' biases; at zero-padded borders one filter stays for all."""
    model, inputs = inner(padding)
    model, inputs = model.to(dtype), inputs.to(dtype)
    masked, masks = pruned(model, 0.5)
    silent = {name: int((~mask.flatten(1).any(1)).sum()) for name, mask in masks.items()}
    assert silent["0.weight"] > 1
    shrunk = sw.shrink(model, inputs, masks=masks)
    torch.testing.assert_close(run(shrunk.model, inputs), run(masked, inputs), rtol=close, atol=close)
    assert shrunk.report.exact
    others = torch.randn_like(inputs)
    torch.testing.assert_close(run(shrunk.model, others), run(masked, others), rtol=close, atol=close)
    kept = {name: whole - left for name, (left, whole) in shrunk.report.units.items()}
    assert kept["0"] == silent["0.weight"] - padding
    assert kept["3"] == silent["3.weight"]
    assert run(masked, inputs).std() > 0


def test_masks_that_silence_nothing(conv: Network) -> None:
    model, inputs = conv
    with pytest.raises(SparsewoodError, match="No unit of ConvNet goes"):
        sw.shrink(model, inputs, masks={"stem.weight": torch.ones(8, 3, 3, 3, dtype=torch.bool)})


def test_masks_of_everything_leave_one_unit() -> None:
    model = perceptron(4, 8, 3)
    masks = {"0.weight": torch.zeros(8, 4, dtype=torch.bool)}
    shrunk = sw.shrink(model, X, masks=masks)
    sw.apply_masks(model, masks)
    assert shrunk.report.units == {"0": (1, 8)}
    torch.testing.assert_close(run(shrunk.model, X), run(model, X))


# ---------------------------------------------------------------- step by step


def test_three_steps_compose(conv: Network, tmp_path: Path) -> None:
    """The plan of the last step makes the small network from the first one, in another process too."""
    model, inputs = conv
    shrunk = sw.shrink(model, inputs, 0.25)
    for _ in range(2):
        shrunk = sw.shrink(shrunk.model, inputs, 0.25)
        assert shrunk.report.exact
    assert len(shrunk.plan.steps) == 3
    assert dict(shrunk.plan.shapes) == {name: tuple(tensor.shape) for name, tensor in named_tensors(model).items()}
    before = dict(model.named_parameters())
    for name, parameter in shrunk.model.named_parameters():
        expected = before[name].detach()
        for axis, kept in shrunk.plan.kept.get(name, {}).items():
            expected = expected.index_select(axis, kept)
        assert torch.equal(parameter, expected), name
    sw.save(shrunk, tmp_path / "saved")
    torch.save((inputs, run(shrunk.model, inputs)), tmp_path / "expected.pt")
    code = f"""
import importlib.util, torch, sparsewood as sw
spec = importlib.util.spec_from_file_location("networks", {str(Path(__file__).with_name("conftest.py"))!r})
networks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(networks)
inputs, expected = torch.load("expected.pt")
loaded = sw.load("saved", model=networks.ConvNet().eval())
with torch.no_grad():
    assert torch.equal(loaded(inputs), expected)
again = sw.shrink(loaded, inputs, 2)
print(len(again.plan.steps), again.report.removed)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["4", "2"]


# ---------------------------------------------------------------- nothing can go


def test_nothing_can_go() -> None:
    with pytest.raises(SparsewoodError, match="No unit of this network can be removed"):
        sw.shrink(nn.Linear(4, 3), X)


class Written(nn.Module):
    """Its forward holds a size as a number."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).view(len(x), 2, 4).mean(1))


def test_a_size_written_in_the_forward_stays() -> None:
    with pytest.raises(SparsewoodError, match="can be removed"):
        sw.shrink(Written(), X)


# ---------------------------------------------------------------- sizes that cannot follow


class Sized(nn.Module):
    """`between` does something that depends on a size to eight units."""

    def __init__(self, between: Callable[[Any, Tensor], Tensor], **attributes: int) -> None:
        super().__init__()
        self.first, self.other, self.last = nn.Linear(4, 8), nn.Linear(4, 6), nn.Linear(8, 3)
        self.tail = nn.Linear(6, 3)
        self.between = between
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self, self.first(x))) + self.tail(self.other(x).relu())


def _depends_on_the_width(_: Any, x: Tensor) -> Tensor:
    return x.relu() if x.shape[1] > 6 else x.tanh()


def _depends_on_a_remainder(_: Any, x: Tensor) -> Tensor:
    return x.relu() if x.shape[1] % 4 == 0 else x.tanh()


def test_a_comparison_that_would_turn_holds_its_group() -> None:
    torch.manual_seed(0)
    model = Sized(_depends_on_the_width)
    report = sw.shrink(model, X, {"first": 3, "other": 3}).report
    assert report.units == {"first": (8, 8), "other": (3, 6)}
    assert "depends on whether" in report.held["first"]
    assert report.exact
    assert sw.shrink(model, X, {"first": 1, "other": 3}).report.units == {"first": (7, 8), "other": (3, 6)}


def test_a_remainder_that_decides_never_turns() -> None:
    model = Sized(_depends_on_a_remainder)
    report = sw.shrink(model, X, 3).report
    assert report.exact
    assert report.units.get("first", (4, 8))[0] % 4 == 0


def _heads(net: Any, x: Tensor) -> Tensor:
    """Heads as wide as the width divided by their number."""
    batch, width = x.shape
    return x.view(batch, net.heads, width // net.heads).softmax(-1).flatten(1)


@pytest.mark.parametrize("heads", [2, 4])
def test_sizes_that_are_computed_follow_or_hold(heads: int) -> None:
    """Whatever goes, the small network computes what the masked one did; or the group is held with a reason."""
    torch.manual_seed(0)
    model = Sized(_heads, heads=heads)
    units = dict.fromkeys(group.name for group in sw.trace(model, X).prunable)
    for gone in range(1, 7):
        report = sw.shrink(model, X, gone, criterion=sw.Random()).report
        assert report.exact or report.inexact
        assert report.removed == gone
        assert report.units.keys() == units.keys()


# ---------------------------------------------------------------- the proof can fail


def _forgetful(structure: sw.Structure, param: str) -> sw.Structure:
    """The structure without what it knows of a parameter, in its first group."""
    group, *rest = structure.groups
    return dataclasses.replace(structure, groups=(_without(group, param), *rest))


def _without(group: Group, param: str) -> Group:
    return dataclasses.replace(group, slices=tuple(one for one in group.slices if one.param != param))


def _turned(structure: sw.Structure, role: str) -> sw.Structure:
    """The structure in which units are read, or made, in the opposite order."""

    def turned(one: Slice) -> Slice:
        return dataclasses.replace(one, owner=one.owner[::-1].copy()) if one.role == role else one

    group, *rest = structure.groups
    return dataclasses.replace(
        structure, groups=(dataclasses.replace(group, slices=tuple(map(turned, group.slices))), *rest)
    )


def _unchanged_by(model: nn.Module, call: Callable[[torch.optim.Optimizer], Any], message: str) -> None:
    """`call` raises, and neither the network nor its optimizer has changed."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model.train()
    sum(p.square().sum() for p in model.parameters()).backward()  # pyright: ignore[reportAttributeAccessIssue]
    optimizer.step()
    before = {name: tensor.detach().clone() for name, tensor in named_tensors(model).items()}
    momenta = [state["momentum_buffer"].clone() for state in optimizer.state.values()]
    settings = repr(model)
    with pytest.raises(SparsewoodError, match=message):
        call(optimizer)
    assert all(torch.equal(tensor, before[name]) for name, tensor in named_tensors(model).items())
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model.parameters()]
    assert [id(p) for p in optimizer.state] == [id(p) for p in model.parameters()]
    for state, momentum in zip(optimizer.state.values(), momenta, strict=True):
        assert torch.equal(state["momentum_buffer"], momentum)
    assert repr(model) == settings
    assert model.training


def test_readers_in_the_wrong_order_fail_the_proof(conv: Network) -> None:
    model, inputs = conv
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Flatten(2), nn.Flatten(1), nn.Linear(512, 3))
    structure = _turned(sw.trace(model, inputs), "in")
    _unchanged_by(
        model,
        lambda optimizer: sw.shrink(model, inputs, 3, structure=structure, optimizer=optimizer),
        r"differs from the masked one by .*The model is as it was",
    )


def test_units_that_are_not_what_the_trace_says_fail_the_proof() -> None:
    """A softmax among the units: said to be exact, it is not."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3))
    structure = sw.trace(model, X)
    group, *rest = structure.groups
    assert not group.exact
    claimed = dataclasses.replace(group, exact=True, inexact=())
    lying = dataclasses.replace(structure, groups=(claimed, *rest))
    _unchanged_by(
        model,
        lambda optimizer: sw.shrink(model, X, 4, structure=lying, optimizer=optimizer),
        "removing these units is not the same as masking them",
    )
    report = sw.shrink(model, X, 4, structure=structure).report
    assert not report.exact
    assert report.inexact == {group.name: group.inexact}
    assert report.max_difference is not None
    assert report.max_difference > 1e-3


@pytest.mark.parametrize("forgotten", ["2.weight", "0.bias", "0.weight"])
def test_a_forgotten_parameter_is_refused(forgotten: str) -> None:
    model = perceptron(4, 8, 3)
    structure = _forgetful(sw.trace(model, X), forgotten)
    _unchanged_by(
        model,
        lambda optimizer: sw.shrink(model, X, 4, structure=structure, optimizer=optimizer),
        "does not run|no unit",
    )


@pytest.mark.parametrize("other", [perceptron(4, 16, 3), perceptron(4, 8, 8, 3), nn.Sequential(nn.Linear(4, 3))])
def test_the_structure_of_another_network_is_refused(other: nn.Module) -> None:
    model = perceptron(4, 8, 3)
    structure = sw.trace(other, X)
    _unchanged_by(model, lambda optimizer: sw.shrink(model, X, 4, structure=structure, optimizer=optimizer), ".")


def test_a_network_that_is_random_is_compared_with_the_same_numbers() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x + torch.randn_like(x)).relu())

    assert sw.shrink(Noisy(), X, 0.5).report.exact


def test_nan_weights_do_not_pass() -> None:
    model = perceptron(4, 8, 3)
    with torch.no_grad():
        model[2].bias.fill_(float("nan"))
    with pytest.raises(SparsewoodError, match="finite"):
        sw.shrink(model, X, 0.5)


# ---------------------------------------------------------------- bias propagation


def test_means_move_into_biases() -> None:
    """Requirement 003-12: a unit that hardly varies is its mean; with it the network stays closer to what it was."""
    torch.manual_seed(0)
    model = perceptron(4, 16, 3)
    with torch.no_grad():
        model[0].bias += 2
    data = [torch.randn(64, 4) for _ in range(3)]
    everything = torch.cat(data)
    plain = sw.shrink(model, X, 0.5)
    moved = sw.shrink(model, X, 0.5, bias_propagation=True, data=data)
    expected = run(model, everything)
    errors = [(run(one.model, everything) - expected).square().mean() for one in (plain, moved)]
    assert errors[1] < 0.5 * errors[0]
    assert moved.report.exact
    assert set(moved.report.folded)
    torch.testing.assert_close(run(moved.model, everything).mean(0), expected.mean(0), rtol=1e-4, atol=1e-4)
    assert plain.report.removed == moved.report.removed == 8
    assert np.isfinite(list(moved.report.folded.values())).all()


# ---------------------------------------------------------------- widths that no weight makes up for


@pytest.mark.parametrize("function", [nn.ReLU, nn.GELU, nn.Softplus, nn.Sigmoid])
def test_a_width_behind_which_a_function_bends_is_told(function: Callable[[], nn.Module]) -> None:
    """Twice as much before a ReLU is twice as much behind it; of other functions the report says so."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 8), nn.RMSNorm(8, elementwise_affine=False), function(), nn.BatchNorm1d(8), nn.Linear(8, 3)
    ).eval()
    report = sw.shrink(model, X, 4).report
    assert report.exact == (function is nn.ReLU)
    assert report.inexact == ({} if function is nn.ReLU else {"0": ("mean over units",)})


@pytest.mark.parametrize("sparsity", [0.5, sw.Sparsity(0.5)])
def test_the_default_amount_leaves_it_to_the_scope(conv: Network, sparsity: Any) -> None:
    """Said or not, it is the same."""
    model, inputs = conv
    said = sw.shrink(model, inputs, sparsity, scope={"stem": 0.25}).report
    assert said.units == sw.shrink(model, inputs, scope={"stem": 0.25}).report.units
    assert said.removed == said.asked > 0
