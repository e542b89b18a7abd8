"""Grids: one file states a comparison, and every mistake in it is named with line and field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sparsewood.criteria import LAMP, Magnitude
from sparsewood.errors import FileFormatError, SparsewoodError
from sparsewood.granularity import Coupled
from sparsewood.run.cells import cells_of
from sparsewood.run.components import RecipeError
from sparsewood.run.grid import CONTROLS, Grid, load_grid, parse_grid
from sparsewood.run.recipe import RecipeError as SameError
from sparsewood.run.recipe import Variant, parse_recipe

HEAD = "name: g\nproblems: {digits: {data: digits, model: small_conv}}\n"


def grid(methods: str = "{magnitude: {}}", compressions: str = "[4]", *more: str) -> Grid:
    return parse_grid("\n".join([f"{HEAD}methods: {methods}", f"compressions: {compressions}", *more]), "g.yaml")


def mistakes(text: str, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        parse_grid(text, "g.yaml", overrides)
    return str(caught.value)


def variants(found: Grid, problem: int = 0) -> dict[str, Variant]:
    return {variant.name: variant for variant in found.problems[problem].recipe.variants}


def amounts(variant: Variant) -> list[Any]:
    """Of each event the share that goes."""
    return [getattr(event.amount, "fraction", None) for event in variant.pruning.plan]


def hashes(found: Grid) -> list[str]:
    return [cell.hash for plan in cells_of(found) for cell in plan.cells]


# ---------------------------------------------------------------- what is read


def test_a_small_grid_has_all_defaults() -> None:
    found = grid()
    settings = found.settings
    assert (settings.name, settings.seeds, settings.controls, settings.latency) == ("g", (1, 2, 3), CONTROLS, True)
    assert (settings.compressions, settings.output, found.directory) == ((4.0,), Path("runs"), Path("runs/g"))
    (problem,) = found.problems
    assert (problem.name, problem.title, problem.recipe.seeds) == ("digits", "digits, small_conv", (1, 2, 3))
    (method,) = problem.methods
    assert (method.name, method.compression, method.variant) == ("magnitude", 4.0, "magnitude-4x")
    assert isinstance(problem.recipe.variant("magnitude-4x").pruning.criterion, Magnitude)


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("$sparsity", {2.0: 0.5, 4.0: 0.75, 1.25: 0.2}),
        ("$density", {2.0: 0.5, 4.0: 0.25, 1.25: 0.8}),
        ("$units", {4.0: 0.5, 16.0: 0.75, 100.0: 0.9}),
    ],
)
def test_words_become_numbers_by_their_formulas(word: str, values: dict[float, float]) -> None:
    """Of a compression c: 1 - 1/c, 1/c and 1 - sqrt(1/c)."""
    methods = f"{{m: {{pruning: {{schedule: {{name: Levels, amounts: [{word}]}}}}}}}}"
    found = grid(methods, str(list(values)))
    for compression, value in values.items():
        assert amounts(variants(found)[f"m-{compression:g}x"]) == [pytest.approx(value, abs=1e-12)], compression


def test_compression_is_the_number_itself() -> None:
    found = grid("{m: {pruning: {schedule: {name: OneShot, amount: {name: Compression, ratio: $compression}}}}}", "[3]")
    assert variants(found)["m-3x"].pruning.schedule.amount.ratio == 3.0  # type: ignore[attr-defined]


def test_words_are_filled_in_wherever_they_stand() -> None:
    methods = (
        "{m: {dynamics: {name: RigL, sparsity: $sparsity, every: 5}, pruning: {unit: step}},"
        " g: {pruning: {schedule: {name: Cubic, final: $sparsity}, rounds: 3}}}"
    )
    found = variants(grid(methods, "[2, 8]"))
    assert [found[f"m-{c}x"].dynamics.sparsity for c in (2, 8)] == [0.5, 0.875]  # type: ignore[union-attr]
    assert [amounts(found[f"g-{c}x"])[-1] for c in (2, 8)] == [0.5, 0.875]


def test_a_method_without_an_amount_prunes_once_to_the_sparsity_and_whole_units_to_their_share() -> None:
    found = variants(
        grid("{m: {}, u: {pruning: {criterion: FilterNorm, granularity: Coupled}}, e: {pruning: null}}", "[16]")
    )
    assert amounts(found["m-16x"]) == [1 - 1 / 16]
    assert amounts(found["e-16x"]) == [1 - 1 / 16]
    assert amounts(found["u-16x"]) == [0.75]
    assert isinstance(found["u-16x"].pruning.granularity, Coupled)


def test_coupled_written_as_a_mapping_is_of_units_too() -> None:
    found = variants(grid("{u: {pruning: {criterion: FilterNorm, granularity: {name: Coupled}}}}", "[4]"))
    assert amounts(found["u-4x"]) == [0.5]


def test_seeds_are_counted_or_listed() -> None:
    assert grid("{m: {}}", "[4]", "seeds: 2").settings.seeds == (1, 2)
    assert grid("{m: {}}", "[4]", "seeds: [7, 3]").settings.seeds == (7, 3)
    assert grid("{m: {}}", "[4]", "seeds: [7, 3]").problems[0].recipe.seeds == (7, 3)


def test_every_problem_has_every_method_at_every_compression() -> None:
    text = """
