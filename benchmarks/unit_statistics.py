"""UnitMem of every ReLU layer of ResNet-20: in one pass, beside a plain forward pass and beside a loop over layers.

    python benchmarks/unit_statistics.py --data-dir DIR        # 1,000 images of CIFAR-10, 10 augmentations
    python benchmarks/unit_statistics.py --synthetic           # the same on random images

Three things are timed in turns, on the same augmented images, which are made before so that augmentation is not timed:

* plain: the network runs over all of them, batch by batch, and nothing is kept;
* ours: `sparsewood.unit_memorization`, with trace and all;
* loop: one image at a time, once for every layer, with a hook that is put on and taken off for each forward: a part is
  timed, and the whole extrapolated.

Medians of the rounds, and ratios of medians. Then the peak of memory for 1,000 and for 8,000 images, each in a process
of its own.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

import sparsewood as sw
from sparsewood.data.augment import NormalViews
from sparsewood.units import find_layers, find_sites

BATCH = 500


def augmented(images: Tensor, count: int) -> Tensor:
    """[images, augmentations, ...]"""
    generator = torch.Generator().manual_seed(0)
    views = NormalViews(images.shape[-1])
    return torch.stack([views(images.clone(), generator) for _ in range(count)], 1)


def looked_up(views: Tensor) -> Callable[[Tensor], Tensor]:
    """An `augment` that takes the images made before, in the order in which it is asked for them."""

    def order() -> Iterator[Tensor]:
        size = max(1, BATCH // views.shape[1])
        for chunk in views.split(size):
            yield from chunk.unbind(1)

    made = order()
    return lambda _: next(made)


def plain(model: nn.Module, views: Tensor) -> None:
    with torch.no_grad():
        for batch in views.flatten(0, 1).split(BATCH):
            model(batch)


def keep(seen: list[Tensor], _: nn.Module, __: object, output: Tensor) -> None:
    seen.append(output.detach())


def loop(model: nn.Module, views: Tensor, layers: list[str]) -> None:
    """What scripts do: for every layer, for every image and augmentation, one forward with a hook."""
    modules = dict(model.named_modules())
    for layer in layers:
        largest: dict[int, float] = {}
        for image in views:
            total: Tensor | None = None
            for view in image:
                seen: list[Tensor] = []
                handle = modules[layer].register_forward_hook(partial(keep, seen))
                with torch.no_grad():
                    model(view.unsqueeze(0))
                handle.remove()
                mean = seen[0].mean((0, 2, 3))
                total = mean if total is None else total + mean
            assert total is not None
            for unit, value in enumerate((total / len(image)).tolist()):
                largest[unit] = max(float(value), largest.get(unit, -1.0))


def timed(work: Callable[[], object]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def compare(images: Tensor, arguments: argparse.Namespace) -> None:
    torch.manual_seed(0)
    model = sw.models.resnet20().eval()
    structure = sw.trace(model, images[:2])
    sites = find_sites(structure)
    units = sum(len(layer) for layer in find_layers(structure, sites).values())
    views, part = augmented(images, arguments.augmentations), arguments.part
    print(f"{len(images)} images x {arguments.augmentations} augmentations, {len(sites)} layers, {units} units")
    plain(model, views[:50])
    rows: dict[str, list[float]] = {"plain": [], "ours": [], "loop": []}
    for number in range(arguments.rounds):
        rows["plain"].append(timed(lambda: plain(model, views)))
        measure = partial(sw.unit_memorization, model, images, looked_up(views), views.shape[1], batch_size=BATCH)
        rows["ours"].append(timed(measure))
        seconds = timed(lambda: loop(model, views[:part], [sites[0].name]))
        rows["loop"].append(seconds * len(images) / part * len(sites))
        print(f"round {number + 1}: " + ", ".join(f"{name} {of[-1]:.2f} s" for name, of in rows.items()), flush=True)
    medians = {name: statistics.median(of) for name, of in rows.items()}
    print(f"\n| | median CPU s ({torch.get_num_threads()} thread) | over plain |\n|---|---:|---:|")
    for name, seconds in medians.items():
        print(f"| {name} | {seconds:.2f} | {seconds / medians['plain']:.2f} |")
    print(f"\nloop / ours: {medians['loop'] / medians['ours']:.0f} (loop extrapolated from {part} images, one layer)")


def memory(count: int) -> None:
    """The peak of this process when it measures `count` random images, made when they are needed."""

    def batches() -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(0)
        for _ in range(count // 100):
            yield torch.rand(100, 3, 32, 32, generator=generator)

    model = sw.models.resnet20().eval()
    sw.unit_memorization(model, batches(), None, batch_size=100)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", help="where CIFAR-10 is; default: the environment variable SPARSEWOOD_DATA")
    parser.add_argument("--synthetic", action="store_true", help="random images instead")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--augmentations", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--part", type=int, default=20, help="how many images the loop is timed on")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory is not None:
        memory(arguments.memory)
        return
    if arguments.synthetic:
        images = torch.rand(arguments.images, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    else:
        images = sw.data.cifar10(root=arguments.data_dir).train.pixels(torch.arange(arguments.images))
    compare(images, arguments)
    peaks = [
        subprocess.run(
            [sys.executable, __file__, "--memory", str(count)], capture_output=True, text=True, check=True
        ).stdout.strip()
        for count in (1000, 8000)
    ]
    print(f"peak memory of the process: {peaks[0]} MiB for 1,000 images, {peaks[1]} MiB for 8,000")


if __name__ == "__main__":
    main()
