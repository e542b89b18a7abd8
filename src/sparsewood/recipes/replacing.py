"""Units replaced by their means: as a module that does it while the network runs, and folded into biases."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsewood.batches import split_batch
from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.masks import apply_masks
from sparsewood.parameters import entries
from sparsewood.shrinking.copies import duplicate
from sparsewood.shrinking.folding import fold_means
from sparsewood.structure import Structure
from sparsewood.types import Masks
from sparsewood.units import ActivationMean, UnitStatistics, collect_units
from sparsewood.units.sites import Site

__all__ = ["MeanReplacer", "replacing_means", "with_new_biases", "without_units"]


class MeanReplacer(nn.Module):
    """Replaces chosen units, along one axis, by their means over the calibration data; everything else passes through.

    The means are those of the data set, never of the batch, so what comes out does not depend on the batch.

    Args:
        means: float[units], the mean of each unit over examples and places.
        axis: the axis along which units lie.

    >>> replace = MeanReplacer(torch.tensor([1.0, 2.0]), axis=1)
    >>> replace.set_active_units([1])
    >>> replace(torch.zeros(1, 2))
    tensor([[0., 2.]])
    """

    means: Tensor
    active: Tensor

    def __init__(self, means: Tensor, axis: int = 1) -> None:
        super().__init__()
        if means.ndim != 1 or not bool(torch.isfinite(means).all()):
            raise SparsewoodError(f"MeanReplacer takes one finite mean for each unit. Got shape {tuple(means.shape)}.")
        self.axis = axis
        self.register_buffer("means", means.detach().clone())
        self.register_buffer("active", torch.zeros(len(means), dtype=torch.bool))

    def set_active_units(self, units: Sequence[int]) -> None:
        """The units that are replaced from now on. Raises `SparsewoodError` for none, and for numbers out of range."""
        count = len(self.means)
        if isinstance(units, str) or not units or not all(type(one) is int and 0 <= one < count for one in units):
            raise SparsewoodError(
                f"set_active_units takes numbers of units from 0 to {count - 1}, at least one. Got {units!r}."
            )
        self.active.zero_()
        self.active[list(set(units))] = True

    def forward(self, x: Tensor, *, is_replacing: bool = True) -> Tensor:
        if not is_replacing:
            return x
        if x.shape[self.axis] != len(self.means):
            raise SparsewoodError(
                f"MeanReplacer has {len(self.means)} units along axis {self.axis}. Got shape {tuple(x.shape)}."
            )
        shape = [1] * x.ndim
        shape[self.axis] = -1
        return torch.where(self.active.view(shape), self.means.to(x.dtype).view(shape), x)


@contextmanager
def replacing_means(
    model: nn.Module, structure: Structure, data: Iterable[Any], removed: Mapping[str, Sequence[int]]
) -> Iterator[UnitStatistics]:
    """Inside, the units in `removed` are their means over `data`, wherever they are seen; `removed` is by group.

    Nothing of the model changes; it is what removing them with bias propagation comes close to. A module that is called
    several times in one forward replaces them at the calls at which they are seen.
    Raises `UnknownName` for groups that are seen nowhere, and `SparsewoodError` for units that a group does not have.

    >>> from sparsewood import trace
    >>> net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    >>> _ = [nn.init.ones_(p) for p in net.parameters()]
    >>> x = torch.tensor([[1.0], [3.0]])
    >>> with replacing_means(net, trace(net, x), [x], {"0": [1]}):
    ...     net(x).flatten().tolist()
    [3.0, 5.0]
    """
    found = collect_units(model, data, [ActivationMean()], structure=structure)
    numbers = {group.name: number for number, group in enumerate(structure.groups)}
    with ExitStack() as stack:
        for name, units in removed.items():
            seen = [site for site in found.sites.values() if name in numbers and len(site.of_group(numbers[name]))]
            if not seen:
                raise UnknownName.among("group whose units are seen", name, [g.name for g in structure.prunable])
            count = structure.groups[numbers[name]].units
            if not all(0 <= unit < count for unit in units):
                raise SparsewoodError(f"Group {name!r} has units 0 to {count - 1}. Got {list(units)}.")
            for site in seen:
                means = found.at(ActivationMean(), site.name) / found.samples
                _replace_at(model, site, _replacer(site, numbers[name], means, units), stack)
        yield found


def _replacer(site: Site, group: int, means: Tensor, units: Sequence[int]) -> MeanReplacer:
    """What replaces units of one group at a site, position by position."""
    gone = np.isin(site.units, list(units)) & (site.groups == group)
    replace = MeanReplacer(means[torch.from_numpy(np.maximum(site.owner, 0))], site.axis)
    replace.active.copy_(torch.from_numpy(gone[site.owner] & (site.owner >= 0)))
    return replace


def _replace_at(model: nn.Module, site: Site, replace: MeanReplacer, stack: ExitStack) -> None:
    """Replace at the site's call of its module, in every forward of the model, until the stack is closed."""
    module, calls = model.get_submodule(site.module), [-1]

    def begin(*_: object) -> None:
        calls[0] = -1

    def enter(_: nn.Module, inputs: tuple[Any, ...]) -> Any:
        calls[0] += 1
        return changed(inputs) if site.at == "input" and calls[0] == site.call else None

    def leave(_: nn.Module, __: Any, output: Any) -> Any:
        return changed(output) if site.at == "output" and calls[0] == site.call else None

    def changed(values: Any) -> Any:
        if isinstance(values, Tensor):
            return replace.to(values.device)(values)
        found = list(values)
        found[site.index] = replace.to(found[site.index].device)(found[site.index])
        return found if isinstance(values, list) else tuple(found)

    for handle in (
        model.register_forward_pre_hook(begin),
        module.register_forward_pre_hook(enter),
        module.register_forward_hook(leave),
    ):
        stack.callback(handle.remove)


def without_units(
    model: nn.Module,
    structure: Structure,
    keep: Mapping[str, np.ndarray],
    data: Iterable[Any] | None = None,
) -> nn.Module:
    """A copy whose units that `keep` does not keep are 0; with `data`, their readers' biases take over their means.

    `keep` is bool[units] for groups by name; `data` are batches. The means are those over the data of the model as it
    is given. What the copy computes is what is left when the units are removed.

    >>> from sparsewood import trace
    >>> net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> copied = without_units(net, trace(net, torch.ones(1, 1)), {"0": np.array([True, False])})
    >>> copied[0].weight[1].item()
    0.0
    """
    copied = duplicate(model, double=False)
    if data is not None:
        fold_means(copied, structure, keep, (split_batch(batch, number)[0] for number, batch in enumerate(data)))
    apply_masks(copied, with_new_biases(copied, structure, structure.to_masks(keep)))
    return copied


def with_new_biases(model: nn.Module, structure: Structure, masks: Masks) -> Masks:
    """The masks, and masks for biases that layers got after the structure was traced: 0 for units that are masked."""
    found = dict(masks)
    for entry in entries(model):
        weight = f"{entry.module_name}.weight".removeprefix(".")
        if entry.leaf != "bias" or entry.name in structure.shapes or weight not in masks:
            continue
        axis = 1 if isinstance(entry.module, nn.modules.conv._ConvTransposeNd) else 0
        made = masks[weight].movedim(axis, 0).flatten(1).any(1)
        if made.shape == entry.parameter.shape:
            found[entry.name] = made
    return Masks(found)