name: g
training: {epochs: 9, batch_size: 32}
problems:
  digits:
    data: digits
    models: {narrow: {name: small_conv, widths: [4]}, wide: small_conv}
    training: {epochs: 2}
  plain: {data: {name: digits, validation: 0.1}, model: {name: small_conv, hidden: 8}}
methods: {a: {}, b: {pruning: {criterion: LAMP}}}
compressions: [2, 4]
"""
    found = parse_grid(text)
    assert [problem.name for problem in found.problems] == ["digits-narrow", "digits-wide", "plain"]
    assert [p.recipe.model.parameters["widths"] == (4,) for p in found.problems] == [True, False, False]
    assert [(p.recipe.training.epochs, p.recipe.training.batch_size) for p in found.problems] == [
        (2, 32),
        (2, 32),
        (9, 32),
    ]
    wanted = [("a", 2.0), ("a", 4.0), ("b", 2.0), ("b", 4.0)]
    for problem in found.problems:
        assert [(one.name, one.compression) for one in problem.methods] == wanted
        assert isinstance(problem.recipe.variant("b-4x").pruning.criterion, LAMP)


def test_what_holds_for_all_methods_is_changed_by_problems_and_then_by_methods() -> None:
    text = """
name: g
pruning: {score_batches: 3, exclude: ["features.0.weight"]}
problems:
  one: {data: digits, model: small_conv, pruning: {score_batches: 5}}
  two: {data: digits, model: {name: small_conv, hidden: 8}}
methods: {a: {}, b: {pruning: {score_batches: 7}}}
compressions: [2]
"""
    found = parse_grid(text)
    read = [
        {name: (v.pruning.score_batches, v.pruning.exclude) for name, v in variants(found, number).items()}
        for number in (0, 1)
    ]
    stem = ("features.0.weight",)
    assert read == [{"a-2x": (5, stem), "b-2x": (7, stem)}, {"a-2x": (3, stem), "b-2x": (7, stem)}]


def test_retraining_is_of_all_of_a_problem_or_of_a_method() -> None:
    text = """
name: g
training: {epochs: 4, batch_size: 32}
retraining: {epochs: 3}
problems:
  one: {data: digits, model: small_conv, retraining: {epochs: 2}}
  two: {data: digits, model: {name: small_conv, hidden: 8}}
