"""The checklist: a study that has everything is complete, and whatever is taken from it is named, with the reason."""

from __future__ import annotations

import json
import runpy
import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sparsewood.report.checklist import QUESTIONS, Facts, as_report, checklist
from sparsewood.report.differences import paired_differences
from sparsewood.report.study import Failure, Row, Study

studies = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("studies.py"))))

PROBLEMS = ("digits", "fashion", "cifar")
METHODS = ("lamp", "synflow")
AMOUNTS = (2.0, 4.0, 8.0, 16.0, 32.0)
SEEDS = (1, 2, 3)
OWN = ("random_layers", "magnitude_layers", "scratch")
Material = tuple[list[Row], Facts]


def row(problem: str, method: str, amount: float, seed: int, role: str, of: str = "") -> Row:
    accuracy = 0.95 - 0.1 * AMOUNTS.index(amount) - 0.3 * (amount == 32) if amount > 1 else 0.95
    given = {"problem": problem, "role": role, "of": of, "accuracy": accuracy + 0.001 * seed, "accuracy5": 0.99}
    return studies.row(method, amount, seed, **given)


def study_rows() -> list[Row]:
    return [
        row(problem, method, amount, seed, role, of)
        for problem in PROBLEMS
        for seed in SEEDS
        for method, amounts, role, of in (
            ("dense", (1.0,), "control", ""),
            ("dense_tuned", (1.0,), "control", ""),
            *((method, AMOUNTS, "method", "") for method in METHODS),
            *((name, AMOUNTS, "control", "") for name in ("random", "magnitude", "small_dense")),
            *((f"{name}_of_{method}", AMOUNTS, "control", method) for name in OWN for method in METHODS),
        )
        for amount in amounts
    ]


def method_facts(source: str, **values: Any) -> dict[str, Any]:
    usual = {"epochs": 14, "after": {"epochs": 4}, "control": "dense_tuned", "variant": {"pruning": source}}
    return {"source": source, "stands_for": None, "by_layer": None, "family": "f", **usual, **values}


def study_facts() -> Facts:
    problem = {
        "data": {
            "settings": {"name": "digits"}, "note": "", "examples": {"train": 1000}, "classes": 10, "image": [1, 8, 8],
            "augment": None, "normalization": "none",
        },
        "model": {"name": "small_conv", "settings": {"name": "small_conv"}, "parameters": 9, "layers": ["Conv2d(1)"]},
        "training": {"epochs": 10, "batch_size": 64},
    }  # fmt: skip
    problems = {name: {**problem, "data": {**problem["data"], "name": name}} for name in PROBLEMS}
    told = {
        "lamp": method_facts("Lee et al. 2021, https://arxiv.org/abs/2010.07611."),
        "synflow": method_facts("Tanaka et al. 2020, https://arxiv.org/abs/2006.05467."),
        "random": method_facts(
            "the control of Blalock et al. 2020, https://arxiv.org/abs/2003.03033", stands_for="random"
        ),
        "magnitude": method_facts("Janowsky 1989; Han et al. 2015, https://arxiv.org/abs/1", stands_for="magnitude"),
    }
    return Facts(
        "sparsewood sweep grid.yaml",
        problems,
        {f"{name}/{method}": one for name in PROBLEMS for method, one in told.items()},
        {(name, seed): frozenset({f"{name}{seed}"}) for name in PROBLEMS for seed in SEEDS},
        {"sparsewood": "0.1.0", "torch": "2.13"},
        {"cores": 2},
    )


def missing(rows: list[Row], facts: Facts) -> dict[str, str]:
    """Names of the items that are missing, with the reasons."""
    items = checklist(rows, facts)
    for item in items:
        assert item.there != bool(item.reason), item
    return {item.name: item.reason for item in items if not item.there}


# ---------------------------------------------------------------- a complete study


