"""The protocol of a sweep: controls that are trained as the methods are, names that mean one thing, nothing stale."""

from __future__ import annotations

import copy
import json
import runpy
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from sparsewood.allocation import PerLayer
from sparsewood.errors import OutputError, SparsewoodError
from sparsewood.models import resnet_cifar, small_conv
from sparsewood.recovery.initializers import LayerDefault
from sparsewood.report.checklist import Facts, checklist
from sparsewood.report.differences import paired_differences
from sparsewood.report.study import Row
from sparsewood.run.cells import Cell, Plan, cells_of
from sparsewood.run.components import RecipeError
from sparsewood.run.gather import gather
from sparsewood.run.grid import load_grid, parse_grid
from sparsewood.run.layerwise import drawn_alike
from sparsewood.run.lengths import dense_trainings, total_epochs
from sparsewood.run.recipe import Variant
from sparsewood.run.store import Store
from sparsewood.run.sweep_tables import _cell
from sparsewood.shrinking import shrink
from sparsewood.state import TrainingState
from sparsewood.types import Masks

small_sweep = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("small_sweep.py"))))

PROBLEM = "{digits: {data: digits, model: {name: small_conv, widths: [4, 8], hidden: 16}}}"
LAMP = "{pruning: {criterion: LAMP}}"
SHORT = "{epochs: 1, batch_size: 256, optimizer: {name: SGD, lr: 0.1, momentum: 0.9}}"
GRID = f"""
name: protocol
problems: {PROBLEM}
methods:
  often: {{pruning: {{criterion: LAMP, schedule: {{name: Linear, final: $sparsity}}, rounds: 3}}}}
  rate: {{pruning: {{criterion: LAMP, recovery: {{name: RewindRate, step: 2}}}}}}
  filters: {{pruning: {{criterion: LAMP, granularity: Filter}}}}
compressions: [4]
controls: [dense_tuned, random, random_layers, magnitude_layers, scratch]
training: {SHORT}
retraining: {{epochs: 1}}
seeds: 1
latency: false
"""


def text_of(methods: str, problems: str = PROBLEM, *more: str) -> str:
    return "\n".join(["name: p", f"problems: {problems}", f"methods: {methods}", "compressions: [2, 4]", *more])


def plan_of(methods: str, *more: str) -> Plan:
    (plan,) = cells_of(parse_grid(text_of(methods, PROBLEM, *more)))
    return plan


def mistake(methods: str, problems: str = PROBLEM, *more: str) -> str:
    with pytest.raises(RecipeError) as caught:
        parse_grid(text_of(methods, problems, *more))
    return str(caught.value)


# ---------------------------------------------------------------- names


@pytest.mark.parametrize(
    "name",
    [
        *("dense", "dense_tuned", "dense_tuned_as_lamp", "small_dense", "random_as_lamp", "magnitude_as_lamp"),
        *("random_layers_of_lamp", "magnitude_layers_of_lamp", "scratch_of_lamp"),
    ],
)
def test_a_method_cannot_have_the_name_of_a_control(name: str) -> None:
    """Two rows of one name would be taken for one, and the method for a control."""
    assert f"'{name}' is what a control is called" in mistake(f"{{{name}: {{}}, lamp: {LAMP}}}")


@pytest.mark.parametrize("name", ["a_as_b", "a_of_b", "random", "magnitude", "scratch", "densely"])
def test_other_names_are_of_no_harm(name: str) -> None:
    cells = plan_of(f"{{{name}: {{pruning: {{criterion: LAMP, scope: PerLayer}}}}, lamp: {LAMP}}}", "seeds: 1").cells
    keys = [(cell.method, cell.amount) for cell in cells]
    assert len(set(keys)) == len(keys)
    assert len({cell.stage for cell in cells}) == len(cells)


def test_a_problem_and_a_model_of_another_cannot_have_one_name() -> None:
    """A worker finds the data of a problem by its name."""
    model = "{name: small_conv, widths: [4, 8], hidden: 16}"
    problems = f"{{a-b: {{data: digits, model: {model}}}, a: {{data: digits, models: {{b: lenet_300_100}}}}}}"
    assert "two of them are called 'a-b'" in mistake("{m: {}}", problems)


