"""A recurrent network that reads an image row by row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from sparsewood.models.initial import drawn_from, require_choice, require_counts

__all__ = ["RowRNN", "row_rnn"]

CELLS: Mapping[str, type[nn.LSTM | nn.GRU | nn.RNN]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


class RowRNN(nn.Module):
    """A linear layer for every row (or none), recurrent layers from the first row to the last, a classifier."""

    def __init__(self, embedding: nn.Module, recurrent: nn.LSTM | nn.GRU | nn.RNN, classifier: nn.Linear) -> None:
        super().__init__()
        self.embedding = embedding
        self.recurrent = recurrent
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        """Logits float[N, classes] of images float[N, channels, rows, size], after the last row."""
        rows = images.transpose(1, 2).flatten(2)
        return self.classifier(self.recurrent(self.embedding(rows))[0][:, -1])


def row_rnn(
    hidden: int = 128,
    *,
    cell: Literal["lstm", "gru", "rnn"] = "lstm",
    layers: int = 1,
    embedding: int | None = 128,
    classes: int = 10,
    channels: int = 1,
    size: int = 28,
    generator: torch.Generator | None = None,
) -> RowRNN:
    """A recurrent classifier that reads an image as a sequence of rows: LSTM-s of the pruning literature, on MNIST.

    A row, `size` pixels of all channels, goes through a linear layer of `embedding` outputs (None: straight into the
    recurrent layer), then into `layers` layers of `hidden` units ("rnn": tanh); a linear layer reads the state after
    the last row. Maps float[N, channels, rows, size] to logits float[N, classes], for any number of rows. With k gates
    (LSTM 4, GRU 3, RNN 1), e = embedding and h = hidden, one layer has k h (e + h + 2) parameters, as PyTorch keeps two
    biases for each gate: 137,098 in all for LSTM-s; LSTM-b is `row_rnn(256, embedding=256)`, 536,330. Initial weights
    are PyTorch's own. Raises `SparsewoodError` for counts below 1 and another cell.

    Source: the networks of Lee, Ajanthan, Torr: SNIP: Single-shot Network Pruning based on Connection Sensitivity,
    https://arxiv.org/abs/1810.02340, Table 2 (137k, 535k; GRU 104k, 404k).

    >>> model = row_rnn()
    >>> model(torch.zeros(2, 1, 28, 28)).shape, sum(p.numel() for p in model.parameters())
    (torch.Size([2, 10]), 137098)
    """
    require_counts("row_rnn", hidden=hidden, layers=layers, classes=classes, channels=channels, size=size)
    require_choice("row_rnn", "cell", cell, tuple(CELLS))
    read = channels * size
    with drawn_from(generator):
        first: nn.Module = nn.Identity()
        if embedding is not None:
            require_counts("row_rnn", embedding=embedding)
            first, read = nn.Linear(read, embedding), embedding
        recurrent = CELLS[cell](read, hidden, layers, batch_first=True)
        return RowRNN(first, recurrent, nn.Linear(hidden, classes))
