"""Training a network for few bits: forward with rounded numbers, gradients as if they were not rounded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.parametrize import is_parametrized

from sparsewood.batches import Batch, require_batches, split_batch
from sparsewood.errors import SparsewoodError, UnknownName, require_model
from sparsewood.inputs import call, to_model_device
from sparsewood.parameters import Entry, Selectors, entries, find, is_raw
from sparsewood.quantization.affine import dequantize, quantize
from sparsewood.quantization.rounded_layers import OPERANDS, AfterForward, BeforeForward, Range, Rounding, Weight
from sparsewood.snapshot import untouched

__all__ = ["QuantizationAware"]


class QuantizationAware:
    """Until it is removed, layers of `model` compute with weights and inputs rounded to few bits; the weights learn on.

        forward:   w_q = dequantize(quantize(w))     x_q = dequantize(quantize(clamp(x, low, high)))
        backward:  dL/dw = dL/dw_q                   dL/dx = dL/dx_q where low <= x <= high, else 0

    Convolutions, linear layers and attention take part, with the range of a weight as it is at each forward; that of
    what a layer reads is the running one of the batches it was trained on, from the first batch that it sees. Nothing
    else changes: parameters keep identity, names and optimizer state, and hold the unrounded weights; masks that are
    enforced stay, since 0 is rounded to 0. Fold BatchNorm first (`fold_batchnorm`), or its layers see weights that are
    never rounded as they will be. Train, leave the `with` block, then `sparsewood.quantize_int8`.

    Args:
        bits: of weights, 2 to 8. `quantize_int8` has 8.
        activation_bits: of what layers read, 2 to 8; None: it is not rounded.
        per_channel, symmetric: as for `quantize_int8`.
        include, exclude: names, patterns, classes of layers or weights.
        momentum: share of a new batch in the running range.
        freeze_after: after so many training batches ranges stay as they are; None: never.

    `skipped` says by name why other weights take no part. After `calibrate`, a forward in eval mode shows what rounding
    does to a network that was not trained for it.

    Raises `SparsewoodError` if no layer is left, for bits that cannot be, and for a model that is rounded already;
    `UnknownName` for names that mean nothing.

    Source: Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only
    inference", https://arxiv.org/abs/1712.05877, section 3; the gradient of Bengio et al. 2013,
    https://arxiv.org/abs/1308.3432.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, 1.4]]))
    >>> with QuantizationAware(layer, bits=3, activation_bits=None):
    ...     print(layer(torch.tensor([[0.0, 1.0]])))
    tensor([[1.]], grad_fn=<MmBackward0>)
    >>> layer.weight.data
    tensor([[3.0000, 1.4000]])
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        bits: int = 8,
        activation_bits: int | None = 8,
        per_channel: bool = True,
        symmetric: bool = True,
        include: Selectors | None = None,
        exclude: Selectors | None = None,
        momentum: float = 0.1,
        freeze_after: int | None = None,
    ) -> None:
        require_model(model)
        _require_numbers(bits, activation_bits, momentum, freeze_after)
        self._rounding = Rounding(bits, per_channel, symmetric, activation_bits, momentum, freeze_after)
        self._model = model
        chosen = _chosen(model, include, exclude)
        self._layers: dict[str, tuple[nn.Module, BeforeForward]] = {}
        covered: set[str] = set()
        for name, module in model.named_modules():
            weights = [weight for weight in _weights(name, module) if weight.parameter in chosen]
            if not weights:
                continue
            if any(isinstance(hook, BeforeForward) for hook in module._forward_pre_hooks.values()):
                raise SparsewoodError(
                    f"QuantizationAware: layer {name!r} is rounded already. Call remove() of the first one, or leave "
                    "its with block."
                )
            self._layers[name] = (module, BeforeForward(self._rounding, weights, name))
            covered |= {weight.parameter for weight in weights}
        self.skipped: Mapping[str, str] = _skipped(model, chosen, covered)
        if not self._layers:
            why = "; ".join(f"{name}: {reason}" for name, reason in list(self.skipped.items())[:5])
            raise SparsewoodError(f"QuantizationAware: no layer of {type(model).__name__} can be rounded ({why}).")
        self._handles = []
        for module, before in self._layers.values():
            self._handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            self._handles.append(module.register_forward_hook(AfterForward(before), always_call=True))

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that are rounded, by name."""
        return tuple(self._layers)

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Of what each layer reads, once a batch was seen; of attention by "name", "name.key", "name.value".

        A mapping as this returns it may be assigned, as when a training goes on.
        """
        found = {}
        for name, (_, before) in self._layers.items():
            for operand, one in before.ranges.items():
                if one.seen:
                    found[f"{name}.{operand}" if operand else name] = (one.low, one.high)
        return found

    @ranges.setter
    def ranges(self, ranges: Mapping[str, tuple[float, float]]) -> None:
        for name in ranges:
            layer, _, operand = (name, "", "") if name in self._layers else name.rpartition(".")
            if layer not in self._layers or operand not in ("", *_operands(self._layers[layer][0])[1:]):
                raise UnknownName.among("layer", name, self._layers)
        for name, (low, high) in ranges.items():
            layer, _, operand = (name, "", "") if name in self._layers else name.rpartition(".")
            self._layers[layer][1].ranges[operand] = Range(low, high, 1)

    def calibrate(self, data: Iterable[Batch]) -> None:
        """Set the ranges to all that the layers read in a pass over batches, in eval mode; the model is left as it was.

        Raises `SparsewoodError` for data that is empty, and once the rounding was removed.
        """
        self._require_there()
        require_batches(data)
        seen = False
        hooks = [before for _, before in self._layers.values()]
        for before in hooks:
            before.ranges, before.widening = {}, True
        try:
            with untouched(self._model), torch.no_grad():
                for number, batch in enumerate(data):
                    seen = True
                    call(self._model, to_model_device(split_batch(batch, number)[0], self._model))
        finally:
            for before in hooks:
                before.widening = False
        if not seen:
            raise SparsewoodError(
                "QuantizationAware: the data is empty: no batch was read. Pass a list or a DataLoader."
            )

    def freeze(self) -> None:
        """Keep the ranges as they are; those of layers that have none yet are of the next batch."""
        for _, before in self._layers.values():
            before.frozen = True

    @torch.no_grad()
    def round_weights(self) -> None:
        """Write the rounded weights into the parameters, in place; with 8 bits they are those of `quantize_int8`."""
        parameters = dict(self._model.named_parameters(remove_duplicate=False))
        for _, before in self._layers.values():
            for weight in before.weights:
                parameter = parameters[weight.parameter]
                affine = self._rounding.of_weight(parameter, weight.axis)
                parameter.copy_(dequantize(quantize(parameter, affine), affine))

    def remove(self) -> None:
        """Let the layers compute with unrounded numbers again. May be called again without effect."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _require_there(self) -> None:
        if not self._handles:
            raise SparsewoodError(
                "QuantizationAware was removed, and its layers compute with unrounded numbers. Make another one; its "
                "ranges can be set to those of this one."
            )

    def __enter__(self) -> QuantizationAware:
        self._require_there()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()

    def __repr__(self) -> str:
        state = f"{len(self._layers)} layers" if self._handles else "removed"
        return f"QuantizationAware({state}, {self._rounding.bits} bits)"


def _operands(module: nn.Module) -> tuple[str, ...]:
    return next((names for kind, names in OPERANDS.items() if isinstance(module, kind)), ("input",))


def _weights(name: str, module: nn.Module) -> Iterator[Weight]:
    """What a layer is multiplied with and this knows how to round, whatever its parameters are called elsewhere."""
    under = f"{name}." if name else ""
    if is_parametrized(module):
        return
    if isinstance(module, nn.MultiheadAttention):
        leaves = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
        for leaf in leaves:
            if isinstance(module._parameters.get(leaf), nn.Parameter):
                yield Weight(f"{under}{leaf}", (leaf,), 0)
        if not is_parametrized(module.out_proj):
            yield Weight(f"{under}out_proj.weight", ("out_proj", "weight"), 0)
    elif isinstance(module, _ConvNd | nn.Linear) and isinstance(module._parameters.get("weight"), nn.Parameter):
        if isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear):
            return  # the attention around it reads its weight, and does not call it
        axis = 0
        if isinstance(module, _ConvTransposeNd):
            axis = 1 if module.groups == 1 else None
        yield Weight(f"{under}weight", ("weight",), axis)


def _chosen(model: nn.Module, include: Selectors | None, exclude: Selectors | None) -> dict[str, Entry]:
    """By all their names the weights that the selectors mean."""
    known = [entry for entry in entries(model) if entry.parameter.is_floating_point() and entry.parameter.ndim >= 2]
    chosen = known if include is None else find(known, include, "include")
    dropped = set() if exclude is None else {entry.name for entry in find(known, exclude, "exclude")}
    return {name: e for e in chosen if e.name not in dropped for name in (e.name, *e.aliases)}


def _skipped(model: nn.Module, chosen: Mapping[str, Entry], covered: set[str]) -> dict[str, str]:
    found = {}
    for entry in entries(model):
        if entry.parameter.ndim < 2 or covered.intersection((entry.name, *entry.aliases)):
            continue
        if entry.name not in chosen:
            found[entry.name] = "not included, or excluded"
        elif is_raw(entry):
            found[entry.name] = "its layer computes a weight from it: remove the parametrisation first"
        else:
            kind = type(entry.module).__name__
            found[entry.name] = f"{kind} is neither a convolution nor a linear layer nor attention"
    return found


def _require_numbers(bits: object, activation_bits: object, momentum: object, freeze_after: object) -> None:
    for name, value in (("bits", bits), ("activation_bits", activation_bits)):
        whole = isinstance(value, int) and not isinstance(value, bool) and 2 <= value <= 8
        if not whole and not (name == "activation_bits" and value is None):
            raise SparsewoodError(f"QuantizationAware: {name} must be a whole number from 2 to 8. Got {value!r}.")
    if not isinstance(momentum, int | float) or not 0 < momentum <= 1:
        raise SparsewoodError(f"QuantizationAware: momentum must be in (0, 1]. Got {momentum!r}.")
    whole = isinstance(freeze_after, int) and not isinstance(freeze_after, bool) and freeze_after >= 1
    if freeze_after is not None and not whole:
        raise SparsewoodError(
            f"QuantizationAware: freeze_after must be None or a whole number >= 1. Got {freeze_after!r}."
        )
