"""Synaptic flow: how much of what goes into a network of positive weights passes through each weight."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sparsewood.batches import count_examples, split_batch
from sparsewood.errors import SparsewoodError
from sparsewood.inputs import call, map_tensors
from sparsewood.parameters import Entry
from sparsewood.statistics.kinds import ModelStatistic
from sparsewood.statistics.positive import LetThrough, absolute_weights

__all__ = ["Flow", "SynapticFlow"]

logger = logging.getLogger(__name__)

Precision = Literal["float32", "float64"]


@dataclass(frozen=True)
class Flow:
    """What flows through a network of absolute weights.

    `total` is R, `weights` dR/d|w| of the chosen parameters, None for those that no path leads through whatever their
    values, `inputs` the sum of dR/dx over the inputs (of whole numbers: over their embeddings), None if there is
    nothing to differentiate by.
    """

    total: float
    weights: list[Tensor | None]
    inputs: float | None


@dataclass(frozen=True)
class SynapticFlow(ModelStatistic):
    """dR/d|w| for each parameter, R the sum of the outputs of the network with weights |w| for an input of ones.

    Of the data only the shape of one example is used (and whole numbers, such as tokens, as they are): one batch is
    read. For the pass, the network is what is left of it for positive numbers: nothing is added (biases and running
    means are 0), activations (ReLU, tanh, sigmoid, GELU, upper bounds of clamps ...) let all through, BatchNorm scales
    by its running variance as in eval mode, other normalisations only by their weight, and a softmax at the end is
    left out. A bounded activation (sigmoid, tanh, softmax ...) that another activation is multiplied with is a gate,
    which counts as open, 1; weights that only feed gates have no flow.

    What is made of such parts alone is linear in the weights of every layer that is used once. Where all that flows
    goes through a layer, then, sum_w |w| dR/d|w| = R: the flow is conserved from layer to layer and from the inputs of
    a unit to its outputs; layers beside one another share R. Weights used several times in a row count as often.
    Not conserved is the flow through softmax inside the network (attention), through normalisations written by hand,
    and through products of activations that are no gates: layers whose sum is more than R are named in a warning.
    LSTM, GRU and tanh RNN of PyTorch compute in one piece, with their activations as they are: less comes out of them.

    float64 holds the flow of networks that are too deep for float32, where it overflows. Tensors that the model makes
    in another precision are converted.

    Raises `SparsewoodError` if no output depends on the weights, if the outputs sum to a constant (softmax), if the
    flow overflows, and if it is below 0, or 0 though no weight is.
    """

    precision: Precision = "float64"
    needs_loss: ClassVar[bool] = False
    needs_all: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise SparsewoodError(
                f"SynapticFlow: precision must be one of {', '.join(get_args(Precision))}. Got {self.precision!r}."
            )

    @property
    def kind(self) -> str:
        return f"synaptic flow, {self.precision}"

    def measure(
        self,
        model: nn.Module,
        batches: Sequence[Any],
        loss: Callable[[Any, Any], Tensor] | None,
        chosen: Sequence[Entry],
        kept: Mapping[str, Tensor],
    ) -> list[Tensor]:
        del loss, kept
        pairs = zip(self.flow(model, batches[0], chosen).weights, chosen, strict=True)
        dtype = getattr(torch, self.precision)
        return [torch.zeros_like(e.parameter, dtype=dtype) if one is None else one for one, e in pairs]

    def flow(self, model: nn.Module, batch: Any, chosen: Sequence[Entry]) -> Flow:
        """The flow for one example like those of `batch`. What the model is left with, the caller puts back."""
        dtype = getattr(torch, self.precision)
        inputs, target = split_batch(batch)
        examples = count_examples(inputs, target)
        ones = map_tensors(lambda x: _one_example(x, examples, dtype), inputs)
        sources = [x.requires_grad_() for x in tree_leaves(ones) if isinstance(x, Tensor) and x.is_floating_point()]
        ones = map_tensors(lambda x: x.clone(), ones)  # which the model may write to
        with absolute_weights(model, dtype):
            with LetThrough(dtype, [x for x in tree_leaves(ones) if isinstance(x, Tensor)]) as mode:
                outputs = [mode.before_softmax(x) for x in tree_leaves(call(model, ones)) if isinstance(x, Tensor)]
            through = sum((x.sum() for x in outputs if x.is_floating_point()), torch.zeros((), dtype=dtype))
            sources += mode.lookups
            parameters = {id(p): p for p in model.parameters() if p.requires_grad}
            found = _derivatives(through, [*parameters.values(), *sources], model)
            by_id = dict(zip(parameters, found, strict=False))
            _require_finite(found, model, self.precision)
            if mode.met_softmax:
                _require_change(float(through.detach()), [*parameters.values(), *sources], found, model)
            flow = Flow(
                float(through.detach()),
                [by_id[id(entry.parameter)] for entry in chosen],
                sum(float(one.sum()) for one in found[len(parameters) :] if one is not None) if sources else None,
            )
            _require_positive(flow, chosen, model)
            _report_more(flow, chosen)
        return flow


def _derivatives(through: Tensor, of: Sequence[Tensor], model: nn.Module) -> list[Tensor | None]:
    found = torch.autograd.grad(through, of, allow_unused=True) if through.requires_grad else [None] * len(of)
    if all(one is None for one, x in zip(found, of, strict=True) if isinstance(x, nn.Parameter)):
        raise SparsewoodError(
            f"Synaptic flow: no output of {type(model).__name__} depends on its weights. Compute floating-point "
            "outputs from them, without detach() or no_grad()."
        )
    return [None if one is None else one.detach() for one in found]


def _require_finite(found: Sequence[Tensor | None], model: nn.Module, precision: Precision) -> None:
    if not all(bool(torch.isfinite(one).all()) for one in found if one is not None):
        remedy = "Use precision='float64'." if precision == "float32" else "Scale the weights down."
        raise SparsewoodError(
            f"The synaptic flow of {type(model).__name__} is too large for torch.{precision}. {remedy}"
        )


def _require_change(total: float, of: Sequence[Tensor], found: Sequence[Tensor | None], model: nn.Module) -> None:
    """Raise `SparsewoodError` if R, which is not 0, changes with nothing but for rounding."""
    small = total * torch.finfo(of[0].dtype).eps ** 0.5
    pairs = [(x, one) for x, one in zip(of, found, strict=True) if one is not None]
    if total > 0 and all(float((x.detach() * one).abs().sum()) <= small for x, one in pairs):
        raise SparsewoodError(
            f"Synaptic flow: the outputs of {type(model).__name__} sum to a constant, as they do after a softmax, so "
            "that no weight changes it. Pass the network without its softmax."
        )


def _require_positive(flow: Flow, chosen: Sequence[Entry], model: nn.Module) -> None:
    """Raise `SparsewoodError` for flow below 0, and for none at all through weights of which none is 0."""
    scores = [e.parameter.detach() * one for e, one in zip(chosen, flow.weights, strict=True) if one is not None]
    below = any(float(one.min()) < -float(one.abs().max()) * torch.finfo(one.dtype).eps ** 0.5 for one in scores)
    none = flow.total == 0 and all(bool((e.parameter != 0).all()) for e in chosen)
    if below or none:
        raise SparsewoodError(
            f"Synaptic flow: {'less than nothing' if below else 'nothing'} flows through {type(model).__name__}, "
            "though its weights count as positive. Something is subtracted in the forward (such as the mean of "
            "images), or made negative: by nn.GRU, or by a weight that is normalised (spectral_norm). Take that out of "
            "the model, or use another criterion."
        )


def _report_more(flow: Flow, chosen: Sequence[Entry]) -> None:
    """Warn of layers whose weights let more through than R, which cannot be where the flow is conserved."""
    pairs = [(e, one) for e, one in zip(chosen, flow.weights, strict=True) if one is not None]
    sums = {e.name: float((e.parameter.detach() * one).sum()) for e, one in pairs}
    limit = flow.total * (1 + max((torch.finfo(one.dtype).eps for _, one in pairs), default=0) ** 0.5)
    more = {name: one / flow.total for name, one in sums.items() if one > limit > 0}
    if more:
        logger.warning(
            "More flows through %s than through the network, up to %.3g times as much. That is right for weights used "
            "several times in a row, as in recurrent layers; where activations are multiplied with one another, the "
            "scores of these layers are too large beside the others.",
            ", ".join(more),
            max(more.values()),
        )


def _one_example(tensor: Tensor, examples: int, dtype: torch.dtype) -> Tensor:
    one = tensor[:1] if tensor.ndim and tensor.shape[0] == examples else tensor
    return torch.ones_like(one, dtype=dtype) if one.is_floating_point() else one
