"""A penalty carried out in anybody's training loop: its gradient is added before each step of the optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from sparsewood.errors import SparsewoodError, require_model
from sparsewood.parameters import entries
from sparsewood.penalties import Penalty, UnitMap, Weights
from sparsewood.structure import Structure
from sparsewood.train.gradients import scale_of, with_closure
from sparsewood.train.pruner import innermost_optimizer
from sparsewood.units.tracing import structure_of

__all__ = ["Penalizer", "penalize"]


def penalize(
    model: nn.Module, penalty: Penalty, optimizer: Any, *, structure: Structure | None = None, step: int = 0
) -> Penalizer:
    """Add the gradient of `penalty` to the gradients before every step of `optimizer`, until this is removed.

    The same as adding its value to the loss, up to rounding, with two differences: a norm to clip by that was taken
    before the step does not count it, and the loss that is printed does not. It is added when the step begins: after
    gradients were summed over batches, averaged over processes, and unscaled by a `GradScaler`, so that it counts once
    and at its own scale. (Fused optimizers unscale within the step; it is scaled for them.) An optimizer that is given
    a closure, as LBFGS or by Lightning, gets one whose gradients and loss hold the penalty. Parameters that the
    optimizer does not update or that need no gradient are left alone.

    Args:
        optimizer: a PyTorch optimizer, or one that accelerate, Fabric or Lightning wrapped around it.
        structure: from `sparsewood.trace`; for penalties of units.
        step: how many steps were done before, for penalties that grow; `Penalizer.load` sets it, too.

    Leaving a `with` block, or `remove()`, ends it. Sharded parameters are not supported. Raises `SparsewoodError` if
    the model has nothing that the penalty covers and the optimizer updates, and for units without a structure.

    >>> from sparsewood.penalties import ScaleL1
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    >>> with penalize(model, ScaleL1(0.25), optimizer):
    ...     (0 * model(torch.randn(4, 2)).sum()).backward()
    ...     optimizer.step()
    >>> model[1].weight.tolist()
    [0.75, 0.75]
    """
    penalizer = Penalizer(model, penalty, optimizer, structure=structure, step=step)
    penalizer.prepare()
    penalizer.attach()
    return penalizer


class Penalizer:
    """Adds a penalty's gradient to those of a model; made by `penalize`.

    `steps` is how many steps of training were done. `state()` and `load()` carry what the penalty decided at first.
    """

    def __init__(
        self, model: nn.Module, penalty: Penalty, optimizer: Any, *, structure: Structure | None = None, step: int = 0
    ) -> None:
        require_model(model)
        if not isinstance(penalty, Penalty):
            raise SparsewoodError(f"A penalty is a Penalty, as ScaleL1(1e-4). Got {penalty!r:.80}.")
        self._model, self.penalty, self._structure = model, penalty, structure
        self._optimizer = innermost_optimizer(optimizer)
        managed = {id(p) for group in self._optimizer.param_groups for p in group["params"]}
        self._parameters = {
            entry.name: entry.parameter
            for entry in entries(model)
            if id(entry.parameter) in managed and entry.parameter.requires_grad and penalty.covers(entry)
        }
        if not self._parameters:
            raise self._nothing()
        self._units: UnitMap | None = None
        self._decided: dict[str, Tensor] | None = None
        self._handle: RemovableHandle | None = None
        self.steps = step

    def prepare(self, inputs: Any = None) -> None:
        """Find the units and decide what is decided once; done already, nothing happens.

        Without a structure, a copy of the model is traced on `inputs`. Raises `SparsewoodError` without either, and if
        no unit can be removed.
        """
        if self.penalty.grouped and self._units is None:
            if self._structure is None and inputs is None:
                raise SparsewoodError(
                    f"{self.penalty} is of units of the network's structure: pass structure=sparsewood.trace(model, "
                    "example_inputs)."
                )
            self._units = UnitMap.of(self._structure or structure_of(self._model, inputs), self._parameters)
            if not self._units.units:
                raise self._nothing()
            names = {place.name for places in self._units.places.values() for place in places}
            self._parameters = {name: p for name, p in self._parameters.items() if name in names}
        if self._decided is None:
            with torch.no_grad():
                self._decided = self.penalty.decide(self._weights())

    def attach(self) -> None:
        """From now on add the gradient before every step."""
        self._handle = self._optimizer.register_step_pre_hook(self._before_step)

    def value(self, step: int | None = None) -> Tensor:
        """The penalty of the weights as they are, at step `step` or the present one, with a gradient."""
        self.prepare()
        return self.penalty.value(self._weights(step))

    def add(self, step: int | None = None) -> None:
        """Add the gradient now; for loops that know better when."""
        self.prepare()
        scale = scale_of(self._optimizer)
        with torch.no_grad():
            for name, added in self.penalty(self._weights(step)).items():
                parameter = self._parameters[name]
                added = (added if scale is None else added * scale).to(parameter.dtype)  # noqa: PLW2901
                if parameter.grad is None:
                    parameter.grad = added.expand_as(parameter).clone(memory_format=torch.preserve_format)
                else:
                    parameter.grad.add_(added)

    def state(self) -> dict[str, Tensor]:
        """Copies of what was decided before the first step, by name; with `steps` all that going on takes."""
        return {name: tensor.to("cpu", copy=True) for name, tensor in (self._decided or {}).items()}

    def load(self, tensors: Mapping[str, Tensor], steps: int) -> None:
        """Go on from what `state()` returned after so many steps."""
        device = next(iter(self._parameters.values())).device
        # A state from before the first step has nothing decided yet.
        self._decided = {name: tensor.to(device) for name, tensor in tensors.items()} or None
        self.steps = steps

    def remove(self) -> None:
        """Add nothing any more. May be called again without effect."""
        if self._handle is not None:
            self._handle.remove()

    def __enter__(self) -> Penalizer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()

    def __repr__(self) -> str:
        return f"Penalizer({self.penalty!r}, {len(self._parameters)} parameters, {self.steps} steps)"

    def _weights(self, step: int | None = None) -> Weights:
        return Weights(self._parameters, self._units, self.steps if step is None else step, self._decided or {})

    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        del optimizer
        replaced = with_closure(args, kwargs, self._with_penalty)
        if replaced is None:
            self.add()
            self.steps += 1
        return replaced

    def _with_penalty(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        at = self.steps  # all evaluations of one step are of that step
        self.steps += 1

        def closed() -> Any:
            loss = closure()
            self.add(at)
            return loss + self.value(at).detach() if isinstance(loss, Tensor | float) else loss

        return closed

    def _nothing(self) -> SparsewoodError:
        return SparsewoodError(
            f"{self.penalty} finds nothing in {type(self._model).__name__} that it covers and that the "
            f"{type(self._optimizer).__name__} optimizer updates. ScaleL1 needs BatchNorm layers, penalties of units a "
            "structure with units that can be removed; build the optimizer from this model's parameters."
        )
