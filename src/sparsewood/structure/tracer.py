"""The tracer: rows of labels on every tensor of a forward pass.

It is told of every operation (see `modes`), runs it on stand-ins without memory where it can, finds the rule of the
operation and lets it set the rows of the results. What has no rule is a barrier: the labels that reach it stay.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from sparsewood.structure.axes import (
    Axes,
    axes_of,
    meta_like,
    next_pass,
    set_axes,
    tensors_in,
    value_of,
    without_memory,
)
from sparsewood.structure.labels import Labels, Reason, Row
from sparsewood.structure.log import Call, Cost, Event, Op, Span, Step
from sparsewood.structure.rules import Family, Rule, find_rule
from sparsewood.structure.shortcuts import SHORTCUTS

__all__ = ["RULE_ERRORS", "NeedsValues", "Tracer"]

log = logging.getLogger(__name__)

_MAX_REAL = 1 << 20
"""Constants and buffers up to this many elements keep their values."""
RULE_ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
"""What a rule raises when it meets what it was not written for: then its operation is a barrier."""
_MAX_CHOICES = 6
"""Data-dependent truth values in one pass of which both are tried."""


class NeedsValues(RuntimeError):
    """The forward asked for a value that a tensor without memory does not have."""


class Tracer(Labels):
    """The record of one forward pass, or of several that share their parameters' labels.

    With `real=False` floating-point tensors are meta tensors: shapes without values. Integer inputs, small buffers and
    what is computed from them alone keep their values.
    """

    def __init__(self) -> None:
        super().__init__()
        self.real = False
        self.spans: list[Span] = []
        self.steps: list[Step] = []
        self.events: list[Event] = []
        self.costs: list[Cost] = []
        self.escaped = ""
        self.notes: list[Reason] = []
        self.knows_its_mode = False
        self._memory: dict[int, list[tuple[Any, tuple[Row, ...]]]] = {}
        self._seen: dict[int, torch.UntypedStorage] = {}
        self.complete: tuple[list[Event], list[Cost]] | None = None
        self.branches: list[str] = []
        self.modules: list[str] = []
        self.calls: list[Call] = []
        self.device = torch.device("cpu")
        self.choices: list[bool] = []
        self.chosen: list[bool] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.parameters: set[str] = set()
        self.used: set[str] = set()
        self.ends: set[int] = set()
        self.sizes: list[Any] = []
        self.fallback = ""
        self.training_error = ""
        self.in_training = False
        self._current: Op | None = None
        self._twins: dict[int, Tensor] = {}
        self._twin_names: dict[int, str] = {}
        self._dirty: dict[int, torch.UntypedStorage] = {}  # kept alive, so that no address is used again
        self._rows: dict[int, tuple[str, tuple[Row, ...]]] = {}

    # ------------------------------------------------------------ parameters

    def register(self, name: str, tensor: Tensor) -> None:
        """Give every axis of a parameter or buffer its labels; known tensors keep those that they have."""
        if id(tensor) in self._rows:
            return
        rows = tuple(self.fresh(size) for size in tensor.shape)
        self._share(tensor, rows)
        self.spans += [Span(name, axis, int(row[0]) if len(row) else 0, len(row)) for axis, row in enumerate(rows)]
        self._rows[id(tensor)] = (name, rows)
        self.shapes[name] = tuple(tensor.shape)
        if isinstance(tensor, torch.nn.Parameter):
            self.parameters.add(name)
        if is_traceable_wrapper_subclass(tensor) or tensor.is_quantized:
            for row in rows:
                self.freeze(row, f"{name} is a {type(tensor).__name__}, whose parts cannot be followed")

    def _share(self, tensor: Tensor, rows: tuple[Row, ...]) -> None:
        """Tensors that lie in the same memory go together; those that overlap otherwise stay."""
        if tensor.is_meta or tensor.layout is not torch.strided or not tensor.numel():
            return
        start = tensor.storage_offset()
        end = start + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
        place = (start, end, tensor.shape, tensor.stride())
        known = self._memory.setdefault(_address(tensor), [])
        for other, theirs in known:
            if other == place:
                for row, their in zip(rows, theirs, strict=True):
                    self.unite(row, their)
            elif start < other[1] and other[0] < end:
                for row in (*rows, *theirs):
                    self.freeze(row, "parameters overlap in memory")
        known.append((place, rows))

    def begin(self, *, real: bool) -> None:
        """Start another pass: new stand-ins, the same labels."""
        next_pass()
        self.real = real
        self.modules.clear()
        self.calls.clear()
        self.chosen.clear()
        self.events, self.costs = [], []
        self._twins.clear()
        self._twin_names.clear()
        self._seen.clear()
        self._dirty.clear()

    def stand_in(self, tensor: Tensor) -> Tensor:
        """The stand-in of a tensor: the same for every use of a registered one, which carries its labels."""
        known = self._twins.get(id(tensor))
        if known is not None:
            return known
        registered = self._rows.get(id(tensor))
        if registered is None:
            return tensor
        name, rows = registered
        self.used.add(name)
        plain = tensor.detach()
        is_buffer = not isinstance(tensor, torch.nn.Parameter)
        keeps = self.real or (is_buffer and tensor.numel() <= _MAX_REAL)
        twin = plain.clone() if keeps else meta_like(plain)
        # A mask sets entries of parameters to zero, never of buffers.
        set_axes(twin, Axes(rows, (not is_buffer,) * len(rows), weight=True))
        self._twins[id(tensor)] = twin
        self._twin_names[id(twin)] = name
        return twin

    def parameter_name(self, tensor: Tensor) -> str | None:
        """The name of the parameter or buffer that `tensor` is, or is the stand-in of; `None` for anything else."""
        if id(tensor) in self._rows:
            return self._rows[id(tensor)][0]
        return self._twin_names.get(id(getattr(tensor, "_sparsewood_real", tensor)))

    # ------------------------------------------------------------ what rules ask and say

    def rows(self, tensor: Tensor) -> tuple[Row, ...]:
        """The rows of a tensor, one for each axis."""
        axes = axes_of(tensor)
        return axes.rows if axes is not None else (None,) * tensor.dim()

    def zero(self, tensor: Tensor) -> tuple[bool, ...]:
        """For each axis, whether entries at masked positions are 0."""
        axes = axes_of(tensor)
        if axes is None or (self._dirty and _address(tensor) in self._dirty):
            return (False,) * tensor.dim()
        return axes.zero

    def is_weight(self, tensor: Tensor) -> bool:
        """Whether a tensor is computed from parameters and constants alone."""
        axes = axes_of(tensor)
        return axes is None or axes.weight

    def is_constant(self, tensor: Tensor) -> bool:
        """Whether a tensor depends on neither parameters nor inputs."""
        return axes_of(tensor) is None

    def value(self, tensor: Tensor) -> Tensor | None:
        """The values of a tensor, where they are known."""
        return value_of(tensor)

    def set(self, tensor: Tensor, rows: Sequence[Row], zero: Sequence[bool] | None = None) -> None:
        """The rows of a result, and where its masked positions are 0 (`None`: nowhere)."""
        assert len(rows) == tensor.dim(), f"{len(rows)} rows for {tensor.dim()} axes"
        for row, size in zip(rows, tensor.shape, strict=True):
            assert row is None or len(row) == size, f"a row of {len(row)} labels for an axis of {size}"
        set_axes(tensor, Axes(tuple(rows), (False,) * len(rows) if zero is None else tuple(zero)))

    def attach(self, constant: Tensor, rows: Sequence[Row], *, zero: bool) -> None:
        """The rows of a constant that has the same value at all positions; `zero` if that is 0."""
        set_axes(constant, Axes(tuple(rows), (zero,) * len(rows), weight=True))

    def freeze_if_read(self, tensor: Tensor, row: Row, why: str) -> None:
        """The positions of `row` must stay if anything reads `tensor`, whose rows are set."""
        axes = axes_of(tensor)
        if row is not None and axes is not None:
            axes.unread += ((row, why),)

    def cost(self, *dims: tuple[int, Row]) -> None:
        """The operation multiplies and adds as often as the product of the sizes in `dims`, pairs of size and row."""
        name = str(self._current.func) if self._current is not None else self.calls[-1].name
        sizes, rows = tuple(size for size, _ in dims), tuple(row for _, row in dims)
        self.costs.append(Cost(name, self.module, sizes, rows))

    @property
    def module(self) -> str:
        """The name of the innermost module that is running."""
        return self.modules[-1] if self.modules else ""

    def place(self) -> tuple[str, str]:
        """The operation and the module in which something is frozen now."""
        if self._current is not None:
            return str(self._current.func), self.module
        return (self.calls[-1].name if self.calls else ""), self.module

    def reason(self, why: str) -> Reason:
        """`why`, with the operation, the module and the shapes of the operands."""
        op = self._current
        tensors = () if op is None else tensors_in((op.args, op.kwargs))
        return Reason(*self.place(), " ".join(str(list(tensor.shape)) for tensor in tensors), why)

    def barrier(self, tensors: Iterable[Tensor], why: str) -> None:
        """Everything that the tensors carry must stay."""
        for tensor in tensors:
            axes = axes_of(tensor)
            for row, reason in axes.unread if axes is not None else ():
                self.freeze(row, reason)
            for row in self.rows(tensor):
                self.freeze(row, why)

    def finish(self, output: Tensor) -> None:
        """A result of the network: all of it must stay."""
        self.barrier([output], "it is an output of the network")
        axes = axes_of(output)
        self.ends.add(-1 if axes is None else axes.step)

    def read_steps(self) -> np.ndarray:
        """For every step whether the network's results depend on it, as far as operands tell."""
        read = np.zeros(len(self.steps) + 1, bool)
        read[list(self.ends)] = True
        for number in range(len(self.steps) - 1, -1, -1):
            if read[number] or self.steps[number].writes:
                read[[number, *self.steps[number].sources]] = True
        return read[:-1]

    # ------------------------------------------------------------ running

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Carry out one ATen operation and label its results."""
        given = args
        args = tuple(map(self._stand_ins, args))
        kwargs = {name: self._stand_ins(value) for name, value in kwargs.items()}
        operands = list(tensors_in((args, kwargs)))
        if func is torch.ops.aten._local_scalar_dense.default:
            return self._scalar(func, operands[0])
        written = _written(func, args, kwargs)
        if not self.real and any(tensor.is_meta for tensor in operands):
            if any(not target.is_meta and id(target) not in self._twin_names for target in written):
                raise NeedsValues("the forward writes activations into a constant tensor")
            args = tuple(without_memory(arg) for arg in args)
            kwargs = {name: without_memory(value) for name, value in kwargs.items()}
            if "device" in kwargs:
                kwargs["device"] = torch.device("meta")
            operands = list(tensors_in((args, kwargs)))
            written = _written(func, args, kwargs)
        old = [(one, tuple(one.shape), self.rows(one), self.zero(one)) for one in written]
        shortcut = None if self.real else SHORTCUTS.get(func)
        out = func(*args, **kwargs) if shortcut is None else shortcut(*args, **kwargs)
        known = [axes for axes in map(axes_of, operands) if axes is not None]
        if len(known) < len(operands):
            self._suspect(operands)
        if known:
            self._label(Op(func, args, kwargs, out, old[0][1] if old else ()), operands, known)
            for one, shape, rows, zero in old:
                self._written_over(one, shape, rows, zero)
        else:
            for result in tensors_in((out,)):
                result._sparsewood_constant = True  # pyright: ignore[reportAttributeAccessIssue]
        return given[0] if written and given and out is args[0] else out

    def _written_over(
        self, tensor: Tensor, shape: tuple[int, ...], rows: tuple[Row, ...], zero: tuple[bool, ...]
    ) -> None:
        """What was in a tensor that an operation wrote to, and its other views, go together with what is there now.

        If the shape changed, only the axes were put in another order.
        """
        now = axes_of(tensor)
        if now is None or tuple(tensor.shape) != shape:
            return
        for before, after in zip(rows, now.rows, strict=True):
            self.unite(before, after)
        if any(a and not b for a, b in zip(zero, now.zero, strict=True)):
            self._dirty[_address(tensor)] = tensor.untyped_storage()

    def _stand_ins(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self.stand_in(value)
        if isinstance(value, list | tuple) and any(isinstance(item, Tensor) for item in value):
            return type(value)(self._stand_ins(item) for item in value)
        return value

    def _suspect(self, operands: Sequence[Tensor]) -> None:
        """A tensor of unknown origin that is no constant has shed its labels on a way that nobody saw."""
        for tensor in operands:
            if axes_of(tensor) is not None or hasattr(tensor, "_sparsewood_constant"):
                continue
            if tensor.is_meta:
                if not hasattr(tensor, "_sparsewood_real") and self.device.type != "meta":
                    self.escaped = "a tensor was made anew from another one, and its labels were lost"
            elif tensor.layout is torch.strided:
                address = _address(tensor)
                for _, rows in self._memory.get(address, ()):
                    for row in rows:
                        self.freeze(row, "a tensor that is no parameter lies in its memory")
                if address in self._seen:
                    self.escaped = "a tensor was made anew from another one, and its labels were lost"

    def _scalar(self, func: Any, tensor: Tensor) -> Any:
        """A value that Python asks for; of truth values that depend on data both are tried."""
        axes = axes_of(tensor)
        if axes is None and not tensor.is_meta:
            return func(tensor)
        self.read([tensor])
        if not tensor.is_meta and (not self.real or tensor.dtype != torch.bool):
            return func(tensor)
        if tensor.dtype != torch.bool:
            raise NeedsValues(f"the forward reads a {tensor.dtype} value that depends on its inputs or weights")
        number = len(self.chosen)
        if number >= _MAX_CHOICES:
            if self.real:
                return func(tensor)
            raise NeedsValues(f"the forward reads more than {_MAX_CHOICES} truth values that depend on data")
        found = bool(func(tensor)) if self.real else True
        self.chosen.append(self.choices[number] if number < len(self.choices) else found)
        self.branches.append(self.module)
        return self.chosen[-1]

    def read(self, tensors: Iterable[Tensor]) -> None:
        """The forward uses the values of tensors outside of the graph."""
        self.ends |= {axes.step for axes in map(axes_of, tensors) if axes is not None}

    def _label(self, op: Op, operands: list[Tensor], known: list[Axes]) -> None:
        results = list(tensors_in((op.out,)))
        weight = all(axes.weight for axes in known)
        labelled = [axes for axes in known if axes.labelled]
        for axes in known:
            for row, why in axes.unread:
                self.freeze(row, why)
        self.op, consumed = len(self.steps), len(self.consumed)
        family, sources = "constant", tuple({axes.step for axes in known if axes.step >= 0})
        rule = find_rule(op.func)
        if not labelled and (rule is None or not rule.always):
            for tensor in results:
                set_axes(tensor, Axes((None,) * tensor.dim(), (False,) * tensor.dim(), weight))
        else:
            self._current = op
            family = self._apply(op, rule, operands, results)
            self._current = None
        for tensor in results:
            axes = axes_of(tensor)
            assert axes is not None
            axes.weight, axes.step = weight, self.op
            if self.real and axes.labelled and tensor.layout is torch.strided:
                self._seen[_address(tensor)] = tensor.untyped_storage()
        made = axes_of(results[0]) if results else None
        first = () if made is None else made.rows
        weights = tuple(axes for axes in labelled if axes.weight)
        if family == "contraction":
            read = {id(row) for row in self.consumed[consumed:]}
            self.produced += [row for axes in weights for row in axes.rows if row is not None and id(row) not in read]
        self.steps.append(Step(str(op.func), family, self.module, sources, first, weights, bool(op.before)))

    def begin_step(self) -> None:
        """What a function rule couples from here on belongs to one step of the log, which `end_step` writes."""
        self.op = len(self.steps)

    def end_step(self, operands: Sequence[Tensor], results: Sequence[Tensor], *, family: Family) -> None:
        """Log a function whose rule has set the rows of all its results."""
        known = [axes for axes in map(axes_of, operands) if axes is not None]
        made = [axes for axes in map(axes_of, results) if axes is not None]
        assert len(made) == len(results), "a result has no rows"
        weight = all(axes.weight for axes in known)
        for axes in made:
            axes.weight, axes.step = weight, self.op
        sources = tuple({axes.step for axes in known if axes.step >= 0})
        weights = tuple(axes for axes in known if axes.weight and axes.labelled)
        self.steps.append(Step(self.calls[-1].name, family, self.module, sources, made[0].rows, weights))

    def _apply(self, op: Op, rule: Rule | None, operands: list[Tensor], results: list[Tensor]) -> str:
        fresh = [tensor for tensor in results if not any(tensor is operand for operand in operands)]
        if rule is None:
            self.barrier(operands, "there is no rule for this operation")
            family = "barrier"
        else:
            family = rule.family
            try:
                rule.apply(self, op)
            except RULE_ERRORS as error:
                log.debug("the rule of %s failed", op.func, exc_info=True)
                self.barrier(operands, f"its rule failed: {type(error).__name__}: {error}")
                family = "barrier"
        missing = [tensor for tensor in fresh if axes_of(tensor) is None]
        if missing and family != "barrier":
            self.barrier(operands, "its rule does not say what a result is made of")
        for tensor in missing if family != "barrier" else results:
            set_axes(tensor, Axes((None,) * tensor.dim(), (False,) * tensor.dim()))
        return family


@cache
def _write_places(func: Any) -> tuple[tuple[int, str], ...]:
    """Which arguments an operation writes to: their positions and names."""
    arguments = enumerate(func._schema.arguments)
    return tuple((i, one.name) for i, one in arguments if one.alias_info is not None and one.alias_info.is_write)


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors that an operation writes to."""
    if not func._schema.is_mutable:
        return []
    values = [args[i] if i < len(args) else kwargs.get(name) for i, name in _write_places(func)]
    return list(tensors_in(values))


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
