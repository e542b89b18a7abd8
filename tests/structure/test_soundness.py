"""The contract of a structure sees what is wrong, and holds for random networks."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sparsewood.shrinking.copies import duplicate
from sparsewood.structure import Group, Slice, Structure, trace
from sparsewood.structure.expressions import Constant
from sparsewood.structure.tracked import Tracked
from sparsewood.testing import TOYS, StructureReport, check_structure
from sparsewood.testing.leftovers import refuse_leftovers, state_of

# ---------------------------------------------------------------- the contract sees


def _changed(structure: Structure, change: Callable[[Group], Group]) -> Structure:
    """The structure with its first group changed."""
    return dataclasses.replace(structure, groups=(change(structure.groups[0]), *structure.groups[1:]))


def _without(param: str) -> Callable[[Group], Group]:
    return lambda group: dataclasses.replace(group, slices=tuple(one for one in group.slices if one.param != param))


def _owners(change: Callable[[np.ndarray], np.ndarray], role: str = "in") -> Callable[[Group], Group]:
    def changed(one: Slice) -> Slice:
        return dataclasses.replace(one, owner=change(one.owner)) if one.role == role else one

    return lambda group: dataclasses.replace(group, slices=tuple(map(changed, group.slices)))


def _structure(name: str) -> Structure:
    return trace(TOYS[name].build(), TOYS[name].inputs())


def _check_values(name: str, structure: Structure, monkeypatch: pytest.MonkeyPatch) -> None:
    """The numerical checks alone."""
    monkeypatch.setattr("sparsewood.testing.structures._check_determinism", lambda *_: None)
    check_structure(TOYS[name].build(), TOYS[name].inputs(), structure)


def test_a_forgotten_reader_leaks(monkeypatch: pytest.MonkeyPatch) -> None:
    structure = _changed(_structure("dense_block"), _without("c.weight"))
    with pytest.raises(AssertionError, match="leak check"):
        _check_values("dense_block", structure, monkeypatch)


def test_a_unit_that_is_never_zero_is_reported() -> None:
    toy = TOYS["sigmoid_then_pool"]
    assert check_structure(toy.build(), toy.inputs(), trace(toy.build(), toy.inputs())).constants == ("conv",)
    toy = TOYS["batch_norm"]
    assert check_structure(toy.build(), toy.inputs(), trace(toy.build(), toy.inputs())).constants == ()


def test_readers_in_the_wrong_order_leak(monkeypatch: pytest.MonkeyPatch) -> None:
    structure = _changed(_structure("flip"), _owners(lambda owner: owner[::-1].copy()))
    with pytest.raises(AssertionError, match="leak check"):
        _check_values("flip", structure, monkeypatch)


def test_an_inexact_group_that_claims_to_be_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    structure = _structure("mean_over_channels")
    report = check_structure(TOYS["mean_over_channels"].build(), TOYS["mean_over_channels"].inputs(), structure)
    assert report.differences["conv", "removal"] > 1e-3
    claimed = _changed(structure, lambda group: dataclasses.replace(group, exact=True, inexact=()))
    with pytest.raises(AssertionError, match="removal check"):
        _check_values("mean_over_channels", claimed, monkeypatch)


def test_two_owners_of_a_position(monkeypatch: pytest.MonkeyPatch) -> None:
    structure = _structure("concat")
    first, second, *others = structure.groups
    twice = dataclasses.replace(first, slices=(*first.slices, second.slices[0]))
    with pytest.raises(AssertionError, match=r"two owners|units own"):
        _check_values("concat", dataclasses.replace(structure, groups=(twice, second, *others)), monkeypatch)


def test_unequal_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    structure = _changed(_structure("concat"), _owners(lambda owner: np.where(owner == 1, 0, owner)))
    with pytest.raises(AssertionError, match="units own"):
        _check_values("concat", structure, monkeypatch)


def test_another_structure_is_not_what_tracing_gives() -> None:
    structure = _changed(_structure("concat"), _without("a.bias"))
    with pytest.raises(AssertionError, match="other groups: a"):
        check_structure(TOYS["concat"].build(), TOYS["concat"].inputs(), structure)


def test_what_does_not_apply_is_said() -> None:
    toy = TOYS["mean_over_channels"]
    report = check_structure(toy.build(), toy.inputs(), trace(toy.build(), toy.inputs()))
    assert report.leaks == ()
    assert report.skipped == {("conv", "leak"): "no weight reads it"}
    assert report.removals == ("conv",)


# ---------------------------------------------------------------- the contract cannot pass where it should fail


class Two(nn.Module):
    """Two layers and something between them."""

    def __init__(self, between: Callable[[Any, Tensor], Any], **attributes: Any) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 3)
        self.between = between
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Any:
        return self.second(self.between(self, self.first(x)))


X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


def _passed(model: nn.Module, x: Any, structure: Structure, monkeypatch: pytest.MonkeyPatch) -> StructureReport:
    """The numerical checks alone, of a model that the structure may have been traced without."""
    monkeypatch.setattr("sparsewood.testing.structures._check_determinism", lambda *_: None)
    return check_structure(model, x, structure)


def _plain() -> Structure:
    return trace(Two(lambda _, h: h.relu()), X)


def test_a_forward_that_raises_after_removal_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Two(lambda _, h: h.relu() * torch.ones(8, dtype=h.dtype))
    with pytest.raises(
        AssertionError, match=r"without unit 0 of group 'first' in eval mode raises RuntimeError: .*size"
    ):
        _passed(model, X, _plain(), monkeypatch)


def test_outputs_of_another_shape_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    class Both(Two):
        def forward(self, x: Tensor) -> Any:
            hidden = self.first(x).relu()
            return self.second(hidden), torch.zeros_like(hidden)

    with pytest.raises(AssertionError, match="changes the outputs' shapes"):
        _passed(Both(lambda _, h: h), X, _plain(), monkeypatch)


def test_parameters_that_share_memory_share_it_in_the_copy() -> None:
    first, second = nn.Linear(6, 6), nn.Linear(6, 6)
    second.weight.data = first.weight.data
    view = nn.Linear(6, 3)
    view.weight.data = first.weight.data[1:4]
    for double in (True, False):
        copied = duplicate(nn.Sequential(first, second, view), double=double)
        with torch.no_grad():
            copied[0].weight[2] = 7.0
        assert bool((copied[1].weight[2] == 7).all())
        assert bool((copied[2].weight[1] == 7).all())
    assert not bool((first.weight == 7).any())


def test_a_tie_that_is_not_known_leaks(monkeypatch: pytest.MonkeyPatch) -> None:
    class Tied(nn.Module):
        def __init__(self, *, shared: bool) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 8, bias=False), nn.Linear(4, 8, bias=False), nn.Linear(8, 3)
            if shared:
                self.b.weight.data = self.a.weight.data

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.c(self.a(x).relu()), self.b(x).sum(1, keepdim=True)], 1)

    with pytest.raises(AssertionError, match="leak check"):
        _passed(Tied(shared=True), X, trace(Tied(shared=False), X), monkeypatch)


def test_what_asks_for_a_dtype_runs_in_its_own() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4), Scaled([1, 2, 3, 4]))
    report = check_structure(model, X, trace(model, X))
    assert report.removals == ("0",)
    assert any("not in float64: RuntimeError" in note for note in report.notes)
    assert any("tolerance" in note for note in report.notes)


class Scaled(nn.Module):
    """A product with a constant that has a dtype of its own."""

    def __init__(self, values: list[int]) -> None:
        super().__init__()
        self.values = values

    def forward(self, h: Tensor) -> Tensor:
        return h @ torch.diag(torch.as_tensor(self.values, dtype=torch.float32))


def test_autocast_is_compared_coarsely() -> None:
    class Cast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))

        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return self.inner(x.float())

    report = check_structure(Cast(), X, trace(Cast(), X))
    assert report.removals == ("inner.0",)
    assert any("tolerance" in note for note in report.notes)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def test_old_weight_normalisation_is_checked() -> None:
    model = nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 8)), nn.ReLU(), nn.Linear(8, 3))
    model(X)
    assert not model[0].weight.is_leaf
    check_structure(model, X, trace(model, X))


def test_parametrized_weight_normalisation_is_checked() -> None:
    """Where 0 / 0 is not a number, next to nothing stands for 0."""
    toy = TOYS["weight_norm"]
    report = check_structure(toy.build(), toy.inputs(), trace(toy.build(), toy.inputs()))
    assert report.removals
    assert not report.skipped


def test_what_one_unit_does_not_show_several_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two positions at most may be missing."""

    def padded(_: Any, h: Tensor) -> Tensor:
        assert h.shape[1] > 6
        return h.relu()

    with pytest.raises(AssertionError, match=r"without units \d, \d, \d, \d of group 'first'"):
        _passed(Two(padded), X, _plain(), monkeypatch)