def test_a_complete_study_has_every_item() -> None:
    rows, facts = study_rows(), study_facts()
    items = checklist(rows, facts)
    assert {item.name: item.reason for item in items if not item.there} == {}
    assert [(item.section, item.name) for item in items] == [(section, name) for section, name, _, _ in QUESTIONS]
    report = as_report(rows, items, [], paired_differences(rows), facts)
    assert (report["complete"], report["missing"], report["failed"]) == (True, [], [])
    assert Study("s", rows=rows, checklist=items).complete


def test_every_item_of_the_requirement_is_asked() -> None:
    """[8.3, 8.1] Sections and what each asks for."""
    asked: dict[str, set[str]] = {}
    for section, name, question, _ in QUESTIONS:
        assert question.endswith("?")
        asked.setdefault(section, set()).add(name)
    assert {section: len(names) for section, names in asked.items()} == {
        "setup": 11, "metrics": 5, "curves": 3, "statistics": 3, "baselines": 10, "method": 3,
    }  # fmt: skip
    assert len(QUESTIONS) == sum(len(names) for names in asked.values())
    assert {"pairs", "initial weights", "hardware", "library", "data pipeline", "schedule"} <= asked["setup"]
    assert {"random global", "random by layer", "magnitude", "magnitude by layer"} <= asked["baselines"]
    assert {"recent methods", "older methods", "smaller dense network", "from scratch"} <= asked["baselines"]


# ---------------------------------------------------------------- what is taken from it


Change = Callable[[list[Row], Facts], Material]


def without(**wanted: Any) -> Change:
    """No rows with these values."""

    def change(rows: list[Row], facts: Facts) -> Material:
        left = [one for one in rows if any(getattr(one, name) != value for name, value in wanted.items())]
        assert len(left) < len(rows)
        return left, facts

    return change


def changed(which: Mapping[str, Any], **values: Any) -> Change:
    """Rows with the values in `which` have others."""

    def change(rows: list[Row], facts: Facts) -> Material:
        chosen = [all(getattr(one, name) == value for name, value in which.items()) for one in rows]
        assert any(chosen)
        return [replace(one, **values) if hit else one for one, hit in zip(rows, chosen, strict=True)], facts

    return change


def of_problem(*path: str, value: Any = None) -> Change:
    """One entry of the last problem is another."""

    def change(rows: list[Row], facts: Facts) -> Material:
        problems = json.loads(json.dumps(dict(facts.problems)))
        place = problems["cifar"]
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        return rows, replace(facts, problems=problems)

    return change


def of_facts(**values: Any) -> Change:
    return lambda rows, facts: (rows, replace(facts, **values))


def of_methods(pattern: str, **values: Any) -> Change:
    def change(rows: list[Row], facts: Facts) -> Material:
        return rows, replace(
            facts, methods={k: {**told, **values} if pattern in k else told for k, told in facts.methods.items()}
        )

    return change


def with_first_weights(key: tuple[str, int], *fingerprints: str) -> Change:
    def change(rows: list[Row], facts: Facts) -> Material:
        known = {k: v for k, v in facts.first_weights.items() if k != key}
        return rows, replace(facts, first_weights=known | {key: frozenset(fingerprints)})

    return change


def with_one_method(rows: list[Row], facts: Facts) -> Material:
    return [r for r in rows if r.problem != "cifar" or "synflow" not in (r.method, r.of)], facts


def without_a_problem(rows: list[Row], facts: Facts) -> Material:
    return [r for r in rows if r.problem != "cifar"], facts


def trained_another_way(rows: list[Row], facts: Facts) -> Material:
    """The third problem is the second with another training."""
    problems = dict(facts.problems)
    return rows, replace(facts, problems=problems | {"cifar": {**problems["fashion"], "training": {"batch_size": 9}}})


def never_low(rows: list[Row], facts: Facts) -> Material:
    return [replace(r, accuracy=max(r.accuracy, 0.7)) if r.problem == "fashion" else r for r in rows], facts


