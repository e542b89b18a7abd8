"""SNIP on MNIST with the authors' own code, beside `snip.py`: what it gives with the paper's settings.

Their code is no part of this project: clone https://github.com/namhoonlee/snip-public and say with `--code` where it
is. It was written for TensorFlow 1; TensorFlow 2 still runs it (`tensorflow.compat.v1`), in an environment of its own,
which needs nothing else. Nothing of it is changed but its seed, which is fixed to 9 there, and its augmentation of
images, which is off by default and would need one more package. The defaults are the paper's: SGD 0.1 with momentum
0.9, x 0.1 every 25,000 steps, batch 100; 54,000 images. The code evaluates the five networks that it saved last, 1,000
steps apart, on the test images and reports the best ("best of 5"); the last of them is printed beside it.

    python benchmarks/snip_authors.py --code snip-public/snip --mnist DIR
    python benchmarks/snip_authors.py --code snip-public/snip --mnist DIR --arch lenet5 --sparsities 0.98 0.99
"""

from __future__ import annotations

import argparse
import importlib
import re
import runpy
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path
from typing import Any

from cells import shown

EVERY = 25_000


def run_authors(code: str, seed: int, arguments: list[str]) -> None:
    """Their main.py in this process, with TensorFlow 2 in the place of 1."""
    tf: Any = importlib.import_module("tensorflow.compat.v1")
    tf.disable_v2_behavior()
    numpy: Any = importlib.import_module("numpy")
    seed_graph, random_state = tf.set_random_seed, numpy.random.RandomState
    tf.set_random_seed = lambda _: seed_graph(seed)
    numpy.random.RandomState = lambda _: random_state(seed)
    without: Any = types.ModuleType("augment")
    without.augment = lambda batch, _kinds, _state: batch
    sys.modules |= {"tensorflow": tf, "augment": without}
    sys.path.insert(0, code)
    sys.argv = ["main.py", *arguments]
    runpy.run_path(str(Path(code) / "main.py"), run_name="__main__")


def errors(options: argparse.Namespace, seed: int, sparsity: float) -> list[float]:
    """In percent, of the networks that were saved last, in order."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "MNIST").symlink_to(Path(options.mnist).resolve())
        decays = [str(step) for step in range(EVERY, options.steps, EVERY)]
        rates = [str(options.lr * 0.1**i) for i in range(len(decays) + 1)]
        arguments = ["--path_data", folder, "--logdir", f"{folder}/logs", "--arch", options.arch]
        arguments += ["--target_sparsity", str(sparsity), "--train_iterations", str(options.steps)]
        arguments += ["--optimizer", options.optimizer, "--lr", str(options.lr), "--check_interval", "1000"]
        if decays:
            arguments += ["--lr_decay_type", "piecewise", "--decay_boundaries", *decays, "--decay_values", *rates]
        command = [sys.executable, __file__, "--one", options.code, str(seed), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = [100 - 100 * float(one) for one in re.findall(r"^Accuracy: ([\d.]+)", done.stdout, re.MULTILINE)]
    if done.returncode or not found:
        sys.exit(f"The authors' code failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    nowhere = re.search(r"^itr(\d+): .*los:nan", done.stdout, re.MULTILINE)
    if nowhere:
        print(f"# seed {seed}, {sparsity:g}: the loss is not a number at step {nowhere[1]}", flush=True)
    return found


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        run_authors(sys.argv[2], int(sys.argv[3]), sys.argv[4:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--code", required=True, help="where the authors' main.py is")
    parser.add_argument("--mnist", required=True, help="where MNIST's four files are, gzipped")
    parser.add_argument("--arch", choices=("lenet300", "lenet5"), default="lenet300")
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.95, 0.98, 0.0])
    parser.add_argument("--steps", type=int, default=75_000)
    parser.add_argument("--optimizer", choices=("momentum", "sgd"), default="momentum")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[9, 1, 2], help="9 is theirs")
    options, began = parser.parse_args(), time.perf_counter()
    rows: dict[float, list[list[float]]] = {}
    for seed in options.seeds:
        for sparsity in options.sparsities:
            rows.setdefault(sparsity, []).append(errors(options, seed, sparsity))
            print(f"# seed {seed}, {sparsity:g}: error {rows[sparsity][-1][-1]:.2f}", flush=True)
    print(f"\n`python {' '.join(sys.argv)}`: {time.perf_counter() - began:.0f} s\n")
    print("| sparsity [%] | test error [%] | best of 5 [%] |\n|---:|---:|---:|")
    for sparsity, runs in rows.items():
        print(f"| {100 * sparsity:g} | {shown([r[-1] for r in runs])} | {shown([min(r) for r in runs])} |")


if __name__ == "__main__":
    main()
