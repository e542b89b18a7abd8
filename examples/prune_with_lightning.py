"""The pruning of a recipe in Lightning's Trainer: one callback.

python examples/prune_with_lightning.py
"""

import logging
import tempfile
import warnings
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from sparsewood.models import small_conv
from sparsewood.models.wheels import ensure_torchvision
from sparsewood.run.recipe import load_recipe

ensure_torchvision()  # before Lightning, which imports torchvision where it is installed
import pytorch_lightning as pl  # noqa: E402

from sparsewood.train.lightning import SparsityCallback  # noqa: E402


class Digits(pl.LightningModule):
    """A small network for images of 8 x 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small_conv()

    def training_step(self, batch: list[Tensor]) -> Tensor:
        images, labels = batch
        return cross_entropy(self.net(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


generator = torch.Generator().manual_seed(0)
images, labels = torch.rand(256, 1, 8, 8, generator=generator), torch.randint(10, (256,), generator=generator)
recipe = load_recipe(Path(__file__).with_name("gradual.yaml"))
module, callback = Digits(), SparsityCallback(recipe.variant("pruned").pruning)

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
with tempfile.TemporaryDirectory() as directory, warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Lightning's advice on how many workers load the data
    trainer = pl.Trainer(
        max_epochs=recipe.training.epochs,
        accelerator="cpu",
        callbacks=[callback],
        default_root_dir=directory,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(TensorDataset(images, labels), batch_size=32))

print(callback.masks)
for name, share in callback.masks.layer_sparsity().items():
    zeros = int((module.get_parameter(name) == 0).sum())
    print(f"{name}: {share:.2%} removed, {zeros} zeros")