TAKEN: list[tuple[str, Change, set[str]]] = [
    ("settings of the data", of_problem("data", "settings"), {"data sets"}),
    ("settings of the model", of_problem("model", "settings"), {"architectures"}),
    ("layers of the model", of_problem("model", "layers", value=[]), {"layers"}),
    ("MNIST as one of three", of_problem("data", "name", value="mnist"), {"pairs"}),
    ("MNIST in capitals", of_problem("data", "name", value="MNIST"), {"pairs"}),
    ("LeNet-5 as one of three", of_problem("model", "name", value="lenet5_caffe"), {"pairs"}),
    ("LeNet-5 in another spelling", of_problem("model", "name", value="LeNet_5"), {"pairs"}),
    ("AlexNet as one of three", of_problem("model", "name", value="torchvision:AlexNet"), {"pairs"}),
    ("two problems", without_a_problem, {"pairs"}),
    ("the same pair twice", trained_another_way, {"pairs"}),
    ("the training", of_problem("training", value={}), {"hyper-parameters", "data pipeline"}),
    ("examples of the data", of_problem("data", "examples", value={}), {"data pipeline"}),
    ("the batch size", of_problem("training", value={"epochs": 3}), {"data pipeline"}),
    ("versions", of_facts(versions={}), {"library", "code"}),
    ("the version of this library", of_facts(versions={"torch": "2.13"}), {"code"}),
    ("the machine", of_facts(machine={}), {"hardware"}),
    ("first weights of a seed", with_first_weights(("cifar", 2)), {"initial weights"}),
    ("the same first weights", with_first_weights(("cifar", 2), "a", "b"), {"initial weights"}),
    ("a control trained for as long", of_methods("cifar/synflow", control="dense_tuned_as_synflow"),
     {"schedule", "dense, trained on"}),
    ("one dense control", without(method="dense_tuned", problem="cifar"), {"schedule", "dense, trained on"}),
    ("speed-up", changed({"method": "lamp", "seed": 1, "problem": "digits"}, speedup=0.0),
     {"compression and speed-up"}),
    ("compression", changed({"method": "dense", "seed": 2}, compression=0.0), {"compression and speed-up"}),
    ("top-5", changed({"method": "random", "seed": 2, "problem": "fashion"}, accuracy5=None), {"top-1 and top-5"}),
    ("the number of classes", of_problem("data", "classes"), {"top-1 and top-5"}),
    ("a dense network", without(method="dense", problem="cifar"), {"control", "extremes"}),
    ("an amount of a method", without(method="lamp", problem="cifar", amount=4.0), {"operating points"}),
    ("networks that collapse", never_low, {"extremes"}),
    ("a second method", with_one_method, {"competing methods"}),
    ("a seed of the dense network", without(method="dense_tuned", problem="cifar", seed=3), {"seeds"}),
    ("a seed of one control", without(method="small_dense", problem="cifar", amount=4.0, seed=3),
     {"seeds", "smaller dense network"}),
    ("random pruning", without(method="random", problem="cifar"), {"random global"}),
    ("random pruning at one amount", without(method="random", problem="cifar", amount=32.0), {"random global"}),
    ("magnitude pruning", without(method="magnitude", problem="cifar"), {"magnitude"}),
    ("random pruning by layer", without(method="random_layers_of_lamp", problem="cifar"), {"random by layer"}),
    ("the same at one amount", without(method="random_layers_of_lamp", amount=8.0), {"random by layer"}),
    ("magnitude pruning by layer", without(method="magnitude_layers_of_synflow"), {"magnitude by layer"}),
    ("a smaller network", without(method="small_dense", amount=16.0, problem="digits"), {"smaller dense network"}),
    ("a network from scratch", without(method="scratch_of_lamp", amount=16.0), {"from scratch"}),
    ("recent methods", of_methods("/", source="Han et al. 2015; Janowsky 1989"), {"recent methods"}),
    ("older methods", of_methods("/magnitude", source="Han et al. 2015"), {"older methods"}),
    ("the command", of_facts(command=""), {"origin of numbers", "code"}),
    ("a recipe", changed({"method": "lamp", "seed": 3, "amount": 4.0, "problem": "digits"}, recipe=""), {"recipes"}),
]  # fmt: skip