# ---------------------------------------------------------------- what would be of no use


def test_the_same_share_at_every_compression_is_refused() -> None:
    granularity = "granularity: {name: NM, n: 2, m: 4}"
    said = mistake(f"{{m: {{pruning: {{{granularity}}}}}}}")
    assert "NM(n=2, m=4, axis=1) removes as much at every compression" in said
    grid = text_of(f"{{m: {{pruning: {{{granularity}}}}}}}").replace("[2, 4]", "[2]")
    assert len(parse_grid(grid).problems[0].methods) == 1


def test_n_of_m_with_the_compression_as_m() -> None:
    (problem,) = parse_grid(text_of("{m: {pruning: {granularity: {name: NM, n: 1, m: $compression}}}}")).problems
    assert [str(one.pruning.granularity) for one in problem.recipe.variants] == [
        "NM(n=1, m=2, axis=1)",
        "NM(n=1, m=4, axis=1)",
    ]


@pytest.mark.parametrize("key", ["sharing: {bits: 4}", "only: [1]"])
def test_what_no_cell_would_measure_is_refused(key: str) -> None:
    assert "belongs to `sparsewood run`" in mistake(f"{{m: {{{key}}}}}")


def test_weights_from_elsewhere_are_warned_of() -> None:
    """Networks with new weights are then trained for less, and nobody knows how much less."""
    grid = parse_grid(text_of("{m: {}}", PROBLEM, "train_dense: false"))
    assert any("nobody knows how long" in warning for warning in grid.warnings)
    few = parse_grid(text_of("{m: {}}", PROBLEM, "train_dense: false", "controls: [random]"))
    assert not any("nobody knows how long" in warning for warning in few.warnings)


# ---------------------------------------------------------------- as long as the methods


def variant_of(plan: Plan, method: str, amount: float = 4.0) -> Variant:
    cell = next(cell for cell in plan.cells if (cell.method, cell.amount) == (method, amount))
    return plan.recipe.variant(cell.variant)


@pytest.mark.parametrize(
    ("method", "trainings", "epochs"),
    [
        (LAMP, 1, 10 + 2),
        ("{pruning: {schedule: {name: Linear, final: $sparsity}, rounds: 3}}", 3, 10 + 3 * 2),
        ("{independent: true, pruning: {schedule: {name: Linear, final: $sparsity}, rounds: 3}}", 1, 10 + 2),
        ("{pruning: {schedule: {name: Linear, final: $sparsity}, rounds: 3, unit: step}}", 1, 10 + 2),
        ("{pruning: {criterion: LAMP, recovery: {name: RewindRate, step: 0}}}", 1, 10 + 10),
        (
            "{pruning: {schedule: {name: Linear, final: $sparsity}, rounds: 3, recovery: {name: RewindRate, step: 0}}}",
            3,
            10 + 3 * 10,
        ),
        (
            "{pruning: {schedule: {name: Linear, final: $sparsity}, rounds: 3, recovery: {name: Rewind, step: 0}}}",
            0,
            10,
        ),
        ("{pruning: {criterion: LAMP, recovery: Reinitialize}}", 0, 10),
        ("{pruning: {criterion: LAMP, recovery: Scratch}}", 0, 10),
        ("{at_step: 0, pruning: {criterion: LAMP, recovery: {name: Rewind, step: 0}}}", 0, 10),
    ],
)
def test_every_control_is_trained_as_long_as_the_method(method: str, trainings: int, epochs: int) -> None:
    """[8.3] The same fine-tuning for all; a dense control at equal training."""
    plan = plan_of(f"{{mine: {method}}}", "training: {epochs: 10}", "retraining: {epochs: 2}", "seeds: 1")
    mine = variant_of(plan, "mine")
    assert dense_trainings(mine) == trainings
    assert total_epochs(plan.recipe, mine) == epochs
    assert total_epochs(plan.recipe, variant_of(plan, "random")) == epochs
    assert ("dense_tuned" in {cell.method for cell in plan.cells}) == (trainings > 0)


