"""Least squares: the weights with which a pruned layer comes closest to what the dense one returned."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from sparsewood.errors import SparsewoodError, UnknownName, require_model
from sparsewood.recovery.passes import call_order, model_inputs, run_up_to
from sparsewood.recovery.patches import at, batched, draw, patches, unsolvable, users_of
from sparsewood.snapshot import untouched

__all__ = ["LayerError", "Reconstruction", "reconstruct"]

logger = logging.getLogger(__name__)

Kept = Mapping[str, Mapping[int, Tensor]]


@dataclass(frozen=True)
class LayerError:
    """How far a layer's outputs are from the dense network's, before and after, as a share of their variance.

    sum |Y_dense - Y|^2 / sum |Y_dense - mean Y_dense|^2, over the `rows` that were drawn. `after` is never above
    `before`: a layer that would get worse by rounding keeps its weights.
    """

    before: float
    after: float
    rows: int


@dataclass(frozen=True)
class Reconstruction:
    """The errors of each layer that was solved, in the order in which they run; what was left alone, and why."""

    layers: Mapping[str, LayerError]
    skipped: Mapping[str, str]

    def __str__(self) -> str:
        lines = [f"{name}: {one.before:.3g} -> {one.after:.3g}" for name, one in self.layers.items()]
        return "\n".join([*lines, *(f"{name}: skipped, {why}" for name, why in self.skipped.items())])


def reconstruct(
    model: nn.Module,
    reference: nn.Module,
    data: Iterable[Any],
    *,
    kept: Kept,
    samples: int = 10,
    ridge: float = 1e-4,
    generator: torch.Generator | None = None,
    layers: Sequence[str] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Reconstruction:
    """Refit the layers of a small network to the outputs of the dense one, in place.

        minimise over W, b:   sum |Y - X W - b|^2 + ridge * (sum |X|^2 / features) * |W - W_0|^2

    X is what enters the layer of the small network, with the layers before it already refitted, and Y what the same
    layer of `reference` returns, at the outputs that stay. W_0 are the weights as they are: where the data say
    nothing, nothing changes. A layer without a bias does not get one. BatchNorm behind it stays; see `recalibrate`.

    Args:
        data: batches that can be read again and again: tensors, `(inputs, target)`, or mappings of keyword inputs. A
            few hundred samples. For L layers they are read L times, by both networks, each time up to the layer in
            question.
        kept: the positions that stay along axes of parameters of `reference`, by name and axis, as in `plan.kept`;
            axes that are not there stay whole.
        samples: positions of the output that are drawn from each example and call (all, if there are fewer).
        generator: draws the positions; by default one with seed 0. With the same seed the result does not depend on
            how `data` are cut into batches, up to rounding.
        layers: names of modules to refit; by default all whose weights lost inputs.
        progress: is called before each layer with its name, its number, counted from 1, and how many there are.

    Linear layers and convolutions are solved, each group of a convolution by itself; transposed convolutions, weights
    that several layers share, and layers that are not called as modules are skipped, with the reason. Normal
    equations are summed up in float64: memory is that of one matrix [features + 1, features + 1] for each group of a
    layer, with features = input channels of the group * kernel size, however many samples there are.

    Raises `SparsewoodError` for data that are empty or are no batches, shapes that do not fit `kept`, and values that
    are not finite; layers before the one in question are then refitted already.

    Sources: Luo et al. 2017, "ThiNet", https://arxiv.org/abs/1707.06342; He et al. 2017, "Channel Pruning for
    Accelerating Very Deep Neural Networks", https://arxiv.org/abs/1707.06168.

    >>> dense = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    >>> _ = [nn.init.ones_(p) for p in dense.parameters()]
    >>> small = nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 1))  # one of two equal units is gone
    >>> _ = [nn.init.ones_(p) for p in small.parameters()]
    >>> first = torch.tensor([0])
    >>> kept = {"0.weight": {0: first}, "0.bias": {0: first}, "1.weight": {1: first}}
    >>> print(reconstruct(small, dense, [torch.eye(2), torch.ones(2, 2)], kept=kept, ridge=0.0))
    1: 6.5 -> 0
    >>> small[1].weight
    Parameter containing:
    tensor([[2.]], requires_grad=True)
    """
    _check(model, reference, samples, ridge)
    _check_kept(reference, kept)
    generator = generator or torch.Generator().manual_seed(0)
    seed = int(torch.randint(2**62, (), generator=generator))
    wanted, skipped = _solvable(model, reference, kept, layers)
    with untouched(model), untouched(reference):
        order = call_order(model, wanted, data)
        dense = call_order(reference, {name: reference.get_submodule(name) for name in order}, data)
    errors = {}
    for name in wanted:
        if name not in order:
            skipped[name] = "it is not called as a module"
        elif dense.get(name) != order[name]:
            skipped[name] = f"it is called {order[name]} times, in the reference {dense.get(name, 0)} times"
    refitted = [name for name in order if name not in skipped]
    for number, name in enumerate(refitted, 1):
        if progress is not None:
            progress(name, number, len(refitted))
        outputs = kept.get(f"{name}.weight", {}).get(0)
        pair = _Pair(model, reference, name, order[name], outputs)
        errors[name] = _refit(pair, data, samples, ridge, torch.Generator().manual_seed(seed))
        logger.info("%s: error %.3g -> %.3g", name, errors[name].before, errors[name].after)
    return Reconstruction(errors, skipped)


def _check(model: nn.Module, reference: nn.Module, samples: int, ridge: float) -> None:
    require_model(model)
    require_model(reference)
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise SparsewoodError(f"reconstruct: samples must be a whole number >= 1. Got {samples!r}.")
    if isinstance(ridge, bool) or not isinstance(ridge, int | float) or not 0 <= ridge < math.inf:
        raise SparsewoodError(f"reconstruct: ridge must be a number >= 0. Got {ridge!r}.")


def _check_kept(reference: nn.Module, kept: Kept) -> None:
    """Raise `SparsewoodError` unless all positions are ones of the reference's parameters and buffers."""
    tensors = {**dict(reference.named_parameters(remove_duplicate=False)), **dict(reference.named_buffers())}
    for name, axes in kept.items():
        for axis, positions in axes.items():
            shape = tuple(tensors[name].shape) if name in tensors else None
            if shape is None or not len(positions):
                continue
            low, high = int(positions.min()), int(positions.max())
            if axis >= len(shape) or low < 0 or high >= shape[axis]:
                raise SparsewoodError(
                    f"reconstruct: 'kept' keeps position {high if low >= 0 else low} along axis {axis} of {name}, "
                    f"whose shape in the reference is {shape}. A plan starts at the original network, however often "
                    "that was shrunk since: pass the original as reference."
                )


