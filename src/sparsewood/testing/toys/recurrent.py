"""Recurrent layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sparsewood.testing.toys.toy import Coupled, Network, Toy, sequence

__all__ = ["RECURRENT"]


def _forward(net: Any, x: Tensor) -> Tensor:
    return net.head(net.rnn(net.embed(x).relu())[0][:, -1])


def _net(rnn: nn.Module, outputs: int = 5) -> Network:
    return Network(_forward, embed=nn.Linear(6, 8), rnn=rnn, head=nn.Linear(outputs, 3))


def _cells(net: Any, x: Tensor) -> Tensor:
    state = x.new_zeros(len(x), 5), x.new_zeros(len(x), 5)
    for step in range(x.shape[1]):
        state = net.cell(x[:, step], state)
    return net.head(state[0])


def _state_given(net: Any, x: Tensor) -> Tensor:
    start = net.start.expand(-1, len(x), -1).contiguous()
    return net.head(net.rnn(x, start)[1][0])


def _own(gates: int) -> str:
    return f"rnn.weight_ih_l0:0*{gates} rnn.weight_hh_l0:0*{gates} rnn.bias_*_l0:0*{gates} rnn.weight_hh_l0:1"


def _directed(layer: str) -> str:
    end = f"l{layer}"
    return f"rnn.weight_ih_{end}:0*4 rnn.weight_hh_{end}:0*4 rnn.bias_*_{end}:0*4 rnn.weight_hh_{end}:1"


_INTO = Coupled(8, "embed.*:0 rnn.weight_ih_l0:1")

RECURRENT = (
    Toy(
        "lstm",
        lambda: _net(nn.LSTM(8, 5, batch_first=True)),
        sequence(),
        (_INTO, Coupled(5, f"{_own(4)} head.weight:1")),
    ),
    Toy(
        "gru",
        lambda: _net(nn.GRU(8, 5, batch_first=True)),
        sequence(),
        (_INTO, Coupled(5, f"{_own(3)} head.weight:1")),
    ),
    Toy(
        "rnn",
        lambda: _net(nn.RNN(8, 5, batch_first=True)),
        sequence(),
        (_INTO, Coupled(5, f"{_own(1)} head.weight:1")),
    ),
    Toy(
        "lstm_two_ways",
        lambda: _net(nn.LSTM(8, 5, num_layers=2, bidirectional=True, batch_first=True), 10),
        sequence(),
        (
            Coupled(8, "embed.*:0 rnn.weight_ih_l0:1 rnn.weight_ih_l0_reverse:1"),
            # The module has one hidden size for all layers and directions.
            Coupled(5, f"{_directed('?')} {_directed('?_reverse')} rnn.weight_ih_l1*:1*2 head.weight:1*2"),
        ),
    ),
    Toy(
        "lstm_projected",
        lambda: _net(nn.LSTM(8, 5, proj_size=4, batch_first=True), 4),
        sequence(),
        (
            _INTO,
            Coupled(5, "rnn.weight_ih_l0:0*4 rnn.weight_hh_l0:0*4 rnn.bias_*_l0:0*4 rnn.weight_hr_l0:1"),
            Coupled(4, "rnn.weight_hr_l0:0 rnn.weight_hh_l0:1 head.weight:1"),
        ),
    ),
    Toy(
        "lstm_cells",
        lambda: Network(_cells, cell=nn.LSTMCell(6, 5), head=nn.Linear(5, 3)),
        sequence(),
        frozen={"cell.weight_ih:1": "no parameter owns"},
    ),
    Toy(
        "gru_with_learnt_start",
        lambda: Network(
            _state_given,
            rnn=nn.GRU(6, 5, batch_first=True),
            start=nn.Parameter(torch.randn(1, 1, 5)),
            head=nn.Linear(5, 3),
        ),
        sequence(),
        (Coupled(5, f"{_own(3)} start:2 head.weight:1"),),
    ),
)
