"""An exported network beside the one that it was made from: on the example inputs, other batches and other values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError
from sparsewood.exporting.batch import batch_of, with_batch
from sparsewood.exporting.onnx_model import fixed_batch
from sparsewood.exporting.outputs import named_tensors
from sparsewood.exporting.report import Difference
from sparsewood.inputs import Inputs, call, map_tensors
from sparsewood.onnx_graph import reason
from sparsewood.shrinking.copies import Coarsest
from sparsewood.shrinking.running import others
from sparsewood.snapshot import untouched

__all__ = ["Comparison", "compare", "largest_difference"]

Run = Callable[[Inputs], Sequence[Tensor]]
"""What runs the exported network; gives its output tensors in order."""


@dataclass(frozen=True)
class Comparison:
    """Differences, the relative one that was allowed, and what could not be tried."""

    differences: tuple[Difference, ...]
    tolerance: float
    notes: tuple[str, ...] = ()


def compare(model: nn.Module, run: Run, inputs: Inputs, *, batches: bool, tolerance: float | None) -> Comparison:
    """Run `model` and what was exported from it on `inputs`, on other values, and, with `batches`, on other batches.

    `tolerance` is the largest difference allowed, over the largest absolute value of an output; None: the square root
    of the step of the coarsest numbers that the network computes with (3.5e-4 in float32), and none for whole numbers.

    Raises `SparsewoodError` if the outputs have other shapes or dtypes, or differ by more.
    """
    coarsest = Coarsest()
    with coarsest:
        outputs = _outputs(model, inputs)
    allowed = math.sqrt(coarsest.eps) if tolerance is None else tolerance
    limit = partial(_limit, tolerance=tolerance, allowed=allowed)
    found, notes = [], []
    batch = batch_of(inputs)
    found.append(_compared(model, run, "example inputs", inputs, limit))
    undefined = [name for name, tensor in outputs if bool(tensor.isnan().any())]
    if undefined:
        notes.append(f"on the example inputs there is NaN in {', '.join(undefined)}, where there is nothing to compare")
    sizes = [size for size in (1, (batch or 0) + 1) if size != batch] if batches else []
    for size in sizes:
        resized = with_batch(inputs, size)
        try:
            _outputs(model, resized)
        except SparsewoodError as error:
            raise SparsewoodError(f"{fixed_batch(model, batch)} With a batch of {size}: {error}") from error
        found.append(_compared(model, run, "another batch", resized, limit))
    generator = torch.Generator().manual_seed(0)
    drawn = map_tensors(lambda tensor: others(tensor, generator), with_batch(inputs, sizes[-1]) if sizes else inputs)
    why = _unusable(model, drawn)
    if why:
        notes.append(f"not compared on other values than those of the example inputs: {why}")
    else:
        found.append(_compared(model, run, "other values", drawn, limit))
    return Comparison(tuple(found), allowed, tuple(notes))


def largest_difference(expected: Tensor, found: Tensor) -> tuple[float, float]:
    """The largest absolute difference, and that over the largest absolute value expected (over 1 if that is 0).

    Infinities and NaN that both have make no difference; those that one has make an infinite one.

    >>> largest_difference(torch.tensor([4.0, math.inf]), torch.tensor([3.0, math.inf]))
    (1.0, 0.25)
    >>> largest_difference(torch.tensor([1.0]), torch.tensor([math.nan]))
    (inf, inf)
    """
    wide = torch.complex128 if expected.is_complex() else torch.float64
    one, other = expected.detach().cpu().to(wide), found.detach().cpu().to(wide)
    if one.numel() == 0:
        return 0.0, 0.0
    same = (one == other) | (one.isnan() & other.isnan())
    gaps = torch.where(same, 0.0, (one - other).abs()).nan_to_num(math.inf)
    scale = float(torch.where(one.isfinite(), one.abs(), 0.0).max()) or 1.0
    absolute = float(gaps.max())
    return absolute, absolute / scale


def _limit(output: Tensor, tolerance: float | None, allowed: float) -> float:
    """The relative difference that is allowed; of places in a vocabulary the next one is as wrong as any other."""
    rounded = output.is_floating_point() or output.is_complex()
    return allowed if rounded or tolerance is not None else 0.0


def _compared(model: nn.Module, run: Run, what: str, inputs: Inputs, limit: Callable[[Tensor], float]) -> Difference:
    expected = _outputs(model, inputs)
    batch = batch_of(inputs)
    place = f"on {what}" + ("" if batch is None else f" (batch {batch})")
    try:
        with _running(model):
            found = list(run(map_tensors(torch.clone, inputs)))
    except SparsewoodError:
        raise
    except Exception as error:  # whatever an engine raises
        raise SparsewoodError(
            f"What was exported from {type(model).__name__} does not run {place}: {type(error).__name__}: "
            f"{reason(error)}. {_advice(what)}"
        ) from error
    kinds = [_kind(tensor) for tensor in found], [_kind(tensor) for _, tensor in expected]
    if kinds[0] != kinds[1]:
        raise SparsewoodError(
            f"What was exported from {type(model).__name__} gives {', '.join(kinds[0])} {place}, and the network "
            f"{', '.join(kinds[1])}. {_advice(what)}"
        )
    gaps = [largest_difference(tensor, other) for (_, tensor), other in zip(expected, found, strict=True)]
    limits = [limit(tensor) for _, tensor in expected]
    worst = max(range(len(gaps)), key=lambda i: (gaps[i][1] > limits[i], gaps[i][1]))
    if gaps[worst][1] > limits[worst]:
        raise SparsewoodError(
            f"What was exported from {type(model).__name__} computes something else {place}: output "
            f"{expected[worst][0]!r} differs by {gaps[worst][0]:.2g}, {gaps[worst][1]:.2g} of its largest value; "
            f"allowed is {limits[worst]:.2g}. {_cause(model, inputs, expected)}"
        )
    return Difference(what, batch, max(gap for gap, _ in gaps), max(share for _, share in gaps))


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def _cause(model: nn.Module, inputs: Inputs, expected: Sequence[tuple[str, Tensor]]) -> str:
    again = _outputs(model, inputs, seed=1)
    same = [tensor.shape for _, tensor in again] == [tensor.shape for _, tensor in expected]
    gaps = [largest_difference(one, two)[0] for (_, one), (_, two) in zip(expected, again, strict=False)]
    if not same or max(gaps, default=0.0) > 0:
        return (
            "The network itself gives other values when it is run again, so something in its forward is random or "
            "remembers earlier calls. Take that out of eval mode."
        )
    return (
        "Its forward may decide by values or by what Python remembers, which an exported network cannot. Change that, "
        "or allow more with tolerance=..., if so much is rounding."
    )


def _advice(what: str) -> str:
    if what == "another batch":
        return (
            "Its forward depends on the size of the batch (axis 0 of the first input). Export with dynamic_batch=False "
            "(--fixed-batch on the command line) and inputs of the batch that it is used with."
        )
    return "Its forward may decide by shapes or values, which an exported network cannot."


def _unusable(model: nn.Module, inputs: Inputs) -> str:
    try:
        outputs = _outputs(model, inputs)
    except SparsewoodError as error:
        return str(error.__cause__ or error)
    finite = all(bool(tensor.isfinite().all()) for _, tensor in outputs)
    return "" if finite else "the network's outputs are not finite there"


def _outputs(model: nn.Module, inputs: Inputs, *, seed: int = 0) -> list[tuple[str, Tensor]]:
    """The network's outputs; what is random in it is random in the same way for the same seed."""
    own = map_tensors(torch.clone, inputs)  # a forward may write to its inputs
    with torch.no_grad(), _running(model, seed):
        return [(name, tensor.clone()) for name, tensor in named_tensors(call(model, own))]


@contextmanager
def _running(model: nn.Module, seed: int = 0) -> Iterator[None]:
    """The model and the random state are as before behind the block."""
    with untouched(model):
        torch.default_generator.manual_seed(seed)
        yield