def _solvable(
    model: nn.Module, reference: nn.Module, kept: Kept, layers: Sequence[str] | None
) -> tuple[dict[str, nn.Module], dict[str, str]]:
    modules, theirs = dict(model.named_modules()), dict(reference.named_modules())
    chosen = (
        list(layers) if layers is not None else [name for name in modules if _lost_inputs(modules[name], name, kept)]
    )
    users = users_of(model)
    solvable: dict[str, nn.Module] = {}
    skipped: dict[str, str] = {}
    for name in dict.fromkeys(chosen):
        if name not in modules or name not in theirs:
            raise UnknownName.among("layer", name, modules.keys() & theirs.keys())
        why = unsolvable(modules[name], users)
        if not why and type(theirs[name]) is not type(modules[name]):
            why = f"it is a {type(theirs[name]).__name__} in the reference"
        if why:
            skipped[name] = why
        else:
            solvable[name] = modules[name]
    return solvable, skipped


def _lost_inputs(layer: nn.Module, name: str, kept: Kept) -> bool:
    """Whether a weight of the layer is shorter along an axis that it reads along, or may read along."""
    cut = {leaf: set(kept.get(f"{name}.{leaf}" if name else leaf, ())) for leaf in layer._parameters}
    if isinstance(layer, nn.Linear | _ConvNd):
        return (0 if isinstance(layer, _ConvTransposeNd) else 1) in cut.get("weight", ())
    return not isinstance(layer, nn.Embedding | nn.EmbeddingBag) and any(axes - {0} for axes in cut.values())


# ---------------------------------------------------------------- one layer


