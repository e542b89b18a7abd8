"""The pictures of the pages, drawn from what the library returns: python docs/hooks/pictures.py FOLDER"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from drawing import GONE, INK, KEPT, LINE, MARK, MARKS, arrow, box, grid, picture, text
from torch import Tensor, nn

import sparsewood as sw
from sparsewood.criteria import Criterion
from sparsewood.schedules import Cubic, Exponential, Linear, OneShot, Schedule

__all__ = ["PICTURES", "draw_all"]


def _model() -> nn.Module:
    return sw.models.small_conv((8, 16), hidden=32, batch_norm=True, generator=torch.Generator().manual_seed(3))


def positions() -> str:
    """One unit of a network of two layers: its row, its entries in between, and the column that reads it."""
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    group = sw.trace(net, torch.zeros(2, 6)).group("0")
    shapes = {name: tuple(value.shape) for name, value in net.named_parameters()}
    owners = {(one.param, one.axis): one.owner.tolist() for one in group.slices}
    parts = [text(20, 24, "One unit is a set of positions that go together", size=15, bold=True)]
    x = 20.0
    for name, shape in shapes.items():
        rows, columns = (shape[0], shape[1]) if len(shape) == 2 else (shape[0], 1)
        mark = {
            axis: [unit == 2 for unit in owners.get((name, axis), [])] or [False] * n for axis, n in enumerate(shape)
        }
        cells = [
            [MARK if mark[0][row] or (len(shape) == 2 and mark[1][column]) else GONE for column in range(columns)]
            for row in range(rows)
        ]
        parts += [text(x, 58, name), grid(x, 68, cells, 16)]
        x += max(16 * columns, 7 * len(name)) + 18
    parts += [
        text(
            20,
            222,
            "Orange: unit 2 of the group. It is made in row 2 of the first weight, goes through the bias and the",
        ),
        text(
            20, 240, "BatchNorm entries, and is read in column 2 of the last weight. All of it is removed, or nothing."
        ),
    ]
    return picture(max(x, 640), 254, "A unit is a set of coupled positions", parts)


def structure() -> str:
    """The groups of a small network, as `Structure.to_svg` draws them."""
    return sw.trace(_model(), torch.zeros(1, 1, 8, 8)).to_svg(title="Groups of a small convolutional network")


def granularities() -> str:
    """Half of one weight gone by magnitude, in units of different shapes."""
    layer = nn.Linear(16, 8, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(8, 16, generator=torch.Generator().manual_seed(4)))
    shapes: Mapping[str, sw.granularity.Granularity] = {
        "Element()": sw.Element(),
        "Row()": sw.Row(),
        "Column()": sw.Column(),
        "Block((4, 4))": sw.Block((4, 4)),
        "NM(2, 4)": sw.NM(2, 4),
    }
    parts = [text(20, 24, "The same weight [8, 16], half of it gone", size=15, bold=True)]
    for number, (name, granularity) in enumerate(shapes.items()):
        half = () if isinstance(granularity, sw.NM) else (0.5,)
        masks = sw.prune(layer, sw.Magnitude(), *half, granularity=granularity, protect_classifier=False)
        x, y = 20 + 210 * (number % 3), 56 + 150 * (number // 3)
        parts += [text(x, y, name, bold=True), grid(x, y + 8, _kept(masks["weight"]), 12)]
    parts += [grid(450, 264, [[KEPT]]), text(472, 276, "stays"), grid(450, 286, [[GONE]]), text(472, 298, "goes")]
    return picture(650, 320, "Granularities", parts)


def _kept(mask: Tensor) -> list[list[str]]:
    return [[KEPT if kept else GONE for kept in row] for row in mask.tolist()]


def criteria() -> str:
    """Scores of one weight under three criteria: the darker, the more important."""
    model = nn.Sequential(nn.Linear(16, 8, bias=False), nn.ReLU(), nn.Linear(8, 3))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    inputs = torch.randn(64, 16, generator=generator) * torch.linspace(0.1, 2, 16)
    batches = [(inputs, torch.randint(3, (64,), generator=generator))]
    parts = [text(20, 24, "The same weight [8, 16], scored by three criteria", size=15, bold=True)]
    shown: Mapping[str, Criterion] = {
        "Magnitude()": sw.Magnitude(),
        "WeightTimesGradient()": sw.WeightTimesGradient(),
        "ActivationMagnitude()": sw.ActivationMagnitude(),
    }
    for number, (name, criterion) in enumerate(shown.items()):
        found = sw.score(model, criterion, data=batches, loss=nn.functional.cross_entropy)["0.weight"]
        ranks = found.flatten().argsort().argsort().reshape(found.shape) / (found.numel() - 1)
        x = 20 + 210 * number
        parts += [
            text(x, 56, name, bold=True),
            grid(x, 64, [[_shade(value) for value in row] for row in ranks.tolist()], 12),
        ]
    parts.append(
        text(20, 184, "Inputs grow from left to right: a criterion that sees them prefers the weights on the right.")
    )
    return picture(650, 200, "Criteria", parts)


def _shade(value: float) -> str:
    """From nearly white to the colour of what stays."""
    low, high = (236, 238, 242), (40, 53, 147)
    return "#" + "".join(f"{round(a + (b - a) * value):02x}" for a, b in zip(low, high, strict=True))


def scopes() -> str:
    """80 % gone of one network: which share of each layer stays, by scope."""
    model = _model()
    chosen = {
        "Everywhere()": sw.Everywhere(),
        "PerLayer()": sw.PerLayer(),
        "PerLayer(ERK())": sw.PerLayer(sw.ERK()),
    }
    parts = [text(20, 24, "80 % of all weights gone: what stays of each layer", size=15, bold=True)]
    for number, (name, scope) in enumerate(chosen.items()):
        masks = sw.prune(model, sw.Magnitude(), 0.8, scope=scope)
        x = 110 + 185 * number
        parts.append(text(x, 56, name, bold=True))
        for row, (layer, gone) in enumerate(masks.layer_sparsity().items()):
            y = 68 + 24 * row
            if number == 0:
                parts.append(text(100, y + 12, layer.removesuffix(".weight"), anchor="end"))
            parts += [
                _bar(x, y, 1, GONE),
                _bar(x, y, 1 - gone, KEPT),
                text(x + 126, y + 12, f"{100 * (1 - gone):.0f} %"),
            ]
    return picture(660, 160, "Scopes", parts)


def _bar(x: float, y: float, share: float, colour: str) -> str:
    return f'<rect x="{x:g}" y="{y:g}" width="{120 * share:.1f}" height="16" fill="{colour}"/>'


def schedules() -> str:
    """Sparsity over the rounds of four schedules that all end at 90 %."""
    chosen: Mapping[str, Schedule] = {
        "OneShot(0.9)": OneShot(0.9),
        "Linear(0.9)": Linear(0.9),
        "Cubic(0.9)": Cubic(0.9),
        "Exponential(0.9)": Exponential(0.9),
    }
    parts = [text(20, 24, "Ten rounds to 90 %: what is gone after each", size=15, bold=True), *_axes(10)]
    for number, (name, schedule) in enumerate(chosen.items()):
        amounts = {event.step: event.amount for event in schedule(10)}
        levels = {step: amount.fraction for step, amount in amounts.items() if isinstance(amount, sw.Sparsity)}
        points, now = [(50.0, 220.0)], 0.0
        for step in range(10):
            now = levels.get(step, now)
            points += [(50 + 38.0 * step, 220 - 170 * now), (50 + 38.0 * (step + 1), 220 - 170 * now)]
        path = "M" + "L".join(f"{x:g} {y:.1f}" for x, y in points)
        parts += [
            f'<path d="{path}" fill="none" stroke="{MARKS[number]}" stroke-width="2.2"/>',
            f'<rect x="460" y="{70 + 24 * number}" width="16" height="4" fill="{MARKS[number]}"/>',
            text(484, 77 + 24 * number, name),
        ]
    return picture(650, 262, "Schedules", parts)


def _axes(rounds: int) -> Iterator[str]:
    for share in (0, 0.5, 1):
        y = 220 - 170 * share
        yield f'<path d="M50 {y:g}H430" stroke="#d0d7de" stroke-width="1"/>' + text(
            44, y + 4, f"{share:g}", anchor="end"
        )
    yield text(240, 250, f"round, of {rounds}", anchor="middle")
    yield f'<path d="M50 50V220" stroke="{LINE}" stroke-width="1"/>'


def recovery() -> str:
    """Where training goes on after pruning, by recovery."""
    parts = [
        text(20, 24, "What follows when weights have gone", size=15, bold=True),
        f'<path d="M40 80H600" stroke="{INK}" stroke-width="2"/>',
        *(f'<circle cx="{x}" cy="80" r="5" fill="{INK}"/>' for x in (40, 160, 400)),
        text(40, 66, "step 0", anchor="middle"),
        text(160, 66, "step k", anchor="middle"),
        text(400, 66, "trained: prune here", anchor="middle"),
    ]
    rows = (
        ("FineTune()", 400, 580, "train on with what is left", 0),
        ("Rewind(k)", 160, 400, "weights, buffers, optimizer and rate of step k again", 1),
        ("Rewind(0)", 40, 400, "the first weights again: a lottery ticket", 1),
        ("Reinitialize()", 40, 400, "new weights, the same masks: the control", 2),
    )
    for number, (name, start, end, words, back) in enumerate(rows):
        y = 116 + 44 * number
        if back:
            parts.append(arrow((400, y), (start + 4, y), dashed=True))
        parts += [
            f'<path d="M{start} {y + 8}H{end}" stroke="{MARKS[number]}" stroke-width="4"/>',
            text(start, y + 26, name, bold=True),
            text(start + 7 * len(name) + 10, y + 26, words),
        ]
    return picture(650, 300, "Recovery", parts)


def shrinking() -> str:
    """Channels of every layer before and after a network is shrunk to half of its multiply-adds."""
    model = _model()
    shrunk = sw.shrink(model, torch.zeros(1, 1, 8, 8), budget=sw.MACs(0.5))
    after = dict(shrunk.model.named_parameters())
    parts = [text(20, 24, "sw.shrink(model, inputs, budget=sw.MACs(0.5))", size=15, bold=True)]
    rows = [(name, value) for name, value in model.named_parameters() if value.dim() > 1]
    for number, (name, value) in enumerate(rows):
        y = 48 + 30 * number
        parts += [text(130, y + 14, name.removesuffix(".weight"), anchor="end")]
        large, small = value.shape[0], after[name].shape[0]
        stay = set(shrunk.plan.kept[name].get(0, range(large))) if name in shrunk.plan.kept else set(range(large))
        parts += [grid(140, y, [[KEPT if unit in stay else GONE for unit in range(large)]], 11)]
        parts.append(text(150 + 11 * large, y + 12, f"{large} outputs, then {small}"))
    return picture(650, 60 + 30 * len(rows), "Shrinking", parts)


def proof() -> str:
    """How `shrink` proves that the small network computes what the masked one does."""
    parts = [
        text(20, 24, "What is removed is proven equal to what was masked", size=15, bold=True),
        box(20, 100, 120, 56, ["inputs", "yours, and random"]),
        box(200, 52, 190, 56, ["large network", "units set to 0, float64"]),
        box(200, 148, 190, 56, ["small network", "units cut out, float64"]),
        box(450, 100, 180, 56, ["largest difference", "report.max_difference"], fill="#fff4e6"),
        arrow((140, 118), (196, 82)),
        arrow((140, 138), (196, 174)),
        arrow((390, 82), (446, 118)),
        arrow((390, 174), (446, 138)),
        text(
            20,
            236,
            "Too large: an error, and the model is as it was. Where zeros and removal differ by nature (LayerNorm),",
        ),
        text(20, 254, "report.exact is False, and everything else is still compared."),
    ]
    return picture(650, 268, "Proof", parts)


PICTURES: Mapping[str, Callable[[], str]] = {
    "positions": positions,
    "structure": structure,
    "granularities": granularities,
    "criteria": criteria,
    "scopes": scopes,
    "schedules": schedules,
    "recovery": recovery,
    "shrinking": shrinking,
    "proof": proof,
}


def draw_all() -> dict[str, str]:
    """Every picture by the name of its file."""
    return {f"{name}.svg": draw() for name, draw in PICTURES.items()}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in draw_all().items():
        (folder / file).write_text(content)