def test_layer_controls_of_other_rounds_or_shapes_are_other_cells() -> None:
    plain = {cell.method: cell.hash for cell in plan_of(f"{{mine: {LAMP}}}", "seeds: 1").cells if cell.kind == "layers"}
    assert len(plain) == 2
    without = {cell.method: cell.hash for cell in plan_of(f"{{mine: {LAMP}}}", "seeds: 1", "latency: false").cells}
    assert not set(plain.values()) & set(without.values())  # so that latency is measured when it is asked for


# ---------------------------------------------------------------- carried out


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("protocol")
    code, place = small_sweep.sweep(directory, GRID)
    assert code == 0
    return place


def cells_in(place: Path) -> dict[str, tuple[Cell, Path]]:
    (plan,) = cells_of(load_grid(place.parent / "grid.yaml", [f"output={place.parent}"]))
    return {cell.method: (cell, plan.directory / f"seed-{cell.seed}" / cell.stage) for cell in plan.cells}


def rounds_of(place: Path, method: str) -> list[Path]:
    return sorted(cells_in(place)[method][1].glob("round-*"))


def test_controls_of_an_iterative_method_have_its_rounds(swept: Path) -> None:
    """A control with one training in place of three would lose by its training."""
    for method in ("often", "random", "random_layers_of_often", "magnitude_layers_of_often"):
        rounds = rounds_of(swept, method)
        assert [path.name for path in rounds] == ["round-01", "round-02", "round-03"], method
        states = [TrainingState.load(path / "final.safetensors").fingerprint() for path in rounds]
        assert len(set(states)) == 3, method
    for method in ("random", "random_layers_of_often", "magnitude_layers_of_often"):
        masks = [Masks.load(path / "masks.safetensors").fingerprint() for path in rounds_of(swept, method)]
        assert len(set(masks)) == 1, method
    last = Masks.load(rounds_of(swept, "often")[-1] / "masks.safetensors")
    same = Masks.load(rounds_of(swept, "random_layers_of_often")[0] / "masks.safetensors")
    assert {n: int(m.sum()) for n, m in last.items()} == {n: int(m.sum()) for n, m in same.items()}


def test_a_rate_that_is_rewound_has_a_dense_control(swept: Path) -> None:
    """[8.3] It keeps trained weights and repeats the training, so it has two behind it."""
    notes = json.loads((swept / "sweep.json").read_text())["problems"]["digits"]
    assert notes["methods"]["rate"]["control"].startswith("dense_tuned")
    dense = cells_in(swept)[notes["methods"]["rate"]["control"]][1]
    done = json.loads((dense / "control-01" / "done.json").read_text())
    pruned = json.loads((cells_in(swept)["rate"][1] / "round-01" / "done.json").read_text())
    assert done["steps"] == pruned["steps"]


def test_filters_are_compared_with_filters(swept: Path) -> None:
    """[8.3] By chance and by size, in units of the method: else shape, and not the choice, makes the difference."""
    mine = Masks.load(rounds_of(swept, "filters")[0] / "masks.safetensors")
    for method in ("random_layers_of_filters", "magnitude_layers_of_filters"):
        masks = Masks.load(rounds_of(swept, method)[0] / "masks.safetensors")
        for name, mask in masks.items():
            rows = mask.flatten(1)
            assert torch.equal(rows.all(1), rows.any(1)), (method, name)
            assert int(mask.sum()) == int(mine[name].sum()), (method, name)
        assert any(not torch.equal(masks[name], mine[name]) for name in mine), method


def test_networks_with_new_weights_do_not_claim_the_first_ones(swept: Path) -> None:
    """What is compared are fingerprints of weights that a network did begin with."""
    for method, (cell, directory) in cells_in(swept).items():
        row = json.loads((directory / "cell.json").read_text())
        assert (row["first_weights"] is None) == (cell.kind == "scratch"), method
        assert row["dense"] == json.loads((cells_in(swept)["dense"][1] / "done.json").read_text())["fingerprint"]
    assert "initial weights" not in {item.name for item in gather([swept]).study.missing}


@pytest.fixture
def copied(swept: Path, tmp_path: Path) -> Path:
    shutil.copytree(swept.parent, tmp_path / "here")
    return tmp_path / "here" / swept.name