@dataclass(frozen=True, eq=False)
class _Pair:
    """A layer of both networks; `outputs` are the dense one's that stay."""

    model: nn.Module
    reference: nn.Module
    name: str
    calls: int
    outputs: Tensor | None

    @property
    def layer(self) -> nn.Linear | _ConvNd:
        found = self.model.get_submodule(self.name)
        assert isinstance(found, nn.Linear | _ConvNd)
        return found

    def rows(self, inputs: Any, samples: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """For each call X [rows, groups, features], the dense outputs Y [rows, outputs], and those of the layer."""
        found: list[tuple[list[Tensor], Tensor, Tensor]] = []
        wanted: list[Tensor] = []

        # What is drawn is copied at once: operations in place may follow.
        def see(x: Tensor, y: Tensor) -> None:
            places = draw(batched(self.layer, y), samples, generator)
            x, y = batched(self.layer, x), batched(self.layer, y)
            found.append((places, patches(self.layer, x, places), at(y, places)))

        def see_dense(_: Tensor, y: Tensor) -> None:
            wanted.append(self._staying(at(batched(self.layer, y), found[len(wanted)][0])))

        run_up_to(self.model, self.layer, self.calls, inputs, see)
        run_up_to(self.reference, self.reference.get_submodule(self.name), self.calls, inputs, see_dense)
        for (_, x, y), target in zip(found, wanted, strict=True):
            if target.shape != y.shape:
                raise SparsewoodError(
                    f"{self.name} has {y.shape[1]} outputs in the small network, and {target.shape[1]} in the dense "
                    "one stay. Pass the plan's `kept` of these two networks."
                )
            yield x, target, y

    def _staying(self, y: Tensor) -> Tensor:
        return y if self.outputs is None else y.index_select(1, self.outputs.to(y.device))


def _refit(pair: _Pair, data: Iterable[Any], samples: int, ridge: float, generator: torch.Generator) -> LayerError:
    layer = pair.layer
    equations = _Equations(layer)
    with untouched(pair.model), untouched(pair.reference):
        for inputs in model_inputs(data):
            for rows in pair.rows(inputs, samples, generator):
                equations.add(*rows)
    if not math.isfinite(equations.error):
        raise SparsewoodError(f"Outputs of {pair.name} are not finite on these data. Check the weights, and the data.")
    change, shift = equations.solved(ridge)
    weight = layer.weight.detach()
    bias = None if layer.bias is None else layer.bias.detach()
    new_weight = weight + change.reshape(weight.shape).to(weight)
    new_bias = None if bias is None else bias + shift.to(bias)
    moved = shift * 0 if bias is None or new_bias is None else new_bias.double() - bias.double()
    after = equations.error_with((new_weight.double() - weight.double()).reshape(change.shape), moved)
    if after <= equations.error:
        with torch.no_grad():
            layer.weight.copy_(new_weight)
            if layer.bias is not None and new_bias is not None:
                layer.bias.copy_(new_bias)
    else:
        after = equations.error
    scale = equations.variance or 1.0
    return LayerError(equations.error / scale, after / scale, equations.count)


class _Equations:
    """Sums from which the change D of a layer's weights follows that takes R = Y_dense - Y nearest to 0.

    sum |R - X D - d|^2 for each group of outputs: X [rows, groups, features], D [groups, outputs, features].
    """

    def __init__(self, layer: nn.Linear | _ConvNd) -> None:
        groups = getattr(layer, "groups", 1)
        outputs, features = layer.weight.shape[0] // groups, layer.weight[0].numel()
        empty = {"dtype": torch.float64, "device": layer.weight.device}
        self.with_bias = layer.bias is not None
        self.count = 0
        self.xx = torch.zeros(groups, features + 1, features + 1, **empty)
        self.xr = torch.zeros(groups, features + 1, outputs, **empty)
        self.y = torch.zeros(groups * outputs, **empty)
        self.yy = torch.zeros(groups * outputs, **empty)
        self.error = 0.0

    def add(self, x: Tensor, wanted: Tensor, got: Tensor) -> None:
        """Add rows, of which the last feature, the constant, is still missing."""
        x, wanted = x.double(), wanted.double()
        x = torch.cat([x, x.new_ones(*x.shape[:2], 1)], 2).transpose(0, 1)
        rest = wanted - got.double()
        self.xx += x.transpose(1, 2) @ x
        self.xr += x.transpose(1, 2) @ rest.reshape(len(rest), len(x), -1).transpose(0, 1)
        self.y += wanted.sum(0)
        self.yy += wanted.square().sum(0)
        self.error += float(rest.square().sum())
        self.count += len(rest)

    @property
    def variance(self) -> float:
        """sum |Y_dense - mean|^2."""
        return float((self.yy - self.y.square() / max(1, self.count)).clamp(min=0).sum())

    def solved(self, ridge: float) -> tuple[Tensor, Tensor]:
        """The change of the weights [groups, outputs, features], and of the bias [outputs]."""
        xx, xr = self.xx[:, :-1, :-1], self.xr[:, :-1]
        sums, rest = self.xx[:, :-1, -1:], self.xr[:, -1:]
        if self.with_bias:
            xx, xr = xx - sums @ sums.mT / self.count, xr - sums @ rest / self.count
        change = torch.stack([_solved(a, b, ridge) for a, b in zip(xx, xr, strict=True)])
        shift = (rest - sums.mT @ change) / self.count if self.with_bias else rest * 0
        return change.mT, shift.flatten()

    def error_with(self, change: Tensor, shift: Tensor) -> float:
        """sum |R|^2 once the weights and the bias have changed by so much."""
        whole = torch.cat([change.mT, shift.reshape(len(change), 1, -1)], 1)
        return max(0.0, self.error + float((whole * (self.xx @ whole - 2 * self.xr)).sum()))


def _solved(a: Tensor, b: Tensor, ridge: float) -> Tensor:
    """The d that minimises d' (a + ridge * mean(diagonal of a)) d - 2 d' b; the smallest, if there are several."""
    size = float(a.diagonal().mean()) if len(a) else 0.0
    if not size:
        return torch.zeros_like(b)
    a = a + ridge * size * torch.eye(len(a), dtype=a.dtype, device=a.device)
    factor, failed = torch.linalg.cholesky_ex(a)
    ends = factor.diagonal()
    if not failed and float(ends.min()) > 1e-6 * float(ends.max()):
        return torch.cholesky_solve(b, factor)
    return torch.linalg.pinv(a, rtol=1e-12, hermitian=True) @ b
