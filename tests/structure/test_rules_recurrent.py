"""Recurrent layers: the gates of a unit go together, and a unit that is masked is as good as removed."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import sparsewood as sw
from sparsewood.structure import Group, Structure
from sparsewood.structure.axes import axes_of
from sparsewood.structure.modes import Functions, Operations
from sparsewood.structure.tracer import Tracer
from sparsewood.testing import Coupled, check_structure

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


class Net(nn.Module):
    """An embedding, a recurrent layer and a head that reads `pick(outputs)`."""

    def __init__(self, rnn: nn.RNNBase, width: int, pick: Callable[[Any], Tensor] | None = None) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 4)
        self.rnn = rnn
        self.head = nn.Linear(width, 2)
        self.pick = pick or (lambda out: out[0])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pick(self.rnn(self.embed(x))))


class Packed(Net):
    """Sequences of 5, 3 and 2 steps, packed."""

    def forward(self, x: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.embed(x), torch.tensor([5, 3, 2]))
        out = self.rnn(packed)[0]
        assert isinstance(out, PackedSequence)
        return self.head(out.data)


class Padded(Net):
    """Sequences of 5, 3 and 2 steps, packed and padded again with `value`."""

    value = 0.0

    def forward(self, x: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.embed(x).transpose(0, 1), torch.tensor([3, 5, 2]), True, False)
        out, lengths = pad_packed_sequence(self.rnn(packed)[0], padding_value=self.value)
        return self.head(out) * lengths[:, None]


class Cells(nn.Module):
    """A cell, step by step, from states of zeros that it makes itself."""

    def __init__(self, cell: nn.RNNCellBase) -> None:
        super().__init__()
        self.embed, self.cell, self.head = nn.Linear(3, 4), cell, nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in self.embed(x):
            state = self.cell(step, state)
        assert state is not None
        return self.head(state[0] if isinstance(state, tuple) else state)


def cut(model: nn.Module, group: Group, *, masked: bool) -> nn.Module:
    """A copy of the model without the first unit of the group, or with zeros in its place."""
    model = copy.deepcopy(model).double()
    for one in group.slices:
        path, _, name = one.param.rpartition(".")
        module, gone = model.get_submodule(path), one.owner == 0
        tensor = getattr(module, name).detach()
        if masked:
            tensor = tensor.index_fill(one.axis, torch.from_numpy(np.flatnonzero(gone)), 0.0)
        else:
            tensor = tensor.index_select(one.axis, torch.from_numpy(np.flatnonzero(~gone)))
        setattr(module, name, nn.Parameter(tensor))
    for module in model.modules():
        sizes = {name: tensor.shape for name, tensor in module.named_parameters(recurse=False)}
        if isinstance(module, nn.RNNBase):
            gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
            module.input_size, module.hidden_size = sizes["weight_ih_l0"][1], sizes["weight_ih_l0"][0] // gates
            module.proj_size = sizes["weight_hh_l0"][1] if module.proj_size else 0
        if isinstance(module, nn.RNNCellBase):
            module.input_size, module.hidden_size = sizes["weight_ih"][1], sizes["weight_hh"][1]
    return model


def footprints(structure: Structure) -> Counter[tuple[int, frozenset[tuple[str, int, int]]]]:
    """(units, {(name, axis, positions of a unit)}) of every removable group."""
    return Counter(
        (group.units, frozenset((one.param, one.axis, int((one.owner == 0).sum())) for one in group.slices))
        for group in structure.prunable
    )


def own(gates: int, end: str = "l0", bias: bool = True) -> str:
    """The axes of one layer's units: made in every gate, read by the layer itself."""
    biases = f" rnn.bias_*_{end}:0*{gates}" if bias else ""
    return f"rnn.weight_ih_{end}:0*{gates} rnn.weight_hh_{end}:0*{gates} rnn.weight_hh_{end}:1{biases}"


INTO = Coupled(4, "embed.*:0 rnn.weight_ih_l0:1")
CELL = "cell.weight_?h:0*{0} cell.bias_?h:0*{0} cell.weight_hh:1 head.weight:1"