@pytest.mark.parametrize(("change", "lost"), [one[1:] for one in TAKEN], ids=[one[0] for one in TAKEN])
def test_what_is_taken_from_a_study_is_missing_and_nothing_else(change: Change, lost: set[str]) -> None:
    """[8.3] Each item, by what it needs."""
    rows, facts = change(study_rows(), study_facts())
    found = missing(rows, facts)
    assert set(found) == lost
    assert all(len(reason) > 10 for reason in found.values())
    report = as_report(rows, checklist(rows, facts), [], [], facts)
    assert not report["complete"]
    assert [line.split(": ")[1] for line in report["missing"]] == list(found)
    assert not Study("s", rows=rows, checklist=checklist(rows, facts)).complete


def test_every_item_can_be_missing_but_those_that_are_always_said() -> None:
    always = {"metrics", "raw accuracy", "multiply-adds", "error bars", "differences", "claims"}
    assert {name for _, name, _, _ in QUESTIONS} - {name for _, _, lost in TAKEN for name in lost} == always


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without(method="random", problem="cifar", amount=32.0), ("lamp 32x of cifar", "random")),
        (without(method="dense_tuned", problem="cifar"), ("cifar",)),
        (without(method="lamp", problem="cifar", amount=4.0), ("lamp", "cifar", "4 compressions, 5")),
        (without(method="dense_tuned", problem="cifar", seed=3), ("dense_tuned 1x of cifar", "2 seeds, 3")),
        (of_problem("data", "name", value="mnist"), ("2 pairs", "3 are needed", "MNIST")),
        (with_first_weights(("cifar", 2)), ("cifar, seed 2",)),
        (with_one_method, ("cifar", "1 method")),
    ],
)
def test_reasons_say_where(change: Change, words: tuple[str, ...]) -> None:
    for reason in missing(*change(study_rows(), study_facts())).values():
        for word in words:
            assert word in reason


# ---------------------------------------------------------------- what counts


def test_a_method_that_is_a_control_stands_for_it() -> None:
    rows = [replace(one, method="mine", role="method") if one.method == "magnitude" else one for one in study_rows()]
    rows += [
        row(problem, f"{name}_of_mine", amount, seed, "control", "mine")
        for problem in PROBLEMS
        for name in ("random_layers", "scratch")
        for amount in AMOUNTS
        for seed in SEEDS
    ]
    facts = study_facts()
    methods = {key.replace("magnitude", "mine"): told for key, told in facts.methods.items()}
    assert set(missing(rows, replace(facts, methods=methods))) == {"magnitude by layer"}
    methods = {k: {**told, "by_layer": "magnitude_layers"} if "mine" in k else told for k, told in methods.items()}
    assert missing(rows, replace(facts, methods=methods)) == {}
    methods = {k: {**told, "stands_for": None} if "mine" in k else told for k, told in methods.items()}
    assert set(missing(rows, replace(facts, methods=methods))) == {"magnitude"}


def test_a_method_that_has_the_name_of_a_control_is_none() -> None:
    rows = [replace(one, role="method") if one.method == "random" else one for one in study_rows()]
    facts = study_facts()
    methods = {k: {**told, "stands_for": None} if "random" in k else told for k, told in facts.methods.items()}
    assert "random global" in missing(rows, replace(facts, methods=methods))


def test_identifiers_in_addresses_are_no_years() -> None:
    """arXiv 2006.05467 is of 2020."""
    rows, facts = of_methods("/", source="Tanaka et al. 2020, https://arxiv.org/abs/2006.05467.")(
        study_rows(), study_facts()
    )
    assert set(missing(rows, facts)) == {"older methods"}


def test_the_first_of_several_publications_counts() -> None:
    rows, facts = of_methods("/", source="LeCun et al. 1990; Lee et al. 2019")(study_rows(), study_facts())
    assert set(missing(rows, facts)) == {"recent methods"}


def test_fashion_mnist_counts() -> None:
    rows, facts = of_problem("data", "name", value="fashion_mnist")(study_rows(), study_facts())
    assert missing(rows, facts) == {}


