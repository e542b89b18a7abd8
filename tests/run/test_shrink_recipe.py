"""Recipes for `sparsewood shrink`: read as those of `sparsewood run`, typed, unknown keys refused (section 4.3)."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path

import pytest

from sparsewood.allocation import Everywhere, Isomorphic, Named
from sparsewood.criteria import Magnitude
from sparsewood.errors import SparsewoodError
from sparsewood.run.components import RecipeError
from sparsewood.run.recipe import parse_recipe
from sparsewood.run.shrink_recipe import (
    LeastSquares,
    Shrinking,
    effective_shrink_recipe,
    load_shrink_recipe,
    parse_shrink_recipe,
)
from sparsewood.shrinking import Bytes, Latency, MACs, Params, shrink
from sparsewood.shrinking.engines import OnnxRuntime
from sparsewood.train import SGD, Training
from sparsewood.types import Compression

SMALL = "{name: small, model: lenet5_caffe, shrink: {}}"
WHOLE = """\
name: whole
description: all there is
data: {name: digits, validation: 0.25}
model: {name: small_conv, batch_norm: true}
training:
  epochs: 10
  batch_size: 60
  optimizer: {name: SGD, lr: 0.2}
retraining: {epochs: 3, optimizer: {lr: 0.05}}
shrink:
  budget: {name: MACs, amount: 0.5}
  scope: Isomorphic
  protect: [features.0]
  round_to: 4
  least_squares: {ridge: 1e-3}
  recalibrate: true
