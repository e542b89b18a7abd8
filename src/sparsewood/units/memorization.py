"""UnitMem: how much more a unit responds to one example than to all others."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from sparsewood.errors import SparsewoodError
from sparsewood.inputs import to_model_device
from sparsewood.snapshot import untouched
from sparsewood.structure import Structure
from sparsewood.units.chosen import chosen_sites
from sparsewood.units.collecting import UnitStatistics
from sparsewood.units.images import Change, Images, Views
from sparsewood.units.kinds import ActivationMean, Extremes
from sparsewood.units.matrix import ActivationMatrix, MatrixWriter
from sparsewood.units.observing import Watch
from sparsewood.units.ratio import contrast
from sparsewood.units.seen import Seen
from sparsewood.units.sites import Site
from sparsewood.units.tracing import structure_of

__all__ = ["UnitMemorization", "unit_memorization"]

Center = Literal["mean", "median"]
Negative = Literal["error", "absolute", "skip"]


@dataclass(frozen=True, eq=False)
class UnitMemorization:
    """The UnitMem of every unit, by layer: `scores[layer]` is float64[units], in [0, 1].

    `image[layer]` int64[units] is the number, in the data, of the example that excites a unit most; `dead[layer]` says
    which units are 0 for all of them (their score is 0). `maximum`, `rest` and `second` are the mean activation for
    that example, the mean (or median) of those for all others, and the largest of these, which is for example
    `second_image`. A layer is the module whose weight makes the units, which are in the order of its outputs; units of
    it that are seen nowhere have NaN, and image -1.

    `at_sites` are the scores as they were measured, before they were put in the order of layers. `skipped` names
    layers that were left out, and why; `matrix` are the activations on disk, if they were asked for.
    """

    scores: Mapping[str, Tensor]
    image: Mapping[str, Tensor]
    dead: Mapping[str, Tensor]
    maximum: Mapping[str, Tensor] = field(repr=False)
    rest: Mapping[str, Tensor] = field(repr=False)
    second: Mapping[str, Tensor] = field(repr=False)
    second_image: Mapping[str, Tensor] = field(repr=False)
    examples: int
    augmentations: int
    statistics: UnitStatistics = field(repr=False)
    at_sites: Mapping[str, Tensor] = field(repr=False)
    skipped: Mapping[str, str] = field(default_factory=dict)
    matrix: ActivationMatrix | None = field(default=None, repr=False)

    @cached_property
    def outlier(self) -> dict[str, Tensor]:
        """(largest - second largest) / (largest + second largest) of each unit, by layer; 0 for dead units."""
        measured = self.outlier_at_sites
        return {name: self.statistics.of_layer(measured, layer) for name, layer in self.statistics.layers().items()}

    @property
    def outlier_at_sites(self) -> dict[str, Tensor]:
        """`outlier` as it was measured, before it was put in the order of layers."""
        extremes = self.statistics.sums[Extremes().kind]
        return {name: contrast(one[0], one[2]) for name, one in extremes.items()}

    def of_groups(self) -> dict[str, Tensor]:
        """The scores of the removable units, by group: float64[units], the mean over the sites of a unit."""
        return self.statistics.of_groups(self.at_sites)

    def __repr__(self) -> str:
        units = sum(len(one) for one in self.scores.values())
        return (
            f"UnitMemorization({units} units in {len(self.scores)} layers, {self.examples} examples x "
            f"{self.augmentations} augmentations)"
        )


def unit_memorization(
    model: nn.Module,
    images: Images,
    augment: Change | None = None,
    n_augmentations: int = 10,
    *,
    batch_size: int = 500,
    normalize: Callable[[Tensor], Tensor] | None = None,
    center: Center = "mean",
    negative: Negative = "error",
    layers: str | Sequence[str] | None = None,
    structure: Structure | None = None,
    activations: str | os.PathLike[str] | None = None,
    generator: torch.Generator | None = None,
    progress: Callable[[int], object] | None = None,
) -> UnitMemorization:
    """How strongly every unit of a network memorizes single examples.

    mu_j(x) is the activation of unit j for example x, the mean over places (all of a feature map, all tokens, all time
    steps) and over `n_augmentations` augmentations of x. With k the example that has the largest one,

        UnitMem(j) = (mu_j(x_k) - m_j) / (mu_j(x_k) + m_j),    m_j = the mean of mu_j(x_i) over i != k

    0 means that all examples excite the unit alike, 1 that one does and no other. A unit that is 0 for all examples has
    0, and is flagged as dead. The score does not change when a unit is scaled by a positive number, nor with the order
    of the data or the batch size.

    The model runs ceil(N A / batch_size) times for N examples and A augmentations, however many layers it has. What is
    kept are a few numbers for each unit, however many examples there are (unless `activations` are asked for, or
    center="median", which needs them all: they go to disk).

    Args:
        images: a `Part`, a tensor float[n, ...], or batches (with labels or without): pixels as `augment` takes them.
        augment: `augment(pixels, generator)` or `augment(pixels)`; None measures without augmentation, once.
        normalize: what makes inputs of augmented pixels. A `Part` brings its own.
        center: "median" takes the median of the other examples instead of their mean.
        negative: UnitMem is defined for activations >= 0, as behind a ReLU. "error" refuses layers with others,
            "absolute" takes the absolute values of mu_j(x), "skip" leaves such layers out.
        layers: names or patterns of the layers to look at, all by default.
        structure: of the model; without it the model is traced on a few of the images.
        activations: a new directory for mu_j(x_i) of every example; read it with `ActivationMatrix.open`.
        generator: for augmentations; without one from a generator seeded with 0.
        progress: is called with the number of inputs of each batch that is done.

    The model runs in eval mode and is left as it was. Raises `SparsewoodError` for fewer than two examples, negative
    activations, and an `augment` that changes the number of examples.

    Source: Wang et al. 2024, "Localizing Memorization in SSL Vision Encoders", https://arxiv.org/abs/2409.19069,
    equations 5 to 8.

    >>> net = nn.Sequential(nn.Linear(4, 3, bias=False), nn.ReLU(), nn.Linear(3, 1))
    >>> _ = net[0].weight.data.copy_(torch.tensor([[0.0, 0, 5, 0], [1, 1, 1, 1], [3, 1, 1, 1]]))
    >>> found = unit_memorization(net, torch.eye(4))
    >>> found.scores["0"], found.image["0"]
    (tensor([1.0000, 0.0000, 0.5000], dtype=torch.float64), tensor([2, 0, 0]))
    """
    _check(n_augmentations, batch_size, center, negative)
    generator = generator or torch.Generator().manual_seed(0)
    count = n_augmentations if augment is not None else 1
    views = Views(augment, count, batch_size, normalize, generator)
    with ExitStack() as stack:
        stack.enter_context(untouched(model))
        stack.enter_context(torch.no_grad())
        batches = views.batches(images)
        first = next(batches, None)
        if first is None:
            raise _too_few(0)
        if structure is None:
            structure = structure_of(model, first[1][:2])
        sites = chosen_sites(structure, layers)
        writer = None
        if activations is not None or center == "median":
            where = activations or stack.enter_context(tempfile.TemporaryDirectory(prefix="sparsewood-activations-"))
            writer = MatrixWriter(where)
        tally = _Tally(count, negative, writer)
        watch = stack.enter_context(Watch(model, sites))
        for numbers, inputs in _chained(first, batches):
            watch.run(to_model_device(inputs, model), len(inputs), tally.see, numbers=numbers)
            tally.drop(watch.skipped)
            tally.settle(numbers)
            if progress is not None:
                progress(len(inputs))
        found = tally.statistics(structure, sites, {**watch.skipped, **tally.skipped})
        matrix = None if writer is None else writer.close()
        rest = _rest(found, matrix, center)
    return _result(found, rest, count, matrix if activations is not None else None)


def _chained(first: tuple[Tensor, Tensor], rest: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    yield first
    yield from rest


def _check(n_augmentations: int, batch_size: int, center: str, negative: str) -> None:
    for name, value in (("n_augmentations", n_augmentations), ("batch_size", batch_size)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise SparsewoodError(f"unit_memorization: {name} must be a whole number >= 1. Got {value!r}.")
    for name, value, known in (("center", center, get_args(Center)), ("negative", negative, get_args(Negative))):
        if value not in known:
            raise SparsewoodError(f"unit_memorization: {name} must be one of {', '.join(known)}. Got {value!r}.")


def _too_few(examples: int) -> SparsewoodError:
    return SparsewoodError(
        f"UnitMem compares one example with the others: at least two are needed. Got {examples}. "
        "A generator that was used up before is empty."
    )


# ---------------------------------------------------------------- the pass


class _Tally:
    """Adds up the activations of each example over its augmentations, and keeps what is needed of the means.

    Of an example of which not all augmentations were seen there is an unfinished sum; there are at most as many of
    those as two batches hold.
    """

    def __init__(self, count: int, negative: Negative, writer: MatrixWriter | None) -> None:
        self.count, self.negative, self.writer = count, negative, writer
        self.sums: dict[str, Tensor] = {}
        self.seen = torch.zeros(0, dtype=torch.int64)  # how often the unfinished examples were seen
        self.first = 0  # the number of the first of them
        self.kinds = (ActivationMean(), Extremes())
        self.found: dict[str, dict[str, Tensor]] = {one.kind: {} for one in self.kinds}
        self.skipped: dict[str, str] = {}

    def see(self, seen: Seen) -> None:
        name = seen.site.name
        if name in self.skipped:
            return
        places = seen.index - self.first
        size = int(places.max()) + 1
        sums = self.sums.get(name)
        if sums is None:
            sums = seen.mean.new_zeros(0, seen.site.columns)
        if len(sums) < size:
            sums = torch.cat([sums, sums.new_zeros(size - len(sums), sums.shape[1])])
        self.sums[name] = sums.index_add_(0, places.to(sums.device), seen.mean)

    def drop(self, names: Iterable[str]) -> None:
        """Forget sites of which not all examples are seen."""
        for name in names:
            self.sums.pop(name, None)
            for of in self.found.values():
                of.pop(name, None)

    def settle(self, numbers: Tensor) -> None:
        """Count a batch, and have done with the examples that are finished."""
        size = int(numbers.max()) + 1 - self.first
        if len(self.seen) < size:
            self.seen = torch.cat([self.seen, self.seen.new_zeros(size - len(self.seen))])
        self.seen.index_add_(0, numbers - self.first, torch.ones_like(numbers))
        done = int((self.seen == self.count).long().cumprod(0).sum())
        if not done:
            return
        index = torch.arange(self.first, self.first + done)
        finished = {name: self._checked(name, sums[:done] / self.count) for name, sums in self.sums.items()}
        finished = {name: values for name, values in finished.items() if values is not None}
        for name, values in finished.items():
            self._add(name, values, index)
        if self.writer is not None:
            self.writer.add(finished)
        self.sums = {name: sums[done:] for name, sums in self.sums.items() if name in finished}
        self.seen, self.first = self.seen[done:], self.first + done

    def _checked(self, name: str, values: Tensor) -> Tensor | None:
        """Means >= 0, or None if the site is left out."""
        low = float(values.min())
        if not bool(torch.isfinite(values).all()):
            raise SparsewoodError(
                f"UnitMem: units at {name!r} have activations that are NaN or infinite. Look for such weights or "
                "inputs."
            )
        if low >= 0:
            return values
        if self.negative == "absolute":
            return values.abs()
        if self.negative == "skip" and (self.writer is None or not self.first):  # rows on disk have all layers
            self.skipped[name] = f"its activations are negative (down to {low:.3g})"
            for of in self.found.values():
                of.pop(name, None)
            return None
        raise SparsewoodError(
            f"UnitMem is defined for activations >= 0, but units at {name!r} have means down to {low:.3g}: no ReLU is "
            "between. Pass negative='absolute' to take absolute values, negative='skip' to leave such layers out, or "
            "layers=[...] to name those that you mean."
        )

    def _add(self, name: str, values: Tensor, index: Tensor) -> None:
        mean, extremes = self.kinds
        for kind, part in ((mean, values.sum(0)), (extremes, extremes.of_numbers(values, index))):
            of = self.found[kind.kind]
            of[name] = kind.join(of[name], part) if name in of else part

    def statistics(self, structure: Structure, sites: Sequence[Site], skipped: Mapping[str, str]) -> UnitStatistics:
        assert not len(self.seen), "an example is unfinished"
        if self.first < 2:
            raise _too_few(self.first)
        by_name = {site.name: site for site in sites}
        kinds = {one.kind: one for one in self.kinds}
        sums = {kind: {n: of[n].cpu() for n in by_name if n in of} for kind, of in self.found.items()}
        if not sums[self.kinds[0].kind]:
            why = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:4])
            raise SparsewoodError(f"No layer is left to measure UnitMem of. {why}.")
        return UnitStatistics(sums, self.first, kinds, structure, by_name, skipped)


# ---------------------------------------------------------------- the scores


def _rest(found: UnitStatistics, matrix: ActivationMatrix | None, center: Center) -> dict[str, Tensor]:
    """For every site, the mean or median of the examples other than the one with the largest activation."""
    sums, extremes = found.sums[ActivationMean().kind], found.sums[Extremes().kind]
    if center == "mean":
        return {name: ((sums[name] - extremes[name][0]) / (found.samples - 1)).clamp_min(0) for name in sums}
    assert matrix is not None
    return {name: _median_of_others(matrix.layer(name), extremes[name][1].long()) for name in sums}


def _median_of_others(values: Tensor, left_out: Tensor) -> Tensor:
    """The median of each column without one row; of an even number the mean of the middle two."""
    stays = torch.ones_like(values, dtype=torch.bool).scatter_(0, left_out.unsqueeze(0), False)
    others = values.double().T[stays.T].reshape(values.shape[1], len(values) - 1)
    ordered = others.sort(1).values
    last = others.shape[1] - 1
    return (ordered[:, last // 2] + ordered[:, (last + 1) // 2]) / 2


def _result(
    found: UnitStatistics, rest: Mapping[str, Tensor], count: int, matrix: ActivationMatrix | None
) -> UnitMemorization:
    extremes = found.sums[Extremes().kind]
    scores = {name: contrast(extremes[name][0], rest[name]) for name in extremes}
    rows = {
        "scores": scores,
        "dead": {name: (one[0] == 0).double() for name, one in extremes.items()},
        "maximum": {name: one[0] for name, one in extremes.items()},
        "rest": rest,
        "second": {name: one[2] for name, one in extremes.items()},
    }
    layers = found.layers()
    by_layer = {what: {name: found.of_layer(of, one) for name, one in layers.items()} for what, of in rows.items()}
    dead = {name: one == 1 for name, one in by_layer.pop("dead").items()}
    largest = {name: one[0] for name, one in extremes.items()}
    image, second_image = (
        {name: found.strongest(of, largest, layer) for name, layer in layers.items()}
        for of in ({name: one[row] for name, one in extremes.items()} for row in (1, 3))
    )
    return UnitMemorization(
        **by_layer, image=image, dead=dead, second_image=second_image, examples=found.samples, augmentations=count,
        statistics=found, at_sites=scores, skipped=found.skipped, matrix=matrix,
    )  # fmt: skip
