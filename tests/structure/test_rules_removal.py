"""What the rules promise, tried on numbers: a unit that is removed leaves what a masked one leaves.

Every axis of every tensor has labels. A case says in one letter per axis what may be removed: `e` exactly, `-` nothing,
`n` `m` `s` `x` `i` with a difference between removing and masking, which has a name (`KINDS`).
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

KINDS = {
    "n": "normalised over units",
    "m": "mean over units",
    "s": "sum of non-zero entries",
    "x": "maximum over units",
    "i": "not finite where masked",
}

Function = Callable[..., Any]


def _held(record: Record) -> set[int]:
    """Components that stay for another reason than that an axis would be empty: here axes of one position may go."""
    why = {one: {record.reasons[number].why for number in record.reasons_of[one]} for one in record.reasons_of}
    return {one for one, reasons in why.items() if reasons != {WHOLE}}


class Removal:
    """A function of labelled tensors, what the tracer says about it, and what the numbers say."""

    def __init__(self, function: Function, shapes: Sequence[tuple[int, ...]], *, real: bool) -> None:
        generator = torch.Generator().manual_seed(0)
        self.function = function
        self.tensors = [
            nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64) + 0.1) for shape in shapes
        ]
        self.tracer = Tracer()
        self.tracer.begin(real=real)
        for index, tensor in enumerate(self.tensors):
            self.tracer.register(str(index), tensor)
        with torch.no_grad(), Operations(self.tracer), Functions(self.tracer):
            results = list(tensors_in((function(*self.tensors),)))
        self.results = [self.tracer.stand_in(result) for result in results]
        record = assemble(self.tracer).record
        self.component = record.component
        self.frozen = _held(record)
        self.kinds: dict[int, set[str]] = {}
        for row, kind, _ in self.tracer.inexact_rows:
            for one in self.component[row[row > 0]].tolist():
                self.kinds.setdefault(one, set()).add(kind)

    def letters(self) -> str:
        """For every tensor a word, for every axis a letter."""
        words = []
        spans = iter(self.tracer.spans)
        for tensor in self.tensors:
            word = ""
            for _ in range(tensor.dim()):
                span = next(spans)
                found = {self._letter(one) for one in self.component[span.start : span.start + span.size].tolist()}
                word += found.pop() if len(found) == 1 else "?"
            words.append(word)
        return " ".join(words)

    def _letter(self, one: int) -> str:
        if one in self.frozen:
            return "-"
        kinds = self.kinds.get(one, set())
        names = [letter for letter, kind in KINDS.items() if kind in kinds]
        return "e" if not kinds else names[0] if len(kinds) == 1 else "+"

    def check(self) -> int:
        """Remove every unit that may be, one at a time; the number of them."""
        owned = np.concatenate([np.arange(one.start, one.start + one.size) for one in self.tracer.spans])
        free = sorted(set(self.component[owned].tolist()) - self.frozen)
        for one in free:
            masked = self._run(self._without(one, masked=True))
            removed = self._run(self._without(one, masked=False))
            for result, was, now in zip(self.results, masked, removed, strict=True):
                self._compare(one, result, was, now)
        return len(free)

    def _run(self, tensors: list[Tensor]) -> list[Tensor]:
        with torch.no_grad():
            return list(tensors_in((self.function(*tensors),)))

    def _without(self, one: int, *, masked: bool) -> list[Tensor]:
        tensors = [tensor.detach().clone() for tensor in self.tensors]
        spans = iter(self.tracer.spans)
        for index, tensor in enumerate(self.tensors):
            for axis in range(tensor.dim()):
                span = next(spans)
                gone = np.flatnonzero(self.component[span.start : span.start + span.size] == one)
                kept = np.setdiff1d(np.arange(span.size), gone)
                if masked:
                    tensors[index].index_fill_(axis, torch.from_numpy(gone), 0.0)
                else:
                    tensors[index] = tensors[index].index_select(axis, torch.from_numpy(kept))
        return tensors

    def _compare(self, one: int, result: Tensor, masked: Tensor, removed: Tensor) -> None:
        for axis, row in enumerate(self.tracer.rows(result)):
            gone = np.zeros(0, np.int64) if row is None else np.flatnonzero((self.component[row] == one) & (row > 0))
            if len(gone) and self.tracer.zero(result)[axis]:
                assert not masked.index_select(axis, torch.from_numpy(gone)).any(), "not 0 where it is said to be"
            kept = np.setdiff1d(np.arange(masked.shape[axis]), gone)
            masked = masked.index_select(axis, torch.from_numpy(kept))
        assert masked.shape == removed.shape
        if one not in self.kinds:
            torch.testing.assert_close(masked, removed, equal_nan=True)


def fill(x: Tensor, change: Callable[[Tensor], Any]) -> Tensor:
    """In place on a copy; what it leaves."""
    x = x.clone()
    change(x)
    return x


# ---------------------------------------------------------------- cases

Case = tuple[Function, list[tuple[int, ...]], str]

POINTWISE: dict[str, Case] = {
    "add": (lambda x, y: x + y, [(3, 4), (3, 4)], "ee ee"),
    "add bias": (lambda x, b: x + b, [(3, 4), (4,)], "ee e"),
    "add column": (lambda x, b: x + b, [(3, 4), (3, 1)], "ee e-"),
    "add one": (lambda x, b: x + b, [(3, 4), (1,)], "ee -"),
    "add scalar": (lambda x: x + 1, [(3, 4)], "ee"),
    "add itself": (lambda x: x + x, [(3, 4)], "ee"),
    "subtract from": (lambda x: 1 - x, [(3, 4)], "ee"),
    "mul": (lambda x, y: x * y, [(2, 3, 4), (3, 1)], "eee e-"),
    "mul scalar": (lambda x: x * 2.5, [(3, 4)], "ee"),
    "div scalar": (lambda x: x / 3, [(3, 4)], "ee"),
    "div": (lambda x, y: x / y, [(3, 4), (3, 4)], "ii ii"),
    "div by spread": (lambda x, y: x / y, [(3, 4), (4,)], "ei i"),
    "div by positive": (lambda x, y: x / (y.abs() + 1), [(3, 4), (4,)], "ee e"),
    "floor": (lambda x, y: x // (y.abs() + 1), [(3, 4), (4,)], "ee e"),
    "remainder": (lambda x: x % 0.3, [(3, 4)], "ee"),
    "reciprocal": (lambda x: 1 / x, [(3, 4)], "ii"),
    "rsqrt": (lambda x: torch.rsqrt(x * x), [(3, 4)], "ii"),
    "log": (lambda x: x.abs().log(), [(3, 4)], "ii"),
    "log of safe": (lambda x: (x.abs() + 0.1).log(), [(3, 4)], "ee"),
    "power": (lambda x: x**2, [(3, 4)], "ee"),
    "negative power": (lambda x: x**-1.0, [(3, 4)], "ii"),
    "exp": (lambda x: x.exp(), [(3, 4)], "ee"),
    "atan2": (torch.atan2, [(3, 4), (3, 4)], "ee ee"),
    "maximum": (torch.maximum, [(3, 4), (3, 4)], "ee ee"),
    "binary max": (torch.max, [(3, 4), (3, 4)], "ee ee"),
    "clamp": (lambda x: x.clamp(min=0.1), [(3, 4)], "ee"),
    "clamp by tensor": (lambda x, low: x.clamp(min=low), [(3, 4), (4,)], "ee e"),
    "lerp": (torch.lerp, [(3, 4), (3, 4), (4,)], "ee ee e"),
    "addcmul": (lambda x, y, z: torch.addcmul(x, y, z, value=2), [(3, 4), (3, 1), (4,)], "ee e- e"),
    "addcdiv": (lambda x, y, z: torch.addcdiv(x, y, z.exp()), [(3, 4), (3, 4), (4,)], "ee ee e"),
    "where": (lambda c, x, y: torch.where(c > 0, x, y), [(3, 4), (3, 4), (4,)], "ee ee e"),
    "where scalar": (lambda c, x: torch.where(c > 0, x, 0.0), [(3, 1), (3, 4)], "e- ee"),
    "masked fill": (lambda x, m: x.masked_fill(m > 0, -1e9), [(3, 4), (4,)], "ee e"),
    "masked fill 0": (lambda x, m: x.masked_fill(m > 0, 0.0), [(3, 4), (4,)], "ee e"),
    "compare": (lambda x, y: (x < y) & (x < 1), [(3, 4), (4,)], "ee e"),
    "cast": (lambda x: x.float(), [(3, 4)], "ee"),
    "copy": (lambda x, y: fill(x, lambda z: z.copy_(y)), [(3, 4), (4,)], "ee e"),
    "in place": (lambda x, y: fill(x, lambda z: z.mul_(y).add_(1).relu_()), [(3, 4), (4,)], "ee e"),
    "zero in place": (lambda x: fill(x, lambda z: z.zero_()), [(3, 4)], "ee"),
    "fill in place": (lambda x: fill(x, lambda z: z.fill_(2.0)), [(3, 4)], "ee"),
    "zeros like": (lambda x: x + torch.zeros_like(x), [(3, 4)], "ee"),
    "ones like": (lambda x: x + torch.ones_like(x), [(3, 4)], "ee"),
    "full like": (lambda x: x * torch.full_like(x, 0.5), [(3, 4)], "ee"),
    "constant": (lambda x: x + torch.ones(4), [(3, 4)], "e-"),
    "new zeros": (lambda x: x + x.new_zeros(4), [(3, 4)], "e-"),
    "complex": (lambda x, y: torch.view_as_real(torch.complex(x, y)), [(3, 4), (3, 4)], "ee ee"),
    "polar": (lambda x, y: torch.polar(x.abs(), y), [(3, 4), (3, 4)], "ee ee"),
    "parts": (torch.view_as_complex, [(3, 2)], "e-"),
    "frexp": (torch.frexp, [(3, 4)], "ee"),
    "glu": (lambda x: F.glu(x, 1), [(3, 6, 2)], "eee"),
    "prelu": (F.prelu, [(2, 3, 4), (3,)], "eee e"),
    "prelu of one": (F.prelu, [(2, 3, 4), (1,)], "eee -"),
    "equal": (lambda x, y: x * float(torch.equal(x, y)), [(3, 4), (3, 4)], "-- --"),
}
ACTIVATIONS = """
    relu gelu silu mish elu selu celu softplus logsigmoid hardtanh hardswish hardsigmoid leaky_relu relu6 softsign
    tanhshrink softshrink hardshrink sigmoid tanh rrelu