def changed(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def test_cells_of_another_dense_network_are_not_trusted(copied: Path) -> None:
    """One that was trained again, on another machine say, is another network: pairs would be none."""
    changed(cells_in(copied)["dense"][1] / "done.json", lambda done: {**done, "fingerprint": "another"})
    found = gather([copied])
    assert not found.report["complete"]
    assert {one.error for one in found.study.failures} == {
        "It is of another dense network than the one that is there now. Carry out the sweep again."
    }
    code, _ = small_sweep.sweep(copied.parent, GRID)
    assert code == 1


def test_a_dense_network_that_comes_out_the_same_changes_nothing(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparsewood.run import trainings

    before = {path: path.read_text() for path in copied.rglob("cell.json") if path.parent.name != "dense"}
    shutil.rmtree(cells_in(copied)["dense"][1])
    doing: list[str] = []
    fit = trainings.fit

    def counted(*given: Any, **more: Any) -> Any:
        doing.append("fit")
        return fit(*given, **more)

    monkeypatch.setattr(trainings, "fit", counted)
    code, _ = small_sweep.sweep(copied.parent, GRID)
    assert code == 0
    assert doing == ["fit"]  # the dense network, and no other
    assert {path: path.read_text() for path in before} == before


def test_masks_that_were_made_of_others_are_found(copied: Path) -> None:
    directory = cells_in(copied)["random_layers_of_filters"][1]
    (directory / "cell.json").unlink()
    path = directory / "round-01" / "masks.safetensors"
    Masks({name: torch.ones_like(mask) for name, mask in Masks.load(path).items()}).save(path)
    code, _ = small_sweep.sweep(copied.parent, GRID)
    assert code == 1
    errors = {one.method: one.error for one in gather([copied]).study.failures}
    assert errors.keys() <= {"random_layers_of_filters", "seed-1/random_layers-of-filters"}
    assert "are other masks" in (directory / "error.txt").read_text()


def test_nothing_is_compared_with_what_may_be_recovered_in_another_way(copied: Path) -> None:
    """Notes that do not say how: no difference is better than one to the control of another method."""
    assert "random" in {one.control for one in gather([copied]).study.differences if one.method == "often"}
    notes = json.loads((copied / "sweep.json").read_text())
    for told in notes["problems"]["digits"]["methods"].values():
        del told["family"], told["stands_for"]
    (copied / "sweep.json").write_text(json.dumps(notes))
    found = {(one.method, one.control) for one in gather([copied]).study.differences}
    assert ("often", "random") not in found
    assert ("often", "random_layers") in found


def test_two_sweeps_that_mean_other_problems_by_one_name_are_refused(swept: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(swept, other)
    changed(
        other / "sweep.json",
        lambda notes: {
            **notes,
            "problems": {"digits": {**notes["problems"]["digits"], "training": {"epochs": 50}}},
        },
    )
    with pytest.raises(SparsewoodError, match="'digits' with other training"):
        gather([swept, other])
    assert gather([swept, swept]).study.rows == gather([swept]).study.rows


def test_a_full_disk_is_no_damaged_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(sqlite3, "connect", full)
    with pytest.raises(OutputError, match=r"disk is full.*Make room"):
        store.rows()


def test_a_mean_of_fewer_seeds_says_so() -> None:
    assert (_cell([0.5, 0.7], 2), _cell([0.5, 0.7], 3), _cell([0.5], 3), _cell(None, 3)) == (
        *("60.00 +- 14.14", "60.00 +- 14.14 (of 2)", "50.00 (of 1)", ""),
    )


# ---------------------------------------------------------------- new weights


@pytest.mark.parametrize("width", [1.0, 0.5])
def test_new_weights_are_as_large_as_the_models_own(width: float) -> None:
    """[8.1] From scratch a network begins in its own way, He et al. 2015 here, and not in that of its layers."""
    own = resnet_cifar(8, channels=1, generator=torch.Generator().manual_seed(1))
    small = own
    if width < 1:
        small = shrink(own, torch.zeros(1, 1, 8, 8), 1 - width, scope=PerLayer(), verify=False).model
    model = copy.deepcopy(small)
    drawn_alike(model, own, torch.Generator().manual_seed(2))
    for name, parameter in model.named_parameters():
        wanted = own.get_parameter(name)
        if parameter.numel() < 64 or parameter.dim() < 2:
            continue
        fans = (wanted.numel() / parameter.numel()) ** 0.5
        assert float(parameter.detach().std()) == pytest.approx(float(wanted.detach().std()) * fans**0.5, rel=0.35), (
            name
        )
        assert parameter.shape != wanted.shape or not torch.equal(parameter, wanted), name


def test_new_weights_of_layers_that_draw_them_themselves_are_theirs() -> None:
    own = small_conv((4, 8), hidden=16, batch_norm=True, generator=torch.Generator().manual_seed(1))
    model, usual = copy.deepcopy(own), copy.deepcopy(own)
    drawn_alike(model, own, torch.Generator().manual_seed(2))
    LayerDefault()(usual, {}, torch.Generator().manual_seed(2))
    assert all(torch.equal(one, usual.get_parameter(name)) for name, one in model.named_parameters())


def test_what_is_constant_in_a_new_network_stays_so() -> None:
    own = nn.Sequential(nn.Linear(80, 80), nn.Linear(80, 2))
    nn.init.constant_(own[0].bias, 0.25)  # type: ignore[arg-type]
    model = copy.deepcopy(own)
    drawn_alike(model, own, torch.Generator().manual_seed(2))
    assert set(model[0].bias.tolist()) == {0.25}  # type: ignore[union-attr]
    assert not torch.equal(model[0].weight, own[0].weight)  # type: ignore[arg-type]


# ---------------------------------------------------------------- what counts as a control


def row(method: str, seed: int, role: str = "method", amount: float = 4.0) -> Row:
    sizes = (4, 4, 8, 2, 8, 2)
    return Row("p", method, role, "", amount, seed, 0.5, *[None] * 4, *sizes, *[None] * 3, 0, "r", "")  # type: ignore[arg-type]


def missing(rows: list[Row], methods: dict[str, dict[str, Any]]) -> dict[str, str]:
    usual = {"control": "dense", "epochs": 1}
    facts = Facts(methods={f"p/{name}": usual | told for name, told in methods.items()})
    return {item.name: item.reason for item in checklist(rows, facts) if not item.there}


def test_a_method_that_is_called_like_a_control_is_none() -> None:
    rows = [row(name, seed) for name in ("random", "lamp") for seed in (1, 2, 3)]
    assert "has no random pruning" in missing(rows, {"random": {"stands_for": None}, "lamp": {}})["random global"]
    assert "random global" not in missing(rows, {"random": {"stands_for": "random"}, "lamp": {}})
    scratch = [row("lamp", 1), row("scratch_of_lamp", 1)]
    assert "from scratch" in missing(scratch, {})
    assert "from scratch" not in missing([scratch[0], replace(scratch[1], role="control")], {})


def test_no_difference_between_networks_of_other_sizes() -> None:
    """Of whole units as many parameters go as hang on them: a control with five times as many is none."""
    large = [replace(row("small_dense", seed, "control"), compression=10.0, accuracy=0.4) for seed in (1, 2)]
    dense = [replace(row("dense", seed, "control", 1.0), compression=1.0, accuracy=0.6) for seed in (1, 2)]
    found = {}
    for compression in (48.0, 10.0, 8.1, 7.9):
        mine = [replace(row("units", seed), compression=compression) for seed in (1, 2)]
        found[compression] = {one.control for one in paired_differences([*mine, *large, *dense])}
    assert found == {48.0: {"dense"}, 10.0: {"dense", "small_dense"}, 8.1: {"dense", "small_dense"}, 7.9: {"dense"}}


def test_a_control_without_one_of_the_seeds_is_missing() -> None:
    rows = [row("lamp", seed) for seed in range(5)] + [row("random", seed, "control") for seed in range(4)]
    found = missing(rows, {})
    assert "random pruning" in found["random global"]
    assert "random 4x of p lacks seeds [4]" in found["seeds"]