methods: {a: {}, b: {retraining: {epochs: 1}}}
compressions: [2]
"""
    found = parse_grid(text)
    read = [[v.retraining.epochs for v in variants(found, k).values() if v.retraining] for k in (0, 1)]
    assert read == [[2, 1], [3, 1]]
    assert {v.retraining.batch_size for v in variants(found).values() if v.retraining} == {32}


def test_other_methods_are_named_without_their_compression() -> None:
    methods = "{a: {}, b: {masks_from: a, shuffled: true}, c: {matched_to: a, pruning: {criterion: LAMP}}}"
    found = variants(grid(methods, "[2, 8]"))
    assert {name: v.masks_from for name, v in found.items() if v.masks_from} == {"b-2x": "a-2x", "b-8x": "a-8x"}
    assert {name: v.matched_to for name, v in found.items() if v.matched_to} == {"c-2x": "a-2x", "c-8x": "a-8x"}


def test_the_same_as_a_recipe_says_it() -> None:
    """A grid is another way to write recipes: the variant is the one that a recipe has."""
    snip = "{at_step: 0, pruning: {criterion: WeightTimesGradient, recovery: {name: Rewind, step: 0}%s}}"
    found = variants(grid(f"{{snip: {snip % ''}}}", "[4]"))["snip-4x"]
    said = snip % ", schedule: {name: OneShot, amount: 0.75}"
    recipe = parse_recipe(f"{{name: r, data: digits, model: small_conv, variants: {{snip-4x: {said}}}}}")
    assert found == recipe.variants[0]


def test_overrides_change_the_grid_and_are_applied_in_order() -> None:
    text = f"{HEAD}methods: {{m: {{}}}}\ncompressions: [2]\n"
    settings = ["compressions=[4, 8]", "training.epochs=5", "training.epochs=6", "methods.m.pruning.criterion=LAMP"]
    found = parse_grid(text, "g.yaml", [*settings, "output=elsewhere", "seeds=1", "latency=false"])
    assert found.settings.compressions == (4.0, 8.0)
    assert found.problems[0].recipe.training.epochs == 6
    assert isinstance(found.problems[0].recipe.variants[0].pruning.criterion, LAMP)
    assert (found.directory, found.settings.seeds, found.settings.latency) == (Path("elsewhere/g"), (1,), False)


def test_few_compressions_warn_and_five_do_not() -> None:
    """[8.3] At least five operating points over a range."""
    assert [line for line in grid("{m: {}}", "[2, 4, 8, 16]").warnings if "at least 5" in line and "4 comp" in line]
    assert grid("{m: {}}", "[2, 4, 8, 16, 32]").warnings == ()


def test_a_grid_is_read_from_a_file_and_finds_components_beside_it(tmp_path: Path) -> None:
    (tmp_path / "own_of_grid.py").write_text(
        "from dataclasses import dataclass\n"
        "from sparsewood.criteria import Criterion\n"
        "@dataclass(frozen=True)\n"
        "class Own(Criterion):\n"
        "    def __call__(self, inputs): return inputs.weight.abs()\n"
    )
    path = tmp_path / "g.yaml"
    path.write_text(f"{HEAD}methods: {{m: {{pruning: {{criterion: 'own_of_grid:Own'}}}}}}\ncompressions: [2]\n")
    assert type(load_grid(path).problems[0].recipe.variants[0].pruning.criterion).__name__ == "Own"
    with pytest.raises(SparsewoodError, match="Cannot read"):
        load_grid(tmp_path / "none.yaml")


# ---------------------------------------------------------------- hashes


NEUTRAL = ("threads: 2", "workers: 1", "device: cpu", "checkpoint_every: 3", "logs: [csv]", "test_batch_size: 7")


@pytest.mark.parametrize("line", [*NEUTRAL, "description: words", "output: elsewhere"])
def test_how_it_is_carried_out_changes_no_hash(line: str) -> None:
    methods, compressions = "{m: {}, l: {pruning: {criterion: LAMP}}}", "[2, 4]"
    assert hashes(grid(methods, compressions, line)) == hashes(grid(methods, compressions))


@pytest.mark.parametrize(
    "line", ["training: {epochs: 3}", "augment: {name: CropFlip}", "initial: Orthogonal", "latency: false"]
)
def test_what_decides_numbers_changes_every_hash(line: str) -> None:
    methods, compressions = "{m: {}, l: {pruning: {criterion: LAMP}}}", "[2, 4]"
    assert not {*hashes(grid(methods, compressions, line))} & {*hashes(grid(methods, compressions))}


def test_spelling_and_order_change_no_hash() -> None:
    one = grid("{m: {pruning: {criterion: Magnitude}}, l: {pruning: {criterion: LAMP}}}", "[2, 4]")
    two = grid(
        "{l: {pruning: {criterion: {name: LAMP}}}, m: {}}", "[4.0, 2.0]", "name: g".replace("name", "description")
    )
    assert {*hashes(one)} == {*hashes(two)}


# ---------------------------------------------------------------- mistakes


LINES = """\
name: g
problems:
  digits:
    data: digits
    model: small_conv
methods:
  m:
    pruning: {criterion: LAMP}
