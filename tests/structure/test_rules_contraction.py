"""Products: what is summed over goes together, and masking a unit is removing it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparsewood.structure.axes import axes_of
from sparsewood.structure.modes import Functions, Operations
from sparsewood.structure.solve import _components as _solve
from sparsewood.structure.tracer import Tracer

Shapes = Sequence[tuple[int, ...]]


class Traced:
    """A function of tensors all of whose axes have labels; `activations` says which of them are no weights."""

    def __init__(
        self, function: Callable[..., Tensor], shapes: Shapes, *, activations: Sequence[int] = (), real: bool = False
    ) -> None:
        generator = torch.Generator().manual_seed(0)
        self.function = function
        values = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
        self.tensors: list[Tensor] = [nn.Parameter(value, requires_grad=False) for value in values]
        self.tracer = Tracer()
        self.tracer.begin(real=real)
        for number, tensor in enumerate(self.tensors):
            self.tracer.register(str(number), tensor)
            axes = axes_of(self.tracer.stand_in(tensor))
            assert axes is not None
            axes.weight = number not in activations
        with torch.no_grad(), Operations(self.tracer), Functions(self.tracer):
            self.out = function(*self.tensors)
        self.component = _solve(self.tracer.count, self.tracer.edges)

    def axis(self, number: int, axis: int) -> np.ndarray:
        """The components of the positions along an axis."""
        span = next(one for one in self.tracer.spans if (one.param, one.axis) == (str(number), axis))
        return self.component[span.start : span.start + span.size]

    def among(self, rows: Sequence[Any]) -> set[int]:
        return {one for row in rows for one in self.component[row[row > 0]].tolist()}

    @property
    def letters(self) -> str:
        """For every axis of every tensor: a letter for its units, `-` if it is frozen, upper case if not exact.

        The first axes of coupled ones name them a, b, c...
        """
        frozen = self.among([row for row, _ in self.tracer.frozen])
        inexact = self.among([row for row, _, _ in self.tracer.inexact_rows])
        names: dict[tuple[int, ...], str] = {}
        words = []
        for number, tensor in enumerate(self.tensors):
            word = ""
            for axis in range(tensor.dim()):
                units = tuple(self.axis(number, axis).tolist())
                if frozen & set(units):
                    word += "-"
                    continue
                letter = names.setdefault(units, chr(ord("a") + len(names)))
                word += letter.upper() if inexact & set(units) else letter
            words.append(word)
        return " ".join(words)

    def check(self) -> None:
        """Remove the first unit of every letter: the rest of the result is what a mask leaves, which is 0 as stated."""
        letters = "".join(self.letters.split())
        places = [(number, axis) for number, tensor in enumerate(self.tensors) for axis in range(tensor.dim())]
        for letter in {one for one in letters if one.islower()}:
            axes = [place for one, place in zip(letters, places, strict=True) if one == letter]
            unit = self.axis(*axes[0])[0]
            masked, removed = list(self.tensors), list(self.tensors)
            for number, axis in axes:
                rest = torch.arange(1, self.tensors[number].shape[axis])
                masked[number] = masked[number].index_fill(axis, torch.tensor([0]), 0.0)
                removed[number] = removed[number].index_select(axis, rest)
            was, now = self.function(*masked), self.function(*removed)
            for axis, row in enumerate(self.tracer.rows(self.out)):
                gone = np.zeros(0, np.int64) if row is None else np.flatnonzero(self.component[row] == unit)
                rest = np.setdiff1d(np.arange(was.shape[axis]), gone)
                if len(gone) and self.tracer.zero(self.out)[axis]:
                    assert not was.index_select(axis, torch.from_numpy(gone)).any()
                was = was.index_select(axis, torch.from_numpy(rest))
            torch.testing.assert_close(was, now)


CASES: dict[str, tuple[Callable[..., Tensor], Shapes, str]] = {
    "mm": (torch.mm, [(3, 4), (4, 5)], "ab bc"),
    "mm of itself": (lambda x: x @ x.T, [(3, 4)], "ab"),
    "mm of what is not zero": (lambda x, y: (x + 1) @ (y + 1), [(3, 4), (4, 5)], "aB Bc"),
    "mm of what is zero once": (lambda x, y: (x + 1) @ y, [(3, 4), (4, 5)], "ab bc"),
    "bmm": (torch.bmm, [(2, 3, 4), (2, 4, 5)], "abc acd"),
    "mv": (torch.mv, [(3, 4), (4,)], "ab b"),
    "dot": (torch.dot, [(4,), (4,)], "a a"),
    "vdot": (torch.vdot, [(4,), (4,)], "a a"),
    "outer": (torch.outer, [(3,), (4,)], "a b"),
    "addmm": (torch.addmm, [(5,), (3, 4), (4, 5)], "a bc ca"),
    "addmm of a matrix": (torch.addmm, [(3, 5), (3, 4), (4, 5)], "ab ac cb"),
    "addmm of a column": (torch.addmm, [(3, 1), (3, 4), (4, 5)], "a- ab bc"),
    "addmm of one number": (torch.addmm, [(1,), (3, 4), (4, 5)], "- ab bc"),
    "addmm in place": (lambda x, y, z: x.clone().addmm_(y, z), [(3, 5), (3, 4), (4, 5)], "ab ac cb"),
    "addmv": (torch.addmv, [(3,), (3, 4), (4,)], "a ab b"),
    "addr": (torch.addr, [(3, 4), (3,), (4,)], "ab a b"),
    "baddbmm": (torch.baddbmm, [(2, 3, 5), (2, 3, 4), (2, 4, 5)], "abc abd adc"),
    "baddbmm of rows": (torch.baddbmm, [(5,), (2, 3, 4), (2, 4, 5)], "a bcd bda"),
    "addbmm": (torch.addbmm, [(3, 5), (2, 3, 4), (2, 4, 5)], "ab cad cdb"),
    "linear": (F.linear, [(2, 3, 4), (5, 4), (5,)], "abc dc d"),
    "bilinear": (F.bilinear, [(2, 4), (2, 5), (3, 4, 5), (3,)], "ab ac dbc d"),
    "inner": (torch.inner, [(3, 4), (2, 4)], "ab cb"),
    "multi_dot": (lambda *x: torch.linalg.multi_dot(x), [(3, 5), (5, 4), (4, 2)], "ab bc cd"),
    "low rank": (lambda x, a, b: x @ (a @ b).T, [(2, 6), (5, 3), (3, 6)], "ab cd db"),
    "einsum ij,jk": (lambda x, y: torch.einsum("ij,jk->ik", x, y), [(3, 4), (4, 5)], "ab bc"),
    "einsum bi,bi": (lambda x, y: torch.einsum("bi,bi->b", x, y), [(3, 4), (3, 4)], "ab ab"),
    "einsum batch": (
        lambda x, y: torch.einsum("bhqd,bhkd->bhqk", x, y),
        [(1, 3, 4, 5), (1, 3, 6, 5)],
        "-abc -adc",
    ),
    "einsum three": (
        lambda x, w, y: torch.einsum("bi,oij,bj->bo", x, w, y),
        [(2, 4), (3, 4, 5), (2, 5)],
        "ab cbd ad",
    ),
    "cdist": (torch.cdist, [(3, 4), (5, 4)], "ab cb"),
    "cdist of what is not zero": (lambda x, y: torch.cdist(x + 1, y), [(3, 4), (5, 4)], "aB cB"),
    "cdist of batches": (torch.cdist, [(2, 3, 4), (2, 5, 4)], "-ab -cb"),
}


@pytest.mark.parametrize("real", [False, True], ids=["meta", "real"])
@pytest.mark.parametrize("name", CASES)
def test_what_is_coupled_and_that_masked_is_removed(name: str, real: bool) -> None:
    function, shapes, letters = CASES[name]
    traced = Traced(function, shapes, real=real)
    assert traced.letters == letters
    traced.check()


@pytest.mark.parametrize("real", [False, True], ids=["meta", "real"])
def test_linear_that_is_not_taken_apart(real: bool) -> None:
    def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        with torch.inference_mode():
            return F.linear(x, weight, bias)

    assert Traced(linear, [(2, 3, 4), (5, 4), (5,)], real=real).letters == "abc dc d"


def test_reasons_that_differ_from_a_mask_have_a_name() -> None:
    traced = Traced(lambda x, y: (x + 1) @ (y + 1), [(3, 4), (4, 5)])
    assert {kind for _, kind, _ in traced.tracer.inexact_rows} == {"sum of non-zero entries"}


# ---------------------------------------------------------------- who reads, what are heads, what it costs


def _consumed(traced: Traced) -> list[tuple[int, int]]:
    """The axes that are read."""
    read = traced.tracer.consumed
    spans = [(int(one.param), one.axis, one.start) for one in traced.tracer.spans]
    return [(number, axis) for number, axis, start in spans if any(start in row for row in read)]


@pytest.mark.parametrize(
    ("function", "shapes", "activations", "read"),
    [
        (torch.mm, [(3, 4), (4, 5)], [0], [(1, 0)]),
        (torch.mm, [(3, 4), (4, 5)], [1], [(0, 1)]),
        (torch.mm, [(3, 4), (4, 5)], [0, 1], []),
        (torch.mm, [(3, 4), (4, 5)], [], [(1, 0)]),
        (torch.addmm, [(5,), (3, 4), (4, 5)], [1], [(2, 0)]),
        (torch.mv, [(3, 4), (4,)], [1], [(0, 1)]),
        (F.bilinear, [(2, 4), (2, 5), (3, 4, 5)], [0, 1], [(2, 1), (2, 2)]),
    ],
)
def test_the_weight_reads(function: Any, shapes: Shapes, activations: list[int], read: list[tuple[int, int]]) -> None:
    assert _consumed(Traced(function, shapes, activations=activations)) == read


@pytest.mark.parametrize(("activations", "heads"), [([0, 1], [0]), ([0], []), ([], [])])
def test_heads_stand_in_batches_of_products_of_activations(activations: list[int], heads: list[int]) -> None:
    traced = Traced(torch.bmm, [(2, 3, 4), (2, 4, 5)], activations=activations)
    assert [
        axis for axis in range(3) if set(traced.axis(0, axis).tolist()) & traced.among(traced.tracer.head_rows)
    ] == heads


def _costs(traced: Traced) -> list[tuple[int, ...]]:
    return [one.sizes for one in traced.tracer.costs]


@pytest.mark.parametrize(
    ("function", "shapes", "sizes"),
    [
        (torch.mm, [(3, 4), (4, 5)], (3, 4, 5)),
        (torch.bmm, [(2, 3, 4), (2, 4, 5)], (2, 3, 4, 5)),
        (torch.mv, [(3, 4), (4,)], (3, 4)),
        (torch.dot, [(4,), (4,)], (4,)),
        (F.bilinear, [(2, 4), (2, 5), (3, 4, 5)], (2, 4, 3, 5)),
    ],
)
def test_multiply_adds_are_the_product_of_all_indices(function: Any, shapes: Shapes, sizes: tuple[int, ...]) -> None:
    traced = Traced(function, shapes)
    assert _costs(traced) == [sizes]
    assert all(row is not None for row in traced.tracer.costs[0].rows)


def test_what_is_summed_with_an_input_stays() -> None:
    traced = Traced(lambda w: torch.ones(3, 4, dtype=torch.float64) @ w, [(4, 5)])
    assert traced.letters == "-a"


def test_a_repeated_position_in_a_product_of_three_is_a_barrier() -> None:
    def product(x: Tensor, w: Tensor, y: Tensor) -> Tensor:
        return torch.ops.aten._trilinear(x, w, y, [1, 3], [0], [1, 2], [2, 3])

    assert Traced(product, [(1, 4), (3, 4, 5), (2, 5)]).letters == "-- --- --"


# ---------------------------------------------------------------- embeddings

INDEX = torch.tensor([[0, 2, 1], [2, 2, 0]])


@pytest.mark.parametrize(
    "function",
    [
        lambda table: F.embedding(INDEX, table),
        lambda table: F.embedding(INDEX, table, padding_idx=0),
        lambda table: F.embedding(INDEX, table.clone(), max_norm=0.5),
        lambda table: F.embedding_bag(INDEX, table),
        lambda table: F.embedding_bag(INDEX, table, mode="sum", per_sample_weights=INDEX.double()),
        lambda table: F.embedding_bag(INDEX.flatten(), table, torch.tensor([0, 4]), mode="max"),
    ],
)
@pytest.mark.parametrize("real", [False, True], ids=["meta", "real"])
def test_words_stay_and_columns_are_made(function: Any, real: bool) -> None:
    traced = Traced(function, [(3, 4)], real=real)
    assert traced.letters == "-a"
    assert traced.tracer.zero(traced.out)[-1]
    assert not traced.tracer.consumed
    traced.check()


def test_weights_of_words_stay() -> None:
    def bags(table: Tensor, weights: Tensor) -> Tensor:
        return F.embedding_bag(INDEX.flatten(), table, torch.tensor([0, 4]), mode="sum", per_sample_weights=weights)

    assert Traced(bags, [(3, 4), (6,)]).letters == "-a -"


def test_a_table_of_positions_is_read_by_a_buffer() -> None:
    """Positions in a buffer may go: the table's rows stay, and what is at these positions is not zero."""
    tracer = Tracer()
    table, places = nn.Parameter(torch.randn(3, 4), requires_grad=False), torch.tensor([0, 1, 2, 0, 1])
    tracer.register("table", table)
    tracer.register("places", places)
    with torch.no_grad(), Operations(tracer):
        out = F.embedding(places, table)
    rows = tracer.rows(out)
    assert rows[0] is not None
    assert rows[0].tolist() == [8, 9, 10, 11, 12]
    assert tracer.zero(out) == (False, True)
