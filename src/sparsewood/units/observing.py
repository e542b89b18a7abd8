"""Running a network and seeing its units: hooks on the modules where sites are, for as long as a pass lasts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sparsewood.errors import SparsewoodError
from sparsewood.inputs import call, map_tensors
from sparsewood.units.seen import Seen
from sparsewood.units.sites import Site

__all__ = ["Watch"]

logger = logging.getLogger(__name__)

See = Callable[[Seen], None]


class _Ambiguous(SparsewoodError):
    """More than one axis of a tensor may be the one of the examples."""


@dataclass(eq=False)
class Watch:
    """Sees the units of `sites` whenever `run` runs the model on a batch.

    Which axis of a site counts examples is found from lengths: the first axis if it is as long as the batch. Where it
    is not, or others are too, the model is run on one and on two examples once: what grows is the first axis, into
    which places of each example may be folded (windows and the like), or the second one, of sequence-first modules.
    Sites that have no such axis, since what is seen there does not depend on the example, and those that not every
    batch goes through, are left out and named in `skipped`.

    Use it as a context manager: hooks are there only inside.
    """

    model: nn.Module
    sites: Sequence[Site]
    skipped: dict[str, str] = field(default_factory=dict)
    _axes: dict[str, int] = field(default_factory=dict)
    _of_one: set[str] = field(default_factory=set)
    _calls: dict[str, int] = field(default_factory=dict)
    _stack: ExitStack = field(default_factory=ExitStack)
    _batch: _Batch | None = None
    _waiting: dict[str, Seen] = field(default_factory=dict)
    _last: See | None = None

    def __enter__(self) -> Watch:
        by_module: dict[str, list[Site]] = {}
        for site in self.sites:
            by_module.setdefault(site.module, []).append(site)
        for name, sites in by_module.items():
            module = self.model.get_submodule(name)
            self._stack.callback(module.register_forward_pre_hook(self._before(name, sites), with_kwargs=True).remove)
            if any(site.at == "output" for site in sites):
                self._stack.callback(module.register_forward_hook(self._after(name, sites)).remove)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, inputs: Any, examples: int, see: See, *, gradients: bool = False, **about: Any) -> Any:
        """The model's output; meanwhile `see` is called with what is seen at each site.

        With `gradients`, `see` is called when the backward pass comes to a site, and then has the gradient, multiplied
        by the number of examples (the loss being a mean over them). `about` goes into every `Seen`.
        """
        if examples > 1 and self._of_one:  # one example does not show how several are folded into an axis
            self._axes = {name: axis for name, axis in self._axes.items() if name not in self._of_one}
            self._of_one = set()
        batch = _Batch(examples, see, gradients, about, can_be_cut=_can_be_cut(inputs, examples))
        try:
            output = self._run(inputs, batch)
        except _Ambiguous:
            self._tell_apart(inputs, batch)
            output = self._run(inputs, batch)  # what was shown before is not shown again
        for site in self.sites:
            if site.name not in batch.shown and site.name not in self.skipped:
                self._skip(site, "a batch did not go through it")
        return output

    def unreached(self) -> None:
        """Show what the last backward pass did not come to: the loss does not depend on it, its gradient is 0."""
        for seen in self._waiting.values():
            assert self._last is not None
            self._last(replace(seen, gradient=torch.zeros_like(seen.values)))
        self._waiting = {}

    def _run(self, inputs: Any, batch: _Batch) -> Any:
        self._calls, self._batch, self._waiting, self._last = {}, batch, batch.waiting, batch.see
        try:
            return call(self.model, inputs)
        finally:
            self._batch = None

    # ------------------------------------------------------------ hooks

    def _before(self, name: str, sites: Sequence[Site]) -> Callable[[Any, tuple[Any, ...], Any], None]:
        entering = [site for site in sites if site.at == "input"]

        def hook(_: nn.Module, inputs: tuple[Any, ...], __: Any) -> None:
            number = self._calls[name] = self._calls.get(name, -1) + 1
            self._look(entering, number, inputs)

        return hook

    def _after(self, name: str, sites: Sequence[Site]) -> Callable[[Any, Any, Any], None]:
        leaving = [site for site in sites if site.at == "output"]

        def hook(_: nn.Module, __: Any, output: Any) -> None:
            self._look(leaving, self._calls[name], output)

        return hook

    def _look(self, sites: Sequence[Site], number: int, values: Any) -> None:
        batch = self._batch
        if batch is None:
            return
        values = values if isinstance(values, tuple | list) else (values,)
        for site in sites:
            if site.call == number and site.name not in self.skipped and site.index < len(values):
                tensor = values[site.index]
                if isinstance(tensor, Tensor) and tensor.is_floating_point():
                    self._show(site, tensor, batch)

    def _show(self, site: Site, tensor: Tensor, batch: _Batch) -> None:
        if batch.probed is not None:
            batch.probed[site.name] = tensor.detach().clone()
            return
        axis = self._example_axis(site, tensor.shape, batch)
        if axis is None:
            return
        batch.show(site, tensor, axis)

    # ------------------------------------------------------------ which axis counts examples

    def _example_axis(self, site: Site, shape: Sequence[int], batch: _Batch) -> int | None:
        if tensor_has_no_units(site, shape):
            raise SparsewoodError(
                f"Site {site.name} has shape {tuple(shape)}; axis {site.axis} was {len(site.owner)} long when the "
                "structure was traced. Trace the model as it is now."
            )
        examples, known = batch.examples, self._axes.get(site.name)
        axes = range(min(len(shape), 2)) if known is None else [known]
        fitting = [
            axis
            for axis in axes
            if axis != site.axis and (shape[axis] == examples or (axis == 0 and shape[0] % examples == 0))
        ]
        if not fitting:
            which = "none of its axes" if known is None else f"axis {known} of its axes"
            self._skip(site, f"{which}, {tuple(shape)}, counts the {examples} examples of a batch")
            return None
        certain = known is not None or (fitting == [0] and shape[0] == examples)
        if not certain and (len(fitting) > 1 or batch.can_be_cut):
            raise _Ambiguous
        self._axes[site.name] = fitting[0]
        return fitting[0]

    def _skip(self, site: Site, why: str) -> None:
        self.skipped[site.name] = why
        logger.warning("%s is left out: %s.", site.name, why)

    def _tell_apart(self, inputs: Any, batch: _Batch) -> None:
        """Which axes grow when there are two examples rather than one."""
        if not batch.can_be_cut:
            raise SparsewoodError(
                "It is not clear which axis of the activations counts examples: several are as long as the batch "
                f"({batch.examples}), and the inputs have no first axis of that length to cut. Use another batch size, "
                "or put the batch axis first."
            )
        one, two = ({} for _ in range(2))
        with torch.no_grad():
            for count, found in ((1, one), (2, two)):
                some = map_tensors(lambda x, n=count: _first(x, batch.examples, n), inputs)
                self._run(some, _Batch(count, _ignore, False, {}, probed=found))
        for site in self.sites:
            if site.name not in one or site.name not in two or site.name in self.skipped:
                continue
            before, after = one[site.name], two[site.name]
            lengths = enumerate(zip(before.shape, after.shape, strict=True))
            grown = [axis for axis, (b, a) in lengths if a == 2 * b and axis != site.axis]
            if len(grown) != 1 or grown[0] > 1:
                self._skip(site, "none of its first two axes grows with the number of examples")
            elif grown[0] == 0 and not _one_after_the_other(before, after):
                self._skip(site, "the examples are not one after the other along its first axis")
            else:
                self._axes[site.name] = grown[0]
                self._of_one |= {site.name} if batch.examples == 1 else set()


def tensor_has_no_units(site: Site, shape: Sequence[int]) -> bool:
    """Whether a tensor of this shape cannot be what the site was when the structure was traced."""
    return len(shape) <= site.axis or shape[site.axis] != len(site.owner)


def _first(tensor: Tensor, examples: int, count: int) -> Tensor:
    if not tensor.ndim or len(tensor) != examples:
        return tensor
    return torch.cat([tensor] * count)[:count] if examples == 1 else tensor[:count]


def _can_be_cut(inputs: Any, examples: int) -> bool:
    """Whether there are tensors whose first axis counts the examples."""
    return any(isinstance(x, Tensor) and x.ndim and len(x) == examples for x in tree_leaves(inputs))


def _one_after_the_other(one: Tensor, two: Tensor) -> bool:
    """Whether the first of two examples is the first half of the first axis, rather than every second place of it."""
    half, every_second = ((part - one).abs().double().sum() for part in (two[: len(one)], two[::2]))
    return not bool(every_second < half)


def _ignore(_: Seen) -> None:
    """Only shapes are looked at."""


@dataclass(eq=False)
class _Batch:
    """One run of the model: how many examples, who sees it, and what else is known of it."""

    examples: int
    see: See
    gradients: bool
    about: Mapping[str, Any]
    can_be_cut: bool = True
    probed: dict[str, Tensor] | None = None
    shown: set[str] = field(default_factory=set)
    waiting: dict[str, Seen] = field(default_factory=dict)

    def show(self, site: Site, tensor: Tensor, axis: int) -> None:
        values, unit_axis = self._by_example(tensor.detach(), site.axis, axis)
        about = {**self.about, "folded": values.ndim > tensor.ndim}
        again = site.name in self.shown
        self.shown.add(site.name)
        if not self.gradients:
            if again:
                return
            self.see(Seen(site, values, unit_axis, **about))
            return
        if not tensor.requires_grad:
            raise SparsewoodError(f"No gradient comes to {site.name}: what is seen there depends on no parameter.")
        # What follows may write over the values before the backward pass is here.
        seen = self.waiting[site.name] = Seen(site, values.clone(), unit_axis, **about)

        def hook(gradient: Tensor) -> None:
            own, _ = self._by_example(gradient.detach(), site.axis, axis)
            del self.waiting[site.name]
            self.see(replace(seen, gradient=own * self.examples))

        tensor.register_hook(hook)  # of the tensor as it is now, also if it is written to later

    def _by_example(self, tensor: Tensor, unit_axis: int, axis: int) -> tuple[Tensor, int]:
        """The tensor as [examples, ...], and where its axis of units is then."""
        if axis == 1:
            return tensor.movedim(1, 0), 1 if unit_axis == 0 else unit_axis
        if len(tensor) == self.examples:
            return tensor, unit_axis
        return tensor.unflatten(0, (self.examples, -1)), unit_axis + 1