compressions: [2, 4]
"""


def test_the_text_of_these_tests_has_no_mistake() -> None:
    assert parse_grid(LINES).problems[0].methods


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("criterion: LAMP", "criterion: LAMB", ("g.yaml, line 8: methods.m.pruning.criterion", "LAMP")),
        ("criterion: LAMP", "criterium: LAMP", ("g.yaml, line 8: methods.m.pruning.criterium", "criterion")),
        ("    model: small_conv", "    model: small_con", ("g.yaml, line 5: problems.digits.model", "small_conv")),
        ("    data: digits", "    date: digits", ("g.yaml, line 4: problems.digits.date",)),
        ("name: g", "nmae: g", ("g.yaml, line 1", "needs 'name'")),
        ("compressions: [2, 4]", "compressions: [2, 1]", ("g.yaml, line 9: compressions[1]", "1")),
        ("compressions: [2, 4]", "compressions: [2, 2.0]", ("g.yaml", "each once")),
        ("compressions: [2, 4]", "compressions: []", ("g.yaml", "at least one")),
        ("compressions: [2, 4]", "compressions: [2, 2.0000001]", ("g.yaml", "each once")),
        ("compressions: [2, 4]", "seeds: 1", ("compressions",)),
        ("name: g", "name: g\ncontrols: [randon]", ("g.yaml", "Unknown control 'randon'", "random")),
        ("name: g", "name: g\nseeds: 0", ("g.yaml, line 2: seeds", "0")),
        ("name: g", "name: g\nseeds: true", ("g.yaml, line 2: seeds", "true")),
        ("name: g", "name: g\nseeds: [1, 1]", ("seeds", "each once")),
        ("name: g", "name: g\nseeds: 1000000000000", ("g.yaml, line 2: seeds",)),
        ("name: g", "name: g\nepochs: 3", ("g.yaml, line 2: epochs",)),
        ("name: g", "name: g\nvariants: {a: {}}", ("g.yaml, line 2: variants", "methods")),
        ("    data: digits", "    data: digits\n    seeds: 2", ("g.yaml, line 5: problems.digits.seeds",)),
        ("    data: digits", "    data: digits\n    name: x", ("g.yaml, line 5: problems.digits.name",)),
        ("    data: digits", "    data: digits\n    variants: {a: {}}", ("line 5: problems.digits.variants",)),
        ("criterion: LAMP", "schedule: {name: OneShot, amount: 0.5}", ("g.yaml, line 7: methods.m", "$sparsity")),
        ("criterion: LAMP", "schedule: {name: OneShot, amount: $sparse}", ("g.yaml, line 8", "$sparsity", "$sparse'")),
        ("    pruning: {criterion: LAMP}", "    pruning: LAMP", ("g.yaml, line 7: methods.m",)),
        ("    pruning: {criterion: LAMP}", "    masks_from: other", ("g.yaml", "masks_from", "other-2x")),
        ("    pruning: {criterion: LAMP}", "    masks_from: m", ("g.yaml", "itself")),
        ("    pruning: {criterion: LAMP}", "    at_step: -1", ("g.yaml, line 8: methods.m.at_step",)),
        ("    pruning: {criterion: LAMP}", "    dynamics: {name: RigL, sparsity: 0.5}", ("line 7", "settings say")),
        ("  m:\n    pruning: {criterion: LAMP}", "  m: LAMP", ("g.yaml, line 7: methods.m", "mapping")),
        ("  digits:\n    data: digits\n    model: small_conv", "  digits: digits", ("line 3: problems.digits",)),
        ("    model: small_conv", "    models: [small_conv]", ("g.yaml, line 5: problems.digits.models", "names")),
        ("    model: small_conv\n", "", ("model",)),
    ],
)  # fmt: skip
def test_mistakes_are_named_with_line_and_field(old: str, new: str, said: tuple[str, ...]) -> None:
    assert LINES.count(old) == 1
    told = mistakes(LINES.replace(old, new))
    for words in said:
        assert words in told, told


@pytest.mark.parametrize("key", ["problems", "methods"])
@pytest.mark.parametrize("given", ["missing", "{}", "null", "[a]", "3"])
def test_problems_and_methods_must_be_there(key: str, given: str) -> None:
    lines: dict[str, Any] = {"problems": "{d: {data: digits, model: small_conv}}", "methods": "{m: {}}"}
    lines |= {key: given}
    text = "\n".join(f"{name}: {value}" for name, value in lines.items() if value != "missing")
    told = mistakes(f"name: g\ncompressions: [2]\n{text}\n")
    assert f"{key}: a grid needs a mapping" in told


def test_all_mistakes_are_told_at_once_and_each_once() -> None:
    text = LINES.replace("criterion: LAMP", "criterion: LAMB").replace("    model: small_conv", "    model: small_con")
    told = mistakes(text)
    assert len(told.splitlines()) == 2, told


def test_a_name_of_a_problem_that_no_directory_can_have_is_refused() -> None:
    told = mistakes(LINES.replace("  digits:", "  'a/b':"))
    assert "a/b" in told


def test_mistakes_are_of_the_kind_that_recipes_have() -> None:
    assert SameError is RecipeError
    with pytest.raises(FileFormatError, match="twice"):
        parse_grid(f"{LINES}name: h\n")
    with pytest.raises(RecipeError, match="mapping"):
        parse_grid("- a\n- b\n")
    with pytest.raises(SparsewoodError, match="--set"):
        parse_grid(LINES, "g.yaml", ["compressions"])


def test_a_grid_given_to_run_names_the_command_that_it_is_for() -> None:
    with pytest.raises(RecipeError, match="sparsewood sweep"):
        parse_recipe(LINES)
