"""All figures of a study by name, drawn one at a time, and written to a directory."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsewood.errors import OutputError
from sparsewood.files import writable_directory
from sparsewood.plot.study_accuracy import FIELDS, accuracy_curves, can_draw
from sparsewood.plot.study_masks import layer_profile, mask_overlap, score_histogram, unit_maps
from sparsewood.plot.study_network import network
from sparsewood.plot.study_training import memorization, memorization_violins, sensitivity_curves, training_curves
from sparsewood.report.plots import new_figure, save_figure
from sparsewood.report.study import Row, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["figures", "left_out", "write_figures"]

logger = logging.getLogger(__name__)

MOST_METHODS = 8  # with figures of their own, of each problem
MOST_PANELS = 12
MOST_VIOLINS = 4  # layers

Draw = Callable[[], "Figure"]


@dataclass
class _Sheet:
    """What is drawn, by name, and in words what is not."""

    draw: dict[str, Draw] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def add(self, words: Sequence[str], draw: Draw) -> None:
        name = "-".join(filter(None, map(_slug, words)))
        number, found = 2, name
        while found in self.draw:
            found, number = f"{name}-{number}", number + 1
        self.draw[found] = draw

    def first(self, items: Sequence[Any], most: int, what: str) -> Sequence[Any]:
        """At most so many; of the others it is said that they are left out."""
        if len(items) > most:
            self.left_out.append(f"{what}: the first {most} of {len(items)} are drawn")
        return items[:most]

    def middle(self, items: Iterable[Any], what: str) -> list[Any]:
        """Those at the amount in the middle; of the other amounts it is said that they are left out."""
        given = list(items)
        amounts = sorted({item.amount for item in given})
        chosen = amounts[len(amounts) // 2] if amounts else 0.0
        others = [f"{amount:g}" for amount in amounts if amount != chosen]
        if others:
            self.left_out.append(f"{what}: compression {', '.join(others)}; drawn is {chosen:g}")
        return [item for item in given if item.amount == chosen]


def figures(study: Study) -> dict[str, Draw]:
    """Every figure of a study by file name (without an ending): call what is there to draw it.

    There is one for each problem and kind: accuracy-compression-PROBLEM, and so on over what was measured;
    overlap-methods, overlap-seeds, layers and training; for each method besides scores, units and network, all at the
    amount in the middle (of an even number of amounts, the larger of the two). What is left out, `left_out` says.

    >>> figures(Study("empty"))
    {}
    """
    return _plan(study).draw


def left_out(study: Study) -> tuple[str, ...]:
    """What `figures` does not draw though the study has it, in words.

    >>> left_out(Study("empty"))
    ()
    """
    return tuple(_plan(study).left_out)


def write_figures(
    study: Study, directory: str | os.PathLike[str], formats: Sequence[str] = ("png", "svg")
) -> list[Path]:
    """Draw and write every figure of a study, one after the other, each in every format; the files written.

    The directory is made if it is not there. What is left out is logged. Raises `OutputError` for a format that is none
    of pictures, or a place that cannot be written to, and `SparsewoodError` if matplotlib is missing.
    """
    known = new_figure().canvas.get_supported_filetypes()
    wrong = [ending for ending in formats if ending not in known]
    if wrong or not formats:
        raise OutputError(f"formats must be some of {', '.join(sorted(known))}. Got {', '.join(wrong) or 'none'}.")
    plan, place, written = _plan(study), Path(directory), list[Path]()
    writable_directory(place)
    for name, draw in plan.draw.items():
        figure = draw()
        for ending in formats:
            written.append(place / f"{name}.{ending}")
            save_figure(figure, written[-1])
    for words in plan.left_out:
        logger.info("No figure of %s", words)
    return written


# ---------------------------------------------------------------- what there is


def _plan(study: Study) -> _Sheet:
    sheet = _Sheet()
    for problem in dict.fromkeys(row.problem for row in study.rows):
        _plan_accuracy(sheet, [row for row in study.rows if row.problem == problem], problem)
    records = (study.overlaps, study.layers, study.curves, study.histograms, study.unit_maps, study.networks)
    for problem in dict.fromkeys(one.problem for many in records for one in many):
        _plan_masks(sheet, study, problem)
        _plan_methods(sheet, study, problem)
        _plan_training(sheet, study, problem)
    for source in dict.fromkeys(one.source for one in study.sensitivity):
        curves = [one for one in study.sensitivity if one.source == source]
        sheet.add(("sensitivity", source), partial(sensitivity_curves, curves))
    for one in study.memorization:
        sheet.add(("memorization", one.source), partial(memorization, one))
        what = f"activations of units, {one.source}, by layer"
        for layer in sheet.first([name for name, units in one.activations.items() if units], MOST_VIOLINS, what):
            sheet.add(("activations", one.source, layer), partial(memorization_violins, one, layer))
    return sheet


def _plan_accuracy(sheet: _Sheet, rows: Sequence[Row], problem: str) -> None:
    for across in FIELDS:
        if can_draw(rows, across):
            sheet.add(("accuracy", across, problem), partial(accuracy_curves, rows, across=across))


def _plan_masks(sheet: _Sheet, study: Study, problem: str) -> None:
    for between in ("methods", "seeds"):
        every = [one for one in study.overlaps if (one.problem, one.between) == (problem, between)]
        what = f"overlap between {between}, {problem}"
        if every:
            chosen = sheet.first(sheet.middle(every, what), MOST_PANELS, what)
            sheet.add(("overlap", between, problem), partial(mask_overlap, chosen))
    layers = [one for one in study.layers if one.problem == problem]
    if layers:
        chosen = sheet.middle(layers, f"sparsity of layers, {problem}")
        sheet.add(("layers", problem), partial(layer_profile, chosen))


def _plan_methods(sheet: _Sheet, study: Study, problem: str) -> None:
    """Figures of one method each, at the amount in the middle."""
    kinds = (("scores", study.histograms), ("units", study.unit_maps), ("network", study.networks))
    for kind, records in kinds:
        every: list[Any] = [one for one in records if one.problem == problem]
        if not every:
            continue
        chosen = sheet.middle(every, f"{kind}, {problem}")
        methods = list(dict.fromkeys(one.method for one in chosen))
        for method in sheet.first(methods, MOST_METHODS, f"{kind} by method, {problem}"):
            own = [one for one in chosen if one.method == method]
            if kind == "network":
                sheet.add((kind, problem, method), partial(network, own[0]))
            else:
                draw = score_histogram if kind == "scores" else unit_maps
                shown = (
                    own if kind == "units" else sheet.first(own, MOST_PANELS, f"scores by layer, {problem}, {method}")
                )
                sheet.add((kind, problem, method), partial(draw, shown))


def _plan_training(sheet: _Sheet, study: Study, problem: str) -> None:
    """The trainings of one seed: a dense one, and those of each method at the amount in the middle."""
    every = [one for one in study.curves if one.problem == problem]
    if not every:
        return
    seeds = list(dict.fromkeys(one.seed for one in every))
    if len(seeds) > 1:
        sheet.left_out.append(f"trainings, {problem}: seeds {', '.join(map(str, seeds[1:]))}; drawn is {seeds[0]}")
    own = [one for one in every if one.seed == seeds[0]]
    dense = [one for one in own if one.stage == "dense"][:1]  # methods have it in common
    after = sheet.middle([one for one in own if one.stage != "dense"], f"trainings, {problem}")
    chosen = sheet.first([*dense, *after], MOST_PANELS, f"trainings, {problem}")
    sheet.add(("training", problem), partial(training_curves, chosen))


def _slug(words: str) -> str:
    """Letters that every file system takes.

    >>> _slug("digits, small_conv"), _slug("Layer-wise (0.5)")
    ('digits-small_conv', 'layer-wise-0.5')
    """
    return re.sub(r"[^a-z0-9_.]+", "-", words.lower()).strip("-.")[:60]
