"""The reporting checklist of Blalock et al. 2020, asked of a study: what it has, and what is missing and why.

"What is the state of neural network pruning?", https://arxiv.org/abs/2003.03033, appendix B. Every item has a field in
`report.json`; a table is called complete only when all of them are there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from sparsewood.report.rows import summarize
from sparsewood.report.study import Failure, Item, Row

__all__ = ["Facts", "as_report", "checklist"]

LEAST_PAIRS = 3
LEAST_AMOUNTS = 5
LEAST_SEEDS = 3
TOO_SMALL = ("mnist", "lenet5", "lenet-5", "alexnet")
"""What the checklist says does not count as one of the pairs (Fashion-MNIST is another data set)."""
RECENT = 2018
OLD = 2010
YEAR = re.compile(r"\b(19[4-9]\d|20\d\d)\b")
ADDRESS = re.compile(r"https?://\S+")  # 2006.05467 is no year
MULTIPLY_ADDS = (
    "multiply-adds of one example, counted once for each product, of all layers with weights; the theoretical speed-up "
    "divides those of the dense network by those with a non-zero weight"
)
METRICS = {
    "accuracy": "share of test examples whose class comes first (top-1), raw, not a drop",
    "accuracy5": "share whose class is among the first five (top-5)",
    "compression": "parameters of the dense network / non-zero parameters",
    "speedup": "theoretical: multiply-adds of the dense network / those with a non-zero weight",
    "bytes": "of the packed file",
    "latency": "milliseconds for one example on the machine stated; latency_ratio: of dense and pruned, timed in turn",
}


@dataclass(frozen=True)
class Facts:
    """What is known of a study beside its rows; what is not known is left empty, and then missing.

    `problems` maps each to its data, model and training; `methods` to what each does, with `source`, `epochs` and
    `control`; `first_weights` maps (problem, seed) to fingerprints of the first weights that its networks had.
    """

    command: str = ""
    problems: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    first_weights: Mapping[tuple[str, int], frozenset[str]] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)
    machine: Mapping[str, Any] = field(default_factory=dict)
    dry_run: bool = False


Answer = tuple[object, str]
"""The value of an item, or None with what is missing."""


def checklist(rows: Sequence[Row], facts: Facts) -> list[Item]:
    """Every item of the checklist, with what the study has for it."""
    found = []
    for section, name, question, answer in QUESTIONS:
        value, reason = answer(rows, facts) if rows else (None, "there is no finished network")
        empty = value is None or value in ("", {}, [])
        found.append(Item(section, name, question, None if empty else value, reason if empty else ""))
    return found


def as_report(
    rows: Sequence[Row], items: Sequence[Item], failures: Sequence[Failure], differences: Sequence[Any], facts: Facts
) -> dict[str, Any]:
    """The content of report.json: a field for every item, what is missing, and the numbers themselves."""
    missing = [item for item in items if not item.there]
    sections: dict[str, dict[str, Any]] = {}
    for item in items:
        sections.setdefault(item.section, {})[item.name] = {
            "question": item.question,
            "value": item.value,
            **({} if item.there else {"missing": item.reason}),
        }
    return {
        "source": "the checklist of Blalock et al. 2020, https://arxiv.org/abs/2003.03033",
        "complete": not missing and not failures and not facts.dry_run,
        "missing": [f"{item.section}: {item.name}: {item.reason}" for item in missing],
        "failed": [asdict(failure) for failure in failures],
        "dry_run": facts.dry_run,
        "checklist": sections,
        "results": _summaries(rows),
        "differences": [asdict(one) for one in differences],
    }


def _summaries(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Mean and sample standard deviation of every measure, for each problem, method and amount."""
    groups: dict[tuple[str, str, float], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.problem, row.method, row.amount), []).append(row)
    measures = ("accuracy", "accuracy5", "before", "compression", "speedup", "bytes", "latency", "latency_ratio")
    found = []
    for (problem, method, amount), members in groups.items():
        line: dict[str, Any] = {"problem": problem, "method": method, "role": members[0].role, "amount": amount}
        line["seeds"] = sorted(row.seed for row in members)
        for name in measures:
            values = [getattr(row, name) for row in members]
            known = [value for value in values if value is not None]
            line[name] = asdict(summarize(known)) if known else None
        found.append(line)
    return found


