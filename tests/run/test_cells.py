"""Cells: no comparison is without its controls, and what is known of a network outlives a change of the others."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from sparsewood.criteria import LAMP, Magnitude, Random
from sparsewood.errors import SparsewoodError
from sparsewood.granularity import Coupled, Filter
from sparsewood.pruning import Pruning
from sparsewood.recovery import FineTune, Reinitialize, Rewind, RewindRate, Scratch
from sparsewood.run.cells import (
    Cell,
    Plan,
    cells_of,
    family_of,
    layer_control,
    plainest,
    stands_for,
)
from sparsewood.run.grid import Problem, load_grid, parse_grid
from sparsewood.run.lengths import dense_trainings, total_epochs
from sparsewood.run.recipe import Recipe, Variant, parse_recipe
from sparsewood.schedules import Geometric, OneShot
from sparsewood.train.settings import Training
from sparsewood.types import Sparsity

SNIP = "{at_step: 0, pruning: {criterion: WeightTimesGradient, recovery: {name: Rewind, step: 0}}}"
LAMP_ = "{pruning: {criterion: LAMP}}"
RIGL = (
    "{dynamics: {name: RigL, sparsity: $sparsity, every: 9}, pruning: {unit: step, recovery: {name: Rewind, step: 0}}}"
)
UNITS = "{pruning: {criterion: FilterNorm, granularity: Coupled}}"
GRADUAL = "{pruning: {schedule: {name: Cubic, final: $sparsity}, rounds: 4, unit: step, every: 2}}"
SHIPPED = Path(__file__).parents[2] / "recipes" / "grids" / "state-of-pruning.yaml"

Key = tuple[str, float, int]


def plans(
    methods: str = f"{{magnitude: {{}}, lamp: {LAMP_}, snip: {SNIP}}}", compressions: str = "[2, 8]", *more: str
) -> list[Plan]:
    problems = "problems: {digits: {data: digits, model: small_conv}}"
    head = [] if any(line.startswith("problems:") for line in more) else [problems]
    text = "\n".join(["name: g", *head, f"methods: {methods}", f"compressions: {compressions}", *more])
    return cells_of(parse_grid(text))


def cells(*arguments: str) -> dict[Key, Cell]:
    return {(cell.method, cell.amount, cell.seed): cell for plan in plans(*arguments) for cell in plan.cells}


def hashes(found: dict[Key, Cell]) -> dict[Key, str]:
    return {key: cell.hash for key, cell in found.items()}


def methods_of(found: dict[Key, Cell]) -> set[str]:
    return {method for method, _, _ in found}


# ---------------------------------------------------------------- which there are


def test_every_control_is_there_at_every_amount_and_seed() -> None:
    """[8.1] Random and magnitude pruning, global and with layer-wise proportions, dense and smaller dense networks."""
    found = cells()
    at_all = {
        *("magnitude", "lamp", "snip", "random", "random_as_snip", "magnitude_as_snip", "small_dense"),
        *("random_layers_of_magnitude", "random_layers_of_lamp", "random_layers_of_snip"),
        *("magnitude_layers_of_lamp", "magnitude_layers_of_snip"),
        *("scratch_of_magnitude", "scratch_of_lamp", "scratch_of_snip"),
    }
    wanted = {(method, amount, seed) for method in at_all for amount in (2.0, 8.0) for seed in (1, 2, 3)}
    wanted |= {(method, 1.0, seed) for method in ("dense", "dense_tuned") for seed in (1, 2, 3)}
    assert set(found) == wanted


def test_nothing_is_there_twice() -> None:
    every = [cell for plan in plans() for cell in plan.cells]
    for values in (
        [cell.hash for cell in every],
        [(cell.seed, cell.stage) for cell in every],
        [cell.name for cell in every],
    ):
        assert [value for value, count in Counter(values).items() if count > 1] == []


@pytest.mark.parametrize("control", ["dense_tuned", "random", "magnitude", "random_layers", "small_dense", "scratch"])
def test_controls_are_left_out_only_if_the_grid_says_so(control: str) -> None:
    one = methods_of(cells(f"{{lamp: {LAMP_}}}", "[2]", f"controls: [{control}]", "seeds: 1"))
    suffix = "_of_lamp" if control in ("random_layers", "scratch") else ""
    assert one == {"dense", "lamp", f"{control}{suffix}"}
    assert methods_of(cells(f"{{lamp: {LAMP_}}}", "[2]", "controls: []", "seeds: 1")) == {"dense", "lamp"}


def test_roles_and_owners() -> None:
    for (method, amount, _), cell in cells().items():
        compared = method in ("magnitude", "lamp", "snip")
        assert cell.role == ("method" if compared else "control"), method
        assert cell.owner == (method.partition("_of_")[2] if "_of_" in method else ""), method
        kinds = {"dense": "dense", "dense_tuned": "tuned", "small_dense": "narrow"}
        kind = next((k for k in ("layers", "scratch") if k in method), kinds.get(method, "pruned"))
        assert cell.kind == kind, method
        assert cell.name == f"digits: {method} {amount:g}x, seed {cell.seed}"


def test_a_method_that_is_the_control_stands_for_it() -> None:
    found = methods_of(cells(f"{{mine: {{}}, lamp: {LAMP_}, chance: {{pruning: {{criterion: Random}}}}}}"))
    assert not {"magnitude", "random"} & found
    assert {"mine", "chance", "random_layers_of_mine", "magnitude_layers_of_chance"} <= found
    assert "magnitude_layers_of_mine" not in found  # it is that itself
    assert "random_layers_of_chance" not in found


def test_a_method_of_the_name_of_a_control_that_is_another_leaves_the_control_in() -> None:
    found = methods_of(cells("{random: {pruning: {criterion: Random, scope: PerLayer}}}", "[2]", "seeds: 1"))
    assert {"random", "random_as_random", "magnitude"} <= found


def test_every_way_of_recovery_has_its_own_controls() -> None:
    methods = f"{{lamp: {LAMP_}, snip: {SNIP}, rigl: {RIGL}, units: {UNITS}, gradual: {GRADUAL}}}"
    found = methods_of(cells(methods, "[4]", "seeds: 1"))
    plain = {name for name in found if name.partition("_as_")[0] in ("random", "magnitude")}
    assert plain == {
        "random",
        "magnitude",
        *(f"{n}_as_{m}" for n in ("random", "magnitude") for m in ("snip", "units")),
    }


def test_controls_of_several_rounds_are_trained_as_often() -> None:
    """[8.3] The same fine-tuning schedule for all: what is trained three times is compared with what is."""
    iterative = "{pruning: {criterion: LAMP, rounds: 3, schedule: {name: Levels, amounts: [0.3, 0.6, $sparsity]}}}"
    plan = plans(f"{{once: {LAMP_}, often: {iterative}}}", "[4]", "seeds: 1", "training: {epochs: 5}")[0]
    trained = {cell.method: plan.recipe.variant(cell.variant) for cell in plan.cells if cell.kind == "pruned"}
    assert {name: total_epochs(plan.recipe, one) for name, one in trained.items()} == {
        **{"once": 10, "random": 10, "magnitude": 10},
        **{"often": 20, "random_as_often": 20, "magnitude_as_often": 20},
    }
    assert {event.amount for event in trained["random_as_often"].pruning.plan} == {Sparsity(0.75)}


def test_controls_of_dynamics_are_cut_where_their_training_begins() -> None:
    plan = plans(f"{{rigl: {RIGL}}}", "[4]", "seeds: 1")[0]
    cell = next(cell for cell in plan.cells if cell.method == "random")
    variant = plan.recipe.variant(cell.variant)
    assert (variant.at_step, variant.pruning.recovery, variant.in_training) == (0, Rewind(0), False)


def test_each_dense_control_is_trained_as_the_methods_are() -> None:
    methods = f"{{a: {LAMP_}, b: {{retraining: {{epochs: 7}}, pruning: {{criterion: LAMP}}}}, c: {SNIP}}}"
    plan = plans(methods, "[2, 4]", "seeds: 1", "retraining: {epochs: 2}")[0]
    tuned = {cell.method: plan.recipe.variant(cell.variant) for cell in plan.cells if cell.kind == "tuned"}
    assert {name: one.retraining.epochs for name, one in tuned.items() if one.retraining} == {
        "dense_tuned": 2,
        "dense_tuned_as_b": 7,
    }


def test_a_dense_control_where_trained_weights_are_trained_again() -> None:
    """Such a network has two trainings behind it, and the dense one must have, too."""
    again = "{pruning: {criterion: LAMP, recovery: {name: RewindRate, step: 0}}}"
    plan = plans(f"{{again: {again}}}", "[4]", "seeds: 1")[0]
    (tuned,) = [plan.recipe.variant(cell.variant) for cell in plan.cells if cell.kind == "tuned"]
    assert tuned.pruning.recovery == RewindRate(0)
    assert dense_trainings(tuned) == 1
    assert [dense_trainings(one) for one in (variant(recovery=Rewind(0)), variant(recovery=Scratch()))] == [0, 0]


def test_no_dense_control_where_the_dense_training_is_repeated() -> None:
    assert "dense_tuned" not in methods_of(cells(f"{{snip: {SNIP}}}"))


def test_each_cell_comes_after_those_that_it_needs() -> None:
    taken = "b: {masks_from: a, shuffled: true}, a: {}, c: {matched_to: a, pruning: {criterion: LAMP}}"
    methods = f"{{{taken}, snip: {SNIP}}}"
    for plan in plans(methods):
        known: set[str] = set()
        for cell in plan.cells:
            assert known.issuperset(cell.after), cell.name
            known.add(cell.hash)
        by = {cell.hash: cell for cell in plan.cells}
        needs = {cell.method: [by[key].method for key in cell.after] for cell in plan.cells if cell.amount != 2}
        assert needs["dense"] == []
        assert needs["b"] == needs["c"] == ["dense", "a"]
        assert needs["dense_tuned"] == needs["small_dense"] == needs["random"] == ["dense"]
        assert needs["scratch_of_b"] == needs["random_layers_of_b"] == ["dense", "b"]
        for cell in plan.cells:
            assert {by[key].seed for key in cell.after} <= {cell.seed}
            assert {by[key].amount for key in cell.after} <= {cell.amount, 1.0}


def test_the_shipped_grid_has_every_control_once() -> None:
    for plan in cells_of(load_grid(SHIPPED)):
        count = Counter((cell.method, cell.amount, cell.seed) for cell in plan.cells)
        assert set(count.values()) == {1}
        for method in {cell.method for cell in plan.cells if cell.role == "method"}:
            there = {cell.method for cell in plan.cells if cell.of == method}
            assert {f"random_layers_of_{method}", f"scratch_of_{method}"} <= there
            by_size = f"magnitude_layers_of_{method}" in there
            assert by_size != (method in ("magnitude", "uniform_magnitude")), method


def test_two_that_are_the_same_are_refused() -> None:
    with pytest.raises(SparsewoodError, match=r"'digits: a 2x, seed 1' and 'digits: b 2x, seed 1'.*two methods"):
        plans("{a: {}, b: {pruning: {criterion: Magnitude}}}")
    twice = "problems: {one: {data: digits, model: small_conv}, two: {data: digits, model: {name: small_conv}}}"
    with pytest.raises(SparsewoodError, match=r"'one: dense 1x, seed 1' and 'two: dense 1x, seed 1'.*two problems"):
        plans("{a: {}}", "[2]", twice)


# ---------------------------------------------------------------- what keeps its hash


def test_adding_a_seed_or_an_amount_keeps_the_others() -> None:
    before = hashes(cells())
    more = hashes(cells(f"{{magnitude: {{}}, lamp: {LAMP_}, snip: {SNIP}}}", "[2, 4, 8]", "seeds: 4"))
    assert {key: more.get(key) for key in before} == before
    assert {key for key in more if key not in before} == {
        (method, amount, seed) for method, amount, seed in more if amount == 4 or seed == 4
    }


@pytest.mark.parametrize("method", [UNITS, RIGL, GRADUAL, "{pruning: {criterion: WeightTimesGradient}}"])
def test_adding_a_method_keeps_the_others_and_where_they_lie(method: str) -> None:
    before, after = cells(), cells(f"{{magnitude: {{}}, lamp: {LAMP_}, snip: {SNIP}, new: {method}}}")
    assert {key: after[key].hash for key in before} == hashes(before)
    assert {key: after[key].stage for key in before} == {key: cell.stage for key, cell in before.items()}
    assert {name.partition("_of_")[2] or name.partition("_as_")[2] or name for name in methods_of(after)} - {
        name.partition("_of_")[2] or name.partition("_as_")[2] or name for name in methods_of(before)
    } == {"new"}


def test_the_order_of_methods_changes_no_hash_of_theirs() -> None:
    one, two = cells(), cells(f"{{snip: {SNIP}, lamp: {LAMP_}, magnitude: {{}}}}")
    assert set(hashes(one).values()) == set(hashes(two).values())


def test_changing_a_method_changes_it_and_its_controls_only() -> None:
    before = hashes(cells())
    after = hashes(cells(f"{{magnitude: {{}}, lamp: {{pruning: {{criterion: LAMP, min_units: 2}}}}, snip: {SNIP}}}"))
    changed = {key[0] for key in before if after.get(key) != before[key]}
    assert changed == {"lamp", "random_layers_of_lamp", "magnitude_layers_of_lamp", "scratch_of_lamp"}


def test_changing_a_method_changes_those_that_take_its_masks() -> None:
    def of(a: str) -> dict[Key, str]:
        return hashes(cells(f"{{a: {a}, b: {{masks_from: a, shuffled: true}}, lamp: {LAMP_}}}", "[2]", "seeds: 1"))

    before, after = of(SNIP), of("{at_step: 0, pruning: {criterion: SynFlow, recovery: {name: Rewind, step: 0}}}")
    changed = {key[0] for key in before if after.get(key) != before[key]}
    every = {
        "a",
        "b",
        *(f"{control}_of_{m}" for control in ("random_layers", "magnitude_layers", "scratch") for m in "ab"),
    }
    assert changed == every


def test_places_are_those_of_hashes() -> None:
    """What lies in a directory is of one meaning: where a hash changes, so does the place."""
    texts = [
        (f"{{magnitude: {{}}, lamp: {LAMP_}, snip: {SNIP}}}", "[2, 8]"),
        (f"{{magnitude: {{}}, lamp: {{pruning: {{criterion: LAMP, min_units: 2}}}}, snip: {SNIP}}}", "[2, 8]"),
        (f"{{magnitude: {{}}, lamp: {LAMP_}, snip: {SNIP}}}", "[2, 8]", "training: {epochs: 3}"),
        (f"{{magnitude: {{}}, lamp: {LAMP_}, snip: {SNIP}}}", "[2, 8]", "retraining: {epochs: 3}"),
        (f"{{magnitude: {{}}, lamp: {LAMP_}, snip: {SNIP}}}", "[2, 8]", "augment: {name: CropFlip}"),
    ]
    meanings: dict[tuple[Path, int, str], set[str]] = {}
    for text in texts:
        for plan in plans(*text):
            for cell in plan.cells:
                meanings.setdefault((plan.directory, cell.seed, cell.stage), set()).add(cell.hash)
    assert {place: found for place, found in meanings.items() if len(found) > 1} == {}


def test_a_snapshot_that_is_new_is_another_dense_training() -> None:
    """The dense training must have kept it."""
    late = "{pruning: {criterion: LAMP, recovery: {name: Rewind, step: 5}}}"
    before, after = cells("{m: {}}"), cells(f"{{m: {{}}, late: {late}}}")
    assert before["dense", 1.0, 1].hash != after["dense", 1.0, 1].hash
    assert plans("{m: {}}")[0].directory != plans(f"{{m: {{}}, late: {late}}}")[0].directory


# ---------------------------------------------------------------- what is the same


def variant(**values: object) -> Variant:
    at_step = values.pop("at_step", None)
    retraining = values.pop("retraining", None)
    independent = bool(values.pop("independent", False))
    pruning = Pruning(**{"schedule": OneShot(Sparsity(0.75)), **values})  # type: ignore[arg-type]
    return Variant("v", pruning, retraining, independent=independent, at_step=at_step)  # type: ignore[arg-type]


def test_plainest_keeps_recovery_and_units_alone() -> None:
    given = variant(
        criterion=LAMP(), recovery=Rewind(3), schedule=Geometric(0.5), rounds=3, iterations=2, exclude=("a",)
    )
    plain = plainest(given, Random(), 4.0)
    assert plain.pruning == Pruning(Random(), OneShot(Sparsity(0.75)), recovery=Rewind(3), exclude=("a",))
    often = plainest(variant(criterion=LAMP(), schedule=Geometric(0.5), rounds=3), Random(), 4.0)
    assert [(event.step, event.amount) for event in often.pruning.plan] == [(k, Sparsity(0.75)) for k in range(3)]
    units = plainest(variant(granularity=Coupled()), Magnitude(), 4.0)
    assert units.pruning.plan[0].amount == Sparsity(0.5)


@pytest.mark.parametrize(
    ("given", "standing"),
    [
        (variant(), "magnitude"),
        (variant(criterion=Random()), "random"),
        (variant(recovery=Rewind(0), at_step=0), "magnitude"),
        (variant(criterion=LAMP()), None),
        (variant(schedule=OneShot(Sparsity(0.5))), None),
        (variant(schedule=Geometric(0.5), rounds=2), None),
    ],
)
def test_what_stands_for_a_control(given: Variant, standing: str | None) -> None:
    assert stands_for(given, 4.0) == standing


@pytest.mark.parametrize(
    ("given", "control"),
    [
        (variant(), "magnitude_layers"),
        (variant(criterion=Random()), "random_layers"),
        (variant(granularity=Coupled()), "magnitude_layers"),
        (variant(criterion=LAMP()), None),
        (variant(granularity=Filter()), "magnitude_layers"),  # which is of filters, too
        (variant(schedule=Geometric(0.5), rounds=2), None),  # the control is one cut
        (variant(iterations=3), None),
        (variant(unit="step", every=2), None),
    ],
)
def test_what_is_its_own_control_by_layers(given: Variant, control: str | None) -> None:
    assert layer_control(given) == control


def test_families_are_alike_in_all_but_the_choice() -> None:
    assert family_of(variant()) == family_of(variant(criterion=LAMP(), schedule=OneShot(0.1), iterations=3))
    assert family_of(variant()) == family_of(variant(schedule=Geometric(0.5), rounds=3, independent=True))
    assert family_of(variant(recovery=Rewind(0))) == family_of(
        variant(recovery=Rewind(0), schedule=Geometric(0.5), rounds=3)
    )
    others = [
        variant(schedule=Geometric(0.5), rounds=3),
        variant(schedule=Geometric(0.5), rounds=4),
        variant(recovery=Rewind(0)),
        variant(recovery=Rewind(0), at_step=0),
        variant(granularity=Coupled()),
        variant(retraining=Training(epochs=99)),
        variant(protect_classifier=False),
    ]
    assert len({family_of(one) for one in (variant(), *others)}) == 1 + len(others)


@pytest.mark.parametrize(
    ("given", "epochs"),
    [
        (variant(recovery=FineTune()), 10 + 3),
        (variant(schedule=Geometric(0.5), rounds=4), 10 + 4 * 3),
        (variant(schedule=Geometric(0.5), rounds=4, independent=True), 10 + 3),
        (variant(schedule=Geometric(0.5), rounds=4, unit="step"), 10 + 3),
        (variant(recovery=Rewind(0)), 10),
        (variant(recovery=Rewind(5)), 10),  # the weights of step 5, and the rest of the training
        (variant(recovery=Rewind(0), at_step=0), 10),
        (variant(recovery=Scratch()), 10),
        (variant(recovery=Reinitialize()), 10),
        (variant(recovery=RewindRate(0)), 10 + 10),  # the trained weights, and the whole training again
        (variant(recovery=RewindRate(5)), 10 + 10),
    ],
)
def test_epochs_from_the_first_weights_on(given: Variant, epochs: int) -> None:
    recipe = parse_recipe("{name: r, data: digits, model: small_conv, training: {epochs: 10}, retraining: {epochs: 3}}")
    given = Variant("v", given.pruning, Training(epochs=3), independent=given.independent, at_step=given.at_step)
    assert total_epochs(recipe, given) == epochs


def test_epochs_of_masks_that_are_anothers_are_those_of_one_training() -> None:
    text = """
{name: r, data: digits, model: small_conv, training: {epochs: 10}, retraining: {epochs: 3},
 pruning: {schedule: {name: Geometric, rate: 0.5}, rounds: 4},
 variants: {a: {}, b: {masks_from: a}, c: {matched_to: a}}}