class Parallel(nn.Module):
    """Two groups; the second half of the forward may look at both."""

    def __init__(self, check: Callable[[Tensor, Tensor], bool] | None = None) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(4, 8)
        self.c, self.d = nn.Linear(8, 3), nn.Linear(8, 3)
        self.check = check

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x).relu(), self.b(x).relu()
        assert self.check is None or self.check(a, b)
        return self.c(a) + self.d(b)


def test_what_one_group_does_not_show_all_do(monkeypatch: pytest.MonkeyPatch) -> None:
    structure = trace(Parallel(), X)
    assert check_structure(Parallel(), X, structure).together == ("a", "b")
    model = Parallel(lambda a, b: a.shape[1] + b.shape[1] > 10)
    with pytest.raises(AssertionError, match=r"of group 'a' and units .* of group 'b'"):
        _passed(model, X, structure, monkeypatch)


def test_train_mode_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    def counted(self: Any, h: Tensor) -> Tensor:
        return h.relu() - h.mean(1, keepdim=True) if self.training else h.relu()

    with pytest.raises(AssertionError, match="removal check"):
        _passed(Two(counted), X, _plain(), monkeypatch)


def test_randomness_in_train_mode_is_said() -> None:
    model = Two(lambda self, h: nn.functional.dropout(h.relu(), 0.5, self.training))
    report = check_structure(model, X, trace(model, X))
    assert report.tried == ("eval mode", "eval mode, random inputs")
    assert "not in train mode: the outputs are random" in report.notes
    model = Two(lambda self, h: self.drop(self.norm(h)), drop=nn.Dropout(0.5), norm=nn.BatchNorm1d(8))
    assert len(check_structure(model, X, trace(model, X)).tried) == 4


