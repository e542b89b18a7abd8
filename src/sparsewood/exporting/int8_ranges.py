"""The values that the tensors of an ONNX model take on data, and the ranges that a calibrator makes of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from sparsewood.errors import SparsewoodError
from sparsewood.onnx_graph import package, reason, session
from sparsewood.quantization.ranges import Calibrator, Observed

__all__ = ["activation_names", "observe"]

Feed = dict[str, np.ndarray]

_AT_ONCE = 256 * 2**20
"""Bytes of tensors that are fetched in one run."""

_SUFFIXES = ("lowest", "highest", "entries", "nans")


def activation_names(model: Any) -> list[str]:
    """The float32 tensors that a model computes or takes, in order; needs the types that shape inference finds."""
    onnx = package("onnx")
    graph = model.graph
    constants = {one.name for one in graph.initializer}
    kinds = {one.name: one.type.tensor_type.elem_type for one in (*graph.input, *graph.value_info, *graph.output)}
    names = [one.name for one in graph.input] + [name for node in graph.node for name in node.output]
    wanted = [name for name in names if kinds.get(name) == onnx.TensorProto.FLOAT and name not in constants]
    return list(dict.fromkeys(wanted))


def observe(
    model: Any, feeds: Sequence[Feed], calibrator: Calibrator, *, threads: int | None
) -> dict[str, tuple[float, float]]:
    """Run `model` on `feeds` and let `calibrator` choose the range of each of its float32 tensors.

    Two passes at most: one for least and largest values, which stay in the graph, and one for histograms, in which
    tensors are fetched in parts that fit into memory. What is zero everywhere has the range 0 ... 1; what is -inf
    somewhere, as the masks of attention are, has none.

    Raises `SparsewoodError` if a tensor is not finite otherwise, with the number of the batch, and if the model cannot
    run on a batch.
    """
    names = activation_names(model)
    low, high, sizes = _extremes(model, names, feeds, threads)
    names = [name for name in names if low[name] > -np.inf]
    counts = {name: np.zeros(calibrator.bins, dtype=np.int64) for name in names}
    zeros = dict.fromkeys(names, 0)
    if calibrator.bins:
        running = _with_outputs(model, names, threads)
        for feed in feeds:
            for name, values in _fetched(running, names, sizes, feed):
                limits = (low[name], high[name]) if low[name] < high[name] else (low[name] - 0.5, low[name] + 0.5)
                counts[name] += np.histogram(values, calibrator.bins, limits)[0]
                zeros[name] += values.size - int(np.count_nonzero(values))
    return {name: _range(calibrator, Observed(low[name], high[name], counts[name], zeros[name])) for name in names}


def _range(calibrator: Calibrator, observed: Observed) -> tuple[float, float]:
    if observed.low == observed.high == 0:
        return 0.0, 1.0  # any would do for the zeros; a bias is rounded in steps of this scale
    low, high = observed.low, observed.high
    if low < high:
        low, high = calibrator(observed)
        if not -np.inf < low <= high < np.inf:
            raise SparsewoodError(f"{calibrator!r} must return finite low <= high. Got ({low:g}, {high:g}).")
    low, high = min(low, 0.0), max(high, 0.0)
    # A range of no width would make zeros of everything.
    return (low, high) if low < high else (min(observed.low, 0.0), max(observed.high, 0.0))


def _extremes(
    model: Any, names: Sequence[str], feeds: Sequence[Feed], threads: int | None
) -> tuple[dict[str, float], dict[str, float], dict[str, int]]:
    running = _with_reductions(model, names, threads)
    low, high = dict.fromkeys(names, np.inf), dict.fromkeys(names, -np.inf)
    sizes = dict.fromkeys(names, 0)
    wanted = [f"{name}/{suffix}" for name in names for suffix in _SUFFIXES]
    for number, feed in enumerate(feeds):
        try:
            found = iter(running.run(wanted, feed))
        except Exception as error:  # onnxruntime's errors have no common class of their own
            raise SparsewoodError(
                f"quantize_int8: the exported network cannot run on calibration batch {number}: {reason(error)}. Pass "
                "batches like those that it was traced with; their first axis may differ with dynamic_batch=True."
            ) from error
        for name in names:
            lowest, highest, entries, nans = (one.item() for one in (next(found) for _ in _SUFFIXES))
            if entries == 0:
                continue
            masked = lowest == -np.inf and name not in feed
            if nans or highest == np.inf or (lowest == -np.inf and not masked):
                raise SparsewoodError(
                    f"quantize_int8: in calibration batch {number} the tensor {name!r} has values that are not finite. "
                    "Check the data and the weights; a range cannot be made of them."
                )
            low[name], high[name] = min(low[name], lowest), max(high[name], highest)
            sizes[name] = max(sizes[name], entries)
    if not any(sizes.values()):
        raise SparsewoodError("quantize_int8: the calibration batches have no examples.")
    for name in names:
        if not sizes[name]:
            low[name] = high[name] = 0.0
    return low, high, sizes


def _with_reductions(model: Any, names: Sequence[str], threads: int | None) -> Any:
    """A session that returns for each tensor the least, largest, and number of values, and how many are NaN."""
    onnx = package("onnx")
    helper, kind = onnx.helper, onnx.TensorProto
    changed = _plain(model)
    graph = changed.graph
    for name in names:
        lowest, highest, entries, nans = (f"{name}/{suffix}" for suffix in _SUFFIXES)
        graph.node.extend(
            [
                helper.make_node("ReduceMin", [name], [lowest], keepdims=0),
                helper.make_node("ReduceMax", [name], [highest], keepdims=0),
                helper.make_node("Size", [name], [entries]),
                helper.make_node("IsNaN", [name], [f"{name}/is_nan"]),
                helper.make_node("Cast", [f"{name}/is_nan"], [f"{name}/as_float"], to=kind.FLOAT),
                helper.make_node("ReduceSum", [f"{name}/as_float"], [nans], keepdims=0),
            ]
        )
        graph.output.extend(helper.make_tensor_value_info(one, kind.FLOAT, []) for one in (lowest, highest, nans))
        graph.output.append(helper.make_tensor_value_info(entries, kind.INT64, []))
    return session(changed, threads=threads)


def _with_outputs(model: Any, names: Sequence[str], threads: int | None) -> Any:
    """A session that returns each of the tensors on demand."""
    onnx = package("onnx")
    changed = _plain(model)
    known = {one.name for one in (*changed.graph.output, *changed.graph.input)}
    for name in names:
        if name not in known:
            changed.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return session(changed, threads=threads)


def _plain(model: Any) -> Any:
    copied = type(model)()
    copied.CopyFrom(model)
    return copied


def _fetched(running: Any, names: Sequence[str], sizes: dict[str, int], feed: Feed) -> Iterator[tuple[str, np.ndarray]]:
    computed: list[str] = []
    bytes_so_far = 0
    for name in [*names, ""]:
        if name in feed:
            yield name, feed[name]
            continue
        if computed and (not name or bytes_so_far + 4 * sizes[name] > _AT_ONCE):
            yield from zip(computed, running.run(computed, feed), strict=True)
            computed, bytes_so_far = [], 0
        if name:
            computed.append(name)
            bytes_so_far += 4 * sizes[name]
