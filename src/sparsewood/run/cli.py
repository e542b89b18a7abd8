"""The command line. Nothing heavy is imported before a command runs, so that `sparsewood --help` is quick."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

from sparsewood.errors import SparsewoodError
from sparsewood.run.settings import DEFAULTS, DemoSettings, Part, parse_compressions, parse_seeds

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["app", "main"]

USER_ERROR = 2
INTERRUPTED = 130
BROKEN_PIPE = 141


def _version() -> str:
    from importlib.metadata import version

    return version("sparsewood")


app = App(
    name="sparsewood",
    help="Make PyTorch networks smaller and faster, exactly, and measure what it did.",
    version=_version,
    default_parameter=Parameter(negative=()),
    suppress_keyboard_interrupt=False,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code.

    0; 1 where a part failed or is missing (`sweep`, `report --strict`); 2 for an error of the user's, which one line
    tells; 130 after Ctrl-C.
    """
    before = _end_on_sigterm()
    try:
        found = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
        if isinstance(found, int) and not isinstance(found, bool):
            return found  # a command that says how it went
    except KeyboardInterrupt:
        print("Interrupted: nothing was left half-written.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        print(f"sparsewood: {error}", file=sys.stderr)
        return USER_ERROR
    except (SparsewoodError, CycloptsError) as error:
        # A recipe's mistakes have a line each; any other error is one line.
        problems = getattr(error, "problems", None)
        text = str(error) if problems else " ".join(str(error).split())
        print(f"sparsewood: {text}", file=sys.stderr)
        return USER_ERROR
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)
    return 0


def _end_on_sigterm() -> Any:
    """What a scheduler sends ends a command like Ctrl-C; returns what the signal did before."""
    if threading.current_thread() is not threading.main_thread():
        return None

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    return signal.signal(signal.SIGTERM, interrupt)


@app.command
def demo(
    *,
    output: Path | None = None,
    seeds: str = str(len(DEFAULTS.seeds)),
    compressions: str = ",".join(f"{ratio:g}" for ratio in DEFAULTS.compressions),
    epochs: int = DEFAULTS.epochs,
    finetune_epochs: int = DEFAULTS.finetune_epochs,
    lr: float = DEFAULTS.lr,
    weight_decay: float = DEFAULTS.weight_decay,
    batch_size: int = DEFAULTS.batch_size,
    test_batch_size: int = DEFAULTS.test_batch_size,
    seed: int = DEFAULTS.seed,
    threads: int = DEFAULTS.threads,
    evaluate_on: Part = DEFAULTS.evaluate_on,
    dry_run: bool = False,
    quiet: bool = False,
) -> None:
    """Compare pruning strategies on real data: random, layerwise, global and gradient magnitude.

    Trains a small network on 8x8 handwritten digits, prunes it at each compression, fine-tunes every result alike, and
    prints accuracy, real compression and theoretical speed-up as mean and standard deviation over seeds.

    Parameters
    ----------
    output
        Directory for results.csv, params.json, metrics.json, masks_summary.csv and curve.png. Default: runs/demo, or
        runs/demo-dry-run.
    seeds
        How many seeds, counted up from --seed, or a list such as 1,2,3.
    compressions
        Ratios of all parameters to those kept. 1, the dense control, is always run.
    epochs
        Epochs of dense training.
    finetune_epochs
        Epochs after pruning, and of the control.
    lr
        Learning rate at the start of every training; it falls to 0 along a cosine.
    weight_decay
        L2 penalty.
    batch_size
        Images in a training step.
    test_batch_size
        Images in a step of the evaluation.
    seed
        Decides the split of the data, and the first of the seeds.
    threads
        Processor threads. Results are the same bit for bit only for the same number.
    evaluate_on
        The part of the data that accuracies are of. Choose settings on 'validation', then read 'test' once.
    dry_run
        One batch end to end through every stage, to see that all works.
    quiet
        Show no progress.
    """
    settings = DemoSettings(
        seeds=parse_seeds(seeds, seed),
        compressions=parse_compressions(compressions),
        epochs=epochs,
        finetune_epochs=finetune_epochs,
        lr=lr,
        weight_decay=weight_decay,
        batch_size=batch_size,
        test_batch_size=test_batch_size,
        seed=seed,
        threads=threads,
        evaluate_on=evaluate_on,
        dry_run=dry_run,
    )
    _demo(settings, output or Path("runs/demo-dry-run" if dry_run else "runs/demo"), quiet=quiet)


