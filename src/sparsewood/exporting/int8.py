"""Networks with weights and activations of 8 bits, for onnxruntime."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from sparsewood.batches import Batch
from sparsewood.errors import SparsewoodError, require_model
from sparsewood.exporting.int8_choice import Choice, choice_of
from sparsewood.exporting.int8_copy import float_copy
from sparsewood.exporting.int8_graph import Weights, inferred, quantized_dynamic, quantized_static
from sparsewood.exporting.int8_inputs import Order, calibration_inputs, on_cpu
from sparsewood.exporting.int8_layers import Found, Int8Layer, kernels, left_layer, other_layers, quantized_layer
from sparsewood.exporting.int8_network import Int8Network
from sparsewood.exporting.int8_ranges import observe
from sparsewood.exporting.int8_sites import apart, batchnorms, sites
from sparsewood.exporting.onnx_model import onnx_model
from sparsewood.inputs import Inputs, arguments, call
from sparsewood.onnx_graph import feeds, require_all, session
from sparsewood.parameters import Selectors
from sparsewood.quantization.folding import NOT_RUN, fold_batchnorm
from sparsewood.quantization.ranges import Calibrator, MinMax
from sparsewood.snapshot import untouched

__all__ = ["Dynamic", "Static", "quantize_int8"]

_MIN_MAX = MinMax()

_FOLDED = 1e-3
"""How far outputs may move when BatchNorm is folded: by the rounding of float32 in deep networks, far below 8 bits."""


@dataclass(frozen=True)
class Static:
    """Activations have ranges that are found once, on calibration data.

    `calibrator`: `MinMax()`, `Percentile(99.999)` or `Histogram()` of `sparsewood.quantization`, or another callable
    like these. `symmetric`: int8 with zero at 0; otherwise uint8, whose zero is anywhere.
    """

    calibrator: Calibrator = _MIN_MAX
    symmetric: bool = False


@dataclass(frozen=True)
class Dynamic:
    """Activations are quantised as they come by, for the range of that moment: no calibration, and some time for it."""


_STATIC = Static()


def quantize_int8(
    model: nn.Module,
    calibration: Iterable[Batch] | None = None,
    *,
    example_inputs: Inputs | None = None,
    per_channel: bool = True,
    symmetric: bool = True,
    activations: Static | Dynamic = _STATIC,
    include: Selectors | None = None,
    exclude: Selectors | None = None,
    reduce_range: bool = False,
    dynamic_batch: bool = True,
    threads: int | None = None,
) -> Int8Network:
    """A copy of `model` that holds weights as integers of 8 bits and computes with them in onnxruntime.

        weight = (q - zero_point) * scale      see `sparsewood.quantization.affine_parameters`

    BatchNorm is folded first, then the network is exported and quantised by onnxruntime's tools, and what came out is
    read back: each row of `Int8Network.layers` has the integers that are in the file, checked against the weight, and
    the operation that onnxruntime runs on them; or the reason why there are none. Zeros stay exactly zero, and equal
    weights equal (of channels with scales of their own, within each).

    Args:
        calibration: a few batches: tensors, `(inputs, target)`, or mappings of keyword inputs. They are held in memory.
            None only for `activations=Dynamic()`.
        example_inputs: to trace with; None: those of the first batch.
        per_channel: a scale for each output of a weight; else one for all of it.
        symmetric: weights with zero at 0. An affine range needs `per_channel=False`.
        activations: `Static(calibrator, symmetric=False)`, for convolutions and most else, or `Dynamic()`, for linear
            and LSTM layers.
        include, exclude: names, patterns, classes of layers or weights. By default all weights that are multiplied;
            embeddings only where `include` means them.
        reduce_range: weights of 7 bits, for x86 processors without VNNI, where sums of 8-bit products overflow.
        dynamic_batch: whether the number of examples stays open.
        threads: that onnxruntime computes with; None: as many as PyTorch.

    Raises `SparsewoodError` if nothing could be quantised, for calibration data that is empty or not finite, weights
    that are not float32 or not finite, and if a package is missing or the network cannot be exported; `UnknownName` for
    names that mean nothing. The model is not changed.

    Source: Jacob et al. 2018, https://arxiv.org/abs/1712.05877; Krishnamoorthi 2018, "Quantizing deep convolutional
    networks for efficient inference: a whitepaper", https://arxiv.org/abs/1806.08342.

    >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    >>> small = quantize_int8(net, [torch.rand(32, 8)])
    >>> small(torch.rand(5, 8)).shape, small.integers["0.weight"].dtype
    (torch.Size([5, 4]), torch.int8)
    >>> [(row.name, row.quantized, row.kernel) for row in small.layers]
    [('0.weight', True, 'QGemm'), ('2.weight', True, 'QGemm')]
    """
    require_model(model)
    require_all()
    _require_settings(per_channel, symmetric, activations)
    copied = float_copy(model)
    batches = calibration_inputs(calibration, needed=isinstance(activations, Static))
    example = on_cpu(example_inputs) if example_inputs is not None else next(iter(batches), None)
    if example is None:
        raise SparsewoodError("quantize_int8 needs inputs to trace with. Pass example_inputs, or calibration batches.")
    folded = fold_batchnorm(copied, example, tolerance=_FOLDED)
    exported = inferred(onnx_model(folded.model, example, dynamic_batch=dynamic_batch))
    order = Order.of(folded.model, example)
    before = _lean(exported, copied=True).ByteSize()
    choice = choice_of(
        apart(exported, sites(exported, folded.model)),
        folded.model,
        include,
        exclude,
        per_channel=per_channel,
        symmetric=symmetric,
        static=isinstance(activations, Static),
    )
    _require_something(model, choice.chosen, choice)
    weights = Weights(per_channel, symmetric, reduce_range)
    given = [order.sort(*arguments(one)) for one in batches]
    made = _quantized(exported, given, weights, activations, choice, threads)
    rows = _rows(exported, made, choice, turned=isinstance(activations, Dynamic))
    _require_something(model, [row for row in rows if row.quantized], choice)
    remaining = batchnorms(exported, folded.model)
    reasons = {
        name: "folded into the layer before it by the exporter"
        if name not in remaining and why != NOT_RUN
        else f"BatchNorm stays: {why}"
        for name, why in folded.kept.items()
    }
    rows += other_layers(folded.model, choice.all, reasons)
    structure = _structure(folded.model, example, len(made.graph.output))
    content = _lean(made).SerializeToString()
    network = Int8Network(content, rows, folded.folded, before, structure=structure, order=order, threads=threads)
    call(network, example)  # not everything that can be written can be run
    return network


def _quantized(
    exported: Any,
    batches: Sequence[Inputs],
    weights: Weights,
    activations: Static | Dynamic,
    choice: Choice,
    threads: int | None,
) -> Any:
    copied = type(exported)()
    copied.CopyFrom(exported)  # the tools write into what they are given
    left = list(choice.left)
    if isinstance(activations, Dynamic):
        return quantized_dynamic(copied, weights, left=left)
    running = session(exported, threads=threads)
    given = [feeds(running, one) for one in batches]
    ranges = observe(exported, given, activations.calibrator, threads=threads)
    return quantized_static(
        copied, ranges, weights, symmetric_activations=activations.symmetric, chosen=choice.chosen, left=left
    )


def _rows(exported: Any, made: Any, choice: Choice, *, turned: bool) -> list[Int8Layer]:
    """A row for each weight, in the order of the graph."""
    before = {one.name: one for one in exported.graph.initializer}
    found = Found({one.name: one for one in made.graph.initializer}, kernels(made), turned)
    rows: dict[tuple[str, str], Int8Layer] = {}
    for site in choice.all:
        reason = choice.left.get(site)
        row = quantized_layer(site, before[site.weight], found) if reason is None else None
        if row is None:
            reason = reason or "onnxruntime left it in float32"
            row = left_layer(site, before[site.weight], found, reason)
        rows.setdefault((row.name, row.reason), row)
    return list(rows.values())


def _require_something(model: nn.Module, quantized: Sequence[object], choice: Choice) -> None:
    if quantized:
        return
    reasons = [f"{site.name}: {reason}" for site, reason in choice.left.items()]
    shown = "; ".join(reasons[:5]) or "it has no weight that is multiplied"
    raise SparsewoodError(f"quantize_int8: nothing in {type(model).__name__} was quantised ({shown}).")


def _require_settings(per_channel: bool, symmetric: bool, activations: object) -> None:
    if not isinstance(activations, Static | Dynamic):
        raise SparsewoodError(f"quantize_int8: activations must be Static(...) or Dynamic(). Got {activations!r}.")
    if isinstance(activations, Static) and not _is_calibrator(activations.calibrator):
        raise SparsewoodError(
            "quantize_int8: the calibrator must be MinMax(), Percentile(...), Histogram() or the like. "
            f"Got {activations.calibrator!r}."
        )
    if per_channel and not symmetric:
        raise SparsewoodError(
            "quantize_int8: onnxruntime multiplies with one zero point for a whole weight, so that channels with "
            "scales of their own have it at 0. Use symmetric=True, or per_channel=False."
        )


def _is_calibrator(value: object) -> bool:
    return isinstance(value, Calibrator) and not isinstance(value, type)


def _structure(model: nn.Module, example: Inputs, outputs: int) -> Any:
    """What the network returns, with numbers for tensors; None if it returns something else beside."""
    with untouched(model), torch.no_grad():
        leaves, structure = tree_flatten(call(model, example))
    plain = len(leaves) == outputs and all(isinstance(leaf, Tensor) for leaf in leaves)
    return tree_unflatten(range(outputs), structure) if plain else None


def _lean(model: Any, *, copied: bool = False) -> Any:
    """Without what the exporter notes for people: where in whose source each step comes from."""
    if copied:
        original, model = model, type(model)()
        model.CopyFrom(original)
    for node in model.graph.node:
        del node.metadata_props[:]
    del model.graph.value_info[:]
    return model
