"""The pruning of a recipe in the Trainer of transformers: one callback.

python examples/prune_with_hf_trainer.py
"""

import tempfile
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sparsewood.models.wheels import ensure_torchvision
from sparsewood.run.recipe import load_recipe

ensure_torchvision()  # before transformers, which imports torchvision where it is installed
from transformers import (  # noqa: E402
    BertConfig,
    BertForSequenceClassification,
    PrinterCallback,
    Trainer,
    TrainingArguments,
)

from sparsewood.train.huggingface import SparsityTrainerCallback  # noqa: E402


class Sentences(Dataset[dict[str, Tensor]]):
    """Random words; the class is whether the first is one of the first ten."""

    def __init__(self) -> None:
        self.words = torch.randint(20, (64, 8), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.words[index], "labels": (self.words[index, 0] < 10).long()}


model = BertForSequenceClassification(
    BertConfig(
        vocab_size=20,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
    )
)
recipe = load_recipe(Path(__file__).with_name("gradual.yaml"))
callback = SparsityTrainerCallback(recipe.variant("pruned").pruning)
with tempfile.TemporaryDirectory() as directory:
    arguments = TrainingArguments(
        output_dir=directory,
        per_device_train_batch_size=16,
        num_train_epochs=recipe.training.epochs,
        logging_steps=4,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=Sentences(), callbacks=[callback])
    trainer.remove_callback(PrinterCallback)
    trainer.train()

for row in trainer.state.log_history:
    if "loss" in row:
        print(f"step {row['step']:2}: loss {row['loss']:.3f}, sparsity {row['sparsity']:.4f}")
print(callback.masks)
