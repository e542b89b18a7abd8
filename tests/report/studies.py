"""A study as large experiments leave them, made of formulas: every kind of data, the same numbers every time."""

from __future__ import annotations

import itertools
import math
import zlib
from typing import Any

import numpy as np

from sparsewood.report.study import (
    BoxState,
    Difference,
    Failure,
    Histogram,
    Item,
    LayerSparsity,
    Memorization,
    NetworkPicture,
    Overlap,
    Row,
    SensitivityCurve,
    Study,
    TrainingCurve,
    UnitMap,
)

PROBLEMS = ("digits, small_conv", "digits, lenet", "textures, resnet20")
METHODS = ("magnitude, global", "magnitude, layerwise", "SNIP", "SynFlow", "GraSP", "LAMP", "movement")
CONTROLS = (("random", ""), ("random, shares of SynFlow", "SynFlow"), ("small dense", ""))
AMOUNTS = (2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
SEEDS = (0, 1, 2)
LAYERS = ("features.0", "features.3", "features.6", "hidden", "classifier")
SIZES = (432, 4608, 18432, 36864, 640)
RECIPE = """\
data: {problem}
method:
  criterion: {method}
  scope: everywhere
  compression: {amount:g}
  schedule: {{cubic: {{rounds: 5}}}}
recovery:
  fine_tune: {{epochs: 10, rate: 0.01}}
# the same first weights for all methods
training:
  epochs: 20
  batch: 64
  optimizer: sgd
  momentum: 0.9
  seed: {seed}
"""


def large_study(*, amounts: tuple[float, ...] = AMOUNTS, seeds: tuple[int, ...] = SEEDS) -> Study:
    """3 problems, 10 methods and the dense control, with a gap in the checklist and two networks that failed."""
    rows = [
        row
        for problem in PROBLEMS
        for row in (
            *(_row(problem, "dense", "control", "", 1.0, seed) for seed in seeds),
            *(_row(problem, name, "method", "", a, seed) for name in METHODS for a in amounts for seed in seeds),
            *(_row(problem, name, "control", of, a, seed) for name, of in CONTROLS for a in amounts for seed in seeds),
        )
    ]
    return Study(
        title="Ten ways to prune three networks",
        rows=rows,
        failures=(
            Failure(PROBLEMS[2], "GraSP", 64.0, 1, "LayerCollapse: no weight is left in 'layer3.0.conv1.weight'."),
            Failure(PROBLEMS[1], "movement", 64.0, 2, "Training stopped: the loss is not finite in epoch 3."),
        ),
        checklist=checklist(),
        differences=_differences(),
        layers=_layers(),
        curves=_curves(seeds),
        overlaps=_overlaps(),
        histograms=_histograms(),
        unit_maps=_unit_maps(),
        memorization=(_memorization("digits, small_conv, dense"), _memorization("digits, small_conv, SynFlow 8x")),
        sensitivity=_sensitivity(),
        networks=_networks(),
        about={
            "made": "2026-03-14 by sparsewood 0.1.0",
            "machine": "2 cores, 8 GiB, no accelerator",
            "versions": "Python 3.11, torch 2.13.0, numpy 2.3",
            "command": "sweep sweeps/ten-methods.yaml",
        },
        definitions={
            "compression": "all parameters / non-zero parameters",
            "speed-up": "multiply-adds of all weights / of non-zero ones; theoretical",
            "deviation": "sample standard deviation over seeds, n - 1",
        },
    )


def row(method: str = "SNIP", amount: float = 4.0, seed: int = 0, **values: Any) -> Row:
    """A row with numbers that fit together; `values` replace them."""
    given_ones: dict[str, Any] = {"problem": "digits, small_conv", "role": "method", "of": "", "accuracy": 0.9}
    numbers = dict.fromkeys(
        ("accuracy5", "before", "validation", "train_accuracy", "bytes", "latency", "latency_ratio")
    )
    sizes = {"compression": amount, "speedup": amount, "size": 1000, "size_nz": 250, "flops": 9000, "flops_nz": 2250}
    rest = {"seconds": 1.0, "recipe": f"criterion: {method}\n", "hash": "0" * 12}
    return Row(method=method, amount=amount, seed=seed, **given_ones | numbers | sizes | rest | values)


def checklist(*, whole: bool = False) -> tuple[Item, ...]:
    return (
        Item("Setup", "data", "Which data sets and architectures?", ", ".join(PROBLEMS)),
        Item("Setup", "initial", "Are the first weights the same for all methods?", True),
        Item(
            "Setup",
            "modern",
            "Is one of them large and modern?",
            "ResNet-50" if whole else None,
            "" if whole else "No problem has more than 5 million parameters. Add one to the sweep.",
        ),
        Item("Metrics", "both", "Are compression and speed-up both reported?", True),
        Item(
            "Metrics",
            "latency",
            "Is latency measured?",
            True if whole else None,
            "" if whole else "12 of 570 cells have none: measure them again on a quiet machine.",
        ),
        Item("Statistics", "seeds", "How many seeds?", 3),
    )


def _noise(*key: object) -> float:
    """A number in [-1, 1] that the key decides."""
    return 2 * zlib.crc32("|".join(map(str, key)).encode()) / 0xFFFFFFFF - 1


def _row(problem: str, method: str, role: str, of: str, amount: float, seed: int) -> Row:
    size = 61_000 * (1 + 3 * PROBLEMS.index(problem))
    flops = 11 * size
    order = (*METHODS, *(name for name, _ in CONTROLS), "dense").index(method)
    top = (0.981, 0.972, 0.917)[PROBLEMS.index(problem)]
    bend = 0.0006 * (order + 1) * (1 + 2 * (role == "control"))
    collapse = 0.5 / (1 + math.exp(-(math.log2(amount) - 6.2 + 0.12 * order) * 2.2)) if amount > 1 else 0.0
    drop = bend * math.log2(amount) ** 1.6 + collapse
    accuracy = max(0.1, min(1.0, top - drop + 0.004 * _noise(problem, method, amount, seed)))
    compression = amount * (1 + 0.01 * _noise("c", method, seed)) if amount > 1 else 1.0
    speedup = max(1.0, compression ** (0.85 + 0.02 * (order % 4))) if amount > 1 else 1.0
    measures = {
        "accuracy5": min(1.0, accuracy + 0.05) if problem == PROBLEMS[2] else None,
        "before": None if method == "dense" else max(0.1, accuracy - 0.2),
        "validation": accuracy + 0.003,
        "train_accuracy": min(1.0, accuracy + 0.015),
        "size_nz": round(size / compression),
        "flops_nz": round(flops / speedup),
        "bytes": round(4.4 * size / compression) + 512,
        "latency": 0.9 / speedup**0.4 if method != "movement" else None,
        "latency_ratio": speedup**0.4 if method != "movement" else None,
    }
    recipe = RECIPE.format(problem=problem, method=method, amount=amount, seed=seed)
    name = f"{zlib.crc32(recipe.encode()):08x}"
    given = {"problem": problem, "role": role, "of": of, "accuracy": accuracy, "recipe": recipe, "hash": name}
    sizes = {"compression": compression, "speedup": speedup, "size": size, "flops": flops, "seconds": 40.0 + seed}
    return row(method, amount, seed, **given, **sizes, **measures)


def _differences() -> list[Difference]:
    found = []
    for problem in PROBLEMS:
        for method in METHODS:
            for amount in AMOUNTS:
                mean = 0.6 * math.log2(amount) * (0.5 + _noise("d", problem, method, amount))
                found.append(Difference(problem, method, "random", amount, 3, mean, mean - 1.1, mean + 1.1))
    found.append(Difference(PROBLEMS[0], "SynFlow", "random, shares of SynFlow", 8.0, 1, 0.4, None, None))
    return found


def _layers() -> list[LayerSparsity]:
    return [
        LayerSparsity(problem, method, amount, layer, size, min(0.999, (1 - 1 / amount) * (0.75 + 0.06 * (place + k))))
        for problem in PROBLEMS
        for k, method in enumerate(("magnitude, global", "SNIP", "SynFlow", "LAMP", "random"))
        for amount in AMOUNTS
        for place, (layer, size) in enumerate(zip(LAYERS, SIZES, strict=True))
    ]


def _curves(seeds: tuple[int, ...]) -> list[TrainingCurve]:
    epochs = tuple(range(1, 21))

    def values(k: int, seed: int) -> tuple[tuple[float | None, ...], ...]:
        falling = [2.2 * math.exp(-e / (4 + k)) for e in epochs]
        return (
            tuple(loss + 0.05 + 0.02 * _noise("l", e, seed) for e, loss in enumerate(falling)),
            tuple(loss + 0.12 + 0.03 * _noise("v", e, seed) for e, loss in enumerate(falling)),
            tuple(0.99 - 0.38 * loss for loss in falling),
            (None, *(0.96 - 0.38 * loss + 0.02 * _noise("a", e, seed) for e, loss in enumerate(falling[1:]))),
        )

    return [
        TrainingCurve(problem, method, amount, seed, stage, epochs, *values(k, seed))
        for problem in PROBLEMS
        for k, method in enumerate(METHODS)
        for amount in AMOUNTS[:3]
        for stage in ("dense", "fine-tuning")
        for seed in seeds
    ]


def _overlaps() -> list[Overlap]:
    def matrix(names: tuple[str, ...], low: float) -> tuple[tuple[float, ...], ...]:
        return tuple(
            tuple(1.0 if i == j else low + 0.12 * abs(_noise("o", min(i, j), max(i, j))) for j in range(len(names)))
            for i in range(len(names))
        )

    seeds = tuple(f"seed {seed}" for seed in SEEDS)
    found = []
    for problem in PROBLEMS:
        for amount in AMOUNTS:
            chance = 1 / (2 * amount - 1)
            found.append(Overlap(problem, amount, "methods", "", METHODS, matrix(METHODS, 0.3 + chance / 3), chance))
            found += [
                Overlap(problem, amount, "seeds", method, seeds, matrix(seeds, 0.1), chance) for method in METHODS
            ]
    return found


def _histograms() -> list[Histogram]:
    generator = np.random.default_rng(3)
    found = []
    for method in ("magnitude, global", "SNIP", "SynFlow"):
        for amount in AMOUNTS[:3]:
            for layer in ("", *LAYERS[:2]):
                scores = generator.normal(-2.2, 0.7, 20_000)
                threshold = float(np.quantile(scores, 1 - 1 / amount))
                edges = np.linspace(scores.min(), scores.max(), 61)
                parts = (scores[scores >= threshold], scores[scores < threshold])
                kept, gone = (tuple(np.histogram(part, edges)[0].tolist()) for part in parts)
                bins = tuple(edges.tolist())
                found.append(Histogram(PROBLEMS[0], method, amount, layer, bins, kept, gone, threshold, True, 41))
    return found


def _unit_maps() -> list[UnitMap]:
    generator = np.random.default_rng(4)

    def kept(units: int, gone: float, mean: float) -> tuple[float, ...]:
        left = np.clip(generator.normal(mean, 0.2, units), 0, 1)
        return tuple(np.where(generator.random(units) < gone, 0.0, left).tolist())

    return [
        UnitMap(PROBLEMS[0], method, amount, layer, kept(units, 0.1 * place, 1 / amount))
        for method in ("magnitude, global", "SynFlow")
        for amount in AMOUNTS[:3]
        for place, (layer, units) in enumerate(zip(LAYERS, (16, 32, 64, 128, 10), strict=True))
    ]


def _memorization(source: str) -> Memorization:
    generator = np.random.default_rng(len(source))
    layers = {layer: 16 * 2**place for place, layer in enumerate(LAYERS[:4])}
    scores = {
        layer: (None, *np.clip(generator.beta(2 + k, 4, units - 1), 0, 1).tolist())
        for k, (layer, units) in enumerate(layers.items())
    }
    activations = {
        layer: tuple((unit, tuple(generator.gamma(1.5, 0.4 + 0.1 * unit, 200).tolist())) for unit in range(1, 9))
        for layer in layers
    }
    return Memorization(source, "UnitMem", scores, activations)


def _sensitivity() -> list[SensitivityCurve]:
    grid = (0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
    return [
        SensitivityCurve(PROBLEMS[0], layer, granularity, grid, tuple(0.98 - 0.8 * s ** (3 + 2 * place) for s in grid))
        for granularity in ("single weights", "filters")
        for place, layer in enumerate(LAYERS)
    ]


def _networks() -> list[NetworkPicture]:
    kinds = ("Conv2d", "Conv2d", "Conv2d", "Linear", "Linear")
    shapes = ("16x3x3x3", "32x16x3x3", "64x32x3x3", "64x576", "10x64")
    units = (16, 32, 64, 64, 10)
    return [
        NetworkPicture(
            PROBLEMS[0],
            method,
            amount,
            tuple(
                BoxState(layer, kind, shape, size, round(size / amount**0.9), n, max(1, round(n / amount**0.4)))
                for layer, kind, shape, size, n in zip(LAYERS, kinds, shapes, SIZES, units, strict=True)
            ),
            (*itertools.pairwise(LAYERS), ("features.0", "features.6"), ("features.0", "hidden")),
        )
        for method in ("magnitude, global", "SynFlow")
        for amount in AMOUNTS[:3]
    ]