"""
UNARY = """
    abs ceil clone cos deg2rad erf erfc exp2 expm1 floor frac isnan log1p nan_to_num neg positive round sign sin sinc
    sinh sqrt square tan trunc detach signbit sgn angle asinh atan logical_not
"""
POINTWISE |= {name: (getattr(F, name), [(3, 4)], "ee") for name in ACTIVATIONS.split()}
POINTWISE |= {name: (getattr(torch, name), [(3, 4)], "ee") for name in UNARY.split()}

NORMALIZATION: dict[str, Case] = {
    "batch norm": (
        lambda x, m, v, w, b: F.batch_norm(x, m, v.exp(), w, b),
        [(2, 4, 3), (4,), (4,), (4,), (4,)],
        "eee e e e e",
    ),
    "batch norm without weight": (
        lambda x, m, v: F.batch_norm(x, m, v.exp()),
        [(2, 4, 3), (4,), (4,)],
        "eee e e",
    ),
    "batch statistics": (
        lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
        [(3, 4, 5), (4,), (4,)],
        "nen e e",
    ),
    "batch statistics alone": (
        lambda x: F.batch_norm(x, None, None, training=True),
        [(3, 4, 5)],
        "nen",
    ),
    "batch statistics kept": (
        lambda x, m, v, w, b: (F.batch_norm(x, m, v, w, b, training=True), m, v),
        [(3, 4, 5), (4,), (4,), (4,), (4,)],
        "nen e e e e",
    ),
    "layer norm": (
        lambda x, w, b: F.layer_norm(x, w.shape, w, b),
        [(2, 3, 4), (4,), (4,)],
        "een n n",
    ),
    "layer norm of two axes": (
        lambda x, w, b: F.layer_norm(x, w.shape, w, b),
        [(2, 3, 4), (3, 4), (3, 4)],
        "enn nn nn",
    ),
    "layer norm alone": (lambda x: F.layer_norm(x, x.shape[-1:]), [(2, 3, 4)], "een"),
    "layer norm without bias": (lambda x, w: F.layer_norm(x, w.shape, w), [(2, 3, 4), (4,)], "een n"),
    "rms norm": (lambda x, w: F.rms_norm(x, w.shape, w), [(2, 3, 4), (4,)], "eem m"),
    "rms norm shifted": (lambda x, w: F.rms_norm(x + 1, w.shape, w), [(2, 3, 4), (4,)], "ees s"),
    "group norm of one": (
        lambda x, w, b: F.group_norm(x, 1, w, b),
        [(2, 4, 5), (4,), (4,)],
        "enn n n",
    ),
    "group norm of single channels": (
        lambda x, w, b: F.group_norm(x, x.shape[1], w, b),
        [(2, 4, 5), (4,), (4,)],
        "een e e",
    ),
    "group norm of single channels alone": (lambda x: F.group_norm(x, x.shape[1]), [(2, 4, 5)], "een"),
    "group norm, channels of blocks": (
        lambda x, w, b: F.group_norm(x, 2, w, b),
        [(2, 6, 5), (6,), (6,)],
        "enn n n",
    ),
    "group norm, blocks": (
        lambda x, w, b: F.group_norm(x, x.shape[1] // 2, w, b),
        [(2, 6, 5), (6,), (6,)],
        "een e e",
    ),
    "group norm, blocks alone": (lambda x: F.group_norm(x, x.shape[1] // 2), [(2, 6, 5)], "een"),
    "normalize": (lambda x: F.normalize(x, dim=1), [(3, 4)], "ee"),
    "normalize shifted": (lambda x: F.normalize(x + 1, dim=1), [(3, 4)], "es"),
    "local response": (lambda x: F.local_response_norm(x.unsqueeze(0), 3)[0], [(3, 4, 4)], "---"),
    "weight norm": (lambda v, g: torch._weight_norm(v, g, 0), [(4, 3, 2), (4, 1, 1)], "iee i--"),
    "weight norm of the last": (lambda v, g: torch._weight_norm(v, g, 2), [(4, 3, 2), (1, 1, 2)], "eei --i"),
    "softmax": (lambda x: x.softmax(1), [(3, 4)], "e-"),
    "softmax of all": (lambda x: x.softmax(0), [(3, 4)], "-e"),
    "log softmax": (lambda x: x.log_softmax(-1), [(3, 4)], "e-"),
    "softmin": (lambda x: F.softmin(x, 0), [(3, 4)], "-e"),
    "cosine": (lambda x, y: F.cosine_similarity(x, y, dim=1), [(3, 4), (3, 4)], "ee ee"),
}

REDUCTION: dict[str, Case] = {
    "sum": (lambda x: x.sum(1), [(2, 3, 4)], "eee"),
    "sum of two": (lambda x: x.sum((0, -1), keepdim=True), [(2, 3, 4)], "eee"),
    "sum of all": (lambda x: x.sum(), [(3, 4)], "ee"),
    "sum of shifted": (lambda x: (x + 1).sum(1), [(3, 4)], "es"),
    "sum behind sigmoid and mask": (lambda x, y: (x.sigmoid() * y).sum(1), [(3, 4), (4,)], "ee e"),
    "nansum": (lambda x: x.nansum(0), [(3, 4)], "ee"),
    "mean": (lambda x: x.mean(1), [(3, 4)], "em"),
    "mean of all": (lambda x: x.mean(), [(3, 4)], "mm"),
    "mean of shifted": (lambda x: x.exp().mean(-1), [(3, 4)], "es"),
    "var": (lambda x: x.var(1), [(3, 4)], "en"),
    "std, mean": (lambda x: torch.std_mean(x, 1, keepdim=True), [(3, 4)], "en"),
    "amax": (lambda x: x.amax(1), [(3, 4)], "ex"),
    "max": (lambda x: x.max(), [(3, 4)], "xx"),
    "max along": (lambda x: torch.max(x, 1).values, [(3, 4)], "ex"),
    "max, where": (lambda x: torch.max(x, 1).indices + 1, [(3, 4)], "e-"),
    "min, where": (lambda x: torch.min(x, 0, keepdim=True).indices.float(), [(3, 4)], "-e"),
    "aminmax": (lambda x: torch.aminmax(x, dim=1), [(3, 4)], "ex"),
    "argmax": (lambda x: x.argmax(-1), [(3, 4)], "e-"),
    "argmax of all": (lambda x: x.argmax(), [(3, 4)], "--"),
    "prod": (lambda x: x.prod(1), [(3, 4)], "e-"),
    "any": (lambda x: x.any(1), [(3, 4)], "ee"),
    "any of compared": (lambda x: (x > 0).any(1), [(3, 4)], "ee"),
    "any of not": (lambda x: (x <= 0).any(1), [(3, 4)], "es"),
    "all": (lambda x: x.all(1), [(3, 4)], "e-"),
    "count": (lambda x: x.count_nonzero(1), [(3, 4)], "ee"),
    "logsumexp": (lambda x: x.logsumexp(1), [(3, 4)], "es"),
    "norm": (lambda x: x.norm(dim=1), [(3, 4)], "ee"),
    "norm of all": (lambda x: x.norm(), [(3, 4)], "ee"),
    "norm of shifted": (lambda x: torch.linalg.vector_norm(x + 1, dim=1), [(3, 4)], "es"),
    "1-norm": (lambda x: x.norm(p=1, dim=0), [(3, 4)], "ee"),
    "largest": (lambda x: torch.linalg.vector_norm(x, float("inf"), dim=1), [(3, 4)], "ee"),
    "smallest": (lambda x: torch.linalg.vector_norm(x, -float("inf"), dim=1), [(3, 4)], "ex"),
    "cumsum": (lambda x: x.cumsum(0), [(3, 4)], "-e"),
    "cummax": (lambda x: torch.cummax(x, 1), [(3, 4)], "e-"),
    "logcumsumexp": (lambda x: torch.logcumsumexp(x, 1), [(3, 4)], "e-"),
    "sort": (lambda x: x.sort(1, descending=True), [(3, 4)], "e-"),
    "argsort": (lambda x: x.argsort(0), [(3, 4)], "-e"),
    "topk": (lambda x: x.topk(2, 1), [(3, 4)], "e-"),
    "kthvalue": (lambda x: x.kthvalue(2, 1), [(3, 4)], "e-"),
    "median": (lambda x: x.median(1), [(3, 4)], "e-"),
    "median of all": (lambda x: x.median(), [(3, 4)], "--"),
    "mode": (lambda x: x.mode(), [(3, 4)], "e-"),
    "unique": (lambda x: torch.unique(x, sorted=True), [(3, 4)], "--"),
}

IMAGE = (2, 3, 4, 4)
POOLING: dict[str, Case] = {
    "max pool": (lambda x: F.max_pool2d(x, 2), [IMAGE], "ee--"),
    "max pool without batch": (lambda x: F.max_pool2d(x, 2, padding=1), [IMAGE[1:]], "e--"),
    "max pool, where": (lambda x: F.max_pool2d(x, 2, return_indices=True), [IMAGE], "ee--"),
    "max pool 1d": (lambda x: F.max_pool1d(x, 2), [(2, 3, 4)], "ee-"),
    "max pool 3d": (lambda x: F.max_pool3d(x, 2), [(2, 3, 4, 4, 4)], "ee---"),
    "average pool": (lambda x: F.avg_pool2d(x, 2, padding=1), [IMAGE], "ee--"),
    "average pool 1d": (lambda x: F.avg_pool1d(x, 2), [(2, 3, 4)], "ee-"),
    "average pool 3d": (lambda x: F.avg_pool3d(x, 2), [(2, 3, 4, 4, 4)], "ee---"),
    "adaptive average": (lambda x: F.adaptive_avg_pool2d(x, 2), [IMAGE], "ee--"),
    "adaptive average to 1": (lambda x: F.adaptive_avg_pool2d(x, 1), [IMAGE], "eemm"),
    "adaptive average 1d": (lambda x: F.adaptive_avg_pool1d(x, 2), [(2, 3, 4)], "ee-"),
    "adaptive average 3d": (lambda x: F.adaptive_avg_pool3d(x, 2), [(2, 3, 4, 4, 4)], "ee---"),
    "adaptive max": (lambda x: F.adaptive_max_pool2d(x, 2), [IMAGE], "ee--"),
    "adaptive max 1d": (lambda x: F.adaptive_max_pool1d(x, 2), [(2, 3, 4)], "ee-"),
    "power average": (lambda x: F.lp_pool2d(x, 2.0, 2), [IMAGE], "ee--"),
    "unpool": (
        lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
        [IMAGE],
        "ee--",
    ),
    "linear": (lambda x: F.interpolate(x, size=8, mode="linear"), [(2, 3, 4)], "ee-"),
    "trilinear": (lambda x: F.interpolate(x, size=8, mode="trilinear"), [(2, 3, 4, 4, 4)], "ee---"),
    "antialias": (lambda x: F.interpolate(x, size=(3, 3), mode="bilinear", antialias=True), [IMAGE], "ee--"),
    "unfold": (lambda x: F.unfold(x, 2), [IMAGE], "ee--"),
    "fold": (lambda x: F.fold(x, (4, 4), 2, stride=2), [(2, 12, 4)], "ee-"),
    "fold unfolded": (lambda x: F.fold(F.unfold(x, 2), (4, 4), 2), [IMAGE], "ee--"),
    "grid": (lambda x, g: F.grid_sample(x, g, align_corners=False), [IMAGE, (2, 5, 6, 2)], "ee-- eee-"),
    "affine grid": (lambda m: F.affine_grid(m, [2, 3, 4, 4], align_corners=False), [(2, 2, 3)], "---"),
}
POOLING |= {
    mode: (lambda x, mode=mode: F.interpolate(x, scale_factor=2, mode=mode), [IMAGE], "ee--")
    for mode in ("nearest", "nearest-exact", "bilinear", "bicubic", "area")
}

CASES = {**POINTWISE, **NORMALIZATION, **REDUCTION, **POOLING}
NEED_VALUES = {"equal", "unique"}


@pytest.mark.parametrize("name", CASES)
def test_removing_a_unit_is_masking_it(name: str) -> None:
    function, shapes, letters = CASES[name]
    removal = Removal(function, shapes, real=True)
    assert removal.letters() == letters
    assert (removal.check() > 0) == any(letter not in "- " for letter in letters)


@pytest.mark.parametrize("name", sorted(CASES.keys() - NEED_VALUES))
def test_values_are_not_needed(name: str) -> None:
    function, shapes, letters = CASES[name]
    assert Removal(function, shapes, real=False).letters() == letters
