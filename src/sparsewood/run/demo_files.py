"""What a demo run writes: results.csv, params.json, metrics.json, masks_summary.csv, curve.png."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from sparsewood.files import write_atomically
from sparsewood.report.plots import compression_curves, save_figure
from sparsewood.report.rows import Order, Point, to_csv
from sparsewood.run.demo import CHANNELS, HIDDEN, LAYERS_FILE, MODEL, MOMENTUM, STRATEGIES, Outcome, effective
from sparsewood.run.provenance import machine, versions
from sparsewood.run.settings import DemoSettings

__all__ = ["metrics", "parameters", "write_all"]

DEFINITIONS = {
    "size, size_nz": "all parameters of the model; those that are not zero after fine-tuning",
    "real_compression": "size / size_nz",
    "flops, flops_nz": "multiply-adds of one example, counted once for each product; those with a non-zero weight",
    "speedup": "flops / flops_nz, theoretical",
    "acc1, acc5": "share of examples whose class is the first, among the first five; pre = before, post = after "
    "fine-tuning",
    "compression 1": "the control: the dense network, fine-tuned as long as the others, the same for every strategy",
    "epochs, completed_epochs": "of fine-tuning",
    "std": "sample standard deviation over seeds (n - 1)",
    "path": "the file in this directory with the layers of each network",
}


def write_all(
    directory: Path, settings: DemoSettings, outcome: Outcome, points: Sequence[Point], orders: Sequence[Order]
) -> list[Path]:
    """Write every file, each complete or not at all; the paths written."""
    texts = {
        "results.csv": to_csv(outcome.results),
        LAYERS_FILE: to_csv(outcome.layers),
        "params.json": _json(parameters(settings, outcome.sizes)),
        "metrics.json": _json(metrics(settings, points, orders)),
    }
    for name, text in texts.items():
        write_atomically(directory / name, lambda path, text=text: path.write_text(text, encoding="ascii"))
    save_figure(compression_curves(points, title(settings)), directory / "curve.png")
    return [directory / name for name in (*texts, "curve.png")]


def title(settings: DemoSettings) -> str:
    """What table and plot are headed with."""
    dry = " (DRY RUN: one batch, the numbers mean nothing)" if settings.dry_run else ""
    return f"digits, {MODEL}: {settings.evaluate_on} accuracy{dry}"


def parameters(settings: DemoSettings, sizes: Mapping[str, int]) -> dict[str, object]:
    """All that was in effect: settings, model, data, optimizer, versions, machine, and what the columns mean."""
    return {
        "settings": asdict(effective(settings)),
        "dataset": {"name": "digits", "source": "scikit-learn load_digits", "examples": dict(sizes)},
        "model": {"name": MODEL, "channels": CHANNELS, "hidden": HIDDEN, "classifier pruned": False},
        "optimizer": {
            "name": "SGD",
            "momentum": MOMENTUM,
            "nesterov": True,
            "schedule": "cosine to 0 in each training",
        },
        "strategies": {s.name: {"criterion": repr(s.criterion), "scope": repr(s.scope)} for s in STRATEGIES},
        "versions": versions(),
        "machine": machine(),
        "definitions": DEFINITIONS,
    }


def metrics(settings: DemoSettings, points: Sequence[Point], orders: Sequence[Order]) -> dict[str, object]:
    """Means and deviations over seeds, and whether the expected order held."""
    return {
        "evaluated_on": settings.evaluate_on,
        "dry_run": settings.dry_run,
        "points": [asdict(point) for point in points],
        "order": [asdict(order) for order in orders],
    }


def _json(value: object) -> str:
    return json.dumps(value, indent=2, allow_nan=False) + "\n"
