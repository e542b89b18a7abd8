"""Short examples on the reference pages: a recipe and a call for each criterion, a fragment for each other kind."""

from __future__ import annotations

from typing import Any, get_args

from sparsewood.run.annotations import MISSING, form_of, parameters

__all__ = ["FRAGMENTS", "INTRODUCTIONS", "arguments", "code_for", "recipe_for", "written"]

INTRODUCTIONS = {
    "criteria": "A criterion gives every weight a score: higher = keep. Scores of weights are combined into scores of "
    "larger units by the granularity.",
    "unit-criteria": "A criterion of units gives every channel, neuron or head of a network's structure a score: "
    "higher = keep. `sw.prune_units`, `sw.shrink` and recipes with `granularity: Coupled` take them.",
    "granularities": "A granularity says what is removed as one inside a parameter.",
    "scopes": "A scope says which scores compete with one another.",
    "allocations": "An allocation shares a total among layers.",
    "budgets": "A budget says what may be left of a network that `sw.shrink` makes smaller.",
    "engines": "An engine is what a latency is measured in.",
    "amounts": "An amount says how much goes. A plain number from 0 to 1 is `Sparsity`, a whole number is `Count`.",
    "schedules": "A schedule turns a number of rounds into a plan: when how much is pruned.",
    "recoveries": "A recovery says which weights a pruned network goes on with, and which training follows.",
    "initializers": "An initializer draws the first weights.",
    "models": "Networks to try things on; those of other libraries are named as the last entries say.",
    "data": "Data sets in three disjoint parts: training, validation, test.",
    "augmentations": "An augmentation changes images at random, as pixels from 0 to 1, before they are normalised.",
    "optimizers": "Optimizers of recipes.",
    "rates": "A factor of the learning rate, over a training.",
    "dynamics": "Rules of masks that change while a network trains.",
    "penalties": "Penalties push units towards zero while a network trains.",
}

FRAGMENTS = {
    "granularities": "pruning: {granularity: {name: Block, sizes: [4, 4]}}",
    "scopes": 'pruning: {scope: {name: PerLayer, allocation: {"features.0": 0.2, "hidden": 0.8}}}',
    "allocations": "pruning: {scope: {name: PerLayer, allocation: ERK}}",
    "budgets": "shrink: {budget: {name: MACs, amount: 0.25}}",
    "engines": "shrink: {budget: {name: Latency, fraction: 0.5, engine: OnnxRuntime}}",
    "amounts": "pruning: {schedule: {name: OneShot, amount: {name: Compression, ratio: 8}}}",
    "schedules": "pruning: {schedule: {name: Cubic, final: 0.9}, rounds: 10, unit: epoch}",
    "recoveries": "pruning: {recovery: {name: Rewind, step: 0}}",
    "initializers": "initial: Orthogonal",
    "models": "model: {name: small_conv, widths: [16, 32], batch_norm: true}",
    "data": "data: {name: digits, validation: 0.2}",
    "augmentations": "augment: {name: CropFlip, padding: 1}",
    "optimizers": "training: {optimizer: {name: SGD, lr: 0.05, momentum: 0.9}}",
    "rates": "training: {rate: Cosine}",
    "dynamics": "dynamics: {name: RigL, sparsity: 0.9, every: 16}",
    "penalties": "training: {penalty: {name: ScaleL1, strength: 1e-3}}",
}

_RECIPE = """\
name: {file}
data: digits
model: {{name: small_conv, batch_norm: true}}
training: {{epochs: 3, batch_size: 64, optimizer: {{name: SGD, lr: 0.05, momentum: 0.9}}}}
retraining: {{epochs: 1}}
pruning:
{lines}
seeds: 1"""

_CODE = """\
import torch
import sparsewood as sw

model = sw.models.small_conv(batch_norm=True)
train = sw.data.digits().train.subset(torch.arange(200))
"""


def arguments(value: Any) -> dict[str, Any]:
    """Values for the parameters that have no default: the example that the documentation shows."""
    found = {}
    for one in parameters(value).values():
        if one.default is MISSING and one.settable:
            found[one.name] = _EXAMPLES.get((getattr(value, "__name__", ""), one.name), _value(one.name, one.hint))
    return found