@app.command
def run(
    recipe: Path,
    /,
    *,
    set_: Annotated[list[str] | None, Parameter(name="--set", consume_multiple=False)] = None,
    jobs: int = 1,
    dry_run: bool = False,
    quiet: bool = False,
    plan: bool = False,
    save_model: Path | None = None,
    log_interval: float = 15.0,
    method: Annotated[list[str] | None, Parameter(name=["--method", "--pruner"], consume_multiple=False)] = None,
    prune_by: Literal["lowest", "highest", "hybrid"] = "lowest",
    x: float | None = None,
    lvl: Annotated[int | None, Parameter(allow_leading_hyphen=True)] = None,
    no_augs: int | None = None,
    um_batch: Annotated[int | None, Parameter(name=["--um-batch", "--UM-batch"])] = None,
    arch: Annotated[str | None, Parameter(name=["--arch", "--model"])] = None,
    data: str | None = None,
    data_dir: Path | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    test_batch_size: int | None = None,
    optimizer: str | None = None,
    lr: float | None = None,
    max_lr: float | None = None,
    momentum: float | None = None,
    weight_decay: float | None = None,
    pretrained: bool = False,
    init_model: Path | None = None,
    seed: int | None = None,
    output: Annotated[Path | None, Parameter(name=["--output", "--dir"])] = None,
) -> None:
    """Carry out a recipe: train, prune, train again, and at the end read the test data once.

    The same command goes on where an earlier one stopped or was killed, with the same numbers; what is finished is not
    done again. Results lie in OUTPUT/NAME-HASH, where the hash is that of all that decides the numbers.

    Parameters
    ----------
    recipe
        A YAML file; those that come with sparsewood are in recipes/.
    set_
        A setting of the recipe, as in --set training.epochs=5; may be given several times.
    jobs
        How many processes share the work. The numbers are the same.
    dry_run
        One batch end to end through every stage, to see that all works.
    quiet
        Show no progress.
    plan
        Show what would be pruned when, and stop.
    save_model
        Write the weights of the last network of the first seed there, as safetensors.
    log_interval
        Seconds between lines of progress where there is no terminal.
    method
        Only this variant of the recipe, and those that it needs; may be given several times. Names of older scripts
        are understood: mag_pruning, prune_random, prune_lowest_l1, prune_outlier_neuron, prune_by_unitmem.
    prune_by
        Which end prune_by_unitmem means: that of low_unitmem, high_unitmem or hybrid_unitmem.
    x
        Levels that each take x % of what is left, as long as 39 % are left: --set pruning.schedule=...
    lvl
        Where to begin: -1 trains the dense network, 0 reads its weights from --init-model: --set train_dense=...
    no_augs
        How many augmentations of each image a criterion that augments looks at.
    um_batch
        How many images such a criterion takes at a time.
    arch
        The model: --set model=...
    data
        The data set: --set data=...
    data_dir
        Where its files are: --set data.root=... (default: the environment variable SPARSEWOOD_DATA).
    epochs
        Of the dense training: --set training.epochs=...
    batch_size
        Images in a training step.
    test_batch_size
        Images in a step of an evaluation.
    optimizer
        SGD, Adam or AdamW.
    lr
        The optimizer's learning rate.
    max_lr
        The peak of one cycle that starts at --lr (Smith and Topin 2018, https://arxiv.org/abs/1708.07120).
    momentum
        Of SGD.
    weight_decay
        L2 penalty.
    pretrained
        Start from the published weights of a torchvision, timm or transformers model.
    init_model
        Start from the weights in a file.
    seed
        One seed instead of the recipe's.
    output
        Where the run's directory goes.
    """
    from sparsewood.run.shortcuts import overrides

    options = {name: value for name, value in locals().items() if name != "overrides"}
    shortcuts = overrides(options)
    from sparsewood.run.command import run_recipe
    from sparsewood.run.methods import Choice

    run_recipe(
        recipe,
        [*shortcuts, *(set_ or ())],
        jobs=jobs,
        dry_run=dry_run,
        quiet=quiet,
        plan_only=plan,
        save_model=save_model,
        seconds=log_interval,
        choice=Choice(tuple(method or ()), prune_by, no_augs, um_batch),
    )


