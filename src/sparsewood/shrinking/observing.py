"""Running a network to see what layers read: sums over samples and positions, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sparsewood import inputs
from sparsewood.errors import SparsewoodError
from sparsewood.shrinking.consumers import Consumer, is_linear
from sparsewood.shrinking.running import always_alike
from sparsewood.snapshot import untouched
from sparsewood.structure import Group, Tap

__all__ = ["Tally", "measure", "observe", "silent_units"]

See = Callable[[Consumer, tuple[Any, ...], dict[str, Any]], None]


class Tally:
    """What a part of a weight adds to each output: its mean, and how far it spreads over samples and positions.

    `inputs` is the largest number among what entered.
    """

    def __init__(self, outputs: int) -> None:
        self.total, self.count = np.zeros(outputs), np.zeros(outputs)
        self.low, self.high = np.full(outputs, np.inf), np.full(outputs, -np.inf)
        self.inputs = 0.0

    def add(self, start: int, values: Tensor) -> None:
        """Count `values` [positions, outputs] for the outputs from `start` on."""
        if not len(values):
            return
        here = slice(start, start + values.shape[1])
        low, high = (end.double().cpu().numpy() for end in values.aminmax(dim=0))
        self.total[here] += values.sum(0, dtype=torch.float64).cpu().numpy()
        self.count[here] += len(values)
        self.low[here] = np.minimum(self.low[here], low)
        self.high[here] = np.maximum(self.high[here], high)

    @property
    def mean(self) -> np.ndarray:
        return self.total / np.maximum(self.count, 1)

    @property
    def spread(self) -> np.ndarray:
        """Largest less smallest, for each output."""
        return np.where(self.count > 0, self.high - self.low, 0.0)


def observe(model: nn.Module, consumers: Iterable[Consumer], see: See, batches: Iterable[Any]) -> None:
    """Call `see` whenever a consumer's module is about to run on model inputs; the model is left as it was.

    Raises `SparsewoodError` if there is no batch, and for inputs that the model does not run on.
    """
    inside = False

    def hook(consumer: Consumer, _: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        nonlocal inside
        if not inside:  # what is asked for runs forwards of its own
            inside = True
            try:
                with torch.no_grad():  # a forward may be differentiated inside another
                    see(consumer, arguments, keywords)
            finally:
                inside = False

    with ExitStack() as stack:
        for one in consumers:
            stack.callback(one.module.register_forward_pre_hook(partial(hook, one), with_kwargs=True).remove)
        _run(model, batches)


def _run(model: nn.Module, batches: Iterable[Any]) -> None:
    read = 0
    with untouched(model), always_alike(model, 0):
        for batch in batches:
            inputs.call(model, inputs.to_model_device(batch, model))
            read += 1
    if not read:
        raise SparsewoodError(
            "There is no batch to see activations on: the data are empty. A generator can be read only once; pass a "
            "list."
        )


def silent_units(model: nn.Module, group: Group, batches: Iterable[Any]) -> np.ndarray:
    """Which units of a group are 0 wherever they are observed: bool[units]; none, if they are observed nowhere."""
    silent = np.full(group.units, bool(group.taps))
    calls: dict[Tap, Iterator[int]] = {}

    def note(tap: Tap, values: Any) -> None:
        if next(calls[tap]) != tap.call:
            return
        x = (values if isinstance(values, tuple | list) else (values,))[tap.index].movedim(tap.axis, 0).flatten(1)
        heard = (x != 0).any(1).cpu().numpy() & (tap.owner >= 0)
        silent[tap.owner[heard]] = False

    for batch in batches:
        calls.update({tap: count() for tap in group.taps})
        with ExitStack() as stack:
            for tap in group.taps:
                stack.callback(_listen(model.get_submodule(tap.module), tap, note))
            _run(model, [batch])
    return silent


def _listen(module: nn.Module, tap: Tap, note: Callable[[Tap, Any], None]) -> Callable[[], None]:
    if tap.at == "input":
        return module.register_forward_pre_hook(lambda _, arguments: note(tap, arguments)).remove
    return module.register_forward_hook(lambda _, __, output: note(tap, output)).remove


def measure(
    model: nn.Module, wanted: Mapping[Consumer, Sequence[np.ndarray]], batches: Iterable[Any]
) -> tuple[dict[Consumer, list[Tally]], dict[Consumer, str]]:
    """What parts of weights add to outputs, for each part one tally; and why some consumers could not be measured.

    A part is given as the positions of the consumer's axis that belong to it: bool[axis]. Several calls of one module
    count as one.
    """
    tallies = {one: [Tally(one.outputs) for _ in parts] for one, parts in wanted.items()}
    weights: dict[Consumer, list[Tensor]] = {}
    failed: dict[Consumer, str] = {}

    def see(consumer: Consumer, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if consumer in failed:
            return
        if consumer not in weights:
            masks = [_along(part, consumer) for part in wanted[consumer]]
            if consumer.doubtful and not all(is_linear(consumer, arguments, keywords, mask) for mask in masks):
                failed[consumer] = f"what {type(consumer.holder).__name__} computes is not linear in its weight"
                return
            weights[consumer] = [consumer.value.masked_fill(~mask, 0) for mask in masks]
        largest = _largest(arguments, keywords)
        for tally, weight in zip(tallies[consumer], weights[consumer], strict=True):
            tally.inputs = max(tally.inputs, largest)
            for start, values in consumer.read(arguments, keywords, weight):
                tally.add(start, values)

    observe(model, wanted, see, batches)
    for one in wanted:
        if one not in weights:
            failed.setdefault(one, f"{type(one.module).__name__} is not called in the forward, only its weight is used")
    return {one: found for one, found in tallies.items() if one not in failed}, failed


def _along(part: np.ndarray, consumer: Consumer) -> Tensor:
    shape = [1] * consumer.value.dim()
    shape[consumer.axis] = len(part)
    return torch.from_numpy(part).to(consumer.value.device).view(shape)


def _largest(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> float:
    given = [
        x for x in tree_leaves((arguments, keywords)) if isinstance(x, Tensor) and x.is_floating_point() and x.numel()
    ]
    return max((float(x.abs().amax()) for x in given), default=0.0)
