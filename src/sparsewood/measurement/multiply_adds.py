"""Multiply-accumulates of one forward pass, dense and non-zero, by watching the operations that run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sparsewood.inputs import Inputs, arguments, call, to_model_device
from sparsewood.measurement.counting import count_nonzero
from sparsewood.measurement.origins import Origins
from sparsewood.snapshot import untouched

__all__ = ["Macs", "Work", "count_macs"]


class Work(NamedTuple):
    """Multiply-accumulates: all of them, and those whose weight is not zero."""

    macs: int
    macs_nonzero: int

    def plus(self, other: Work) -> Work:
        return Work(self.macs + other.macs, self.macs_nonzero + other.macs_nonzero)


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates of one forward pass on one batch; see `count_macs` for what is counted.

    `per_parameter` splits the total by the name of the weight (`""` where no operand is one, as in attention),
    `per_operation` by operation. `uncounted` names operations that multiply and accumulate, or are likely to, and are
    in none of the numbers: an empty tuple means that the count is complete.
    """

    macs: int
    macs_nonzero: int
    per_parameter: Mapping[str, Work]
    per_operation: Mapping[str, Work]
    uncounted: tuple[str, ...]


def count_macs(model: nn.Module, example_inputs: Inputs) -> Macs:
    """Multiply-accumulates of `model(example_inputs)`, for the batch as given (divide by its size for one example).

    One multiply-accumulate (MAC) is one product of a weight with an input value, or of two activations, in a matrix
    product, convolution, recurrent layer or attention:

        matrix product (m, k) x (k, n)      m * k * n
        convolution                         batch * output positions * weight elements
        transposed convolution              batch * input positions * weight elements

    so padding counts like any input, and groups enter through the weight's shape. Adding a bias, normalising,
    activation functions, pooling, interpolation, FFTs and products written as `(a * b).sum()` are not counted.
    A floating-point operation count is twice this.

    `macs_nonzero` leaves out the products with a weight that is zero. A weight is a parameter, a view of one, or
    something no larger computed from it without the inputs (masked, cast, normalised), which goes by the name of the
    largest parameter in it. Where both operands are weights, a parameter goes before a computed one and the right
    operand before the left. On the meta device values do not exist, so that `macs_nonzero` equals `macs`.

    The model is run once, in eval mode, without gradients, and with fused kernels off, so that attention and recurrent
    layers show as the products they consist of; model, random state and backend flags are left as they were. Raises
    `SparsewoodError` if the model does not run on the inputs.

    >>> layer = nn.Linear(3, 2)
    >>> _ = nn.init.eye_(layer.weight)
    >>> counted = count_macs(layer, torch.ones(5, 3))
    >>> counted.macs, counted.macs_nonzero, counted.per_parameter["weight"]
    (30, 10, Work(macs=30, macs_nonzero=10))
    """
    # Replicas of DataParallel run in threads of their own, out of this thread's sight.
    model = model.module if isinstance(model, nn.DataParallel) else model
    example_inputs = to_model_device(example_inputs, model)
    counter = _Counter(Origins(model, _tensors(arguments(example_inputs))))
    with untouched(model), torch.no_grad(), _plain_kernels(), counter:
        call(model, example_inputs)
    works = counter.per_operation.values()
    return Macs(
        sum(work.macs for work in works),
        sum(work.macs_nonzero for work in works),
        counter.per_parameter,
        counter.per_operation,
        tuple(counter.uncounted),
    )


@contextmanager
def _plain_kernels() -> Iterator[None]:
    """Fused kernels off, so that every product reaches the counter as a matrix product or a convolution."""
    backends = torch.backends
    flags = (backends.mkldnn.enabled, backends.cudnn.enabled, backends.mha.get_fastpath_enabled())
    try:
        backends.mkldnn.enabled = backends.cudnn.enabled = False
        backends.mha.set_fastpath_enabled(False)
        with sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        backends.mkldnn.enabled, backends.cudnn.enabled = flags[:2]
        backends.mha.set_fastpath_enabled(flags[2])


# Where a product's two operands stand among the arguments: the input, then what is by custom the weight.
_PRODUCTS: Mapping[str, tuple[int, int]] = {
    "mm": (0, 1),
    "bmm": (0, 1),
    "dot": (0, 1),
    "vdot": (0, 1),
    "mv": (1, 0),
    "addmv": (2, 1),
    "addmm": (1, 2),
    "addbmm": (1, 2),
    "baddbmm": (1, 2),
    "_addmm_activation": (1, 2),
}
_CONTRACTION = re.compile(
    "mm|mv|matmul|dot|conv|rnn|lstm|gru|attention|attn|encoder|linear|cdist|addr|einsum|kron|outer|gemm"
)
_NO_CONTRACTION = re.compile(
    "upsample|convert|cumm|gamma|hamming|reorder|flatten_weight|compute_linear|fused_(lstm|gru)_cell"
)