@app.command
def sweep(
    grid: Path,
    /,
    *,
    set_: Annotated[list[str] | None, Parameter(name="--set", consume_multiple=False)] = None,
    jobs: int | None = None,
    memory: float | None = None,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    dry_run: bool = False,
    quiet: bool = False,
    plan: bool = False,
    log_interval: float = 15.0,
    data_dir: Path | None = None,
    output: Path | None = None,
) -> int:
    """Compare methods: every method at every compression on every problem with every seed, and the controls.

    All of a seed begin with the same weights and see the data in the same order. The controls are added: the dense
    network trained on for as long, random and magnitude pruning, both also with each method's layer-wise proportions,
    a smaller dense network of as many parameters, and each method's network trained from scratch.

    The same command goes on where an earlier one stopped or was killed; what is finished is found by its hash and not
    done again, also after methods, seeds or compressions were added. A cell that fails does not stop the others.
    Results lie in OUTPUT/NAME: results.sqlite, results.csv, and a directory for each network.

    Parameters
    ----------
    grid
        A YAML file; those that come with sparsewood are in recipes/grids/.
    set_
        A setting of the grid, as in --set training.epochs=5; may be given several times.
    jobs
        How many cells are carried out at a time. Default: the cores, by the threads of each cell.
    memory
        GiB that each process may take. Default: what there is, by --jobs.
    engine
        Processes of this machine, or a Ray cluster. The numbers are the same.
    address
        Of a Ray cluster whose machines all see OUTPUT at the same path. Default: one on this machine.
    dry_run
        One batch through every cell of the first seed, to see that all works.
    quiet
        Show no progress.
    plan
        Show how many networks there are, and stop.
    log_interval
        Seconds between lines of progress where there is no terminal.
    data_dir
        Where the files of the data sets are (default: the environment variable SPARSEWOOD_DATA).
    output
        Where the sweep's directory goes: --set output=...
    """
    if data_dir is not None:
        os.environ["SPARSEWOOD_DATA"] = str(data_dir.resolve())
    settings = [*([f"output={output}"] if output is not None else []), *(set_ or ())]
    from sparsewood.run.sweep_command import SweepOptions, sweep_grid

    options = SweepOptions(jobs, memory, engine, address, dry_run, quiet, plan, log_interval)
    return sweep_grid(grid, settings, options)


@app.command
def report(
    runs: Annotated[list[Path], Parameter(negative=())],
    /,
    *,
    output: Annotated[Path | None, Parameter(name=["-o", "--output"])] = Path("report.html"),
    figures: Path | None = None,
    title: str | None = None,
    strict: bool = False,
) -> int:
    """Show results as one page that opens in a browser, without a network, and say what a comparison lacks.

    The page has accuracy over compression, speed-up, bytes and latency, tables to sort and copy, and what the networks
    became: sparsity by layer, units left, overlaps of masks, scores, trainings. report.json beside it has a field for
    every item of the reporting checklist of Blalock et al. 2020 (https://arxiv.org/abs/2003.03033); tables are called
    complete only when none is missing.

    Parameters
    ----------
    runs
        Directories of `sparsewood sweep` and `sparsewood run`, and tables of `sparsewood sensitivity` and
        `sparsewood inspect --csv`.
    output
        The page.
    figures
        Write every figure there as PNG and SVG as well.
    title
        Of the page. Default: the names of the sweeps and runs.
    strict
        Exit with 1 if something is missing.
    """
    from sparsewood.run.report_command import report_on

    return report_on(runs, output, figures=figures, title=title, strict=strict)