# ---------------------------------------------------------------- setup


def _pairs(rows: Sequence[Row], facts: Facts) -> Answer:
    counted, seen = {}, list[object]()
    for name in dict.fromkeys(row.problem for row in rows if row.problem in facts.problems):
        problem = facts.problems[name]
        data, model = str(problem["data"]["name"]), str(problem["model"]["name"])
        pair = (data.lower(), model, problem["model"].get("settings"))
        if pair in seen:
            continue  # the same pair, trained in another way
        seen.append(pair)
        small = [word for word in TOO_SMALL if data.lower() == word or word in model.lower().replace("_", "-")]
        small += [word for word in TOO_SMALL if word in model.lower()]
        if not small:
            counted[name] = {
                "data": data,
                "model": model,
                "training images": problem["data"].get("examples", {}).get("train"),
                "parameters": problem["model"].get("parameters"),
            }
    if len(counted) >= LEAST_PAIRS:
        return counted, ""
    return None, (
        f"{len(counted)} pair{'' if len(counted) == 1 else 's'} of data set and model that count, {LEAST_PAIRS} are "
        "needed (MNIST, LeNet-5 and AlexNet do not count): add problems to the grid"
    )


def _of_problems(*path: str) -> Callable[[Sequence[Row], Facts], Answer]:
    """The same entry of every problem; missing if one does not have it."""

    def answer(rows: Sequence[Row], facts: Facts) -> Answer:
        found = {}
        for name in dict.fromkeys(row.problem for row in rows):
            value: Any = facts.problems.get(name, {})
            for key in path:
                value = value.get(key) if isinstance(value, Mapping) else None
            if value in (None, "", {}, []):
                return None, f"nothing is known of {' '.join(path)} of {name}"
            found[name] = value
        return found, ""

    return answer


def _pipeline(rows: Sequence[Row], facts: Facts) -> Answer:
    found = {}
    for name in dict.fromkeys(row.problem for row in rows):
        problem = facts.problems.get(name)
        if problem is None:
            return None, f"nothing is known of the data of {name}"
        data = problem["data"]
        told = {
            "examples": data.get("examples"),
            "normalization": data.get("normalization"),
            "batch size": problem.get("training", {}).get("batch_size"),
        }
        unknown = next((what for what, value in told.items() if not value), None)
        if unknown is not None:
            return None, f"nothing is known of the {unknown} of {name}"
        found[name] = told | {
            "part of the data set": data.get("note") or "all of it",
            "image": data.get("image"),
            "augmentation": data.get("augment") or "none",
        }
    return found, ""


def _same_start(rows: Sequence[Row], facts: Facts) -> Answer:
    wanted = {(row.problem, row.seed) for row in rows}
    unknown = sorted(key for key in wanted if not facts.first_weights.get(key))
    if unknown:
        return None, f"the first weights of {unknown[0][0]}, seed {unknown[0][1]} are not known"
    several = [key for key in wanted if len(facts.first_weights[key]) > 1]
    if several:
        return None, f"networks of {several[0][0]}, seed {several[0][1]} began with different weights"
    return {
        f"{name}, seed {seed}": next(iter(facts.first_weights[name, seed]))[:16] for name, seed in sorted(wanted)
    }, ""


def _schedule(rows: Sequence[Row], facts: Facts) -> Answer:
    """Every method's training after pruning, and that there is a dense control trained for as long."""
    found = {}
    names = {(row.problem, row.method) for row in rows}
    for problem, method in sorted((row.problem, row.method) for row in rows if row.role == "method"):
        told = facts.methods.get(f"{problem}/{method}")
        if told is None:
            return None, f"nothing is known of how {method} was trained on {problem}"
        if (problem, told["control"]) not in names:
            return None, f"{method} on {problem} has no dense control trained for as long ({told['control']})"
        found[f"{problem}/{method}"] = {
            "epochs in all": told["epochs"],
            "training that follows": told.get("after"),
            "dense control": told["control"],
        }
    return found, ""


# ---------------------------------------------------------------- metrics, curves, statistics


def _both_axes(rows: Sequence[Row], facts: Facts) -> Answer:  # noqa: ARG001
    bad = next((row for row in rows if not (row.compression > 0 and row.speedup > 0)), None)
    if bad is not None:
        return None, f"{bad.method} of {bad.problem} lacks one of them"
    return f"both, of each of {len(rows)} networks", ""


