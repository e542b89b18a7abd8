"""The network that reads rows: counts, what it computes, and what hangs together in it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsewood as sw
from sparsewood.errors import SparsewoodError
from sparsewood.models import row_rnn

GATES = {"lstm": 4, "gru": 3, "rnn": 1}


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("cell", "hidden", "thousands"), [("lstm", 128, 137), ("lstm", 256, 535), ("gru", 128, 104), ("gru", 256, 404)]
)
def test_counts_of_the_published_networks(cell: Any, hidden: int, thousands: int) -> None:
    """LSTM-s, LSTM-b, GRU-s, GRU-b have one bias for each gate; PyTorch's layers have two."""
    with torch.device("meta"):
        model = row_rnn(hidden, cell=cell, embedding=hidden)
    second = model.recurrent.get_parameter("bias_hh_l0").numel()
    assert second == GATES[cell] * hidden
    assert round((count(model) - second) / 1000) == thousands


@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize(("embedding", "read"), [(None, 3 * 7), (5, 5)])
def test_counts_in_closed_form(cell: Any, embedding: int | None, read: int) -> None:
    model = row_rnn(6, cell=cell, layers=2, embedding=embedding, channels=3, size=7, classes=4)
    first = 0 if embedding is None else 21 * 5 + 5
    assert count(model) == first + GATES[cell] * 6 * (read + 6 + 2) + GATES[cell] * 6 * (6 + 6 + 2) + 4 * 7


def by_hand(model: nn.Module, images: Tensor) -> Tensor:
    """One layer of tanh units, row after row, each of all channels side by side."""
    state = torch.zeros(len(images), 6)
    weights = dict(model.named_parameters())
    for row in range(images.shape[2]):
        seen = torch.cat([images[:, channel, row] for channel in range(images.shape[1])], 1)
        seen = seen @ weights["embedding.weight"].T + weights["embedding.bias"]
        inner = seen @ weights["recurrent.weight_ih_l0"].T + state @ weights["recurrent.weight_hh_l0"].T
        state = torch.tanh(inner + weights["recurrent.bias_ih_l0"] + weights["recurrent.bias_hh_l0"])
    return state @ weights["classifier.weight"].T + weights["classifier.bias"]


@pytest.mark.parametrize("rows", [1, 9])
def test_rows_are_steps_of_a_sequence(rows: int) -> None:
    torch.manual_seed(0)
    model = row_rnn(6, cell="rnn", embedding=5, channels=2, size=4)
    images = torch.randn(3, 2, rows, 4)
    torch.testing.assert_close(model(images), by_hand(model, images))


@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize("layers", [1, 2])
def test_units_of_the_embedding_and_of_the_state_can_go(cell: Any, layers: int) -> None:
    """Two groups: outputs of the first layer, and hidden units with all their gates; the small network is the same."""
    torch.manual_seed(0)
    model, images = row_rnn(8, cell=cell, layers=layers, embedding=6, size=5), torch.randn(2, 1, 5, 5)
    structure = sw.trace(model, images)
    assert sorted(group.units for group in structure.prunable) == [6, 8]
    small = sw.shrink(model, images, 0.5, scope=sw.PerLayer(), structure=structure).model
    sizes = [(name, tuple(parameter.shape)) for name, parameter in small.named_parameters()]
    built = row_rnn(4, cell=cell, layers=layers, embedding=3, size=5)
    assert sizes == [(name, tuple(parameter.shape)) for name, parameter in built.named_parameters()]
    assert small(images).isfinite().all()


def test_rows_may_go_straight_into_the_recurrent_layer() -> None:
    model = row_rnn(6, embedding=None, size=5)
    assert next(name for name, _ in model.named_parameters()).startswith("recurrent.")
    assert set(sw.prune(model, sw.Magnitude(), 0.5)) == {"recurrent.weight_ih_l0", "recurrent.weight_hh_l0"}


@pytest.mark.parametrize("name", ["hidden", "layers", "embedding", "channels", "size"])
@pytest.mark.parametrize("value", [0, True, 1.5])
def test_sizes_must_be_counts(name: str, value: Any) -> None:
    with pytest.raises(SparsewoodError, match=f"'{name}' of row_rnn must be a whole number >= 1"):
        row_rnn(**{name: value})


def test_cells_are_named() -> None:
    with pytest.raises(SparsewoodError, match=r"'cell' of row_rnn must be one of 'lstm', 'gru', 'rnn'. Got 'LSTM'"):
        row_rnn(cell="LSTM")  # type: ignore[arg-type]
