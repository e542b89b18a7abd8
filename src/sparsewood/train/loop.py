"""The training loop. Whoever has one needs nothing of this: masks are enforced on the optimizer, not here."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from sparsewood.distributed import rank, require_same_masks
from sparsewood.errors import SparsewoodError, require_model
from sparsewood.inputs import refuse_sum
from sparsewood.masks import enforce
from sparsewood.state import TrainingState
from sparsewood.train.dynamic import DynamicPruner
from sparsewood.train.history import Epoch, Fitted, History, Progress
from sparsewood.train.logs import Log
from sparsewood.train.loss import Teacher
from sparsewood.train.meter import Meter
from sparsewood.train.position import Position, require_finite, share_buffers
from sparsewood.train.protocols import Batches, Loss, PrunerFactory
from sparsewood.train.randomness import batches, forked, seed_start
from sparsewood.train.selection import Selection
from sparsewood.train.settings import Training
from sparsewood.train.setup import Span, check_callbacks, span_of, stepper_for
from sparsewood.train.step import Stepper
from sparsewood.train.validation import validate
from sparsewood.types import Masks

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["fit"]

OnState = Callable[[TrainingState], None]


def fit(
    model: nn.Module,
    train: Batches,
    training: Training,
    *,
    validation: Iterable[Any] | None = None,
    seed: int = 0,
    fabric: Fabric | None = None,
    masks: Mapping[str, Tensor] | None = None,
    during: PrunerFactory | None = None,
    teacher: Teacher | None = None,
    loss: Loss | None = None,
    first_step: int = 0,
    steps: int | None = None,
    optimizer_state: TrainingState | None = None,
    state: TrainingState | None = None,
    snapshots: Collection[int] = (),
    on_snapshot: OnState | None = None,
    checkpoint_every: int = 1,
    on_checkpoint: OnState | None = None,
    on_batch: Callable[[Progress], None] | None = None,
    log: Log | None = None,
) -> Fitted:
    """Train `model` in place on `train`, batches of (inputs, labels), as `training` says.

    The optimizer is built once and lives through the whole training. Before each step t the random state is seeded
    from `seed`, t and the process's rank, so that dropout and the like are the same whenever step t is done; afterwards
    it is as it was before. A `Loader` draws its order from the number of the epoch alike. A training that is cut at a
    checkpoint, or begun at a later step, therefore goes on bit for bit. (On a GPU only as far as its kernels are
    deterministic.)

    Args:
        validation: batches by whose accuracy the epoch is chosen whose weights stay; without it those of the last stay.
        fabric: where to train; default: one process on the model's device. Its precision must be that of `training`.
        masks: enforced after every step; not with a `DynamicPruner`, which would know nothing of them.
        during: makes what prunes while training goes on; then only epochs that end after its last event can be chosen.
        teacher: a network whose outputs are learned, too (`Teacher(model, temperature, weight)`).
        loss: `loss(outputs, labels)`, the mean over the batch; default: cross-entropy of logits, with label smoothing.
            Outputs that are no logits are refused then.
        first_step: where in the schedule to begin: step t is batch t % len(train) of epoch t // len(train).
        steps: where to end; default: epochs * len(train). The learning rate's schedule ends there, too.
        optimizer_state: the optimizer's memory to begin with; default: none. Weights are taken from `model`.
        state: what `on_checkpoint` was given, of the same training: goes on exactly from there.
        snapshots: steps whose state goes to `on_snapshot`: after so many steps, 0 before the first.
        checkpoint_every: epochs between states given to `on_checkpoint`, in process 0, the last epoch excepted.
        on_batch: called after each step.
        log: called after each epoch, in process 0.

    With several processes each gives its share of each batch; the gradient is that of the whole batch. The model stays
    on the Fabric's device, without gradients.

    Raises `SparsewoodError` for arguments that do not fit, and, naming epoch and batch, when the loss is not finite.

    >>> import torch
    >>> model = nn.Linear(2, 2)
    >>> data = [(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))]
    >>> fitted = fit(model, data, Training(epochs=20))
    >>> len(fitted.history.epochs), fitted.history.epochs[-1].accuracy, fitted.steps
    (20, 1.0, 20)
    """
    require_model(model)
    refuse_sum(loss)
    span = span_of(train, training, first_step, steps, state)
    check_callbacks(training, span, snapshots, checkpoint_every, validation)
    calls = _Calls(frozenset(snapshots), on_snapshot, checkpoint_every, on_checkpoint, on_batch, log)
    stepper = stepper_for(model, training, fabric, teacher, loss, seed)
    optimizer, device = stepper.optimizer, stepper.fabric.device
    given = Masks(masks or {})
    require_same_masks(given)
    # What the run leaves: no random state, train mode and hooks but those that were there.
    with forked(device), _mode_kept(model), enforce(model, given, optimizer) if masks else nullcontext() as keeper:
        seed_start(seed, device)
        pruner = None if during is None else during(model, optimizer, span.per_epoch)
        if keeper is not None and isinstance(pruner, DynamicPruner):
            pruner.close()
            raise SparsewoodError(
                f"{pruner} decides what is masked, and fit was given {given}: together more would go than either says. "
                "Leave masks out, and those parameters out of the pruner with exclude=[...] if they are to stay dense."
            )
        position = Position(model, optimizer, pruner, Selection(training.select == "best"), Meter(device), span.first)
        if stepper.penalizer is not None:
            stepper.penalizer.steps, position.penalizer = span.first, stepper.penalizer
        if state is not None:
            position.go_on(state)
        elif optimizer_state is not None:
            position.remember(optimizer_state)
        if keeper is not None:
            keeper.project()
        return _Run(stepper, position, span, calls, given, train, validation)()


@dataclass(frozen=True)
class _Calls:
    """Who is told what."""

    snapshots: frozenset[int]
    on_snapshot: OnState | None
    checkpoint_every: int
    on_checkpoint: OnState | None
    on_batch: Callable[[Progress], None] | None
    log: Log | None


@dataclass
class _Run:
    stepper: Stepper
    at: Position
    span: Span
    calls: _Calls
    given: Masks
    train: Batches
    validation: Iterable[Any] | None

    def __call__(self) -> Fitted:
        log = self.calls.log if rank() == 0 else None
        if log is not None:
            log.start(self.at.epochs[-1].number if self.at.epochs else 0)
        try:
            stopped = self._epochs(log)
        finally:
            self.stepper.optimizer.zero_grad()
            if log is not None:
                log.close()
        self.at.selection.put_back(self.at.model)
        if self.at.pruner is not None:
            # Last, so that it finds the weights that stay.
            self.at.pruner.finish()
        masks = self._masks()
        require_same_masks(masks)
        last = self.at.epochs[-1].number if self.at.epochs else self.span.first // self.span.per_epoch
        history = History(tuple(self.at.epochs), self.at.selection.chosen or last)
        return Fitted(history, masks if masks else None, self.at.step, stopped)

    def _epochs(self, log: Log | None) -> bool:
        """Epoch by epoch to the end; whether it stopped before."""
        patience = self.stepper.training.patience
        while self.at.step < self.span.steps:
            epoch = self._epoch()
            if log is not None:
                log.write(epoch, self._masks().layer_sparsity())
            if patience is not None and self.at.selection.waited >= patience and self.at.step < self.span.steps:
                self._snapshot()
                return True
            if epoch.number % self.calls.checkpoint_every == 0 and self.at.step < self.span.steps:
                self._checkpoint()
        self._snapshot()
        return False

    def _epoch(self) -> Epoch:
        """What is left of the epoch that the training is in."""
        began = time.perf_counter()
        number, start = divmod(self.at.step, self.span.per_epoch)
        end = min(self.span.steps, (number + 1) * self.span.per_epoch)
        device = self.stepper.fabric.device
        self.at.model.train()
        with closing(batches(self.train, number, start, self.stepper.seed, device)) as every:
            for batch in every:
                self._snapshot()
                self._step(batch, number)
                if self.at.step == end:
                    break
        epoch = self._measured(number + 1, time.perf_counter() - began)
        self.at.epochs.append(epoch)
        return epoch

    def _step(self, batch: Any, number: int) -> None:
        step = self.at.step
        place = step % self.span.per_epoch + 1
        loss, counted = self.stepper.forward(batch, step, f"epoch {number + 1}, batch {place}")
        self._require_finite_loss(self.at.meter.add(counted))
        factor = self.stepper.training.rate(step, self.span.steps, self.span.per_epoch)
        self.stepper.backward(loss, counted.size, factor)
        self.at.step = step + 1
        if self.at.pruner is not None:
            self.at.pruner.step()
        if self.calls.on_batch is not None:
            self.calls.on_batch(Progress(number + 1, place, self.at.meter.loss, step + 1, self.span.steps))

    def _measured(self, number: int, seconds: float) -> Epoch:
        """The epoch that just ended; its weights are kept if they are the best."""
        self._require_finite_loss(self.at.meter.read())
        means = self.at.meter.means()
        self.at.meter = Meter(self.stepper.fabric.device)
        share_buffers(self.at.model)
        require_finite(self.at.model, f"epoch {number}")
        found = None
        if self.validation is not None:
            found = validate(
                self.at.model, self.validation, loss=self.stepper.objective.loss, fabric=self.stepper.fabric
            )
            if self.at.pruner is None or self.at.pruner.done:
                # Before the last event a network that is pruned less would win.
                self.at.selection.consider(self.at.model, number, found.accuracy)
        return Epoch(
            number,
            means.loss,
            means.accuracy,
            means.accuracy5 if self.stepper.many_classes else None,
            *((None, None, None) if found is None else found),
            rate=self.stepper.optimizer.param_groups[0]["lr"],
            sparsity=self._masks().sparsity,
            seconds=seconds,
        )

    def _require_finite_loss(self, batch: int | None) -> None:
        if batch is None:
            return
        number, _ = divmod(self.at.step, self.span.per_epoch)
        raise SparsewoodError(
            f"The training loss of {type(self.at.model).__name__} became infinite or NaN in epoch {number + 1}, batch "
            f"{batch + 1}. Try a smaller learning rate, and look for non-finite inputs."
        )

    def _snapshot(self) -> None:
        if self.at.step in self.calls.snapshots and self.calls.on_snapshot is not None:
            self._require_finite_loss(self.at.meter.read())
            share_buffers(self.at.model)
            require_finite(self.at.model, f"step {self.at.step}")
            self.calls.on_snapshot(self.at.capture())

    def _checkpoint(self) -> None:
        if self.calls.on_checkpoint is None:
            return
        state = self.at.capture()
        if rank() == 0:
            self.calls.on_checkpoint(state)

    def _masks(self) -> Masks:
        return self.given if self.at.pruner is None else self.given & self.at.pruner.masks


@contextmanager
def _mode_kept(model: nn.Module) -> Iterator[None]:
    mode = model.training
    try:
        yield
    finally:
        model.train(mode)
