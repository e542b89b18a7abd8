"""The contract of a structure sees what is wrong, and holds for random networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sparsewood.structure import Group, Slice, Structure, trace
from sparsewood.testing import TOYS, check_structure

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


@settings(max_examples=150)
@given(_networks())
def test_random_networks(model: nn.Module) -> None:
    inputs = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    structure = trace(model, inputs)
    report = check_structure(model, inputs, structure, units=3)
    assert not [barrier for barrier in structure.barriers if "rule" in barrier.why]
    assert all(group.exact for group in structure.prunable)
    assert set(report.leaks) | {name for name, _ in report.skipped} == {group.name for group in structure.prunable}
