"""SparsityTrainerCallback: a Pruning in the Trainer of transformers."""

from __future__ import annotations

import importlib
import os
import random
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset, IterableDataset

from sparsewood.criteria import Random, WeightTimesGradient
from sparsewood.errors import SparsewoodError
from sparsewood.models.wheels import ensure_torchvision
from sparsewood.pruning import Pruning
from sparsewood.schedules import Cubic, Linear, OneShot, Soft
from sparsewood.train.pruner import Pruner
from sparsewood.types import Masks

ensure_torchvision()
transformers = pytest.importorskip("transformers")
accelerate_state = pytest.importorskip("accelerate.state")

from sparsewood.train.huggingface import FILE, SparsityTrainerCallback  # noqa: E402  (torchvision comes first)

EXAMPLES, BATCH = 32, 8
STEPS = EXAMPLES // BATCH


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """The Trainer seeds every generator and sets variables for its libraries; accelerate keeps state in its classes."""
    variables, python, numpy = dict(os.environ), random.getstate(), np.random.get_state()  # noqa: NPY002
    yield
    accelerate_state.AcceleratorState._reset_state(reset_partial_state=True)
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    random.setstate(python)
    np.random.set_state(numpy)  # noqa: NPY002


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 3))


@cache
def rows() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(EXAMPLES, 6, generator=generator), torch.randint(3, (EXAMPLES,), generator=generator)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)


class Toy(nn.Module):
    """The network of the other ways to train, in the words of transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net()

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.net(x)
        return {"loss": cross_entropy(logits, labels), "logits": logits}


class Rows(Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return EXAMPLES

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        inputs, labels = rows()
        return {"x": inputs[index], "labels": labels[index]}


class InOrder(transformers.Trainer):
    """Batches in the order of the data, as in the plain loop."""

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        del args, kwargs
        return torch.utils.data.SequentialSampler(Rows())


class Failing(transformers.TrainerCallback):
    """Breaks off before a step, as a machine may."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        del args, control, kwargs
        if state.global_step == self.step:
            raise ConnectionError("the machine went away")


def arguments(path: Path, **options: Any) -> Any:
    settings: dict[str, Any] = {"save_strategy": "no", "num_train_epochs": 3} | options
    return transformers.TrainingArguments(
        output_dir=str(path),
        per_device_train_batch_size=BATCH,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,  # none
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        logging_steps=1,
        **settings,
    )


def trainer(model: nn.Module, path: Path, *callbacks: Any, data: Any = None, **options: Any) -> Any:
    made = InOrder(
        model=model,
        args=arguments(path, **options),
        train_dataset=Rows() if data is None else data,
        callbacks=list(callbacks),
        optimizers=(sgd(model), None),
    )
    made.remove_callback(transformers.PrinterCallback)
    return made


