"""The pruning of a recipe in a training loop of your own: three calls, and nothing else changes.

python examples/prune_in_plain_loop.py
"""

from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

import sparsewood as sw
from sparsewood.data import digits
from sparsewood.data.loader import Loader

recipe = sw.load_recipe(Path(__file__).with_name("gradual.yaml"))
model = sw.models.small_conv(generator=torch.Generator().manual_seed(0))
loader = Loader(digits().train, recipe.training.batch_size, seed=0)
optimizer = recipe.training.optimizer(model.parameters())

pruner = sw.Pruner(model, optimizer, recipe.variant("pruned").pruning, steps_per_epoch=len(loader))  # one
for epoch in range(recipe.training.epochs):
    for x, y in loader.epoch(epoch):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
        pruner.step()  # two: after every step of the optimizer
    print(f"epoch {epoch}: sparsity {pruner.sparsity:.4f}, {len(pruner.events)} events left")
masks = pruner.finish()  # three: checks that all was done and that the zeros hold
print(masks)
