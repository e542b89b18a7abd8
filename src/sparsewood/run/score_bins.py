"""How the scores of a method are distributed, and which of them went: counted when a cell is carried out."""

from __future__ import annotations

from dataclasses import asdict
from itertools import islice
from typing import Any

from torch import nn

from sparsewood.criteria import Criterion
from sparsewood.granularity import Element
from sparsewood.pruning import score
from sparsewood.report.histograms import histogram
from sparsewood.run.bench import Bench
from sparsewood.run.recipe import Variant
from sparsewood.seeds import generator_for
from sparsewood.types import Masks

__all__ = ["score_bins"]

BINS = 40


def score_bins(bench: Bench, variant: Variant, model: nn.Module, masks: Masks) -> list[dict[str, Any]]:
    """Histograms of the scores of each layer, and of all ("" as layer), with what was kept and removed.

    `model` has the weights that were scored. Only single weights that were chosen once by their scores have any: where
    scores were taken again in between, or masks changed in a training, there is no threshold to show.
    """
    pruning, criterion = variant.pruning, variant.pruning.criterion
    once = variant.source is None and not variant.in_training and pruning.rounds == pruning.iterations == 1
    if not once or not isinstance(pruning.granularity, Element) or not isinstance(criterion, Criterion):
        return []
    data = islice(bench.scoring(1, shared=False), pruning.score_batches) if pruning.needs else None
    scores = score(
        model,
        criterion,
        data=None if data is None else list(data),
        loss=nn.functional.cross_entropy if pruning.needs else None,
        include=list(masks),
        generator=generator_for(bench.seed, "prune", 1, 0),
    )
    kept = {name: masks[name].cpu() for name in scores}
    found = []
    for layer in ("", *scores):
        of, mask = (scores, kept) if not layer else ({layer: scores[layer]}, {layer: kept[layer]})
        logarithm = all(bool((one >= 0).all()) for one in of.values())
        found.append(asdict(histogram(of, mask, BINS, logarithm=logarithm, layer=layer)))
    return found