def test_other_inputs_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last layer is bent by how many units there are, but not where inputs are 0."""

    class Bent(Two):
        def forward(self, x: Tensor) -> Any:
            hidden = self.first(x)
            return self.second(hidden.relu() + hidden.mean(1, keepdim=True) * (x.abs().amax() > 0))

    structure = trace(Two(lambda _, h: h.relu()), torch.zeros(5, 4))
    with pytest.raises(AssertionError, match=r"(leak|removal) check"):
        _passed(Bent(lambda _, h: h), torch.zeros(5, 4), structure, monkeypatch)


def test_inputs_that_may_not_be_random_are_said() -> None:
    model = nn.Sequential(Positive(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    report = check_structure(model, X.abs() + 1, trace(model, X.abs() + 1))
    assert len(report.tried) == 4  # in another order, they are positive still
    ordered = torch.arange(20.0).reshape(5, 4)
    model = nn.Sequential(Positive(ordered=True), *model[1:])
    report = check_structure(model, ordered, trace(model, ordered))
    assert report.tried == ("eval mode", "train mode")
    assert any(note.startswith("not on random inputs: ValueError") for note in report.notes)


class Positive(nn.Module):
    def __init__(self, *, ordered: bool = False) -> None:
        super().__init__()
        self.ordered = ordered

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_meta and (bool((x < 0).any()) or (self.ordered and bool((x.diff() < 0).any()))):
            raise ValueError("not these")
        return x


class Answer:
    """An object of which nothing is known."""

    __slots__ = ("inner",)

    def __init__(self, value: Any) -> None:
        self.inner = SimpleNamespace(value={"deep": deque([value])})


class Wrapping(Two):
    def forward(self, x: Tensor) -> Any:
        hidden = self.first(x)
        return Answer(self.second(hidden.relu() - self.between(self, hidden)))


def test_outputs_in_objects_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _passed(Wrapping(lambda _, __: 0), X, _plain(), monkeypatch).removals == ("first",)
    with pytest.raises(AssertionError, match=r"(leak|removal) check"):
        _passed(Wrapping(lambda _, h: h.mean(1, keepdim=True)), X, _plain(), monkeypatch)


def test_a_network_without_outputs_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(Two):
        def forward(self, x: Tensor) -> Any:
            return [float(super().forward(x).sum())]

    with pytest.raises(AssertionError, match="returns no tensor"):
        _passed(Silent(lambda _, h: h.relu()), X, _plain(), monkeypatch)


@pytest.mark.parametrize(
    "leave",
    [
        lambda cache: cache["list"].append(torch.zeros(2, device="meta")),
        lambda cache: cache["deque"].append(Tracked.of(3, Constant(3), [])),
        lambda cache: cache["object"].inner.value["deep"].append(torch.zeros(2, device="meta")),
        lambda cache: setattr(cache["object"].inner, "size", Tracked.of(3, Constant(3), [])),
        lambda cache: cache.update({Tracked.of(3, Constant(3), []): 0}),
        lambda cache: cache["object"].inner.value.update(other=nn.Linear(2, 2, device="meta")),
    ],
)
def test_what_a_trace_leaves_behind_is_found(leave: Callable[[Any], Any]) -> None:
    cache = {"list": [], "deque": deque(), "object": Answer(1)}
    model = Two(lambda _, h: h.relu(), cache=({"nested": [cache]},))
    before = state_of(model)
    assert state_of(model) == before
    refuse_leftovers(model)
    leave(cache)
    assert state_of(model) != before
    with pytest.raises(AssertionError, match=r"Tracing left .* in cache"):
        refuse_leftovers(model)


def test_a_trace_that_changes_what_an_object_holds_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Two(lambda _, h: h.relu(), helper=Answer(torch.zeros(2)))
    structure = trace(model, X)

    def careless(*given: Any) -> Structure:
        model.helper.inner.value["deep"][0].add_(1)
        return trace(*given)

    check_structure(model, X, structure)
    monkeypatch.setattr("sparsewood.testing.structures.trace", careless)
    with pytest.raises(AssertionError, match="Tracing changed helper"):
        check_structure(model, X, structure)


# ---------------------------------------------------------------- random networks


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Joined(nn.Module):
    """The input and what is made of it, side by side."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.inner(x).relu(), x], 1)


