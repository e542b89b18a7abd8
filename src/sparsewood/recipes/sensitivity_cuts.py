"""Which units go when one layer is pruned alone, for a sensitivity analysis."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsewood import checkpoint
from sparsewood.criteria import Criterion
from sparsewood.errors import SparsewoodError
from sparsewood.granularity import NM, Coupled, Granularity, Units
from sparsewood.inputs import Inputs
from sparsewood.parameters import Entry, Selectors, choose, classifier, entries, is_weight
from sparsewood.pruning import prune, score
from sparsewood.seeds import generator_for
from sparsewood.shrinking.lifting import element_scores_of_units
from sparsewood.shrinking.unit_masks import Measured, prune_units, units_left
from sparsewood.statistics import Loss, collect
from sparsewood.structure import Group, Structure, trace
from sparsewood.types import Count, Masks, Sparsity, Statistics
from sparsewood.unit_criteria.base import UnitCriterion

__all__ = ["Cut", "How", "cuts_of", "labelled"]


@dataclass(frozen=True)
class Cut:
    """One layer, cut in one way: `masks(amount)` are the masks, and which share of the units they remove."""

    parameter: str
    label: str
    masks: Callable[[float], tuple[Masks, float]] = field(repr=False)


class How:
    """How units are chosen; nothing of it changes the model."""

    def __init__(self, model: nn.Module, criterion: Any, scoring: Any, loss: Loss, seed: int) -> None:
        if not isinstance(criterion, Criterion | UnitCriterion):
            raise SparsewoodError(f"criterion must be a criterion, for example Magnitude(). Got {criterion!r:.80}.")
        self.model, self.criterion, self.scoring, self.loss, self.seed = model, criterion, scoring, loss, seed
        if isinstance(criterion, Criterion) and criterion.needs and scoring is None:
            raise SparsewoodError(
                f"{criterion} needs data: pass scoring=..., batches to choose by. They should not be those that the "
                "network is evaluated on."
            )
        generator_for(seed)  # refuses what is no seed
        self.weights = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
        self.fingerprint = self.digest()

    def digest(self) -> str:
        """Of the weights as they are now, and of what else decides which units go."""
        values = {"criterion": repr(self.criterion), "seed": self.seed}
        return checkpoint.digest(self.weights, values)[:16]

    def chosen(self, layers: Selectors | None) -> list[Entry]:
        """The parameters that are meant."""
        default = self.criterion.covers if isinstance(self.criterion, Criterion) else is_weight
        return choose(self.model, include=layers, protect_classifier=False, default=default)

    def generator(self, *labels: str) -> torch.Generator:
        """For one purpose, always the same."""
        return generator_for(self.seed, *labels)


def cuts_of(
    how: How, granularities: Mapping[str, Granularity], layers: Selectors | None, example_inputs: Inputs
) -> list[Cut]:
    """What is to be done, layer by layer. All that can be refused is refused here, before any evaluation."""
    chosen = how.chosen(layers)
    last = classifier(entries(how.model)) if layers is None else None
    statistics = _statistics(how, chosen) if any(not isinstance(g, Coupled) for g in granularities.values()) else None
    found: list[Cut] = []
    for label, granularity in granularities.items():
        if isinstance(granularity, Coupled):
            found += _coupled(how, chosen, label, example_inputs)
        else:
            assert statistics is not None
            outputs = isinstance(granularity, Units) and tuple(granularity.axes) == (0,)
            meant = [e for e in chosen if not (outputs and last is not None and e.name == last.name)]
            found += _tiled(how, meant, label, granularity, statistics)
    if not found:
        raise SparsewoodError(
            f"There is nothing to analyse in {type(how.model).__name__}: no layer can be cut by "
            f"{', '.join(granularities)}. Take Element(), or name layers=[...]."
        )
    order = {entry.name: number for number, entry in enumerate(chosen)}
    return sorted(found, key=lambda cut: order[cut.parameter])


def _statistics(how: How, chosen: Sequence[Entry]) -> Statistics:
    criterion = how.criterion
    if not isinstance(criterion, Criterion):
        raise SparsewoodError(f"{criterion} scores units of the network's structure. Pass granularities=[Coupled()].")
    if not criterion.needs:
        return Statistics({}, 0)
    return collect(how.model, how.scoring, list(criterion.needs), how.loss, names=[entry.name for entry in chosen])


def _tiled(
    how: How, chosen: Sequence[Entry], label: str, granularity: Granularity, statistics: Statistics
) -> list[Cut]:
    """Units inside one parameter."""
    if isinstance(granularity, NM):
        raise SparsewoodError(f"{label} removes a fixed share, so that there are no amounts to compare. Leave it out.")
    criterion = how.criterion
    assert isinstance(criterion, Criterion)

    def cut(entry: Entry) -> Cut | None:
        given: dict[str, Any] = {"granularity": granularity, "include": [entry.name], "statistics": statistics}
        scores = score(how.model, criterion, generator=how.generator(entry.name, label), **given)
        units = scores[entry.name].numel()
        if units < 2:  # of which one stays
            return None

        def masks(amount: float) -> tuple[Masks, float]:
            goes = Sparsity(1.0) if amount == 1 else Count(min(round(amount * units), units - 1))
            found = prune(how.model, criterion, goes, generator=how.generator(entry.name, label), **given)
            return found, found.sparsity

        return Cut(entry.name, label, masks)

    return [found for found in map(cut, chosen) if found is not None]


def _coupled(how: How, chosen: Sequence[Entry], label: str, example_inputs: Inputs) -> list[Cut]:
    """Units of the structure, for every weight that makes some."""
    if example_inputs is None:
        raise SparsewoodError("Coupled() asks for the structure of the network: pass example_inputs=..., one batch.")
    structure = trace(how.model, example_inputs)
    measured = Measured(_unit_scores(how, structure))

    def cut(entry: Entry, groups: Sequence[Group]) -> Cut:
        units = sum(group.units for group in groups)

        def masks(amount: float) -> tuple[Masks, float]:
            goes = Count(min(round(amount * units), units - len(groups)))  # one of each stays
            found = prune_units(how.model, None, measured, goes, structure=structure, include=[entry.name])
            left = units_left(structure, found)
            gone = units - sum(int(np.count_nonzero(left[group.name])) for group in groups)
            return found, gone / units

        return Cut(entry.name, label, masks)

    made = {entry.name: [g for g in structure.prunable if _makes(entry, g, measured.scores)] for entry in chosen}
    return [cut(entry, made[entry.name]) for entry in chosen if made[entry.name]]


def _makes(entry: Entry, group: Group, scores: Mapping[str, Tensor]) -> bool:
    names = (entry.name, *entry.aliases)
    return group.name in scores and any(one.param in names and one.role != "in" for one in group.slices)


def _unit_scores(how: How, structure: Structure) -> Mapping[str, Tensor]:
    generator = how.generator("coupled")
    if isinstance(how.criterion, UnitCriterion):
        return how.criterion(how.model, structure, data=how.scoring, loss=how.loss, generator=generator)
    return element_scores_of_units(
        how.model, structure, how.criterion, data=how.scoring, loss=how.loss, example_inputs=None, statistics=None,
        generator=generator, reduction=None, part="group",
    )  # fmt: skip


def labelled(granularities: Sequence[Granularity]) -> dict[str, Granularity]:
    """By what rows call them: the name of the class, and what of it is not the default."""
    given = [granularities] if isinstance(granularities, Granularity) else list(granularities)
    for one in given:
        if not isinstance(one, Granularity):
            raise SparsewoodError(f"granularities must be such as Element() or Filter(). Got {one!r:.80}.")
    found = {_label(one): one for one in given}
    if not given or len(found) != len(given):
        raise SparsewoodError(f"granularities must be at least one, each once. Got {given}.")
    return found


def _label(granularity: Granularity) -> str:
    name = type(granularity).__name__
    usual = is_dataclass(granularity) and all(
        one.default is not MISSING and getattr(granularity, one.name) == one.default for one in fields(granularity)
    )
    return name if usual or not is_dataclass(granularity) else repr(granularity)