seed: 7
"""


def problems(*overrides: str, text: str = WHOLE) -> str:
    with pytest.raises(RecipeError) as caught:
        parse_shrink_recipe(text, "r.yaml", overrides)
    return str(caught.value)


def test_a_small_recipe_has_all_defaults() -> None:
    recipe = parse_shrink_recipe(SMALL)
    assert recipe.shrink == Shrinking()
    assert (recipe.shrink.criterion, recipe.shrink.scope, recipe.shrink.budget) == (Magnitude(), Everywhere(), None)
    assert (recipe.trains, recipe.seed, recipe.directory) == (False, 1, Path("runs/small"))
    assert parse_shrink_recipe(SMALL, overrides=["output=there"]).directory == Path("there")


def test_a_whole_recipe() -> None:
    recipe = parse_shrink_recipe(WHOLE)
    settings = recipe.shrink
    assert (settings.budget, settings.scope, settings.protect) == (MACs(0.5), Isomorphic(), ("features.0",))
    assert (settings.round_to, settings.least_squares, settings.recalibrate) == (4, LeastSquares(ridge=1e-3), True)
    assert recipe.training == Training(epochs=10, batch_size=60, optimizer=SGD(lr=0.2))
    assert recipe.retraining == Training(epochs=3, batch_size=60, optimizer=SGD(lr=0.05))
    assert recipe.trains
    assert settings.reads_data == ("least_squares", "recalibrate")
    assert parse_shrink_recipe(effective_shrink_recipe(recipe)) == recipe


@pytest.mark.parametrize(
    ("setting", "field", "value"),
    [
        ("budget={name: Params, amount: 30000}", "budget", Params(30000)),
        ("budget={name: Bytes, amount: 0.25}", "budget", Bytes(0.25)),
        ("budget={name: Latency, fraction: 0.5}", "budget", Latency(0.5)),
        ("budget={name: Latency, seconds: 1e-3}", "budget", Latency(seconds=1e-3)),
        ("budget={name: Latency, fraction: 0.5, engine: OnnxRuntime}", "budget", Latency(0.5, engine=OnnxRuntime())),
        ("budget.amount=1.0", "budget", MACs(1.0)),
        ("scope={conv*: 0.2}", "scope", Named({"conv*": 0.2})),
        ("least_squares=true", "least_squares", True),
        ("samples=null", "samples", None),
        ("protect=features.*", "protect", "features.*"),
        ("protect=[hidden, features.0]", "protect", ("hidden", "features.0")),
    ],
)
def test_values_of_the_section(setting: str, field: str, value: object) -> None:
    recipe = parse_shrink_recipe(WHOLE, overrides=[f"shrink.{setting}"])
    assert getattr(recipe.shrink, field) == value
    assert parse_shrink_recipe(effective_shrink_recipe(recipe)) == recipe


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.7", 0.7),
        ("12", 12),
        ("{name: Compression, ratio: 2}", Compression(2)),
        ("{conv*: 0.5, hidden: 3}", {"conv*": 0.5, "hidden": 3}),
    ],
)
def test_sparsity_is_an_amount_or_amounts_by_layer(text: str, value: object) -> None:
    recipe = parse_shrink_recipe(WHOLE, overrides=["shrink.budget=null", f"shrink.sparsity={text}"])
    assert recipe.shrink.sparsity == value
    assert isinstance(recipe.shrink.sparsity, int) == isinstance(value, int)
    assert parse_shrink_recipe(effective_shrink_recipe(recipe)) == recipe


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("shrink.sparsty=0.5", "--set shrink.sparsty=0.5: shrink.sparsty: Unknown key 'sparsty'. Did you mean"),
        ("shrink.sparsity=0.5", "r.yaml, line 10: shrink: sparsity says how much goes and budget how much stays"),
        ("shrink.budget=Prams", "Unknown budget 'Prams'. Did you mean 'Params'? 'sparsewood list budgets' shows them."),
        ("shrink.budget.amount=1.5", "MACs must be a float in (0, 1]"),
        ("shrink.budget.amount=half", "shrink.budget.amount: must be a whole number or a number. Got 'half'"),
        ("shrink.least_squares.rigde=1", "Unknown key 'rigde'. Did you mean 'ridge'?"),
        ("shrink.round_to=0", "must be a whole number >= 1. Got 0."),
        ("shrink.attention=all", "must be 'heads' or 'head_dims'. Got 'all'."),
        ("variants={}", "variants: Unknown key 'variants'"),
        ("data=null", "Without data there can be no training, retraining, least_squares, recalibrate."),
        ("retraining.precision=bf16-mixed", "a recipe has one precision. Got 32-true, bf16-mixed."),
        ("name=../up", "name: must be a name of at most 100 letters"),
    ],
)
def test_mistakes_have_line_and_hint(setting: str, message: str) -> None:
    assert message in problems(setting)


def test_what_a_recipe_needs() -> None:
    text = problems(text="{model: lenet5_caffe}")
    assert "ShrinkRecipe needs 'name'" in text
    assert "ShrinkRecipe needs 'shrink': a mapping of the fields of Shrinking." in text
    assert "a recipe is a mapping" in problems(text="[1, 2]")


def test_each_command_knows_the_other_ones_recipes(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"r.yaml, line 10: shrink: this is a recipe for `sparsewood shrink`"):
        parse_recipe(WHOLE, "r.yaml")
    with pytest.raises(RecipeError) as caught:
        load_shrink_recipe(Path(__file__).parents[2] / "recipes" / "digits_small_conv.yaml", ["shrink.sparsity=0.7"])
    assert str(caught.value).count("\n") == 0
    assert "this is a recipe for `sparsewood run`, not for `sparsewood shrink`" in str(caught.value)
    with pytest.raises(SparsewoodError, match="Cannot read recipe"):
        load_shrink_recipe(tmp_path / "none.yaml")


def test_weights_take_the_place_of_the_training() -> None:
    recipe = parse_shrink_recipe(WHOLE, overrides=["weights=w.safetensors", "training.precision=bf16-mixed"])
    assert not recipe.trains
    recipe = parse_shrink_recipe(WHOLE, overrides=["weights=w.safetensors", "training.batch_size=30"])
    assert recipe.retraining is not None
    assert (recipe.trains, recipe.retraining.batch_size, recipe.dense.training) == (False, 30, recipe.retraining)


def documented(heading: str) -> dict[str, str]:
    """Names and defaults in the table below a heading of docs/shrink.md."""
    text = (Path(__file__).parents[2] / "docs" / "shrink.md").read_text()
    section = text.partition(f"\n{heading}\n")[2].partition("\n#")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:2] == "| "]
    return {name.strip("`"): default.strip("`") for name, _, default in rows[1:]}


def test_the_document_has_every_field_of_the_section_and_its_default() -> None:
    told = documented("### Fields of the section")
    assert list(told) == [field.name for field in fields(Shrinking)]
    given = [f"shrink.{name}={default}" for name, default in told.items()]
    assert parse_shrink_recipe(SMALL, overrides=given).shrink == Shrinking()


def test_the_document_has_every_argument_of_shrink_and_its_default() -> None:
    known = inspect.signature(shrink).parameters
    told = documented("## Arguments of `sw.shrink`")
    assert list(told) == list(known)
    assert list(told.values()) == [
        "" if one.default is inspect.Parameter.empty else repr(one.default) for one in known.values()
    ]


def test_the_dense_training_is_shared_by_what_begins_with_it() -> None:
    """Settings of `shrink` and `retraining` do not change the dense network; those of its training do."""
    there = parse_shrink_recipe(WHOLE).dense_directory
    same = ["shrink.budget.amount=0.3", "retraining.epochs=9", "repeats=3", "name=whole", "threads=2"]
    other = ["seed=8", "training.epochs=11", "model.hidden=64", "data.validation=0.2"]
    assert all(parse_shrink_recipe(WHOLE, overrides=[one]).dense_directory == there for one in same)
    assert len({parse_shrink_recipe(WHOLE, overrides=[one]).dense_directory for one in [*other, *same]}) == 5