@app.command
def shrink(
    recipe: Path,
    /,
    *,
    set_: Annotated[list[str] | None, Parameter(name="--set", consume_multiple=False)] = None,
    preview: bool = False,
    json: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    quiet: bool = False,
    data_dir: Path | None = None,
    output: Path | None = None,
) -> None:
    """Remove channels, neurons and heads of a network for good, and measure what that did.

    The small network is proven to compute what the masked one does, then made good as the recipe says: bias
    propagation, least squares, BatchNorm statistics, fine-tuning. The table has both side by side: parameters, MACs,
    bytes on disk, measured latency with its quartiles at batch 1 and 16, and accuracy, if there is data. OUTPUT gets
    the network as sparsewood.load reads it (model.safetensors, plan.json), shrink.json, shrink.csv and recipe.yaml.

    A recipe with `training` and without `weights` trains the dense network first. That training goes on where it was
    stopped, and is not done again for other settings of `shrink`.

    Parameters
    ----------
    recipe
        A YAML file with a section `shrink`; those that come with sparsewood are recipes/*_shrink.yaml.
    set_
        A setting of the recipe, as in --set shrink.sparsity=0.7; may be given several times.
    preview
        Show how many units of which group would go, the sizes that come of it, what stays and why; no network is
        trained or written.
    json
        Write the summary there as well; - is standard output, and the tables then go to standard error.
    quiet
        Show no progress.
    data_dir
        Where the files of the data set are: --set data.root=... (default: the environment variable SPARSEWOOD_DATA).
    output
        The directory to write: --set output=... (default: runs/NAME).
    """
    from sparsewood.run.shortcuts import overrides

    settings = [*overrides({"data_dir": data_dir, "output": output}), *(set_ or ())]
    from sparsewood.run.shrink_command import shrink_recipe

    shrink_recipe(recipe, settings, preview=preview, json_file=json, quiet=quiet)


@app.command
def sensitivity(
    recipe: Path,
    /,
    *,
    set_: Annotated[list[str] | None, Parameter(name="--set", consume_multiple=False)] = None,
    amounts: str | None = None,
    granularity: Annotated[list[str] | None, Parameter(name="--granularity", consume_multiple=False)] = None,
    criterion: str | None = None,
    layer: Annotated[list[str] | None, Parameter(name="--layer", consume_multiple=False)] = None,
    max_drop: float | None = None,
    quiet: bool = False,
    data_dir: Path | None = None,
    output: Path | None = None,
) -> None:
    """Prune the layers of a recipe's dense network one at a time, and show what it loses on validation data.

    The network is trained if no earlier command did that; test data are not read. OUTPUT gets sensitivity.csv, with a
    row as soon as it is there, sensitivity.png and the tables as sensitivity.txt. The same command goes on where an
    earlier one was stopped; more layers, amounts and granularities can be asked for later.

    Parameters
    ----------
    recipe
        A YAML file, of `sparsewood run` or of `sparsewood shrink`; those that come with sparsewood are in recipes/.
    set_
        A setting of the recipe, as in --set training.epochs=5; may be given several times.
    amounts
        Shares of a layer's units that go, such as 0.25,0.5. Default: 0.1, 0.2 and so on to 0.9, and 0.95.
    granularity
        What is removed as one: Element, Filter, Channel and others that `sparsewood list granularities` shows, Coupled
        for channels with all that belongs to them; may be given several times. Default: these three.
    criterion
        Which units go first, as Magnitude or '{name: LpNorm, p: 1}'; see `sparsewood list criteria`.
    layer
        A parameter's or module's name, or a pattern; may be given several times. Default: all weights.
    max_drop
        The second table says how much each layer can lose for at most this drop of accuracy: 0.01 is one point.
    quiet
        Show no progress.
    data_dir
        Where the files of the data set are: --set data.root=... (default: the environment variable SPARSEWOOD_DATA).
    output
        The directory to write. Default: sensitivity, in the directory of the recipe's results.
    """
    from sparsewood.run.shortcuts import overrides

    shortcuts = overrides({"data_dir": data_dir})
    from sparsewood.run.sensitivity_command import analyse_recipe, settings_of

    settings = settings_of(amounts, granularity or (), criterion, layer or (), max_drop)
    analyse_recipe(recipe, [*shortcuts, *(set_ or ())], settings=settings, output=output, quiet=quiet)