def in_a_plain_loop(pruning: Pruning, steps: int, every: int = 1, **options: Any) -> tuple[Toy, Masks]:
    """The same training by hand; with `every` > 1 gradients are accumulated."""
    model = Toy()
    optimizer = sgd(model)
    pruner = Pruner(model, optimizer, pruning, steps_per_epoch=STEPS // every, **options)
    inputs, labels = rows()
    for step in range(steps):
        optimizer.zero_grad()
        for part in range(step * every, (step + 1) * every):
            place = slice(part % STEPS * BATCH, (part % STEPS + 1) * BATCH)
            (model(inputs[place], labels[place])["loss"] / every).backward()
        optimizer.step()
        pruner.step()
    return model, pruner.finish()


def scoring_data() -> list[dict[str, Tensor]]:
    inputs, labels = rows()
    return [{"x": inputs[:BATCH], "labels": labels[:BATCH]}]


def loss_of(output: dict[str, Tensor], batch: Any) -> Tensor:
    del batch
    return output["loss"]


def assert_same(model: nn.Module, other: nn.Module) -> None:
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def assert_zero(model: nn.Module, masks: Masks) -> None:
    assert masks.removed
    for name, parameter in model.named_parameters():
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
    options: dict[str, Any] = {"data": scoring_data(), "loss": loss_of, "seed": 5}
    model, callback = Toy(), SparsityTrainerCallback(PRUNINGS[name], **options)
    assert isinstance(callback, transformers.TrainerCallback)
    trainer(model, tmp_path, callback).train()
    expected, masks = in_a_plain_loop(PRUNINGS[name], 3 * STEPS, **options)
    assert callback.masks == masks
    assert_zero(model, masks)
    assert_same(model, expected)
    share = {"steps": 0.9, "epochs": 0.8, "once": 0.75}.get(name, 0.5)
    assert masks.removed == round(140 * share)


def test_the_sparsity_is_in_the_log_and_accumulated_batches_are_one_step(tmp_path: Path) -> None:
    model, callback = Toy(), SparsityTrainerCallback(PRUNINGS["epochs"])
    made = trainer(model, tmp_path, callback, gradient_accumulation_steps=2)
    made.train()
    _, masks = in_a_plain_loop(PRUNINGS["epochs"], 3 * STEPS // 2, every=2)
    assert callback.masks.layer_sparsity().keys() == masks.layer_sparsity().keys()
    assert callback.masks.removed == masks.removed == 112
    logged = [row["sparsity"] for row in made.state.log_history if "loss" in row]
    shares = [0.8 / 3] + [1.6 / 3] * 2 + [0.8] * 3
    assert logged == pytest.approx([round(140 * share) / 140 for share in shares])
    assert_zero(model, masks=callback.masks)


@pytest.mark.parametrize(("name", "fails_at"), [("steps", 5), ("random", 8), ("soft", 5)])
def test_a_run_that_broke_off_goes_on_from_its_checkpoint(name: str, fails_at: int, tmp_path: Path) -> None:
    """[7.8] With the same masks and weights as one that did not."""
    saving = {"save_strategy": "steps", "save_steps": 2}
    with pytest.raises(ConnectionError):
        trainer(Toy(), tmp_path, SparsityTrainerCallback(PRUNINGS[name]), Failing(fails_at), **saving).train()
    model, callback = Toy(), SparsityTrainerCallback(PRUNINGS[name])
    trainer(model, tmp_path, callback, **saving).train(resume_from_checkpoint=True)
    expected, masks = in_a_plain_loop(PRUNINGS[name], 3 * STEPS)
    assert callback.masks == masks
    assert_zero(model, masks)
    assert_same(model, expected)


def test_a_checkpoint_that_was_moved(tmp_path: Path) -> None:
    saving = {"save_strategy": "steps", "save_steps": 4}
    trainer(Toy(), tmp_path / "a", SparsityTrainerCallback(PRUNINGS["once"]), **saving).train()
    (tmp_path / "a" / "checkpoint-8").rename(tmp_path / "elsewhere")
    model, moved = Toy(), str(tmp_path / "elsewhere")
    with pytest.raises(SparsewoodError, match=rf"goes on from step 8, but there is no '{FILE}'.*resume_from="):
        trainer(Toy(), tmp_path / "b", SparsityTrainerCallback(PRUNINGS["once"])).train(resume_from_checkpoint=moved)
    callback = SparsityTrainerCallback(PRUNINGS["once"], resume_from=moved)
    trainer(model, tmp_path / "b", callback).train(resume_from_checkpoint=moved)
    assert_same(model, in_a_plain_loop(PRUNINGS["once"], 3 * STEPS)[0])
    wrong = SparsityTrainerCallback(PRUNINGS["once"], resume_from=tmp_path / "a" / "checkpoint-4")
    with pytest.raises(SparsewoodError, match="is of step 4, the Trainer goes on from step 8"):
        trainer(Toy(), tmp_path / "b", wrong).train(resume_from_checkpoint=moved)
    # As scripts do: the argument, which the Trainer itself does not read.
    model, callback = Toy(), SparsityTrainerCallback(PRUNINGS["once"])
    trainer(model, tmp_path / "b", callback, resume_from_checkpoint=moved).train(resume_from_checkpoint=moved)
    assert_zero(model, callback.masks)


def test_a_training_that_is_too_short(tmp_path: Path) -> None:
    callback = SparsityTrainerCallback(PRUNINGS["epochs"])
    with pytest.raises(SparsewoodError, match=r"1 of 3 events did not take place, those before training step 8"):
        trainer(Toy(), tmp_path, callback, max_steps=5).train()


def test_train_again_starts_anew(tmp_path: Path) -> None:
    callback = SparsityTrainerCallback(PRUNINGS["random"])
    first = Toy()
    trainer(first, tmp_path, callback).train()
    masks = callback.masks
    second = Toy()
    trainer(second, tmp_path, callback).train()
    assert callback.masks == masks
    assert_same(first, second)


def test_data_without_a_length(tmp_path: Path) -> None:
    class Stream(IterableDataset[dict[str, Tensor]]):
        def __iter__(self) -> Iterator[dict[str, Tensor]]:
            return (Rows()[i % EXAMPLES] for i in range(10 * EXAMPLES))

    class Plain(InOrder):
        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            del args, kwargs

    def streaming(pruning: Pruning) -> tuple[Any, SparsityTrainerCallback]:
        model, callback = Toy(), SparsityTrainerCallback(pruning)
        made = Plain(
            model=model,
            args=arguments(tmp_path, max_steps=5),
            train_dataset=Stream(),
            callbacks=[callback],
            optimizers=(sgd(model), None),
        )
        made.remove_callback(transformers.PrinterCallback)
        return made, callback

    made, _ = streaming(PRUNINGS["epochs"])
    with pytest.raises(SparsewoodError, match="the training data has no length"):
        made.train()
    made, callback = streaming(PRUNINGS["once"])
    made.train()
    assert callback.masks.removed == 105


# ---------------------------------------------------------------- networks of transformers


class Tokens(Dataset[dict[str, Tensor]]):
    """Sentences of random words; the label is a class, or the sentence itself."""

    def __init__(self, classes: int | None) -> None:
        generator = torch.Generator().manual_seed(2)
        self.words = torch.randint(20, (EXAMPLES, 7), generator=generator)
        self.labels = self.words if classes is None else torch.randint(classes, (EXAMPLES,), generator=generator)

    def __len__(self) -> int:
        return EXAMPLES

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.words[index], "labels": self.labels[index]}


def bert() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=20,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        num_labels=3,
    )
    return transformers.BertForSequenceClassification(config)


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=20, n_embd=16, n_layer=2, n_head=2, n_positions=16)
    return transformers.GPT2LMHeadModel(config)


