"""Removing half of a network's units, beside torch-pruning.

Part a: how long a full step takes, in turns within one process for each network: `sparsewood.shrink` (tracing, scores,
choice, cutting) without and with the proof that the small network computes what the masked one does, and
torch-pruning's (dependency graph, importance, cutting). torch-pruning cuts the network that it is given; ours makes a
copy, and its time is in the number. Copies for torch-pruning are made before the clock starts.

Part b: which networks of the zoo shrink, and run afterwards. Each side has a process of its own for each network.
torch-pruning is told which layers have to stay, and which projections are attention, as its user would.

Part c: measured latency beside multiply-adds; see shrink_latency.py.

    python benchmarks/shrink.py --part a
    python benchmarks/shrink.py --part b --only 'timm:*vit*' --limit 60
    python benchmarks/shrink.py --part c --only resnet50 --rounds 5
"""

from __future__ import annotations

import argparse
import copy
import datetime
import gc
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from shrink_latency import CLOCKS, tables
from torch import nn

import sparsewood as sw

STEP_NETWORKS = ("resnet50", "densenet121", "vit_b_16", "decoder 12 x 768")
UNPROVEN, PROVEN, THEIRS = "sparsewood, verify=False", "sparsewood", "torch-pruning"
MARK = "result: "
EXACT = 1e-6
"""Outputs in float64 that differ by more, relative to the largest, are those of another function."""


def head(rounds: int, clock: str) -> str:
    """What a table needs to be read: the machine, versions, the command."""
    packages = ("torch", "torch-pruning", "torchvision", "onnxruntime")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    command = " ".join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]])
    day = datetime.datetime.now(datetime.UTC).date()
    return (
        f"`{command}`: {_processor()}, {os.cpu_count()} cores, 1 thread, Python {platform.python_version()}, "
        f"{versions}, {day}, medians of {rounds} rounds in turn, {clock} time.\n"
    )


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


# ---------------------------------------------------------------- a: time of a step


def _step_worker(name: str, rounds: int, now: Callable[[], float]) -> None:
    """Time the contenders in turns; one line of JSON for each time."""
    from trace import NETWORKS  # pyright: ignore[reportAttributeAccessIssue]  (the benchmark beside this one)

    from shrink_peer import halve

    torch.manual_seed(0)
    model, inputs = NETWORKS[name]()
    model.eval()

    def ours(given: nn.Module, *, verify: bool) -> nn.Module:
        return sw.shrink(given, inputs, 0.5, scope=sw.PerLayer(), verify=verify).model

    def theirs(given: nn.Module) -> nn.Module:
        last = [module for module in given.modules() if isinstance(module, nn.Linear)][-1]
        return halve(given, inputs, ignored=[last]).model

    contenders: dict[str, Callable[[nn.Module], nn.Module]] = {
        UNPROVEN: lambda given: ours(given, verify=False),
        PROVEN: lambda given: ours(given, verify=True),
        THEIRS: theirs,
    }
    for number in range(rounds + 1):
        for contender, run in contenders.items():
            given = copy.deepcopy(model)
            gc.collect()
            began = now()
            small = run(given)
            seconds = now() - began
            if number:  # the first round warms up
                left = sum(parameter.numel() for parameter in small.parameters())
                print(MARK + json.dumps([contender, seconds, left]), flush=True)
            del given, small
    with torch.no_grad():
        for _ in range(3):
            began = now()
            model(inputs)
            print(MARK + json.dumps(["forward", now() - began, 0]), flush=True)


