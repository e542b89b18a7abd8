"""A `Pruning` carried out by the Trainer of PyTorch Lightning, without which this module cannot be imported."""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from sparsewood.errors import SparsewoodError
from sparsewood.models.wheels import ensure_torchvision
from sparsewood.pruning import Pruning
from sparsewood.statistics import Loss
from sparsewood.structure import Structure
from sparsewood.train.pruner import Pruner, State
from sparsewood.types import Masks

__all__ = ["SparsityCallback"]


def _library() -> Any:
    """Of the two names under which Lightning is published the one in use, else the one that is installed."""
    ensure_torchvision()  # Lightning imports torchmetrics, which imports torchvision
    names = ("lightning.pytorch", "pytorch_lightning")
    here = [name for name in names if name in sys.modules]
    for name in (*here, *names):
        if importlib.util.find_spec(name.partition(".")[0]) is not None:
            return importlib.import_module(name)
    raise SparsewoodError(
        "SparsityCallback needs PyTorch Lightning, which is not installed. Run: pip install 'sparsewood[lightning]'"
    )


if TYPE_CHECKING:
    from pytorch_lightning import Callback, LightningModule, Trainer
else:
    Callback = _library().Callback


class SparsityCallback(Callback):
    """Prunes the module that a Lightning Trainer trains, and holds the zeros: a `Pruner` as a callback.

    Parameters go by their names in the LightningModule ("net.conv1.weight"). With unit "epoch", an epoch has as many
    steps as the Trainer takes in it, accumulated batches being one. The sparsity is logged as `sparsity` after every
    step. Checkpoints of the Trainer hold what is needed to go on; `masks` are the final ones after `fit`. The module
    needs exactly one optimizer, since steps of the Trainer are counted.

    Args:
        data, loss, masks, seed, structure: as for `Pruner`; `loss(output, target)` is called on what the module's
            `forward` gives.

    Raises `SparsewoodError` at the end of `fit` if the training was too short for the plan, and, naming the parameter,
    if zeros did not hold.

    >>> from sparsewood.schedules import Cubic
    >>> callback = SparsityCallback(Pruning(schedule=Cubic(0.9), rounds=3, unit="epoch"))
    >>> isinstance(callback, Callback)  # Trainer(callbacks=[callback])
    True
    """

    def __init__(
        self,
        pruning: Pruning,
        *,
        data: Iterable[Any] | None = None,
        loss: Loss | None = None,
        masks: Mapping[str, Tensor] | None = None,
        seed: int = 0,
        structure: Structure | None = None,
    ) -> None:
        super().__init__()
        self._pruning = pruning
        self._options: dict[str, Any] = {
            "data": data, "loss": loss, "masks": masks, "seed": seed, "structure": structure,
        }  # fmt: skip
        self._pruner: Pruner | None = None
        self._saved: dict[str, Any] = {}

    @property
    def masks(self) -> Masks:
        """The masks now, or the final ones after `fit`. Raises `SparsewoodError` before the training has begun."""
        return self._active().masks

    # Not on_fit_start: the Trainer restores the optimizer, and knows the length of an epoch, only after that.
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if len(trainer.optimizers) != 1:
            raise SparsewoodError(
                f"SparsityCallback needs a module with one optimizer. {type(pl_module).__name__} has "
                f"{len(trainer.optimizers)}; use Pruner in its training_step."
            )
        self._pruner = Pruner(
            pl_module,
            trainer.optimizers[0],
            self._pruning,
            steps_per_epoch=self._steps_per_epoch(trainer),
            state=self._state_of(trainer.global_step),
            **self._options,
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        del outputs, batch, batch_idx
        pruner = self._active()
        while pruner.steps < trainer.global_step:  # a batch whose gradients are accumulated is no step
            pruner.step()
        pl_module.log("sparsity", pruner.sparsity)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        del trainer, pl_module
        self._active().finish()
        self._saved = self.state_dict()  # for another fit that goes on from here

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        del trainer, pl_module, exception
        if self._pruner is not None:
            self._pruner.close()

    def state_dict(self) -> dict[str, Any]:
        if self._pruner is None:
            return self._saved
        tensors, values = self._pruner.state()
        return {"tensors": tensors, "values": values}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._saved = dict(state_dict)

    def _active(self) -> Pruner:
        if self._pruner is None:
            raise SparsewoodError("SparsityCallback: there are no masks before the Trainer has begun to train.")
        return self._pruner

    def _state_of(self, step: int) -> State | None:
        """What was saved at this step of the training; None at the start of a new one."""
        saved = self._saved["values"]["steps"] if self._saved else None
        if saved == step:
            return self._saved["tensors"], self._saved["values"]
        if step == 0:
            return None
        loaded = "none was loaded" if saved is None else f"that of step {saved} was loaded"
        raise SparsewoodError(
            f"The Trainer goes on from step {step}, for which SparsityCallback has no state: {loaded}. Resume from a "
            "checkpoint that was saved with the callback."
        )

    def _steps_per_epoch(self, trainer: Trainer) -> int | None:
        if self._pruning.unit != "epoch":
            return None
        if not math.isfinite(trainer.num_training_batches):
            raise SparsewoodError(
                "SparsityCallback: the training data has no length, so an epoch has no number of steps. Use "
                "Pruning(unit='step'), or limit_train_batches in the Trainer."
            )
        return math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
