"""The steps of PyTorch's own pruning tutorial, done with sparsewood.

python examples/torch_prune_steps.py
"""

import torch
from torch import nn

import sparsewood as sw

model = nn.Sequential()
model.add_module("conv1", nn.Conv2d(1, 6, 3))
model.add_module("conv2", nn.Conv2d(6, 16, 3))
model.add_module("flatten", nn.Flatten())
model.add_module("fc1", nn.Linear(16 * 5 * 5, 120))
model.add_module("fc2", nn.Linear(120, 84))
model.add_module("fc3", nn.Linear(84, 10))

# random_unstructured(conv1, "weight", 0.3), then l1_unstructured(conv1, "bias", 3): masks add up.
seed = torch.Generator().manual_seed(0)
masks = sw.prune(model, sw.Random(), 0.3, include="conv1.weight", generator=seed)
masks = sw.prune(model, sw.Magnitude(), 3, include="conv1.bias", masks=masks)
print("conv1:", {name: int((~mask).sum()) for name, mask in masks.items()})

# ln_structured(conv1, "weight", 0.5, n=2, dim=0) on top: whole filters, those with the smallest L2 norm.
masks = sw.prune(model, sw.LpNorm(2), 0.5, include="conv1.weight", granularity=sw.Filter(), masks=masks)
zero_filters = int((~masks["conv1.weight"].flatten(1).any(1)).sum())
print(f"conv1: {zero_filters} of 6 filters are zero")
assert zero_filters == 3

# remove(): the zeros become permanent; there is nothing to remove, the model was never changed.
sw.apply_masks(model, masks)

# By type: 20 % of all convolution weights, 40 % of all linear weights.
by_type = sw.prune(model, sw.Magnitude(), scope=sw.PerType({nn.Conv2d: 0.2, nn.Linear: 0.4}), protect_classifier=False)
print("by type:", {name: f"{sparsity:.2%}" for name, sparsity in by_type.layer_sparsity().items()})

# global_unstructured(..., amount=0.2): the 20 % smallest of all layers together.
everywhere = sw.prune(model, sw.Magnitude(), 0.2, protect_classifier=False)
print(f"global sparsity: {everywhere.sparsity:.2%}")
assert everywhere.removed == round(0.2 * everywhere.total)