class _Counter(TorchDispatchMode):
    supports_higher_order_operators: ClassVar[bool] = True

    def __init__(self, origins: Origins) -> None:
        super().__init__()
        self.per_parameter: dict[str, Work] = {}
        self.per_operation: dict[str, Work] = {}
        self.uncounted: dict[str, None] = {}
        self._origins = origins
        self._nonzero: dict[tuple[Any, ...], int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, OpOverload):  # control flow, flex attention: what is inside runs unseen
            self.uncounted[str(func)] = None
            result = func(*args, **kwargs)
            self._follow(_tensors((args, dict(kwargs))), result, (), contraction=True)
            return result
        name = func._schema.name.partition("::")[2].removesuffix("_")
        counted = func.namespace == "aten" and (name in _PRODUCTS or name == "convolution")
        if not counted and not types and func.namespace != "prim":
            # Composites arrive whole in inference mode. Tensor subclasses (`types`) may do without the parts.
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        tensors = _tensors((args, dict(kwargs)))
        contraction = counted or self._looks_like_contraction(func, name, tensors)
        if counted and all(tensor.layout is torch.strided for tensor in tensors):
            self._count(name, args, result)
        elif contraction:
            self.uncounted[func._schema.name.replace("::", ".")] = None
        self._follow(tensors, result, _written(func, args, kwargs), contraction=contraction)
        return result

    def _count(self, name: str, args: tuple[Any, ...], result: Tensor) -> None:
        if name == "convolution":
            macs, operands = _convolution(args, result)
        else:
            macs, operands = _product(*(args[position] for position in _PRODUCTS[name]))
        weight = self._weight(operands)
        parameter, nonzero = "", macs
        if weight is not None and weight.numel():
            parameter = self._origins.name(weight) or ""
            nonzero = macs // weight.numel() * self._count_nonzero(weight)
        work = Work(macs, nonzero)
        for totals, key in ((self.per_parameter, parameter), (self.per_operation, f"aten.{name}")):
            totals[key] = totals.get(key, Work(0, 0)).plus(work)

    def _weight(self, operands: tuple[Tensor, ...]) -> Tensor | None:
        named = [tensor for tensor in reversed(operands) if self._origins.name(tensor) is not None]
        return next((tensor for tensor in named if self._origins.is_parameter(tensor)), named[0] if named else None)

    def _count_nonzero(self, weight: Tensor) -> int:
        if not self._origins.is_parameter(weight):
            return count_nonzero(weight)
        # A recurrent layer uses the same weight at every step.
        key = (weight.untyped_storage()._cdata, weight.storage_offset(), weight.shape, weight.stride(), weight.dtype)
        if key not in self._nonzero:
            self._nonzero[key] = count_nonzero(weight)
        return self._nonzero[key]

    def _looks_like_contraction(self, func: OpOverload, name: str, tensors: Sequence[Tensor]) -> bool:
        if func.namespace == "prim" or _NO_CONTRACTION.search(name):
            return False
        if _CONTRACTION.search(name):
            return True
        # A foreign operation that takes a weight matrix most likely multiplies by it.
        foreign = func.namespace not in ("aten", "prims")
        return foreign and any(tensor.ndim >= 2 and self._origins.name(tensor) is not None for tensor in tensors)

    def _follow(self, sources: Sequence[Tensor], result: Any, written: Sequence[Tensor], *, contraction: bool) -> None:
        if any(self._origins.is_parameter(tensor) for tensor in written):
            self._nonzero.clear()
        self._origins.record(sources, [*_tensors(result), *written], passes_name=not contraction)


def _convolution(args: tuple[Any, ...], result: Tensor) -> tuple[int, tuple[Tensor, ...]]:
    inputs, weight, transposed = args[0], args[1], args[6]
    positions = (inputs if transposed else result).shape[2:]
    return weight.numel() * inputs.shape[0] * prod(positions), (weight,)


def _product(left: Tensor, right: Tensor) -> tuple[int, tuple[Tensor, ...]]:
    if min(left.ndim, right.ndim) == 1:
        return max(left.numel(), right.numel()), (left, right)
    return left.numel() * right.shape[-1], (left, right)


def _written(func: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Tensors that the operation changes in place."""
    if not func._schema.is_mutable:
        return []
    declared = func._schema.arguments
    values = {argument.name: value for argument, value in zip(declared, args, strict=False)} | dict(kwargs)
    changed = [values.get(a.name) for a in declared if a.alias_info is not None and a.alias_info.is_write]
    return _tensors(changed)


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