def _top5(rows: Sequence[Row], facts: Facts) -> Answer:
    for row in rows:
        classes = facts.problems.get(row.problem, {}).get("data", {}).get("classes")
        if classes is None:
            return None, f"nobody knows how many classes {row.problem} has"
        if classes > 5 and row.accuracy5 is None:
            return None, f"{row.method} of {row.problem} has no top-5 accuracy"
    return "top-1 of all, top-5 where there are more than five classes", ""


def _control(rows: Sequence[Row], facts: Facts) -> Answer:  # noqa: ARG001
    found = {}
    for problem in dict.fromkeys(row.problem for row in rows):
        dense = [row for row in rows if row.problem == problem and row.method == "dense"]
        if not dense:
            return None, f"{problem} has no dense network"
        found[problem] = {
            "accuracy": asdict(summarize([row.accuracy for row in dense])),
            "parameters": dense[0].size,
            "multiply-adds": dense[0].flops,
        }
    return found, ""


def _operating_points(rows: Sequence[Row], facts: Facts) -> Answer:  # noqa: ARG001
    found = {}
    for problem, method in dict.fromkeys((row.problem, row.method) for row in rows if row.role == "method"):
        amounts = sorted({row.amount for row in rows if (row.problem, row.method) == (problem, method)})
        if len(amounts) < LEAST_AMOUNTS:
            return None, f"{method} on {problem} has {len(amounts)} compressions, {LEAST_AMOUNTS} are needed"
        found[f"{problem}/{method}"] = amounts
    return found, "" if found else "there is no method"


def _extremes(rows: Sequence[Row], facts: Facts) -> Answer:
    """Whether the range goes to where a method collapses: below half of what the dense network reaches over chance."""
    found = {}
    for problem in dict.fromkeys(row.problem for row in rows):
        dense = [row.accuracy for row in rows if row.problem == problem and row.method == "dense"]
        methods = [row for row in rows if row.problem == problem and row.amount > 1]
        if not dense or not methods:
            return None, f"{problem} has no dense or no pruned network"
        lowest = min(methods, key=lambda row: row.accuracy)
        classes = facts.problems.get(problem, {}).get("data", {}).get("classes")
        chance = 1 / classes if classes else 0.0
        if lowest.accuracy > chance + (sum(dense) / len(dense) - chance) / 2:
            return None, f"on {problem} nothing falls halfway from dense accuracy to chance: add larger compressions"
        found[problem] = {"method": lowest.method, "amount": lowest.amount, "accuracy": lowest.accuracy}
    return found, ""


def _competing(rows: Sequence[Row], facts: Facts) -> Answer:  # noqa: ARG001
    found = {}
    for problem in dict.fromkeys(row.problem for row in rows):
        names = list(dict.fromkeys(row.method for row in rows if row.problem == problem and row.role == "method"))
        if len(names) < 2:
            return None, f"{problem} has {len(names)} method: there is nothing to compare"
        found[problem] = names
    return found, ""


def _seeds(rows: Sequence[Row], facts: Facts) -> Answer:  # noqa: ARG001
    """At least three of everything, and of all of a problem the same: pairs are made of them."""
    least: dict[str, list[int]] = {}
    groups: dict[tuple[str, str, float], set[int]] = {}
    every: dict[str, set[int]] = {}
    for row in rows:
        every.setdefault(row.problem, set()).add(row.seed)
        groups.setdefault((row.problem, row.method, row.amount), set()).add(row.seed)
    for (problem, method, amount), seeds in groups.items():
        if len(seeds) < LEAST_SEEDS:
            return None, f"{method} {amount:g}x of {problem} has {len(seeds)} seeds, {LEAST_SEEDS} are needed"
        if seeds != every[problem]:
            return None, f"{method} {amount:g}x of {problem} lacks seeds {sorted(every[problem] - seeds)}"
        least[problem] = sorted(seeds)
    return least, ""


def _always(value: object) -> Callable[[Sequence[Row], Facts], Answer]:
    return lambda *_: (value, "")


# ---------------------------------------------------------------- baselines and methods