"""
    recipe = parse_recipe(text)
    assert {name: total_epochs(recipe, recipe.variant(name)) for name in "abc"} == {"a": 22, "b": 13, "c": 22}


def test_epochs_without_a_dense_training() -> None:
    recipe: Recipe = parse_recipe(
        "{name: r, data: digits, model: small_conv, training: {epochs: 10}, train_dense: false}"
    )
    assert total_epochs(recipe, variant(recovery=Rewind(0))) == 10
    assert total_epochs(recipe, variant(retraining=Training(epochs=3))) == 3


def test_a_small_dense_network_is_trained_as_long_as_the_longest() -> None:
    iterative = "{pruning: {criterion: LAMP, schedule: {name: Levels, amounts: [$sparsity, $sparsity]}, rounds: 2}}"
    short, long = cells("{m: {}}", "[4]", "seeds: 1"), cells(f"{{m: {{}}, i: {iterative}}}", "[4]", "seeds: 1")
    assert short["small_dense", 4.0, 1].hash != long["small_dense", 4.0, 1].hash
    assert short["m", 4.0, 1].hash == long["m", 4.0, 1].hash


def test_problems_have_directories_of_their_own() -> None:
    problems = (
        "problems: {a: {data: digits, model: small_conv}, b: {data: digits, model: {name: small_conv, hidden: 8}}}"
    )
    found = plans("{m: {}}", "[2]", problems, "output: out")
    assert len({plan.directory for plan in found}) == 2
    assert {plan.directory.parent for plan in found} == {Path("out/g")}
    assert isinstance(found[0].problem, Problem)