class Halves(nn.Module):
    """One half of the channels gates the other."""

    def forward(self, x: Tensor) -> Tensor:
        value, gate = x.chunk(2, 1)
        return value * gate.sigmoid()


class Shuffled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        x = x.reshape(batch, 2, channels // 2, height, width).transpose(1, 2)
        return x.reshape(batch, channels, height, width)


class Gated(nn.Module):
    """Squeeze and excite."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(channels, 3), nn.Linear(3, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.up(self.down(x.mean((2, 3))).relu()).sigmoid()[..., None, None]


def _conv(inputs: int, outputs: int, groups: int = 1) -> nn.Module:
    return nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups)


_BLOCKS: dict[str, Callable[[int, int], tuple[nn.Module, int]]] = {
    "conv": lambda a, b: (nn.Sequential(_conv(a, b), nn.ReLU()), b),
    "grouped": lambda a, b: (_conv(a, b, 2), b),
    "depthwise": lambda a, _: (nn.Conv2d(a, a, 3, padding=1, groups=a), a),
    "norm": lambda a, _: (nn.Sequential(nn.BatchNorm2d(a), nn.ReLU()), a),
    "residual": lambda a, _: (Residual(nn.Sequential(nn.BatchNorm2d(a), _conv(a, a))), a),
    "joined": lambda a, b: (Joined(_conv(a, b)), a + b),
    "halves": lambda a, _: (nn.Sequential(_conv(a, 2 * a), Halves()), a),
    "shuffled": lambda a, _: (Shuffled(), a),
    "gated": lambda a, _: (Gated(a), a),
    "bottleneck": lambda a, b: (Residual(nn.Sequential(_conv(a, b), nn.ReLU(), _conv(b, a))), a),
}


@st.composite
def _networks(draw: st.DrawFn) -> nn.Module:
    channels = draw(st.sampled_from([4, 8]))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(draw(st.integers(0, 2**31)))
        layers: list[nn.Module] = [_conv(3, channels)]
        for kind in draw(st.lists(st.sampled_from(sorted(_BLOCKS)), min_size=1, max_size=5)):
            block, channels = _BLOCKS[kind](channels, draw(st.sampled_from([2, 4, 6])))
            layers.append(block)
        if draw(st.booleans()):
            layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 3)]
        else:
            layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3)]
        model = nn.Sequential(*layers)
        for module in model.modules():  # as after training: no two units alike, and none that is dead
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
    return model.eval()


@settings(max_examples=100)
@given(_networks())
def test_random_networks(model: nn.Module) -> None:
    inputs = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    structure = trace(model, inputs)
    report = check_structure(model, inputs, structure, units=3)
    assert not [barrier for barrier in structure.barriers if "rule" in barrier.why]
    assert all(group.exact for group in structure.prunable)
    assert set(report.leaks) | {name for name, _ in report.skipped} == {group.name for group in structure.prunable}