@pytest.mark.parametrize(
    ("classes", "lowest", "there"), [(2, 0.7, True), (2, 0.75, False), (10, 0.5, True), (10, 0.6, False)]
)
def test_collapse_is_halfway_from_dense_accuracy_to_chance(classes: int, lowest: float, there: bool) -> None:
    """With two classes no network falls below a half, and one that gives as much has collapsed."""
    rows = [replace(r, accuracy=0.94 if r.amount == 1 else max(lowest, r.accuracy)) for r in study_rows()]
    facts = study_facts()
    problems = {k: {**p, "data": {**p["data"], "classes": classes}} for k, p in facts.problems.items()}
    assert ("extremes" not in missing(rows, replace(facts, problems=problems))) == there


def test_few_classes_need_no_top_5() -> None:
    rows = [replace(one, accuracy5=None) for one in study_rows()]
    facts = study_facts()
    problems = {k: {**p, "data": {**p["data"], "classes": 5}} for k, p in facts.problems.items()}
    assert missing(rows, replace(facts, problems=problems)) == {}
    assert set(missing(rows, facts)) == {"top-1 and top-5"}


def test_nothing_is_there_without_networks_or_facts() -> None:
    assert len(missing([], study_facts())) == len(QUESTIONS)
    unknown = missing(study_rows(), Facts())
    known = {"metrics", "compression and speed-up", "control", "raw accuracy", "multiply-adds", "operating points"}
    known |= {"extremes", "competing methods", "seeds", "error bars", "differences", "random global", "magnitude"}
    known |= {"random by layer", "magnitude by layer", "smaller dense network", "from scratch", "claims"}
    assert {name for _, name, _, _ in QUESTIONS} - set(unknown) == known


# ---------------------------------------------------------------- report.json


def test_a_failure_or_a_dry_run_is_not_complete() -> None:
    rows, facts = study_rows(), study_facts()
    items, failure = checklist(rows, facts), Failure("digits", "lamp", 2.0, 1, "It failed.")
    assert as_report(rows, items, [], [], facts)["complete"]
    failed = as_report(rows, items, [failure], [], facts)
    assert (failed["complete"], failed["failed"], failed["missing"]) == (False, [asdict(failure)], [])
    assert not Study("s", rows=rows, checklist=items, failures=[failure]).complete
    dry = as_report(rows, items, [], [], replace(facts, dry_run=True))
    assert (dry["complete"], dry["dry_run"]) == (False, True)


def test_report_has_a_field_for_every_item_with_its_value_or_what_is_missing() -> None:
    rows, facts = without(method="random")(study_rows(), study_facts())
    items = checklist(rows, facts)
    report = json.loads(json.dumps(as_report(rows, items, [], paired_differences(rows), facts), allow_nan=False))
    fields = {(s, name): one for s, names in report["checklist"].items() for name, one in names.items()}
    assert set(fields) == {(section, name) for section, name, _, _ in QUESTIONS}
    for (section, name), one in fields.items():
        if (section, name) == ("baselines", "random global"):
            assert (one["value"], "random pruning" in one["missing"]) == (None, True)
        else:
            assert one["value"] not in (None, "", {}, [])
            assert "missing" not in one


def test_report_has_means_and_sample_deviations() -> None:
    rows, facts = study_rows(), study_facts()
    report = as_report(rows, checklist(rows, facts), [], [], facts)
    assert len(report["results"]) == len({(r.problem, r.method, r.amount) for r in rows})
    line = next(x for x in report["results"] if (x["problem"], x["method"], x["amount"]) == ("cifar", "lamp", 8.0))
    values = [r.accuracy for r in rows if (r.problem, r.method, r.amount) == ("cifar", "lamp", 8.0)]
    assert (line["role"], line["seeds"]) == ("method", [1, 2, 3])
    assert line["accuracy"]["mean"] == pytest.approx(statistics.fmean(values))
    assert statistics.stdev(values) in [pytest.approx(value) for value in line["accuracy"].values()]
    assert line["latency"] is None
