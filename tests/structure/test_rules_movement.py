"""What movement rules promise, tried on numbers: without a unit an operation moves what it moves of a masked one.

Every axis of every operand has labels. A case says with one letter per axis whether positions may go (`e`) or stay
(`-`); all that may are removed, one at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsewood.structure.axes import tensors_in
from sparsewood.structure.groups import WHOLE, assemble
from sparsewood.structure.modes import Functions, Operations
from sparsewood.structure.record import Record
from sparsewood.structure.tracer import Tracer

Function = Callable[..., Any]


def _held(record: Record) -> set[int]:
    """Components that stay for another reason than that an axis would be empty: here axes of one position may go."""
    why = {one: {record.reasons[number].why for number in record.reasons_of[one]} for one in record.reasons_of}
    return {one for one, reasons in why.items() if reasons != {WHOLE}}


class Moved:
    """A function of tensors with labels on all axes; its results, with rows, and what may be removed."""

    def __init__(self, function: Function, shapes: Sequence[tuple[int, ...]], *, real: bool = False) -> None:
        self.function = function
        self.tensors = []
        for number, shape in enumerate(shapes):
            values = torch.arange(1, 1 + int(np.prod(shape)), dtype=torch.float64) + 1000 * number
            self.tensors.append(nn.Parameter(values.reshape(shape)))
        self.tracer = Tracer()
        self.tracer.begin(real=real)
        for number, tensor in enumerate(self.tensors):
            self.tracer.register(str(number), tensor)
        with torch.no_grad(), Operations(self.tracer), Functions(self.tracer):
            results = list(tensors_in((function(*self.tensors),)))
        self.results = [self.tracer.stand_in(result) for result in results]
        record = assemble(self.tracer).record
        self.component = record.component
        self.free = set(self.component.tolist()) - _held(record)

    def reasons(self) -> set[str]:
        return {reason.why for reason in self.tracer.reasons}

    def letters(self) -> str:
        words = ["".join(map(self._letter, axes)) for axes in self._labels()]
        return " ".join(words)

    def _letter(self, labels: np.ndarray) -> str:
        free = {one in self.free for one in self.component[labels].tolist()}
        return "?" if len(free) > 1 else "e" if free.pop() else "-"

    def _labels(self) -> list[list[np.ndarray]]:
        spans = iter(self.tracer.spans)
        return [
            [np.arange(span.start, span.start + span.size) for span in (next(spans) for _ in tensor.shape)]
            for tensor in self.tensors
        ]

    def check(self) -> None:
        """Remove every unit that may be; compare with what is left of a masked one."""
        for one in sorted(self.free):
            masked, removed = self._run(one, masked=True), self._run(one, masked=False)
            assert len(masked) == len(removed) == len(self.results)
            for result, was, now in zip(self.results, masked, removed, strict=True):
                self._compare(one, result, was, now)

    def _run(self, one: int, *, masked: bool) -> list[Tensor]:
        tensors = [tensor.detach().clone() for tensor in self.tensors]
        for number, axes in enumerate(self._labels()):
            for axis, labels in enumerate(axes):
                gone = self.component[labels] == one
                if masked:
                    tensors[number].index_fill_(axis, torch.from_numpy(np.flatnonzero(gone)), 0.0)
                else:
                    tensors[number] = tensors[number].index_select(axis, torch.from_numpy(np.flatnonzero(~gone)))
        with torch.no_grad():
            return list(tensors_in((self.function(*tensors),)))

    def _compare(self, one: int, result: Tensor, masked: Tensor, removed: Tensor) -> None:
        for axis, row in enumerate(self.tracer.rows(result)):
            gone = np.zeros(masked.shape[axis], bool) if row is None else (self.component[row] == one) & (row > 0)
            if self.tracer.zero(result)[axis]:
                assert not masked.index_select(axis, torch.from_numpy(np.flatnonzero(gone))).any()
            masked = masked.index_select(axis, torch.from_numpy(np.flatnonzero(~gone)))
        assert torch.equal(masked, removed)


def _shuffle(x: Tensor, groups: int) -> Tensor:
    batch, channels = x.size()
    return x.view(batch, groups, channels // groups).transpose(1, 2).reshape(batch, channels)


def _repeat_heads(x: Tensor, times: int) -> Tensor:
    batch, heads = x.shape
    return x[:, :, None].expand(batch, heads, times).reshape(batch, heads * times)


def _halves_tied(x: Tensor) -> Tensor:
    half = x.shape[1] // 2
    return x[:, :half] + x[:, half:]


X = (2, 6, 4)
CASES: list[tuple[str, Function, Sequence[tuple[int, ...]], str]] = [
    # ---- axes in another order
    ("permute", lambda x: x.permute(2, 0, 1), [X], "eee"),
    ("transpose", lambda x: x.transpose(-1, 0), [X], "eee"),
    ("swapaxes", lambda x: x.swapaxes(0, 1), [X], "eee"),
    ("movedim", lambda x: x.movedim(0, -1), [X], "eee"),
    ("t", lambda x: x.t(), [(2, 3)], "ee"),
    ("T", lambda x: x.T, [(2, 3)], "ee"),
    ("mT", lambda x: x.mT, [X], "eee"),
    ("in place", lambda x: x.clone().transpose_(0, 2).unsqueeze_(1), [X], "eee"),
    ("flip", lambda x: x.flip(1, 2), [X], "eee"),
    ("rot90", lambda x: torch.rot90(x, 1, (1, 2)), [X], "eee"),
    ("rot90 twice", lambda x: torch.rot90(x, 2, (0, 2)), [X], "eee"),
    ("rot90 back", lambda x: torch.rot90(x, -1, (0, 2)), [X], "eee"),
    ("roll", lambda x: x.roll(1, 1), [X], "e-e"),
    ("roll all", lambda x: x.roll(1), [X], "---"),
    # ---- axes of one position
    ("unsqueeze", lambda x: x.unsqueeze(-1)[:, None], [X], "eee"),
    ("squeeze", lambda x: x.squeeze(), [(4, 1, 3)], "e-e"),
    ("squeeze, down to one", lambda x: x.squeeze(), [(2, 1, 3)], "--e"),
    ("squeeze one", lambda x: x.squeeze(1), [(2, 1, 3)], "e-e"),
    ("squeeze none", lambda x: x.squeeze(0), [(3, 1, 3)], "eee"),
    ("squeeze none, down to one", lambda x: x.squeeze(0), [(2, 1, 3)], "-ee"),
    ("squeeze some", lambda x: x.squeeze((0, 1)), [(3, 1, 3)], "e-e"),
    ("squeeze new", lambda x: x.unsqueeze(1).squeeze(1), [(2, 3)], "ee"),
    # ---- views
    ("flatten all", lambda x: x.flatten(), [(2, 3)], "-e"),
    ("flatten", lambda x: x.flatten(1), [(2, 6, 4)], "ee-"),
    ("flatten and back", lambda x: x.flatten(1).unflatten(1, x.shape[1:]), [X], "ee-"),
    ("view to rows", lambda x: x.view(x.shape[0], -1, 2), [(2, 6)], "ee"),
    ("view to columns", lambda x: x.view(x.shape[0], 2, -1), [(2, 6)], "ee"),
    ("view both given", lambda x: x.view(x.shape[0], 2, 3), [(2, 6)], "e-"),
    ("view written", lambda x: x.view(2, -1), [(2, 6)], "-e"),
    ("view share of the size", lambda x: x.view(x.shape[0], 2, x.shape[1] // 2), [(2, 6)], "ee"),
    ("view wrong share", lambda x: x.view(x.shape[0], x.shape[1] // 3, 3), [(2, 6)], "ee"),
    ("view another size", lambda x, y: (x.view(y.shape[0], -1), y), [(2, 6), (2, 3)], "ee ee"),
    ("view as", lambda x, y: x.view_as(y), [(2, 6), (2, 6)], "-- --"),
    ("view as itself", lambda x: x.flatten().view_as(x), [(2, 6)], "-e"),
    ("reshape by numel", lambda x: x.reshape(x.numel()), [(2, 6)], "-e"),
    ("reshape transposed", lambda x: x.transpose(1, 2).reshape(x.size(0), -1), [X], "ee-"),
    ("unflatten", lambda x: x.unflatten(1, (-1, 2)), [X], "eee"),
    ("unflatten negative", lambda x: x.unflatten(-2, (3, -1)), [X], "eee"),
    ("unflatten written", lambda x: x.unflatten(1, (3, 2)), [X], "e-e"),
    ("shuffle", lambda x: _shuffle(x, 2), [(2, 6)], "ee"),
    ("shuffle channels", lambda x: F.channel_shuffle(x, 2), [(2, 6, 1, 1)], "eeee"),
    ("dtype", lambda x: x.view(torch.int64).view(torch.float64), [X], "eee"),
    ("other dtype", lambda x: x.view(torch.int32), [X], "ee-"),
    ("as strided", lambda x: x.as_strided((2, 2), (1, 2)), [X], "---"),
    # ---- repeated
    ("expand", lambda x: x.unsqueeze(1).expand(-1, 3, -1), [(2, 4)], "ee"),
    ("expand leading", lambda x: x.expand(3, *x.shape), [(2, 4)], "ee"),
    ("expand written", lambda x: x.unsqueeze(0).expand(3, 2, -1), [(2, 4)], "-e"),
    ("expand only", lambda x: x.expand(-1, 3), [(2, 1)], "e-"),
    ("expand to a size", lambda x, y: (x[:, None].expand(-1, y.shape[0]), y), [(2,), (3,)], "e e"),
    ("expand to a wrong size", lambda x, y: (x[:, None].expand(-1, 2 * y.shape[0]), y), [(2,), (3,)], "e -"),
    ("expand as", lambda x, y: (x[:, None].expand_as(y), y), [(2,), (2, 3)], "e ee"),
    ("broadcast", lambda x, y: torch.broadcast_tensors(x[:, None], y[None]), [(2,), (3,)], "e e"),
    ("broadcast nobody's", lambda x: torch.broadcast_tensors(x, torch.ones(2, 3).double()), [(2, 3)], "--"),
    ("batched product", lambda x, y: x @ y, [(3, 2, 2), (1, 2, 2)], "e-e -ee"),
    ("meshgrid", lambda x, y: torch.meshgrid(x, y, indexing="ij"), [(2,), (3,)], "- -"),
    ("repeat", lambda x: x.repeat(1, 2), [(2, 3)], "ee"),
    ("repeat new", lambda x: x.repeat(3, 1, 2), [(2, 3)], "ee"),
    ("repeat to a size", lambda x, y: (x[None].repeat(y.shape[0], 1), y), [(2,), (3,)], "e e"),
    ("repeat as often as a size", lambda x, y: (x.repeat(y.shape[0]), y), [(2,), (3,)], "e -"),
    ("tile", lambda x: x.tile(2), [(2, 3)], "ee"),
    ("repeat interleaved", lambda x: x.repeat_interleave(2, dim=1), [(2, 3)], "ee"),
    ("repeat interleaved twice 2", lambda x: x.repeat_interleave(2, dim=1), [(2, 2)], "ee"),
    ("repeat interleaved three times 2", lambda x: x.repeat_interleave(3, dim=1), [(2, 2)], "ee"),
    ("grouped queries", lambda x: _repeat_heads(x, 3), [(2, 4)], "ee"),
    # ---- side by side
    ("cat", lambda x, y: torch.cat([x, y], 1), [(2, 3), (2, 4)], "ee ee"),
    ("cat itself", lambda x: torch.cat([x, 2 * x], -1), [(2, 3)], "ee"),
    ("cat nobody's", lambda x: torch.cat([x, torch.ones(2, 2).double()], 1), [(2, 3)], "-e"),
    ("cat legacy", lambda x: torch.cat([torch.zeros(0).double(), x], 1), [(2, 3)], "ee"),
    ("stack", lambda x, y: torch.stack([x, y], 1), [(2, 3), (2, 3)], "ee ee"),
    ("hstack", lambda x, y: torch.hstack([x, y]), [(2, 3), (2, 4)], "ee ee"),
    ("column stack", lambda x, y: torch.column_stack([x, y]), [(2,), (2,)], "e e"),
    # ---- parts
    ("chunk", lambda x: x.chunk(2, 1), [X], "eee"),
    ("chunk uneven", lambda x: x.chunk(4, 1), [(2, 7)], "e-"),
    ("chunk fewer", lambda x: x.chunk(4, 1), [(2, 6)], "e-"),
    ("split written", lambda x: x.split(3, 1), [X], "e-e"),
    ("split in one", lambda x: x.split(6, 1), [X], "eee"),
    ("split by a share", lambda x: x.split(x.shape[1] // 3, dim=1), [X], "eee"),
    ("split written sizes", lambda x: x.split([2, 4], 1), [X], "e-e"),
    ("split by sizes", lambda x, y: x.split([y.shape[0], y.shape[1]], 1), [(1, 5), (2, 3)], "e- --"),
    ("unbind", lambda x: x.unbind(1), [X], "e-e"),
    ("select", lambda x: x.select(1, 0), [X], "e-e"),
    ("tensor split", lambda x: x.tensor_split(2, 1), [X], "e-e"),
    ("slice all", lambda x: x[:, 0:, :4], [X], "eee"),
    ("slice", lambda x: x[:, 1:3], [X], "e-e"),
    ("slice end", lambda x: x[..., -2:], [X], "ee-"),
    ("slice step", lambda x: x[:, ::2], [X], "e-e"),
    ("slice half", lambda x: x[:, : x.shape[1] // 2], [X], "e-e"),
    ("slice both halves", _halves_tied, [(2, 6)], "ee"),
    ("slice own size", lambda x: x[:, : x.shape[1]], [X], "eee"),
    ("slice behind a select", lambda x: x[0, None, :, :4], [X], "-ee"),
    ("slice behind a select, cut", lambda x: x[0, None, :, 1:], [X], "-e-"),
    ("narrow", lambda x: x.narrow(1, 0, 3), [X], "e-e"),
    ("narrow all", lambda x: x.narrow(1, 0, 6), [X], "e-e"),
    ("narrow own size", lambda x: x.narrow(1, 0, x.shape[1]), [X], "eee"),
    ("diagonal", lambda x: x.diagonal(dim1=0, dim2=2), [(3, 2, 3)], "eee"),
    ("diagonal beside", lambda x: x.diagonal(1, 0, 2), [(3, 2, 3)], "-e-"),
    ("unfold", lambda x: x.unfold(1, 2, 1), [X], "e-e"),
    # ---- padding
    ("pad", lambda x: F.pad(x, (0, 0, 1, 2)), [X], "eee"),
    ("pad with 1", lambda x: F.pad(x, (1, 1), value=1.0), [X], "eee"),
    ("crop", lambda x: F.pad(x, (0, 0, -1, 2)), [X], "e-e"),
    ("pad to a size", lambda x, y: (F.pad(x, (0, y.shape[1] - x.shape[1])), y), [(2, 3), (2, 5)], "e- e-"),
    ("reflect", lambda x: F.pad(x, (1, 1), mode="reflect"), [X], "ee-"),
    ("replicate", lambda x: F.pad(x, (1, 0, 1, 0), mode="replicate"), [(1, 2, 3, 4)], "ee--"),
    ("circular", lambda x: F.pad(x, (1, 2, 0, 1), mode="circular"), [(1, 2, 3, 4)], "ee--"),
    # ---- channels and places
    ("pixel shuffle", lambda x: F.pixel_shuffle(x, 2), [(1, 8, 2, 3)], "ee--"),
    ("pixel unshuffle", lambda x: F.pixel_unshuffle(x, 2), [(2, 3, 2, 4)], "ee--"),
    # ---- written into
    ("slice scatter", lambda x, y: torch.slice_scatter(x, y, 1, 0, 2), [X, (2, 2, 4)], "e-e e-e"),
    ("select scatter", lambda x, y: torch.select_scatter(x, y, 1, 0), [X, (2, 4)], "e-e ee"),
]


@pytest.mark.parametrize("real", [False, True], ids=["meta", "real"])
@pytest.mark.parametrize(
    ("function", "shapes", "letters"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_what_moves_can_be_removed(
    function: Function, shapes: Sequence[tuple[int, ...]], letters: str, real: bool
) -> None:
    moved = Moved(function, shapes, real=real)
    assert moved.letters() == letters, moved.reasons()
    assert not [why for why in moved.reasons() if "rule" in why]
    moved.check()