@app.command(name="inspect")
def inspect_(
    model: str,
    /,
    *,
    set_: Annotated[list[str] | None, Parameter(name="--set", consume_multiple=False)] = None,
    input_shape: Annotated[list[str] | None, Parameter(name="--input-shape", consume_multiple=False)] = None,
    explain: Annotated[list[str] | None, Parameter(name="--explain", consume_multiple=False)] = None,
    attention: Literal["heads", "head_dims"] = "heads",
    groups: int = 40,
    json: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    svg: Path | None = None,
    dot: Path | None = None,
    units: bool = False,
    data: str | None = None,
    data_dir: Path | None = None,
    weights: Path | None = None,
    images: int | None = None,
    augment: str | None = None,
    augmentations: int | None = None,
    batch_size: int | None = None,
    threshold: float | None = None,
    negative: Literal["skip", "absolute"] | None = None,
    top: int | None = None,
    csv: Path | None = None,
    png: Path | None = None,
    activations: Path | None = None,
) -> None:
    """Show which channels, neurons and attention heads of a model hang together, and which cannot be removed and why.

    The model is built with new weights, nothing is downloaded, and run once without arithmetic. Each line of the table
    is a group of units: what goes with one unit alone, where the units are made and where they are read. Below stands
    what stays, and why.

    With --units: what the units do on training images of a data set. Each line is a layer: how many of its units are
    dead (always 0), constant, saturated (hardly changing) or memorize single images (UnitMem, Wang et al. 2024,
    https://arxiv.org/abs/2409.19069), and below stand the images that excite those most.

    Parameters
    ----------
    model
        A name as resnet_cifar, torchvision:resnet50, timm:vit_tiny_patch16_224, transformers:bert, or
        package.module:function for your own. `sparsewood list models` has more.
    set_
        A parameter of the model, as in --set classes=100 or --set task=causal-lm; may be given several times.
    input_shape
        The shape of its input, the batch first, as 1,3,224,224, or 1,16:int64 for tokens; several times for several
        inputs. Without it the model's library says what it takes.
    explain
        Instead of the table, why the units of this group hang together or stay, or which groups own this parameter or
        the parameters of this module; may be given several times.
    attention
        What goes from attention where both can: whole heads, or the same dimensions of all heads.
    groups
        The most lines of groups in the table; with --units, the most layers.
    json
        Write all of it there as JSON; - is standard output, and the table then goes to standard error.
    svg
        Draw a picture there.
    dot
        Write a graph for Graphviz there.
    units
        Show what each unit does. The options below are for this.
    data
        The data set that the network is trained on, as digits or "{name: image_folder, size: 64}"; only training images
        are read. `sparsewood list data` has more.
    data_dir
        Where its files are (default: the environment variable SPARSEWOOD_DATA).
    weights
        A file of weights (safetensors, or a state dict), or a directory that `sparsewood run` or `sparsewood shrink`
        wrote. Without it the weights are new.
    images
        How many training images are looked at, drawn at random (default: 1000).
    augment
        What UnitMem is measured under, as UnitMemViews or "{name: CropFlip, padding: 2}"; `sparsewood list
        augmentations` has more. Without it images are not augmented.
    augmentations
        How many times each image is augmented (default: 10).
    batch_size
        Images in one forward (default: 500).
    threshold
        From which UnitMem on a unit is counted as memorizing (default: 0.9).
    negative
        What to do with layers that have activations below 0, for which UnitMem is not defined: skip (the default), or
        absolute, which takes absolute values.
    top
        How many units of each layer are shown with their image (default: 3).
    csv
        Write a line for each unit there.
    png
        Draw the images of the units that memorize most there.
    activations
        Write the mean activation of every unit for every image to this new directory; sparsewood report shows it.
    """
    options = {
        "data": data, "data_dir": data_dir, "weights": weights, "images": images, "augment": augment,
        "augmentations": augmentations, "batch_size": batch_size, "threshold": threshold, "negative": negative,
        "activations": activations,
    }  # fmt: skip
    if units:
        _refuse("--units does not go with", {"input_shape": input_shape, "explain": explain, "svg": svg, "dot": dot})
        from sparsewood.run.inspect_units_command import UnitFiles, inspect_units

        more = {} if top is None else {"top": top}
        inspect_units(
            model, options, set_ or (), layers=groups, attention=attention, files=UnitFiles(json, csv, png), **more
        )
        return
    _refuse("Without --units there is no", {**options, "top": top, "csv": csv, "png": png})
    from sparsewood.run.inspect_command import Files, inspect_model

    inspect_model(
        model,
        set_ or (),
        shapes=input_shape or (),
        attention=attention,
        explain=explain or (),
        groups=groups,
        files=Files(json, svg, dot),
    )