def _baseline(name: str, wanted: str, *, each: bool = False) -> Callable[[Sequence[Row], Facts], Answer]:
    """Whether a control is there beside every network of every method; `each` for one of every method's own.

    A method that is the control by another name (magnitude itself) stands for it.
    """

    def answer(rows: Sequence[Row], facts: Facts) -> Answer:
        there = {(row.problem, row.method, row.amount, row.seed) for row in rows}
        controls = {(row.problem, row.method, row.amount, row.seed) for row in rows if row.role == "control"}
        count = 0
        for row in rows:
            if row.role != "method":
                continue
            own = facts.methods.get(f"{row.problem}/{row.method}", {})
            stands = own.get("by_layer" if each else "stands_for") == name
            called = f"{name}_of_{row.method}" if each else name
            others = set[str]() if each else _standing(name, row.problem, facts)
            found = (row.problem, called, row.amount, row.seed) in controls
            if not (stands or found or any((row.problem, one, row.amount, row.seed) in there for one in others)):
                return None, f"{row.method} {row.amount:g}x of {row.problem} has no {wanted}"
            count += 1
        return (f"{wanted}, beside each of {count} networks", "") if count else (None, "there is no method")

    return answer


def _standing(name: str, problem: str, facts: Facts) -> set[str]:
    """What the networks of a problem are called that are this control, whatever their recovery."""
    return {
        key.partition("/")[2]
        for key, told in facts.methods.items()
        if key.startswith(f"{problem}/") and told.get("stands_for") == name
    }


def _dense_tuned(rows: Sequence[Row], facts: Facts) -> Answer:
    """Whether every training that followed pruning was given to the dense network as well."""
    there = {(row.problem, row.method) for row in rows}
    needed = {(at, facts.methods.get(f"{at}/{name}", {}).get("control", "")) for at, name in there}
    unknown = next(
        (row for row in rows if row.role == "method" and f"{row.problem}/{row.method}" not in facts.methods), None
    )
    if unknown is not None:
        return None, f"nothing is known of how {unknown.method} was trained on {unknown.problem}"
    missing = sorted(key for key in needed - there if key[1].startswith("dense_tuned"))
    if missing:
        return None, f"the dense network of {missing[0][0]} was not trained on for as long as the pruned ones"
    return sorted({name for _, name in there if name.startswith("dense_tuned")}) or "no network was trained on", ""


def _years(facts: Facts) -> dict[str, tuple[str, int | None]]:
    """The publication of every method, and its earliest year."""
    found = {}
    for key, told in facts.methods.items():
        years = [int(year) for year in YEAR.findall(ADDRESS.sub("", told.get("source", "")))]
        found[key.rpartition("/")[2]] = (told.get("source", ""), min(years, default=None))
    return found


def _published(after: int, before: int, wanted: str) -> Callable[[Sequence[Row], Facts], Answer]:
    def answer(rows: Sequence[Row], facts: Facts) -> Answer:  # noqa: ARG001
        found = {name: source for name, (source, year) in _years(facts).items() if year and after <= year < before}
        return (found, "") if found else (None, f"no method in the grid is {wanted}")

    return answer


def _obtained(rows: Sequence[Row], facts: Facts) -> Answer:
    if not facts.command:
        return None, "nobody knows the command"
    return f"all {len(rows)} networks were trained by one command: {facts.command}", ""


def _recipes(rows: Sequence[Row], facts: Facts) -> Answer:
    bad = next((row for row in rows if not row.recipe), None)
    if bad is not None:
        return None, f"{bad.method} of {bad.problem} has no recipe"
    return {key: told.get("variant") for key, told in facts.methods.items()} or None, "nothing is known of the methods"


def _claims(rows: Sequence[Row], facts: Facts) -> Answer:
    amounts = sorted({row.amount for row in rows if row.amount > 1})
    seeds = sorted({row.seed for row in rows})
    problems = ", ".join(f"{p['model']['name']} on {p['data']['name']}" for p in facts.problems.values())
    tried = f"compressions {', '.join(f'{a:g}' for a in amounts)}, seeds {', '.join(map(str, seeds))}"
    return f"This holds for {problems}, {tried} and the trainings stated; other settings were not tried.", ""


