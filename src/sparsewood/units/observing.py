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

    Which axis of a site counts examples is found from lengths: the first axis that is a multiple of the number of
    examples (windows and the like may be folded into it), or the second one, of sequence-first modules. Where both fit,
    the model is run on one and on two examples once, to tell them apart. Sites that have no such axis, since what is
    seen there does not depend on the example, are left out and named in `skipped`.

    Use it as a context manager: hooks are there only inside.
    """

    model: nn.Module
    sites: Sequence[Site]
    skipped: dict[str, str] = field(default_factory=dict)
    _axes: dict[str, int] = field(default_factory=dict)
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
        batch = _Batch(examples, see, gradients, about)
        try:
            return self._run(inputs, batch)
        except _Ambiguous:
            self._tell_apart(inputs, examples)
            return self._run(inputs, batch)  # what was shown before is not shown again

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
        if batch.shapes is not None:
            batch.shapes[site.name] = tuple(tensor.shape)
            return
        axis = self._example_axis(site, tensor.shape, batch.examples)
        if axis is None:
            return
        batch.show(site, tensor, axis)

    # ------------------------------------------------------------ which axis counts examples

    def _example_axis(self, site: Site, shape: Sequence[int], examples: int) -> int | None:
        if tensor_has_no_units(site, shape):
            raise SparsewoodError(
                f"Site {site.name} has shape {tuple(shape)}; axis {site.axis} was {len(site.owner)} long when the "
                "structure was traced. Trace the model as it is now."
            )
        known = self._axes.get(site.name)
        if known is not None:
            return known
        fitting = [
            axis
            for axis in range(min(len(shape), 2))
            if axis != site.axis and (shape[axis] == examples or (axis == 0 and shape[0] % examples == 0))
        ]
        if len(fitting) > 1:
            raise _Ambiguous
        if fitting:
            self._axes[site.name] = fitting[0]
            return fitting[0]
        self._skip(site, f"none of its axes, {tuple(shape)}, counts the {examples} examples of a batch")
        return None

    def _skip(self, site: Site, why: str) -> None:
        self.skipped[site.name] = why
        logger.warning("%s is left out: %s.", site.name, why)

    def _tell_apart(self, inputs: Any, examples: int) -> None:
        """Which axes grow when there are two examples rather than one."""
        one, two = ({} for _ in range(2))
        with torch.no_grad():
            for count, shapes in ((1, one), (2, two)):
                some = map_tensors(lambda x, n=count: _first(x, examples, n), inputs)
                if not any(isinstance(x, Tensor) and x.ndim and len(x) == count for x in tree_leaves(some)):
                    raise SparsewoodError(
                        "It is not clear which axis of the activations counts examples: several are as long as the "
                        f"batch ({examples}), and the inputs have no first axis of that length to cut. Use another "
                        "batch size, or put the batch axis first."
                    )
                self._run(some, _Batch(count, _ignore, False, {}, shapes))
        for site in self.sites:
            before, after = one.get(site.name), two.get(site.name)
            if before is None or after is None:
                continue
            grown = [a for a, (b, c) in enumerate(zip(before, after, strict=True)) if c == 2 * b and a != site.axis]
            if len(grown) == 1 and grown[0] < 2:
                self._axes[site.name] = grown[0]
            else:
                self._skip(site, "none of its axes grows with the number of examples")


def tensor_has_no_units(site: Site, shape: Sequence[int]) -> bool:
    """Whether a tensor of this shape cannot be what the site was when the structure was traced."""
    return len(shape) <= site.axis or shape[site.axis] != len(site.owner)


def _first(tensor: Tensor, examples: int, count: int) -> Tensor:
    if not tensor.ndim or len(tensor) != examples:
        return tensor
    return torch.cat([tensor[:1]] * count)


def _ignore(_: Seen) -> None:
    """Only shapes are looked at."""


@dataclass(eq=False)
class _Batch:
    """One run of the model: how many examples, who sees it, and what else is known of it."""

    examples: int
    see: See
    gradients: bool
    about: Mapping[str, Any]
    shapes: dict[str, tuple[int, ...]] | None = None
    shown: set[str] = field(default_factory=set)
    waiting: dict[str, Seen] = field(default_factory=dict)

    def show(self, site: Site, tensor: Tensor, axis: int) -> None:
        values, unit_axis = self._by_example(tensor.detach(), site.axis, axis)
        if not self.gradients:
            if site.name in self.shown:
                return
            self.shown.add(site.name)
            self.see(Seen(site, values, unit_axis, **self.about))
            return
        if not tensor.requires_grad:
            raise SparsewoodError(f"No gradient comes to {site.name}: what is seen there depends on no parameter.")
        # What follows may write over the values before the backward pass is here.
        seen = self.waiting[site.name] = Seen(site, values.clone(), unit_axis, **self.about)

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