_EXAMPLES = {
    ("ClassSelective", "classes"): 10,
    ("NM", "n"): 2,
    ("NM", "m"): 4,
    ("Block", "sizes"): [4, 4],
    ("Units", "axes"): [0],
    ("Named", "amounts"): {"features.*": 0.5},
    ("Count", "n"): 100,
    ("Compression", "ratio"): 8,
    ("Levels", "amounts"): [0.5, 0.9],
    ("OneByOne", "units"): 4,
    ("RNNRamp", "ramp"): 5,
    ("RNNRamp", "end"): 10,
    ("RoundRobin", "targets"): [["hidden", 0.5, 0.25]],
    ("RewindToBest", "steps"): [0, 10],
    ("Soft", "schedule"): {"name": "Cubic", "final": 0.9},
    ("PerLayerNormalized", "criterion"): "MeanActivation",
    ("MinusMACs", "criterion"): "TaylorRemoval",
}


def _value(name: str, hint: Any) -> Any:
    """A plausible value of an annotation, for parameters that nobody wrote an example for."""
    form = form_of(hint)
    if form.choices:
        return next(iter(form.choices))
    leaves = get_args(form.leaf) or (form.leaf,)
    if float in leaves:
        return 0.5
    return 2 if int in leaves else name


def written(name: str, values: dict[str, Any]) -> str:
    """A component as a recipe writes it: its name, or a mapping.

    >>> written("Magnitude", {}), written("NM", {"n": 2, "m": 4})
    ('Magnitude', '{name: NM, n: 2, m: 4}')
    """
    return _yaml({"name": name, **values}) if values else name


def _yaml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_yaml(key)}: {_yaml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_yaml(inner) for inner in value) + "]"
    text = str(value)
    return f'"{text}"' if any(sign in text for sign in "*?:") else text


def recipe_for(kind: str, name: str, value: Any) -> str:
    """A whole recipe, small enough to try, that uses a criterion."""
    lines = [f"  criterion: {written(name, arguments(value))}"]
    if kind == "unit-criteria" or name == "BatchNormScale":  # a channel goes with its scale
        lines.append("  granularity: Coupled")
    if _augments(value):
        lines[0] = f"  criterion: {{name: {name}, augment: {{name: CropFlip, padding: 1}}, images: 200}}"
    lines.append(f"  schedule: {{name: OneShot, amount: {0.3 if kind == 'unit-criteria' else 0.8}}}")
    return _RECIPE.format(file=f"try_{name.lower()}", lines="\n".join(lines))


def _augments(value: Any) -> bool:
    return "augment" in parameters(value)


def code_for(kind: str, name: str, value: Any) -> str:
    """Lines of Python that prune a small network by a criterion."""
    if kind == "criteria":
        return _CODE + (
            "batches = list(sw.data.Loader(train, 100))  # only criteria that look at data read them\n"
            f"criterion = sw.criteria.{name}({_python(value)})\n"
            "masks = sw.prune(model, criterion, 0.5, data=batches, loss=torch.nn.functional.cross_entropy)"
        )
    call = _python(value)
    if _augments(value):
        call = "sw.data.CropFlip(1), images=100"
    data = "train" if _augments(value) else "list(sw.data.Loader(train, 100))"
    return _CODE + (
        f"criterion = sw.unit_criteria.{name}({call})\n"
        "masks = sw.prune_units(\n"
        "    model,\n"
        "    torch.zeros(2, 1, 8, 8),\n"
        "    criterion,\n"
        "    0.3,\n"
        f"    data={data},\n"
        "    loss=torch.nn.functional.cross_entropy,\n"
        ")"
    )


def _python(value: Any) -> str:
    shown = []
    for name, inner in arguments(value).items():
        text = f"sw.unit_criteria.{inner}()" if name == "criterion" else repr(inner)
        shown.append(f"{name}={text}")
    return ", ".join(shown)