def _code(rows: Sequence[Row], facts: Facts) -> Answer:  # noqa: ARG001
    version = facts.versions.get("sparsewood")
    if not (facts.command and version):
        return None, "the command or the version is not known"
    return {"command": facts.command, "sparsewood": version, "grid": "grid.yaml beside the results"}, ""


def _known(name: str) -> Callable[[Sequence[Row], Facts], Answer]:
    return lambda _, facts: (dict(getattr(facts, name)) or None, f"the {name} was not noted")


Question = tuple[str, str, str, Callable[[Sequence[Row], Facts], Answer]]
QUESTIONS: tuple[Question, ...] = (
    ("setup", "data sets", "Are the data sets named exactly?", _of_problems("data", "settings")),
    ("setup", "architectures", "Are the architectures named, with all parameters?", _of_problems("model", "settings")),
    ("setup", "layers", "Is the architecture's variant described?", _of_problems("model", "layers")),
    ("setup", "metrics", "Are the metrics named in one place?", _always(METRICS)),
    ("setup", "pairs", "Are there at least three pairs of data set and architecture?", _pairs),
    ("setup", "hyper-parameters", "Are the hyper-parameters of the dense training given?", _of_problems("training")),
    ("setup", "data pipeline", "Are loading, batch size and augmentation described?", _pipeline),
    ("setup", "library", "Are the libraries and their versions given?", _known("versions")),
    ("setup", "hardware", "Is the hardware given?", _known("machine")),
    ("setup", "initial weights", "Did all methods of a seed begin with the same weights?", _same_start),
    ("setup", "schedule", "Was every method trained on as stated, with a dense control for as long?", _schedule),
    ("metrics", "compression and speed-up", "Has every network both?", _both_axes),
    ("metrics", "top-1 and top-5", "Are both given where there are many classes?", _top5),
    ("metrics", "control", "Are the same metrics given for the network that is not pruned?", _control),
    (
        "metrics",
        "raw accuracy",
        "Are accuracies raw, not only drops?",
        _always("raw; differences are given beside them"),
    ),
    ("metrics", "multiply-adds", "Is it said how they are counted?", _always(MULTIPLY_ADDS)),
    ("curves", "operating points", "Has every method at least five?", _operating_points),
    ("curves", "extremes", "Does the range go to where accuracy collapses?", _extremes),
    ("curves", "competing methods", "Are there competing methods in the same plot?", _competing),
    ("statistics", "seeds", "Are there at least three seeds of everything?", _seeds),
    ("statistics", "error bars", "Are they defined?", _always("sample standard deviation (n - 1) over seeds")),
    (
        "statistics",
        "differences",
        "Are methods compared seed by seed?",
        _always("paired by seed; 95 % intervals by Student's t"),
    ),
    ("baselines", "random global", "Is there random pruning?", _baseline("random", "random pruning")),
    (
        "baselines",
        "random by layer",
        "Is there random pruning with each method's layer-wise proportions?",
        _baseline("random_layers", "random pruning with its layer-wise proportions", each=True),
    ),
    ("baselines", "magnitude", "Is there magnitude pruning?", _baseline("magnitude", "magnitude pruning")),
    (
        "baselines",
        "magnitude by layer",
        "Is there magnitude pruning with each method's layer-wise proportions?",
        _baseline("magnitude_layers", "magnitude pruning with its layer-wise proportions", each=True),
    ),
    ("baselines", "dense, trained on", "Was the dense network trained for as long?", _dense_tuned),
    (
        "baselines",
        "smaller dense network",
        "Is there a dense network of as many parameters?",
        _baseline("small_dense", "smaller dense network"),
    ),
    (
        "baselines",
        "from scratch",
        "Was each method's network trained from scratch?",
        _baseline("scratch", "network trained from scratch", each=True),
    ),
    ("baselines", "recent methods", "Are there recent methods?", _published(RECENT, 9999, f"from {RECENT} or later")),
    ("baselines", "older methods", "Are there methods from before 2010?", _published(0, OLD, f"from before {OLD}")),
    ("baselines", "origin of numbers", "Is it said how all numbers were obtained?", _obtained),
    ("method", "recipes", "Are score, pruning and fine-tuning given so that they can be repeated?", _recipes),
    ("method", "claims", "Are claims limited to what was tested?", _claims),
    ("method", "code", "Is there code that does it again?", _code),
)
