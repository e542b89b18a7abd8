"""Deep Compression (Han et al. 2016, https://arxiv.org/abs/1510.00149) on MNIST: pruned, shared, packed.

A dense network is trained; weights are pruned by magnitude along a cubic while it trains on; those that are left are
trained on; the weights of each layer take few values, found by k-means; these values are trained on; the network goes
to one file, and is read back from it. Every stage's error and bytes are printed, before packing those of the float32
state, after it those of the file. The classifier is pruned, too. SGD, momentum 0.9, batch 100, weight decay 5e-4,
cosine; Adam for the shared values. The control is the dense network trained on as long. The weights of the last step
count; settings are chosen with `--part validation`, which never opens the test images.

    python benchmarks/deep_compression.py --data-dir DIR
    python benchmarks/deep_compression.py --data-dir DIR --network lenet5 --sparsity 0.95
    python benchmarks/deep_compression.py --data-dir DIR --part validation --seeds 1 --sparsity 0.95 --clusters 7
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from cells import shown
from snip import BATCH, RATES, Images, error, images, network, sgd, train
from torch import nn

import sparsewood as sw
from sparsewood.packing import PackReport
from sparsewood.quantization import tune_centroids
from sparsewood.schedules import Cubic

STAGES = ("dense", "dense, trained on", "pruned", "shared", "shared, trained on", "packed and read back")
EVENTS = 40


def pruned(model: nn.Module, data: Images, seed: int, how: argparse.Namespace) -> sw.Masks:
    """Masks of the network, which is trained on while weights go, in the first half of the steps, and after that."""
    every = max(1, how.pruning * (len(data.x) // BATCH) // 2 // EVENTS)
    settings = sw.Pruning(
        schedule=Cubic(how.sparsity), rounds=EVENTS, unit="step", start=0, every=every, protect_classifier=False
    )
    optimizer = sgd(model, RATES[how.network] * how.again)
    pruner = sw.Pruner(model, optimizer, settings)
    train(model, data, seed, how.pruning, optimizer, pruner)
    return pruner.finish()


@contextmanager
def centroids(model: nn.Module, masks: sw.Masks, how: argparse.Namespace) -> Iterator[torch.optim.Optimizer]:
    """The weights take few values; inside, these are what the optimizer trains."""
    sharing = sw.share_weights(model, clusters=how.clusters, masks=masks)
    optimizer = torch.optim.Adam(model.parameters(), lr=how.tuning_rate)
    with tune_centroids(model, sharing, optimizer):
        yield optimizer


def packed(model: nn.Module, how: argparse.Namespace) -> tuple[nn.Module, PackReport]:
    """What the file gives back, and its sizes."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "network.swp"
        report = sw.pack(model, path)
        assert report.bytes == path.stat().st_size
        same = sw.unpack(path, model=network(how.network, 1.0, 0))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, same.state_dict()[name]), name
    return same, report


def compressed(
    data: tuple[Images, Images], seed: int, how: argparse.Namespace
) -> tuple[dict[str, float], PackReport, sw.Masks]:
    """The error after each stage, the sizes of the file, and what was pruned."""
    training, measured = data
    errors: dict[str, float] = {}
    model = network(how.network, how.init_scale, seed)
    train(model, training, seed, how.epochs, sgd(model, RATES[how.network]))
    errors["dense"] = error(model, measured)
    longer = copy.deepcopy(model)
    train(longer, training, 100 + seed, how.pruning, sgd(longer, RATES[how.network] * how.again))
    errors["dense, trained on"] = error(longer, measured)
    masks = pruned(model, training, 100 + seed, how)
    errors["pruned"] = error(model, measured)
    with centroids(model, masks, how) as optimizer:
        errors["shared"] = error(model, measured)
        train(model, training, 200 + seed, how.tuning, optimizer)
    assert sw.masks.not_held(model, masks) is None
    errors["shared, trained on"] = error(model, measured)
    same, report = packed(model, how)
    errors["packed and read back"] = error(same, measured)
    return errors, report, masks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="where MNIST is; default: SPARSEWOOD_DATA")
    parser.add_argument("--network", choices=tuple(RATES), default="lenet300")
    parser.add_argument("--sparsity", type=float, default=0.92)
    parser.add_argument("--clusters", type=int, default=15, help="values of each layer besides 0")
    parser.add_argument("--epochs", type=int, default=10, help="of the dense network")
    parser.add_argument("--pruning", type=int, default=20, help="epochs, in the first half of which weights go")
    parser.add_argument("--again", type=float, default=0.5, help="of the rate, at the start of these epochs")
    parser.add_argument("--tuning", type=int, default=3, help="epochs of the shared values")
    parser.add_argument("--tuning-rate", type=float, default=1e-4)
    parser.add_argument("--init-scale", type=float, default=1.0, help="of the weights' variance, scale / fan_in")
    parser.add_argument("--part", choices=("test", "validation"), default="test", help="whose errors are printed")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    split, began = sw.data.mnist(options.data_dir, validation=6000), time.perf_counter()
    part = split.test.open() if options.part == "test" else split.validation
    data, found, report = (images(split.train), images(part)), [], None
    for seed in range(1, options.seeds + 1):
        errors, report, masks = compressed(data, seed, options)
        found.append((errors, report, masks))
        print(f"# seed {seed}: {masks}, {report.bytes:,} bytes, {report.ratio:.1f} x, {errors}", flush=True)
    print(f"\n`python {' '.join(sys.argv)}`: {time.perf_counter() - began:.0f} s, PyTorch {torch.__version__}\n")
    print(f"| stage | {options.part} error [%] | bytes | ratio |\n|---|---:|---:|---:|")
    for stage in STAGES:
        cells = [shown([errors[stage] for errors, _, _ in found])]
        if stage == STAGES[-1]:
            cells += [shown([float(one.bytes) for _, one, _ in found], 0), shown([one.ratio for _, one, _ in found], 1)]
        else:
            cells += [f"{found[0][1].raw_bytes:,}", "1"]
        print(f"| {stage} | {' | '.join(cells)} |")
    print(f"\nThe file of the last seed:\n\n{report}")


if __name__ == "__main__":
    main()