@app.command
def pack(
    network: Path,
    /,
    *,
    model: str,
    output: Path,
    set_: Annotated[list[str] | None, Parameter(name="--set", consume_multiple=False)] = None,
    tensors: int = 40,
) -> None:
    """Write a network to one file with no more bytes than its values need, and show what each tensor takes.

    Zeros become positions, few different values a codebook; all is coded near its entropy, and nothing is lost. The
    file holds what was cut, too: sparsewood.unpack reads it with a network of full size.

    Parameters
    ----------
    network
        A directory that sparsewood.save or a command of sparsewood wrote, or a file of weights (safetensors, or a state
        dict).
    model
        What it was built as: a name as resnet_cifar, torchvision:resnet50, or package.module:function for your own.
        `sparsewood list models` has more.
    output
        The file to write.
    set_
        A parameter of the model, as in --set classes=100; may be given several times.
    tensors
        The most lines of tensors in the table.
    """
    from sparsewood.run.pack_command import pack_network

    pack_network(network, model, set_ or (), output, most=tensors)


@app.command
def unpack(
    file: Path,
    /,
    *,
    model: str,
    output: Path,
    set_: Annotated[list[str] | None, Parameter(name="--set", consume_multiple=False)] = None,
) -> None:
    """Write the network in a packed file to a directory, as sparsewood.load reads it (model.safetensors, plan.json).

    Parameters
    ----------
    file
        What `sparsewood pack` or sparsewood.pack wrote.
    model
        What it was built as: a name as resnet_cifar, torchvision:resnet50, or package.module:function for your own.
        `sparsewood list models` has more.
    output
        The directory to write.
    set_
        A parameter of the model, as in --set classes=100; may be given several times.
    """
    from sparsewood.run.pack_command import unpack_network

    unpack_network(file, model, set_ or (), output)


