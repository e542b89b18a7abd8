"""One pass over data: forwards, gradients and layer inputs, summed over examples."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.parameters import Entry, choose, entries
from sparsewood.snapshot import untouched
from sparsewood.statistics.kinds import GradientStatistic, InputStatistic, Statistic
from sparsewood.types import Statistics

logger = logging.getLogger(__name__)

Loss = Callable[[Any, Any], Tensor]
Batch = Any

INPUT_LAYERS = (nn.Linear, nn.modules.conv._ConvNd)


def collect(
    model: nn.Module,
    data: Iterable[Batch],
    statistics: Sequence[Statistic],
    loss: Loss | None = None,
    *,
    names: Sequence[str] | None = None,
) -> Statistics:
    """Sum `statistics` over `data`, which is read once.

    Args:
        data: batches: a tensor, `(inputs, target)`, or a mapping of keyword inputs (`target` is then the mapping).
            `inputs` is a tensor, a tuple of positional or a dict of keyword arguments; the first axis counts examples.
        loss: `loss(output, target)`, the mean over the batch's examples; needed for gradients.
        names: the parameters to observe; without it all that are pruned by default, the classifier included.

    The model runs in eval mode and is left as it was: weights, gradients, buffers, mode, hooks, random state.

    Raises `SparsewoodError` for empty data, a loss that is missing, not a scalar, or NaN (with the batch's number), and
    an input statistic of a layer that has none.
    """
    chosen = choose(model, protect_classifier=False) if names is None else _named(model, names)
    if any(isinstance(s, GradientStatistic) for s in statistics) and loss is None:
        raise SparsewoodError(
            "Gradients need a loss: pass loss=..., for example torch.nn.functional.cross_entropy for logits and labels."
        )
    total: Statistics | None = None
    with untouched(model), _gradients_enabled(chosen):
        for number, batch in enumerate(data):
            for part in _parts(_to_device(batch, chosen[0].parameter.device), statistics):
                one = _contribution(model, part, statistics, loss, chosen, number)
                total = one if total is None else total + one
    if total is None:
        raise SparsewoodError("The data is empty: no batch was read. A generator that was used up before is empty too.")
    return total


def _named(model: nn.Module, names: Sequence[str]) -> list[Entry]:
    known = {entry.name: entry for entry in entries(model)}
    for name in names:
        if name not in known:
            raise UnknownName.among("parameter", name, known)
    return [known[name] for name in names]


@contextmanager
def _gradients_enabled(chosen: Sequence[Entry]) -> Iterator[None]:
    with torch.inference_mode(False), torch.enable_grad():
        for entry in chosen:
            entry.parameter.requires_grad_(True)  # `untouched` puts the flags back
        yield


def _contribution(
    model: nn.Module,
    batch: Batch,
    statistics: Sequence[Statistic],
    loss: Loss | None,
    chosen: Sequence[Entry],
    number: int,
) -> Statistics:
    arguments, keywords, target = split_batch(batch)
    examples = count_examples((arguments, keywords))
    by_gradient = [s for s in statistics if isinstance(s, GradientStatistic)]
    by_input = [s for s in statistics if isinstance(s, InputStatistic)]
    sums: dict[str, dict[str, Tensor]] = {s.kind: {} for s in statistics}
    with torch.set_grad_enabled(bool(by_gradient)), _observe_inputs(by_input, chosen, sums):
        output = model(*arguments, **keywords)
        if by_gradient and loss is not None:
            gradients = _gradients(loss(output, target), chosen, number)
            for s in by_gradient:
                sums[s.kind] = {e.name: s.from_gradient(g, examples) for e, g in zip(chosen, gradients, strict=True)}
    _require_inputs(by_input, chosen, sums)
    return Statistics(sums, examples)


def _gradients(value: Tensor, chosen: Sequence[Entry], number: int) -> list[Tensor]:
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise SparsewoodError(f"The loss must return one number, the mean over the batch. Got {got} for batch {number}.")
    if not torch.isfinite(value):
        raise SparsewoodError(
            f"The loss of batch {number} is {value.item()}: scores made from it would mean nothing. "
            "Check the inputs, the learning rate that led here, and that the loss gets logits if it expects them."
        )
    found = torch.autograd.grad(value.reshape(()), [entry.parameter for entry in chosen], allow_unused=True)
    unused = [entry.name for entry, gradient in zip(chosen, found, strict=True) if gradient is None]
    if unused:
        logger.warning("The loss does not depend on %s: gradient 0.", ", ".join(unused))
    pairs = zip(chosen, found, strict=True)
    return [torch.zeros_like(e.parameter) if g is None else g.detach() for e, g in pairs]


@contextmanager
def _observe_inputs(
    statistics: Sequence[InputStatistic], chosen: Sequence[Entry], sums: Mapping[str, dict[str, Tensor]]
) -> Iterator[None]:
    handles = []

    def observer(entry: Entry) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def observe(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            for s in statistics:
                value = s.from_input(module, inputs[0])
                of_kind = sums[s.kind]
                of_kind[entry.name] = of_kind[entry.name] + value if entry.name in of_kind else value

        return observe

    try:
        for entry in chosen if statistics else ():
            if isinstance(entry.module, INPUT_LAYERS) and entry.leaf == "weight":
                handles.append(entry.module.register_forward_pre_hook(observer(entry)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _require_inputs(
    statistics: Sequence[InputStatistic], chosen: Sequence[Entry], sums: Mapping[str, Mapping[str, Tensor]]
) -> None:
    for s in statistics:
        missing = [entry for entry in chosen if entry.name not in sums[s.kind]]
        if missing:
            raise SparsewoodError(
                f"No {s.kind!r} for {missing[0].name} ({type(missing[0].module).__name__}): inputs are observed at Linear "
                "and convolution layers that are called in the forward pass. Leave it out with exclude=[...], or use a "
                "criterion that needs no layer inputs."
            )


def split_batch(batch: Batch) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """Positional inputs, keyword inputs and target of a batch."""
    if isinstance(batch, Mapping):
        return (), dict(batch), batch
    if isinstance(batch, Tensor):
        return (batch,), {}, None
    if not isinstance(batch, list | tuple) or not batch:
        raise SparsewoodError(f"A batch must be a tensor, a tuple or a mapping. Got {type(batch).__name__}.")
    inputs, target = (batch[0], None) if len(batch) == 1 else (batch[:-1], batch[-1])
    if len(batch) == 2:
        inputs = batch[0]
    if isinstance(inputs, Mapping):
        return (), dict(inputs), target
    return (tuple(inputs) if isinstance(inputs, list | tuple) else (inputs,)), {}, target


def count_examples(inputs: Any) -> int:
    """Length of the first axis of the first input tensor."""
    for leaf in tree_flatten(inputs)[0]:
        if isinstance(leaf, Tensor) and leaf.ndim:
            return leaf.shape[0]
    raise SparsewoodError("A batch has no input tensor with a batch axis.")


def _to_device(batch: Batch, device: torch.device) -> Batch:
    plain = dict(batch) if isinstance(batch, Mapping) else batch  # mappings of other kinds are opaque to pytree
    return tree_map_only(Tensor, lambda tensor: tensor.to(device), plain)


def _parts(batch: Batch, statistics: Sequence[Statistic]) -> Iterator[Batch]:
    """The batch, or its examples one by one if any statistic is per example."""
    if not any(isinstance(s, GradientStatistic) and s.per_example for s in statistics):
        yield batch
        return
    leaves, structure = tree_flatten(batch)
    size = count_examples(batch)
    for i in range(size):
        one = [x[i : i + 1] if isinstance(x, Tensor) and x.ndim and x.shape[0] == size else x for x in leaves]
        yield tree_unflatten(one, structure)
