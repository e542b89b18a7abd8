"""One pass over data: forwards, gradients and layer inputs, summed over examples."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from sparsewood.batches import Batch, count_examples, prepared, require_batches, split_batch
from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.inputs import call, describe, map_tensors, refuse_sum
from sparsewood.masks import by_first_name
from sparsewood.parameters import Entry, choose, entries
from sparsewood.snapshot import kernels_with_backward, untouched
from sparsewood.statistics.kinds import GradientStatistic, InputStatistic, Mode, ModelStatistic, Statistic
from sparsewood.types import Statistics

logger = logging.getLogger(__name__)

Loss = Callable[[Any, Any], Tensor]

INPUT_LAYERS = (nn.Linear, nn.modules.conv._ConvNd)


def collect(
    model: nn.Module,
    data: Iterable[Batch],
    statistics: Sequence[Statistic],
    loss: Loss | None = None,
    *,
    names: Sequence[str] | None = None,
    masks: Mapping[str, Tensor] | None = None,
) -> Statistics:
    """Sum `statistics` over `data`, which is read once; of data-free statistics alone, one batch of it.

    Args:
        data: batches: a tensor, `(inputs, target)`, or a mapping of keyword inputs (`target` is then the mapping).
            `inputs` is a tensor, a tuple of positional or a dict of keyword arguments. The first axis of the target
            counts examples, without a target that of the inputs. Statistics per example cut every tensor that is as
            long as the batch, and need inputs that are.
        loss: `loss(output, target)`, the mean over the batch's examples; needed for gradients.
        names: the parameters to observe; without it all that are pruned by default, the classifier included.
        masks: what is gone from the model by now (it is not masked here). Statistics are of all weights, but what is
            gone is no part of the gradient whose norm `HessianGradient` is about.

    The model runs in eval mode and is left as it was: weights, gradients, buffers, mode, hooks, random state.

    Raises `SparsewoodError` for data that is empty or not batches, a loss that is missing, not a scalar, NaN or
    detached (with the batch's number), an input statistic of a layer that has none, and masks that do not fit.
    """
    _require_statistics(statistics)
    chosen = choose(model, protect_classifier=False) if names is None else _named(model, names)
    _require_one_mode(statistics)
    whole = [s for s in statistics if isinstance(s, ModelStatistic)]
    if any(isinstance(s, GradientStatistic) for s in statistics) or any(s.needs_loss for s in whole):
        require_loss(loss)
    require_batches(data)
    refuse_sum(loss)
    kept = {} if masks is None else by_first_name(model, masks)
    total: Statistics | None = None
    by_batch = [s for s in statistics if not isinstance(s, ModelStatistic)]
    needed = 1 if data_free(statistics) else None
    held: list[Batch] = []
    with untouched(model), gradients_enabled(chosen), kernels_with_backward(model):
        for number, batch in enumerate(prepared(batch, model) for batch in islice(data, needed)):
            if whole and (not held or not data_free(whole)):
                held.append(batch)
            for part in _parts(batch, statistics, number):
                one = _contribution(model, part, by_batch, loss, chosen, number)
                total = one if total is None else total + one
        if total is not None:
            means = {s.kind: s.measure(model, held, loss, chosen, kept) for s in whole}
            total = _with_means(total, means, chosen)
    if total is None:
        raise SparsewoodError("The data is empty: no batch was read. A generator that was used up before is empty too.")
    return total


def data_free(statistics: Sequence[Statistic]) -> bool:
    """Whether one batch tells all that these need."""
    return bool(statistics) and all(isinstance(s, ModelStatistic) and not s.needs_all for s in statistics)


def _with_means(total: Statistics, means: Mapping[str, Sequence[Tensor]], chosen: Sequence[Entry]) -> Statistics:
    """`total` with statistics that are means over all examples already."""
    sums = dict(total.sums)
    for kind, of_kind in means.items():
        sums[kind] = {e.name: mean * total.samples for e, mean in zip(chosen, of_kind, strict=True)}
    return Statistics(sums, total.samples)


def require_loss(loss: object) -> None:
    """Raise `SparsewoodError` if there is no loss to take gradients of."""
    if loss is None:
        raise SparsewoodError(
            "Gradients need a loss: pass loss=..., for example torch.nn.functional.cross_entropy for logits and labels."
        )


def _require_statistics(statistics: object) -> None:
    if not isinstance(statistics, Sequence) or not all(isinstance(s, Statistic) for s in statistics):
        raise SparsewoodError(f"statistics must be a list such as [Gradient(), InputPower(2)]. Got {statistics!r}.")


def _require_one_mode(statistics: Sequence[Statistic]) -> None:
    by_gradient = [s for s in statistics if isinstance(s, GradientStatistic)]
    single = next((s for s in by_gradient if s.per_example), None)
    training = next((s for s in by_gradient if s.of_mode == "train"), None)
    if single is not None and training is not None:
        raise SparsewoodError(
            f"{single.kind!r} runs every example by itself, and {training.kind!r} is of whole batches: collect them in "
            "two passes."
        )


def _named(model: nn.Module, names: Sequence[str]) -> list[Entry]:
    known = {entry.name: entry for entry in entries(model)}
    for name in names:
        if name not in known:
            raise UnknownName.among("parameter", name, known)
    return [known[name] for name in names]


@contextmanager
def gradients_enabled(chosen: Sequence[Entry]) -> Iterator[None]:
    """Inside, the chosen parameters require gradients. Whoever calls this puts the flags back (`untouched`)."""
    with torch.inference_mode(False), torch.enable_grad():
        for entry in chosen:
            if entry.parameter.is_inference():
                raise SparsewoodError(
                    f"{entry.name!r} was made in inference mode and can have no gradient. Build the model outside it."
                )
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
    inputs, target = split_batch(batch, number)
    examples = count_examples(inputs, target, number)
    if examples == 0:
        raise SparsewoodError(f"Batch {number} is empty: its first axis, which counts examples, is 0 long.")
    by_gradient = [s for s in statistics if isinstance(s, GradientStatistic)]
    by_input = [s for s in statistics if isinstance(s, InputStatistic)]
    sums: dict[str, dict[str, Tensor]] = {s.kind: {} for s in statistics}
    for mode in get_args(Mode):
        mine, watched = [s for s in by_gradient if s.of_mode == mode], by_input if mode == "eval" else []
        if not mine and not watched:
            continue
        with (
            torch.set_grad_enabled(bool(mine)),
            in_mode(model, mode, number),
            _observe_inputs(watched, chosen, sums, examples),
        ):
            output = _forward(model, inputs, number)
            if mine and loss is not None:
                found = list(zip(chosen, gradients_of(loss_value(loss, output, target, number), chosen), strict=True))
                for s in mine:
                    sums[s.kind] = {entry.name: s.from_gradient(gradient, examples) for entry, gradient in found}
    _require_inputs(by_input, chosen, sums)
    return Statistics(sums, examples)


@contextmanager
def in_mode(model: nn.Module, mode: Mode, number: int) -> Iterator[None]:
    """Inside, the model, which is in eval mode, is in `mode`; what batch `number` draws depends on `number` alone."""
    if mode == "eval":
        yield
        return
    with untouched(model, training=True):  # statistics of BatchNorm are put back after every batch
        torch.manual_seed(number)
        yield


def _forward(model: nn.Module, inputs: Any, number: int) -> Any:
    try:
        return call(model, inputs)
    except SparsewoodError as error:
        raise SparsewoodError(
            f"Batch {number}: {error} A batch is a tensor, a pair (inputs, target), or a mapping of keyword inputs."
        ) from error


def loss_value(loss: Loss, output: Any, target: Any, number: int) -> Tensor:
    """The loss of batch `number`: one finite number, with a gradient."""
    value = _value(loss, output, target, number)
    if not isinstance(value, Tensor) or value.numel() != 1 or not value.is_floating_point():
        got = describe((value,))
        raise SparsewoodError(f"The loss must return one number, the mean over the batch. Got {got}, batch {number}.")
    if not torch.isfinite(value):
        raise SparsewoodError(
            f"The loss of batch {number} is {value.item()}: scores made from it would mean nothing. "
            "Check the inputs, the learning rate that led here, and that the loss gets logits if it expects them."
        )
    if not value.requires_grad:
        raise SparsewoodError(
            f"The loss of batch {number} does not depend on any parameter to be scored. Compute it from the output, "
            "without detach(), item() or no_grad(), in the loss and in the model's forward."
        )
    return value.reshape(())


def _value(loss: Loss, output: Any, target: Any, number: int) -> Any:
    try:
        return loss(output, target)
    except (SparsewoodError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise SparsewoodError(
            f"Batch {number}: the loss failed on the model's output ({describe((output,))}) and the target "
            f"({describe((target,))}): {type(error).__name__}: {error}. It is called as loss(output, target); batches "
            "are (inputs, target)."
        ) from error


def gradients_of(value: Tensor, chosen: Sequence[Entry], *, create_graph: bool = False) -> list[Tensor]:
    """The gradients of the chosen parameters; for those that the loss does not depend on 0, and a warning."""
    parameters = [entry.parameter for entry in chosen]
    found = torch.autograd.grad(value, parameters, create_graph=create_graph, allow_unused=True)
    unused = [entry.name for entry, gradient in zip(chosen, found, strict=True) if gradient is None]
    if unused:
        logger.warning("The loss does not depend on %s: gradient 0.", ", ".join(unused))
    pairs = zip(chosen, found, strict=True)
    whole = [torch.zeros_like(e.parameter) if g is None else g for e, g in pairs]
    return whole if create_graph else [gradient.detach() for gradient in whole]


@contextmanager
def _observe_inputs(
    statistics: Sequence[InputStatistic],
    chosen: Sequence[Entry],
    sums: Mapping[str, dict[str, Tensor]],
    examples: int,
) -> Iterator[None]:
    handles = []

    def observer(entry: Entry) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def observe(module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            for s in statistics:
                value = s.from_input(module, inputs[0] if inputs else keywords["input"], examples)
                of_kind = sums[s.kind]
                of_kind[entry.name] = of_kind[entry.name] + value if entry.name in of_kind else value

        return observe

    try:
        for entry in chosen if statistics else ():
            for module in entry.owners:  # a tied weight has several
                if isinstance(module, INPUT_LAYERS) and module.weight is entry.parameter:
                    handles.append(module.register_forward_pre_hook(observer(entry), with_kwargs=True))
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
                f"No {s.kind!r} for {missing[0].name} ({type(missing[0].module).__name__}): inputs are observed at "
                "Linear and convolution layers that are called in the forward pass. Leave it out with exclude=[...], "
                "or use a criterion that needs no layer inputs."
            )


def _parts(batch: Batch, statistics: Sequence[Statistic], number: int) -> Iterator[Batch]:
    """The batch, or its examples one by one if any statistic is per example."""
    if not any(isinstance(s, GradientStatistic) and s.per_example for s in statistics):
        yield batch
        return
    inputs, target = split_batch(batch, number)
    size = count_examples(inputs, target, number)
    lengths = {leaf.shape[0] for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.ndim}
    if size not in lengths:
        raise SparsewoodError(
            f"Batch {number}: the target has {size} examples, but the inputs ({describe(inputs)}) are not that long on "
            "their first axis, so they cannot be cut into examples. Put the batch axis first."
        )
    for i in range(size):
        place = slice(i, i + 1)
        yield map_tensors(lambda x, at=place: x[at] if x.ndim and x.shape[0] == size else x, batch)