@pytest.mark.parametrize(("build", "classes"), [(bert, 3), (gpt2, None)], ids=["bert", "gpt2"])
@pytest.mark.parametrize("criterion", ["magnitude", "gradient"])
def test_transformers(build: Any, classes: int | None, criterion: str, tmp_path: Path) -> None:
    """The Trainer's own optimizer (AdamW) and order; the target is hit exactly and holds [004-42]."""
    data, model = Tokens(classes), build()
    fields: dict[str, Any] = {} if criterion == "magnitude" else {"criterion": WeightTimesGradient()}
    callback = SparsityTrainerCallback(
        Pruning(schedule=Cubic(0.8), rounds=3, unit="step", start=1, **fields),
        data=[{name: torch.stack([data[i][name] for i in range(4)]) for name in ("input_ids", "labels")}],
        loss=lambda output, _: output.loss,
    )
    made = transformers.Trainer(
        model=model,
        args=arguments(tmp_path, max_steps=6, save_strategy="steps", save_steps=3),
        train_dataset=data,
        callbacks=[callback],
    )
    made.remove_callback(transformers.PrinterCallback)
    made.train()
    assert callback.masks.removed == round(0.8 * callback.masks.total)
    assert_zero(model, callback.masks)
    again = type(model).from_pretrained(tmp_path / "checkpoint-6")
    assert_zero(again, callback.masks)


# ---------------------------------------------------------------- what else is said


def test_there_are_no_masks_before_the_training() -> None:
    with pytest.raises(SparsewoodError, match="before the Trainer has begun"):
        _ = SparsityTrainerCallback(PRUNINGS["once"]).masks


def test_only_the_process_that_saves_writes(tmp_path: Path) -> None:
    callback, model = SparsityTrainerCallback(PRUNINGS["once"]), Toy()
    state = SimpleNamespace(global_step=0)
    (tmp_path / "checkpoint-0").mkdir()
    for should_save in (False, True):
        args = SimpleNamespace(should_save=should_save, output_dir=tmp_path, gradient_accumulation_steps=1)
        callback.on_train_begin(args, state, None, model=model, optimizer=sgd(model), train_dataloader=[])  # type: ignore[arg-type]
        callback.on_save(args, state, None)  # type: ignore[arg-type]
        assert (tmp_path / "checkpoint-0" / FILE).exists() == should_save


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing says what to install."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "sparsewood.train.huggingface")
    with pytest.raises(SparsewoodError, match=r"not installed\. Run: pip install 'sparsewood\[hf\]'"):
        importlib.import_module("sparsewood.train.huggingface")
