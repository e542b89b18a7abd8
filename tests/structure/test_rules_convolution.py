"""Convolutions: whose channels go together, with and without groups, and that removing them is masking them."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsewood as sw
from sparsewood.structure import Group, Structure
from sparsewood.structure.modes import Operations
from sparsewood.structure.tracer import Tracer
from sparsewood.testing import Coupled


def footprints(structure: Structure) -> Counter[tuple[int, frozenset[tuple[str, int, int]]]]:
    """(units, {(name, axis, positions of a unit)}) of every removable group."""
    return Counter(
        (group.units, frozenset((one.param, one.axis, int((one.owner == 0).sum())) for one in group.slices))
        for group in structure.prunable
    )


def expected(structure: Structure, stated: Sequence[Coupled]) -> Counter[tuple[int, frozenset[tuple[str, int, int]]]]:
    return Counter((one.units, one.footprint(structure.shapes)) for one in stated)


def cut(model: nn.Module, group: Group, *, unit: int = 0, masked: bool) -> nn.Module:
    """A copy of the model without a unit of the group, or with zeros in its place."""
    model = copy.deepcopy(model).double()
    for one in group.slices:
        path, _, name = one.param.rpartition(".")
        module, gone = model.get_submodule(path), one.owner == unit
        tensor = getattr(module, name).detach()
        if masked:
            tensor = tensor.index_fill(one.axis, torch.from_numpy(np.flatnonzero(gone)), 0.0)
        else:
            tensor = tensor.index_select(one.axis, torch.from_numpy(np.flatnonzero(~gone)))
        setattr(module, name, nn.Parameter(tensor))
    return model


def regroup(model: nn.Module, x: Tensor) -> None:
    """Give every convolution as many groups as its weight and its input now need."""

    def hook(module: Any, inputs: tuple[Tensor, ...]) -> None:
        if module.groups > 1:
            transposed = isinstance(module, nn.modules.conv._ConvTransposeNd)
            channels = module.bias.numel() if transposed and module.bias is not None else inputs[0].shape[1]
            module.groups = channels // module.weight.shape[1]

    handles = [
        module.register_forward_pre_hook(hook)
        for module in model.modules()
        if isinstance(module, nn.modules.conv._ConvNd)
    ]
    model(x)
    for handle in handles:
        handle.remove()


def chain(b: nn.Module) -> nn.Sequential:
    """A convolution before, one after; `b` is called 1."""
    convolution = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}[next(b.parameters()).dim()]
    made = b.out_channels
    assert isinstance(b.in_channels, int)
    assert isinstance(made, int)
    return nn.Sequential(convolution(3, b.in_channels, 1), b, convolution(made, 2, 1))


def image(model: nn.Sequential) -> Tensor:
    dims = next(model.parameters()).dim() - 2
    return torch.randn(2, 3, *(6 for _ in range(dims)), dtype=torch.float64, generator=torch.Generator().manual_seed(1))


CASES: dict[str, tuple[Any, tuple[Coupled, ...]]] = {
    "1d": (lambda: nn.Conv1d(4, 6, 3), (Coupled(4, "0.*:0 1.weight:1"), Coupled(6, "1.*:0 2.weight:1"))),
    "2d": (lambda: nn.Conv2d(4, 6, 3, padding=1), (Coupled(4, "0.*:0 1.weight:1"), Coupled(6, "1.*:0 2.weight:1"))),
    "3d": (lambda: nn.Conv3d(4, 6, 2), (Coupled(4, "0.*:0 1.weight:1"), Coupled(6, "1.*:0 2.weight:1"))),
    "dilated, strided, without bias": (
        lambda: nn.Conv2d(4, 6, 3, stride=2, dilation=2, bias=False),
        (Coupled(4, "0.*:0 1.weight:1"), Coupled(6, "1.*:0 2.weight:1")),
    ),
    "same": (
        lambda: nn.Conv2d(4, 6, 3, padding="same"),
        (Coupled(4, "0.*:0 1.weight:1"), Coupled(6, "1.*:0 2.weight:1")),
    ),
    "reflected": (
        lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
        (Coupled(4, "0.*:0 1.weight:1"), Coupled(6, "1.*:0 2.weight:1")),
    ),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4), (Coupled(4, "0.*:0 1.*:0 2.weight:1"),)),
    "depthwise 1d": (lambda: nn.Conv1d(4, 4, 3, groups=4), (Coupled(4, "0.*:0 1.*:0 2.weight:1"),)),
    "depth multiplier": (lambda: nn.Conv2d(4, 8, 3, groups=4), (Coupled(4, "0.*:0 1.*:0*2 2.weight:1*2"),)),
    # Of two groups and their places more places can go; of four groups of two more groups.
    "grouped, by places": (
        lambda: nn.Conv2d(8, 12, 3, groups=2),
        (Coupled(4, "0.*:0*2 1.weight:1"), Coupled(6, "1.*:0*2 2.weight:1*2")),
    ),
    "grouped, by groups": (lambda: nn.Conv2d(8, 8, 3, groups=4), (Coupled(4, "0.*:0*2 1.*:0*2 2.weight:1*2"),)),
    "one output for each group": (lambda: nn.Conv2d(8, 4, 3, groups=4), (Coupled(4, "0.*:0*2 1.*:0 2.weight:1"),)),
    "transposed": (
        lambda: nn.ConvTranspose2d(4, 6, 2, stride=2, output_padding=1),
        (Coupled(4, "0.*:0 1.weight:0"), Coupled(6, "1.weight:1 1.bias:0 2.weight:1")),
    ),
    "transposed 1d": (
        lambda: nn.ConvTranspose1d(4, 6, 2, bias=False),
        (Coupled(4, "0.*:0 1.weight:0"), Coupled(6, "1.weight:1 2.weight:1")),
    ),
    "transposed depthwise": (
        lambda: nn.ConvTranspose2d(4, 4, 2, groups=4),
        (Coupled(4, "0.*:0 1.weight:0 1.bias:0 2.weight:1"),),
    ),
    "transposed depth multiplier": (
        lambda: nn.ConvTranspose2d(4, 8, 2, groups=4),
        (Coupled(4, "0.*:0 1.weight:0 1.bias:0*2 2.weight:1*2"),),
    ),
    "transposed, by places": (
        lambda: nn.ConvTranspose2d(8, 12, 2, groups=2),
        (Coupled(4, "0.*:0*2 1.weight:0*2"), Coupled(6, "1.weight:1 1.bias:0*2 2.weight:1*2")),
    ),
    "transposed, by groups": (
        lambda: nn.ConvTranspose2d(8, 8, 2, groups=4),
        (Coupled(4, "0.*:0*2 1.weight:0*2 1.bias:0*2 2.weight:1*2"),),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_channels_that_go_together(name: str) -> None:
    make, stated = CASES[name]
    torch.manual_seed(0)
    model = chain(make())
    structure = sw.trace(model, image(model).float())
    assert footprints(structure) == expected(structure, stated)
    for group in structure.prunable:
        assert group.exact
        masked, removed, x = cut(model, group, masked=True), cut(model, group, masked=False), image(model)
        regroup(removed, x)
        torch.testing.assert_close(removed(x), masked(x))


@pytest.mark.parametrize("name", ["2d", "transposed", "grouped, by places", "transposed, by places", "depthwise"])
def test_weights_are_read_along_their_input_axis(name: str) -> None:
    model = chain(CASES[name][0]())
    for group in sw.trace(model, image(model).float()).prunable:
        for one in group.slices:
            before = group.name == "0"
            assert one.role == (
                "in" if one.param == ("1.weight" if before and name != "depthwise" else "2.weight") else "out"
            )


# ---------------------------------------------------------------- single operations


def traced(function: Any, *tensors: Tensor) -> tuple[Tracer, Tensor]:
    """A function run on parameters called 0, 1, ..."""
    tracer = Tracer()
    parameters = [nn.Parameter(tensor, requires_grad=False) for tensor in tensors]
    for number, parameter in enumerate(parameters):
        tracer.register(str(number), parameter)
    with torch.no_grad(), Operations(tracer):
        return tracer, function(*parameters)


def frozen(tracer: Tracer) -> set[str]:
    """The axes that stay, as NAME:AXIS."""
    held = {label for row, _ in tracer.frozen for label in row.tolist()}
    return {
        f"{one.param}:{one.axis}" for one in tracer.spans if held.issuperset(range(one.start, one.start + one.size))
    }


def test_places_in_images_and_kernels_stay() -> None:
    tracer, out = traced(F.conv2d, torch.randn(2, 3, 6, 5), torch.randn(4, 3, 3, 2), torch.randn(4))
    assert frozen(tracer) == {"0:2", "0:3", "1:2", "1:3"}
    rows = tracer.rows(out)
    assert rows[2:] == (None, None)
    assert rows[0] is not None
    assert rows[1] is not None
    assert (rows[0][0], rows[1][0]) == (tracer.spans[0].start, tracer.spans[4].start)
    assert tracer.zero(out) == (False, True, False, False)


@pytest.mark.parametrize(
    ("function", "shapes", "sizes"),
    [
        # batch * places * outputs * inputs of a group * kernel
        (F.conv2d, [(2, 3, 6, 5), (4, 3, 3, 2)], (2, 16, 4, 3, 6)),
        (lambda x, w: F.conv2d(x, w, groups=2), [(2, 4, 6, 5), (6, 2, 3, 2)], (2, 16, 6, 2, 6)),
        (lambda x, w: F.conv1d(x, w, groups=4), [(2, 4, 6), (4, 1, 3)], (2, 4, 4, 1, 3)),
        # batch * places of the input * inputs * outputs of a group * kernel
        (F.conv_transpose2d, [(2, 3, 6, 5), (3, 4, 3, 2)], (2, 30, 3, 4, 6)),
    ],
)
def test_every_weight_works_at_every_place(function: Any, shapes: Any, sizes: tuple[int, ...]) -> None:
    tracer, _ = traced(function, *map(torch.randn, shapes))
    assert [cost.sizes for cost in tracer.costs] == [sizes]
    assert sum(row is not None for row in tracer.costs[0].rows) == (2 if sizes[3] == 1 else 3)


def test_inexact_if_neither_factor_is_zero() -> None:
    tracer, _ = traced(lambda x, w: F.conv1d(x + 1, w + 1), torch.randn(2, 3, 6), torch.randn(4, 3, 2))
    assert [kind for _, kind, _ in tracer.inexact_rows] == ["sum of non-zero entries"]
    tracer, _ = traced(lambda x, w: F.conv1d(x + 1, w), torch.randn(2, 3, 6), torch.randn(4, 3, 2))
    assert not tracer.inexact_rows


def test_an_input_without_owners_keeps_whole_groups() -> None:
    """Channels of an image cannot go, but each group may make one output less."""
    model = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.Conv2d(8, 2, 1))
    structure = sw.trace(model, torch.randn(1, 4, 6, 6))
    assert footprints(structure) == expected(structure, [Coupled(4, "0.*:0*2 1.weight:1*2")])


def test_a_kernel_made_by_the_network() -> None:
    """A dynamic kernel: its output channels are those of the layer that makes it."""

    class Dynamic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before = nn.Conv1d(3, 4, 1)
            self.kernel = nn.Linear(5, 4)
            self.after = nn.Conv1d(4, 2, 1)

        def forward(self, x: Tensor, code: Tensor) -> Tensor:
            kernel = self.kernel(code).unsqueeze(1)  # [4, 1]
            return self.after(F.conv1d(self.before(x), kernel.view(-1, 1, 1), groups=kernel.shape[0]))

    structure = sw.trace(Dynamic(), (torch.randn(1, 3, 6), torch.randn(5)))
    assert footprints(structure) == expected(structure, [Coupled(4, "before.*:0 kernel.*:0 after.weight:1")])


def test_time_batch_channels() -> None:
    tracer, out = traced(torch.conv_tbc, torch.randn(6, 2, 3), torch.randn(2, 3, 4), torch.randn(4))
    assert frozen(tracer) == {"0:0", "1:0"}
    assert len(tracer.edges) == 2
    assert tracer.zero(out) == (False, False, True)
    assert [cost.sizes for cost in tracer.costs] == [(5, 2, 2, 3, 4)]


@pytest.mark.parametrize(
    "call",
    [
        lambda x, w, b: torch.ops.aten._slow_conv2d_forward(x, w, [3, 3], b, [1, 1], [0, 0]),
        lambda x, w, b: torch.ops.aten.slow_conv_dilated2d(x, w, [3, 3], b, [1, 1], [0, 0], [1, 1]),
        lambda x, w, b: torch.ops.aten.mkldnn_convolution(x, w, b, [0, 0], [1, 1], [1, 1], 1),
    ],
)
def test_convolutions_of_one_backend(call: Any) -> None:
    tracer = Tracer()
    tracer.begin(real=True)
    parameters = [nn.Parameter(torch.randn(shape), requires_grad=False) for shape in [(2, 3, 6, 6), (4, 3, 3, 3), (4,)]]
    for number, parameter in enumerate(parameters):
        tracer.register(str(number), parameter)
    with torch.no_grad(), Operations(tracer):
        out = call(*parameters)
    row = tracer.rows(out)[1]
    assert row is not None
    assert len(row) == 4
    assert frozen(tracer) == {"0:2", "0:3", "1:2", "1:3"}