def steps(only: str, rounds: int, limit: int, clock: str) -> None:
    """The table of part a."""
    print(
        "| network | forward ms | ours ms | with proof ms | torch-pruning ms | torch-pruning / ours "
        "| torch-pruning / with proof | parameters left, ours | theirs |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for name in (one for one in STEP_NETWORKS if fnmatchcase(one, only)):
        results, why = _worker("a", name, clock, rounds, limit)
        times: dict[str, list[float]] = {}
        left: dict[str, int] = {}
        for contender, seconds, parameters in results:
            times.setdefault(contender, []).append(seconds)
            left[contender] = parameters
        if why or not times:
            print(f"| {name} | {why} | | | | | | | |", flush=True)
            continue
        ms = {contender: 1e3 * statistics.median(found) for contender, found in times.items()}
        print(
            f"| {name} | {ms['forward']:.0f} | {ms[UNPROVEN]:.0f} | {ms[PROVEN]:.0f} | {ms[THEIRS]:.0f} "
            f"| {ms[THEIRS] / ms[UNPROVEN]:.2f} | {ms[THEIRS] / ms[PROVEN]:.2f} "
            f"| {left[PROVEN] / 1e6:.2f} M | {left[THEIRS] / 1e6:.2f} M |",
            flush=True,
        )


# ---------------------------------------------------------------- b: which networks shrink


def _zoo_worker(name: str, side: str, limit: int) -> None:
    """Shrink one network on one side, and say how it went."""
    from shrink_zoo import enliven
    from zoo import limited
    from zoo_models import entries

    torch.manual_seed(0)
    model, inputs = next(one for one in entries() if one.name == name).build()
    model.eval()
    enliven(model, torch.Generator().manual_seed(0))
    structure = sw.trace(model, inputs)
    if not any(group.units > 1 for group in structure.prunable):
        print(MARK + json.dumps(["nothing to remove", ""]), flush=True)
        return
    try:
        with limited(limit):
            outcome = _ours_shrinks(model, inputs) if side == "ours" else _theirs_shrinks(model, inputs, structure)
    except TimeoutError:
        outcome = ["timeout", f"> {limit} s"]
    print(MARK + json.dumps(outcome), flush=True)


def _ours_shrinks(model: nn.Module, inputs: Any) -> list[str]:
    try:
        report = sw.shrink(model, inputs, 0.5, scope=sw.PerLayer()).report
    except TimeoutError:
        raise
    except Exception as error:  # one line of the table
        return ["raises", _line(error)]
    if report.exact:
        return ["exact", ""]
    return ["inexact", ", ".join(sorted({why for reasons in report.inexact.values() for why in reasons}))]


def _theirs_shrinks(model: nn.Module, inputs: Any, structure: sw.Structure) -> list[str]:
    from shrink_peer import fixed_layers, halve

    from sparsewood.inputs import call

    before = sum(parameter.numel() for parameter in model.parameters())
    try:
        peer = halve(model, inputs, ignored=fixed_layers(model, structure), mask=True)
    except TimeoutError:
        raise
    except Exception as error:  # one line of the table
        return ["raises", _line(error)]
    if before == sum(parameter.numel() for parameter in peer.model.parameters()):
        return ["removes nothing", ""]
    try:
        with torch.no_grad():
            call(peer.model, inputs)
    except TimeoutError:
        raise
    except Exception as error:  # one line of the table
        return ["does not run", _line(error)]
    return _compared(peer.model, peer.masked, inputs)


def _compared(small: nn.Module, masked: nn.Module | None, inputs: Any) -> list[str]:
    from sparsewood.inputs import call, map_tensors
    from sparsewood.shrinking.running import difference, tensors_in

    if masked is None:
        return ["runs, not compared", ""]
    try:
        given = map_tensors(lambda x: x.double() if x.is_floating_point() else x, inputs)
        with torch.no_grad():
            found = [list(tensors_in(call(one.double().eval(), given), set())) for one in (masked, small)]
    except TimeoutError:
        raise
    except Exception as error:  # a network that does not run in float64
        return ["runs, not compared", _line(error)]
    if [x.shape for x in found[0]] != [x.shape for x in found[1]]:
        return ["runs, differs", "outputs of other shapes"]
    largest = difference(*found)
    if largest <= EXACT:
        return ["runs", ""]
    counts = any("batchnorm" not in kind and "norm" in kind for kind in _kinds(small))
    return ["runs, differs", f"{largest:.1g}{', has a normalisation that counts channels' if counts else ''}"]


def _kinds(model: nn.Module) -> set[str]:
    return {type(module).__name__.lower() for module in model.modules()}


def _line(error: Exception) -> str:
    text = (str(error).splitlines() or [""])[0].replace("|", "/")
    return f"{type(error).__name__}: {text[:60]}"


def zoo(only: str, limit: int) -> None:
    """The table of part b."""
    from zoo_models import entries

    names = [one.name for one in entries() if any(fnmatchcase(one.name, part) for part in only.split(","))]
    print("| model | sparsewood | torch-pruning | |\n|---|---|---|---|")
    counts: dict[str, Counter[str]] = {"ours": Counter(), "theirs": Counter()}
    for number, name in enumerate(names, 1):
        print(f"[{number}/{len(names)}] {name}", file=sys.stderr, flush=True)
        row = {}
        for side, count in counts.items():
            results, why = _worker("b", name, side, limit, 4 * limit + 60)
            row[side] = results[-1] if results else ["timeout" if why.startswith(">") else "crashes", why]
            count[row[side][0]] += 1
        ours, theirs = row["ours"], row["theirs"]
        print(
            f"| {name} | {ours[0]} | {theirs[0]} | {'; '.join(one[1] for one in (ours, theirs) if one[1])} |",
            flush=True,
        )
    for side, count in counts.items():
        print(f"\n{side}, {len(names)} networks: " + ", ".join(f"{what}: {n}" for what, n in count.most_common()))


# ---------------------------------------------------------------- processes


def _worker(part: str, name: str, side: str, number: int, limit: int) -> tuple[list[Any], str]:
    """What a process of its own says, and why it says nothing."""
    command = [sys.executable, __file__, "--part", part, "--worker", name, "--side", side, "--number", str(number)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    except subprocess.TimeoutExpired:
        return [], f"> {limit} s"
    results = [json.loads(line[len(MARK) :]) for line in done.stdout.splitlines() if line.startswith(MARK)]
    lines = done.stderr.strip().splitlines() or ["failed"]
    return results, lines[-1][:120] if done.returncode else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("a", "b", "c"), default="a")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", metavar="PATTERN", default="*", help="networks; several patterns with commas for b")
    parser.add_argument("--limit", type=int, default=60, help="part b: seconds that a side has for a network")
    parser.add_argument("--engines", default="eager,compile,onnxruntime", help="part c")
    parser.add_argument("--variants", metavar="PATTERN", default="*", help="part c")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: of the process, for a busy machine")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.worker:
        warnings.simplefilter("ignore")
        if options.part == "a":
            _step_worker(options.worker, options.number, CLOCKS[options.side])
        else:
            _zoo_worker(options.worker, options.side, options.number)
        return
    print(head(options.rounds, options.clock), flush=True)
    if options.part == "a":
        steps(options.only, options.rounds, 1200, options.clock)
    elif options.part == "b":
        zoo(options.only, options.limit)
    else:
        tables(options.only, options.rounds, options.engines.split(","), options.variants, options.clock)


if __name__ == "__main__":
    main()