CASES: dict[str, tuple[Callable[[], nn.Module], Sequence[Coupled]]] = {
    "lstm": (lambda: Net(nn.LSTM(4, 5), 5), (INTO, Coupled(5, f"{own(4)} head.weight:1"))),
    "gru": (lambda: Net(nn.GRU(4, 5), 5), (INTO, Coupled(5, f"{own(3)} head.weight:1"))),
    "rnn": (lambda: Net(nn.RNN(4, 5), 5), (INTO, Coupled(5, f"{own(1)} head.weight:1"))),
    "rnn with relu": (
        lambda: Net(nn.RNN(4, 5, nonlinearity="relu"), 5),
        (INTO, Coupled(5, f"{own(1)} head.weight:1")),
    ),
    "without bias": (
        lambda: Net(nn.LSTM(4, 5, bias=False), 5),
        (INTO, Coupled(5, f"{own(4, bias=False)} head.weight:1")),
    ),
    "batch first": (lambda: Net(nn.GRU(4, 5, batch_first=True), 5), (INTO, Coupled(5, f"{own(3)} head.weight:1"))),
    "last state": (
        lambda: Net(nn.LSTM(4, 5), 5, lambda out: out[1][0][-1]),
        (INTO, Coupled(5, f"{own(4)} head.weight:1")),
    ),
    "last memory": (
        lambda: Net(nn.LSTM(4, 5), 5, lambda out: out[1][1][-1]),
        (INTO, Coupled(5, f"{own(4)} head.weight:1")),
    ),
    "packed": (lambda: Packed(nn.LSTM(4, 5), 5), (INTO, Coupled(5, f"{own(4)} head.weight:1"))),
    "packed gru": (lambda: Packed(nn.GRU(4, 5), 5), (INTO, Coupled(5, f"{own(3)} head.weight:1"))),
    "padded": (lambda: Padded(nn.LSTM(4, 5), 5), (INTO, Coupled(5, f"{own(4)} head.weight:1"))),
    "two layers": (
        lambda: Net(nn.LSTM(4, 5, num_layers=2), 5),
        (INTO, Coupled(5, f"{own(4)} {own(4, 'l1')} rnn.weight_ih_l1:1 head.weight:1")),
    ),
    "two ways": (
        lambda: Net(nn.GRU(4, 5, bidirectional=True), 10),
        (
            Coupled(4, "embed.*:0 rnn.weight_ih_l0:1 rnn.weight_ih_l0_reverse:1"),
            Coupled(5, f"{own(3)} {own(3, 'l0_reverse')} head.weight:1*2"),
        ),
    ),
    "two layers, two ways": (
        lambda: Packed(nn.LSTM(4, 5, num_layers=2, bidirectional=True), 10),
        (
            Coupled(4, "embed.*:0 rnn.weight_ih_l0:1 rnn.weight_ih_l0_reverse:1"),
            Coupled(
                5,
                f"{own(4)} {own(4, 'l0_reverse')} {own(4, 'l1')} {own(4, 'l1_reverse')} "
                "rnn.weight_ih_l1*:1*2 head.weight:1*2",
            ),
        ),
    ),
    "projected": (
        lambda: Net(nn.LSTM(4, 5, proj_size=3), 3),
        (
            INTO,
            Coupled(5, "rnn.weight_?h_l0:0*4 rnn.bias_?h_l0:0*4 rnn.weight_hr_l0:1"),
            Coupled(3, "rnn.weight_hr_l0:0 rnn.weight_hh_l0:1 head.weight:1"),
        ),
    ),
    "projected, two layers": (
        lambda: Net(nn.LSTM(4, 5, num_layers=2, proj_size=3, bias=False), 3),
        (
            INTO,
            Coupled(5, "rnn.weight_?h_l?:0*4 rnn.weight_hr_l?:1"),
            Coupled(3, "rnn.weight_hr_l?:0 rnn.weight_hh_l?:1 rnn.weight_ih_l1:1 head.weight:1"),
        ),
    ),
    "lstm cell": (
        lambda: Cells(nn.LSTMCell(4, 5)),
        (Coupled(4, "embed.*:0 cell.weight_ih:1"), Coupled(5, CELL.format(4))),
    ),
    "gru cell": (
        lambda: Cells(nn.GRUCell(4, 5)),
        (Coupled(4, "embed.*:0 cell.weight_ih:1"), Coupled(5, CELL.format(3))),
    ),
    "rnn cell": (
        lambda: Cells(nn.RNNCell(4, 5)),
        (Coupled(4, "embed.*:0 cell.weight_ih:1"), Coupled(5, CELL.format(1))),
    ),
    "rnn cell with relu": (
        lambda: Cells(nn.RNNCell(4, 5, nonlinearity="relu")),
        (Coupled(4, "embed.*:0 cell.weight_ih:1"), Coupled(5, CELL.format(1))),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_units_that_go_together(name: str) -> None:
    make, stated = CASES[name]
    torch.manual_seed(0)
    model, x = make(), torch.randn(5, 3, 3)
    structure = sw.trace(model, x)
    assert not structure.record.fallback
    assert footprints(structure) == Counter((one.units, one.footprint(structure.shapes)) for one in stated)
    for group in structure.prunable:
        assert group.exact
        masked, removed = cut(model, group, masked=True), cut(model, group, masked=False)
        torch.testing.assert_close(removed(x.double()), masked(x.double()))
    check_structure(model, x, structure)


def test_what_is_read_and_what_is_made() -> None:
    structure = sw.trace(Net(nn.LSTM(4, 5), 5), torch.randn(5, 3, 3))
    roles = {f"{one.param}:{one.axis}": one.role for group in structure.prunable for one in group.slices}
    assert {name for name, role in roles.items() if role == "in"} == {
        "rnn.weight_ih_l0:1",
        "rnn.weight_hh_l0:1",
        "head.weight:1",
    }


def test_multiply_adds() -> None:
    """Two weights for each layer and direction, a third for a projection, at each of 5 x 3 places."""
    structure = sw.trace(Net(nn.LSTM(4, 5, proj_size=2, bidirectional=True), 4), torch.randn(5, 3, 3))
    costs = [cost.sizes for cost in structure.record.costs if cost.op == "lstm"]
    assert costs == [(15, 20, 4), (15, 20, 2), (15, 2, 5)] * 2


@pytest.mark.parametrize(("value", "kinds"), [(0.0, ()), (1.0, ("sum of non-zero entries",))])
def test_padding_that_is_not_zero_is_added_up(value: float, kinds: tuple[str, ...]) -> None:
    class Summed(Padded):
        def forward(self, x: Tensor) -> Tensor:
            packed = pack_padded_sequence(self.embed(x), torch.tensor([5, 3, 2]))
            out, _ = pad_packed_sequence(self.rnn(packed)[0], padding_value=value)
            return (out * self.head.weight[0].cosh()).sum(-1)

    structure = sw.trace(Summed(nn.GRU(4, 5), 5), torch.randn(5, 3, 3))
    (group,) = [one for one in structure.prunable if one.units == 5]
    assert group.inexact == kinds


# ---------------------------------------------------------------- single calls


class Called:
    """`torch.gru` or `torch.lstm`, one layer of 2 units, on an activation whose axes have labels."""

    def __init__(
        self, function: Any, states: Sequence[Tensor], *, real: bool = False, registered: bool = False
    ) -> None:
        self.tracer = Tracer()
        self.tracer.begin(real=real)
        lstm = function is torch.lstm
        gates = 4 if lstm else 3
        shapes = {"x": (3, 1, 4), "ih": (2 * gates, 4), "hh": (2 * gates, 2), "bi": (2 * gates,), "bh": (2 * gates,)}
        tensors: dict[str, Tensor] = {
            name: nn.Parameter(torch.randn(shape), requires_grad=False) for name, shape in shapes.items()
        }
        if registered:
            states = [nn.Parameter(state, requires_grad=False) for state in states]
            tensors |= {f"state{number}": state for number, state in enumerate(states)}
        for name, tensor in tensors.items():
            self.tracer.register(name, tensor)
        axes = axes_of(self.tracer.stand_in(tensors["x"]))
        assert axes is not None
        axes.weight = False
        params = [tensors[name] for name in ("ih", "hh", "bi", "bh")]
        with torch.no_grad(), Operations(self.tracer), Functions(self.tracer):
            self.out = function(
                tensors["x"], list(states) if lstm else states[0], params, True, 1, 0.0, False, False, False
            )

    @property
    def frozen(self) -> set[str]:
        """The axes that stay, as NAME:AXIS."""
        held = {label for row, _ in self.tracer.frozen for label in row.tolist()}
        return {
            f"{one.param}:{one.axis}"
            for one in self.tracer.spans
            if held.issuperset(range(one.start, one.start + one.size))
        }


BOTH = pytest.mark.parametrize("real", [False, True], ids=["meta", "real"])


@BOTH
def test_zeros_whose_size_is_written_in_the_forward_keep_their_units(real: bool) -> None:
    called = Called(torch.lstm, [torch.zeros(1, 1, 2), torch.zeros(1, 1, 2)], real=real)
    held = [row for row, _ in called.tracer.frozen if len(row) == 2]
    row = called.tracer.rows(called.out[0])[2]
    assert any(row is one or (row is not None and np.array_equal(row, one)) for one in held)
    assert [tuple(tensor.shape) for tensor in called.out] == [(3, 1, 2), (1, 1, 2), (1, 1, 2)]
    (step,) = [step for step in called.tracer.steps if step.op == "lstm"]
    assert step.family == "contraction"
    assert len(step.weights) == 4
    assert all(axes_of(tensor).step == called.tracer.steps.index(step) for tensor in called.out)  # pyright: ignore


@BOTH
@pytest.mark.parametrize("function", [torch.lstm, torch.gru])
def test_another_constant_keeps_its_units(function: Any, real: bool) -> None:
    called = Called(
        function, [torch.zeros(1, 1, 2), torch.ones(1, 1, 2)][-1 if function is torch.gru else 0 :], real=real
    )
    held = [row for row, _ in called.tracer.frozen if len(row) == 2]
    row = called.tracer.rows(called.out[0])[2]
    assert any(row is one or (row is not None and np.array_equal(row, one)) for one in held)
    assert not called.tracer.zero(called.out[0])[2]


@BOTH
def test_a_learnt_state_goes_with_the_units(real: bool) -> None:
    called = Called(torch.gru, [torch.randn(1, 1, 2)], real=real, registered=True)
    assert called.frozen == {"x:0", "x:1", "state0:0", "state0:1"}
    state = next(one.start for one in called.tracer.spans if (one.param, one.axis) == ("state0", 2))
    row = called.tracer.rows(called.out[0])[2]
    assert row is not None
    assert any(one.tolist() == row.tolist() and other[0] == state for one, other, _ in called.tracer.edges)
    assert called.tracer.zero(called.out[0])[2]


def test_a_state_that_is_not_zero_where_units_are_masked() -> None:
    class Started(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.start, self.rnn, self.head = nn.Parameter(torch.randn(1, 1, 5)), nn.GRU(4, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(
                self.rnn(x, self.start.expand(1, 3, 5).sigmoid())[0].square().sum(-1, keepdim=True) * self.start
            )

    structure = sw.trace(Started(), torch.randn(5, 3, 4))
    groups = [
        group for group in structure.prunable if any(one.param == "start" and one.axis == 2 for one in group.slices)
    ]
    assert all("sum of non-zero entries" in group.inexact for group in groups)


def test_gates_made_by_a_network_of_its_own() -> None:
    """Cells on vectors, written by hand with the function: units are those of the last state."""

    class Hand(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(3, 5)
            self.cell, self.head = nn.GRUCell(4, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor, start: Tensor) -> Tensor:
            state = self.first(start).tanh()
            return self.head(
                torch.gru_cell(x, state, self.cell.weight_ih, self.cell.weight_hh, self.cell.bias_ih, self.cell.bias_hh)
            )

    structure = sw.trace(Hand(), (torch.randn(2, 4), torch.randn(2, 3)))
    stated = Coupled(5, f"first.*:0 {CELL.format(3)}")
    assert footprints(structure) == Counter([(5, stated.footprint(structure.shapes))])
    assert structure.prunable[0].exact