@app.command
def export(
    network: Path | None = None,
    /,
    *,
    model: str,
    output: Path,
    set_: Annotated[list[str] | None, Parameter(name="--set", consume_multiple=False)] = None,
    input_shape: Annotated[list[str] | None, Parameter(name="--input-shape", consume_multiple=False)] = None,
    format: Literal["onnx", "pt2", "safetensors", "pt"] | None = None,
    fixed_batch: bool = False,
    tolerance: float | None = None,
    opset: int | None = None,
    kernels: Annotated[
        list[Literal["csr", "bsr", "2:4"]] | None, Parameter(name="--kernels", consume_multiple=False)
    ] = None,
) -> None:
    """Write a network to a file that other programs read, and check that the file computes the same.

    ONNX is run by onnxruntime, a program of torch.export and a state dict by PyTorch, beside the network: on example
    inputs, on other values, and on other batches. The largest difference is shown. A file that differs is not written.

    Parameters
    ----------
    network
        A directory that sparsewood.save or a command of sparsewood wrote, or a file of weights (safetensors, or a state
        dict). Without it the model has the weights that it is built with, as with --set pretrained=true.
    model
        What it was built as: a name as resnet_cifar, torchvision:resnet50, or package.module:function for your own.
        `sparsewood list models` has more.
    output
        The file to write. Its ending says the format: .onnx, .pt2 (torch.export), .safetensors or .pt (weights alone).
    set_
        A parameter of the model, as in --set classes=100; may be given several times.
    input_shape
        The shape of its input, the batch first, as 1,3,224,224, or 1,16:int64 for tokens; several times for several
        inputs. Without it the model's library says what it takes.
    format
        The format, whatever the ending.
    fixed_batch
        The file takes batches of the size of the example inputs only, for networks that fix the size.
    tolerance
        The largest difference allowed, over the largest value of an output (default: 3.5e-4 in float32).
    opset
        The version of ONNX's operators (default: the one that PyTorch recommends).
    kernels
        Also show in which layers a sparse kernel of PyTorch would be faster than the dense one, as measured for the
        example inputs: csr, bsr or 2:4; may be given several times.
    """
    from sparsewood.run.export_command import ExportSettings, export_network

    settings = ExportSettings(format, not fixed_batch, tolerance, opset, tuple(kernels or ()))
    export_network(network, model, set_ or (), output, shapes=input_shape or (), settings=settings)


@app.command(name="list")
def list_(kind: Annotated[str | None, Parameter(name="kind")] = None, /) -> None:
    """Print what there is of one kind, with one line about each and its parameters; without a kind, of every kind.

    Parameters
    ----------
    kind
        criteria, unit-criteria, granularities, scopes, allocations, budgets, engines, amounts, schedules, recoveries,
        initializers, models, data, augmentations, optimizers, rates, dynamics or penalties.
    """
    from sparsewood.run.catalogue import KINDS, catalogue, takes

    for title in KINDS if kind is None else (kind,):
        found = catalogue(title)
        if kind is None:
            print(f"{title}:")
        width = max((len(name) for name, _ in found), default=0)
        for name, line in found:
            given = takes(title, name) if kind else ""
            print(f"{'' if kind else '  '}{name:<{width}}  {line}{f' Takes {given}.' if given else ''}")


def _refuse(why: str, options: dict[str, Any]) -> None:
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
    if given:
        raise SparsewoodError(f"{why} {', '.join(given)}.")


def _demo(settings: DemoSettings, output: Path, *, quiet: bool) -> None:
    from sparsewood.files import writable_directory
    from sparsewood.report.plots import require_matplotlib

    # What can be wrong is found out now, not after a minute of training.
    directory = writable_directory(output)
    require_matplotlib()
    from sparsewood.report.rows import aggregate, order_of
    from sparsewood.report.table import compression_table, order_lines
    from sparsewood.run.demo import EXPECTED_ORDER, run_demo, steps
    from sparsewood.run.demo_files import title, write_all
    from sparsewood.run.progress import progress
    from sparsewood.run.show import show

    with progress(steps(settings), quiet=quiet) as advance:
        outcome = run_demo(settings, advance)
    points = aggregate(outcome.results)
    orders = order_of(points, EXPECTED_ORDER)
    paths = write_all(directory, settings, outcome, points, orders)
    seeds = points[0].seeds
    over = f"mean +- sample standard deviation over {seeds} seeds" if seeds > 1 else "one seed, so no deviation"
    heading = f"{title(settings)}, {over}"
    show(compression_table(points, heading))
    if orders and not settings.dry_run:
        print("\nDid the expected order of the means after fine-tuning hold?", *order_lines(orders), sep="\n")
    print("\nWritten:")
    for path in paths:
        print(f"  {path}")


if __name__ == "__main__":
    sys.exit(main())
