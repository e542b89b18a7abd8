"""SparsityCallback: a Pruning in Lightning's Trainer."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from sparsewood.criteria import Random, WeightTimesGradient
from sparsewood.dynamics import RigL
from sparsewood.errors import SparsewoodError
from sparsewood.models.wheels import ensure_torchvision
from sparsewood.pruning import Pruning
from sparsewood.schedules import Cubic, Linear, OneShot, Soft
from sparsewood.train.dynamic import DynamicPruner
from sparsewood.train.pruner import Pruner
from sparsewood.types import Masks

ensure_torchvision()
pl = pytest.importorskip("pytorch_lightning")

from sparsewood.train.lightning import SparsityCallback  # noqa: E402  (torchvision comes first)

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{message}")
    for message in (
        "The '?train_dataloader'? does not have many workers",  # advice about speed
        r".*`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning's use of PyTorch's own trees
        "Checkpoint directory .* exists and is not empty",
    )
]

STEPS = 4  # batches in an epoch


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 3))


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 6, generator=generator), torch.randint(3, (8,), generator=generator)) for _ in range(STEPS)]


def loader() -> DataLoader[Any]:
    inputs, labels = (torch.cat(parts) for parts in zip(*batches(), strict=True))
    return DataLoader(TensorDataset(inputs, labels), batch_size=8)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)


class Module(pl.LightningModule):
    """Fails at the start of step `fails_at`, as a machine may."""

    def __init__(self, fails_at: int | None = None) -> None:
        super().__init__()
        self.net = net()
        self.fails_at = fails_at

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs)

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        if self.global_step == self.fails_at:
            raise ConnectionError("the machine went away")
        return cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return sgd(self)


def trainer(epochs: int, tmp_path: Path, *callbacks: Any, **options: Any) -> Any:
    settings: dict[str, Any] = {"enable_checkpointing": False, "accelerator": "cpu", "devices": 1} | options
    return pl.Trainer(
        max_epochs=epochs,
        callbacks=list(callbacks),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        **settings,
    )


def saver(path: Path) -> Any:
    return pl.callbacks.ModelCheckpoint(dirpath=path, save_last=True, every_n_epochs=1)


def in_a_plain_loop(pruning: Pruning, steps: int, every: int = 1, **options: Any) -> tuple[Module, Masks]:
    """The same training by hand; with `every` > 1 gradients are accumulated."""
    module = Module()
    optimizer = sgd(module)
    pruner = Pruner(module, optimizer, pruning, steps_per_epoch=-(-STEPS // every), **options)
    for step in range(steps):
        optimizer.zero_grad()
        start = step * every
        for inputs, labels in (batches()[i % STEPS] for i in range(start, start + every)):
            (cross_entropy(module(inputs), labels) / every).backward()
        optimizer.step()
        pruner.step()
    return module, pruner.finish()


def assert_same(module: nn.Module, other: nn.Module) -> None:
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters(), strict=True))


def assert_zero(module: nn.Module, masks: Masks) -> None:
    assert masks.removed
    for name, parameter in module.named_parameters():
        if name in masks:
            assert (parameter[~masks[name]] == 0).all()
            assert (parameter[masks[name]] != 0).all()


PRUNINGS = {
    "steps": Pruning(schedule=Cubic(0.9), rounds=4, unit="step", start=1, every=2),
    "epochs": Pruning(schedule=Linear(0.8), rounds=3, unit="epoch"),
    "random": Pruning(Random(), Cubic(0.5), rounds=3, unit="epoch"),
    "soft": Pruning(schedule=Soft(OneShot(0.5)), rounds=3, unit="epoch"),
    "once": Pruning(schedule=OneShot(0.75), start=3),
    "data": Pruning(WeightTimesGradient(), Cubic(0.5), rounds=3, unit="epoch"),
}


@pytest.mark.parametrize("name", PRUNINGS)
def test_masks_and_weights_are_those_of_a_plain_loop(name: str, tmp_path: Path) -> None:
    """Bit for bit, and zero at the end [7.1, 7.8]."""
    options: dict[str, Any] = {"data": batches(), "loss": cross_entropy, "seed": 5}
    module, callback = Module(), SparsityCallback(PRUNINGS[name], **options)
    assert isinstance(callback, pl.Callback)
    trainer(3, tmp_path, callback).fit(module, loader())
    expected, masks = in_a_plain_loop(PRUNINGS[name], 3 * STEPS, **options)
    assert callback.masks == masks
    assert_zero(module, masks)
    assert_same(module, expected)
    share = {"steps": 0.9, "epochs": 0.8, "once": 0.75}.get(name, 0.5)
    assert masks.removed == round(140 * share)


class Watch(pl.Callback):
    """The sparsity that was logged, and that of the weights, after every batch."""

    def __init__(self) -> None:
        self.logged: list[float] = []
        self.found: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        del rest
        self.logged.append(float(trainer.callback_metrics["sparsity"]))
        weights = torch.cat([p.flatten() for p in (pl_module.net[0].weight, pl_module.net[2].weight)])
        self.found.append(float((weights == 0).float().mean()))


def test_the_sparsity_is_logged_and_holds_after_every_step(tmp_path: Path) -> None:
    """[004-42] Accumulated batches are one step."""
    callback, watch = SparsityCallback(PRUNINGS["epochs"]), Watch()
    module = Module()
    trainer(3, tmp_path, callback, watch, accumulate_grad_batches=2).fit(module, loader())
    expected, masks = in_a_plain_loop(PRUNINGS["epochs"], 6, every=2)
    assert callback.masks == masks
    assert_same(module, expected)
    steps = [0.8 / 3] * 3 + [1.6 / 3] * 4 + [0.8] * 5
    assert watch.found == pytest.approx([round(140 * share) / 140 for share in steps])
    assert watch.logged == pytest.approx(watch.found)


@pytest.mark.parametrize("fails_at", [STEPS, 2 * STEPS])
@pytest.mark.parametrize("name", ["steps", "random", "soft"])
def test_a_run_that_broke_off_goes_on_from_its_checkpoint(name: str, fails_at: int, tmp_path: Path) -> None:
    """[7.8] With the same masks and weights as one that did not."""
    broken, module = Module(fails_at), Module()
    first = trainer(3, tmp_path, SparsityCallback(PRUNINGS[name]), saver(tmp_path), enable_checkpointing=True)
    with pytest.raises(ConnectionError):
        first.fit(broken, loader())
    assert not broken.optimizers().optimizer._optimizer_step_post_hooks
    callback = SparsityCallback(PRUNINGS[name])
    second = trainer(3, tmp_path, callback, saver(tmp_path), enable_checkpointing=True)
    second.fit(module, loader(), ckpt_path=tmp_path / "last.ckpt")
    expected, masks = in_a_plain_loop(PRUNINGS[name], 3 * STEPS)
    assert callback.masks == masks
    assert_zero(module, masks)
    assert_same(module, expected)


def test_a_checkpoint_without_the_callback(tmp_path: Path) -> None:
    whole = trainer(1, tmp_path)
    whole.fit(Module(), loader())
    whole.save_checkpoint(tmp_path / "plain.ckpt")
    with pytest.raises(SparsewoodError, match="goes on from step 4, for which SparsityCallback has no state: none was"):
        trainer(2, tmp_path, SparsityCallback(PRUNINGS["once"])).fit(
            Module(), loader(), ckpt_path=tmp_path / "plain.ckpt"
        )


def test_fit_again_goes_on_and_a_new_trainer_starts_anew(tmp_path: Path) -> None:
    callback, module = SparsityCallback(PRUNINGS["once"]), Module()
    first = trainer(1, tmp_path, callback)
    first.fit(module, loader())
    masks = callback.masks
    first.fit_loop.max_epochs = 2
    first.fit(module, loader())
    assert callback.masks == masks
    assert_zero(module, masks)
    expected, _ = in_a_plain_loop(PRUNINGS["once"], STEPS)
    other = Module()
    trainer(1, tmp_path, callback).fit(other, loader())
    assert_same(other, expected)


def test_a_training_that_is_too_short(tmp_path: Path) -> None:
    with pytest.raises(SparsewoodError, match=r"1 of 3 events did not take place, those before training step 8"):
        trainer(1, tmp_path, SparsityCallback(PRUNINGS["epochs"])).fit(Module(), loader())


def test_zeros_that_do_not_hold(tmp_path: Path) -> None:
    class Meddler(pl.Callback):
        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            del trainer
            nn.init.ones_(pl_module.net[2].weight)

    with pytest.raises(SparsewoodError, match=r"masked entries of 'net\.2\.weight' are not zero at step 4"):
        trainer(1, tmp_path, Meddler(), SparsityCallback(PRUNINGS["once"])).fit(Module(), loader())


def test_several_optimizers(tmp_path: Path) -> None:
    class Two(Module):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def configure_optimizers(self) -> Any:
            return [sgd(self.net[0]), sgd(self.net[2])]

    with pytest.raises(SparsewoodError, match=r"needs a module with one optimizer\. Two has 2; use Pruner"):
        trainer(1, tmp_path, SparsityCallback(PRUNINGS["once"])).fit(Two(), loader())


def test_004_36_masks_that_change_read_the_gradients_of_their_step(tmp_path: Path) -> None:
    """Lightning steps with a closure, in which the gradients come about: the same as in a plain loop without one."""

    class Changing(Module):
        def on_fit_start(self) -> None:
            self.pruner = DynamicPruner(self, self.optimizers(), RigL(0.5, every=2), steps=3 * STEPS)

        def on_train_batch_end(self, *_: Any) -> None:
            self.pruner.step()

    module, plain = Changing(), Module()
    trainer(3, tmp_path).fit(module, loader())
    optimizer = sgd(plain)
    pruner = DynamicPruner(plain, optimizer, RigL(0.5, every=2), steps=3 * STEPS)
    first = pruner.masks
    for inputs, labels in 3 * batches():
        optimizer.zero_grad()
        cross_entropy(plain(inputs), labels).backward()
        optimizer.step()
        pruner.step()
    assert module.pruner.finish() == pruner.finish() != first
    assert_same(module, plain)


def test_data_without_a_length(tmp_path: Path) -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter(loader().dataset)  # type: ignore[call-overload]

    stream = DataLoader(Stream(), batch_size=8)
    with pytest.raises(SparsewoodError, match="the training data has no length"):
        trainer(1, tmp_path, SparsityCallback(PRUNINGS["epochs"])).fit(Module(), stream)
    callback = SparsityCallback(PRUNINGS["once"])
    trainer(1, tmp_path, callback).fit(Module(), stream)
    assert callback.masks.removed == 105


def test_there_are_no_masks_before_the_training() -> None:
    callback = SparsityCallback(PRUNINGS["once"])
    assert callback.state_dict() == {}
    with pytest.raises(SparsewoodError, match="before the Trainer has begun"):
        _ = callback.masks


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing says what to install."""
    for name in ("pytorch_lightning", "lightning", "lightning.pytorch"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "sparsewood.train.lightning")
    with pytest.raises(SparsewoodError, match=r"not installed\. Run: pip install 'sparsewood\[lightning\]'"):
        importlib.import_module("sparsewood.train.lightning")
