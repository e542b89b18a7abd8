"""Gradual pruning in a training loop of your own: three calls, and nothing else changes.

python examples/prune_in_plain_loop.py
"""

import torch
from torch.nn.functional import cross_entropy

from sparsewood.criteria import WeightTimesGradient
from sparsewood.models import small_conv
from sparsewood.pruning import Pruning
from sparsewood.schedules import Cubic
from sparsewood.train.pruner import Pruner

generator = torch.Generator().manual_seed(0)
images, labels = torch.rand(256, 1, 8, 8, generator=generator), torch.randint(10, (256,), generator=generator)
data = [(images[i : i + 32], labels[i : i + 32]) for i in range(0, 256, 32)]
model = small_conv()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)

# Ten steps dense, then to 90 % in five events that are eight steps apart.
pruning = Pruning(WeightTimesGradient(), Cubic(0.9), rounds=5, unit="step", start=10, every=8)
pruner = Pruner(model, optimizer, pruning, data=data, loss=cross_entropy)
for epoch in range(7):
    for x, y in data:
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
        pruner.step()
    print(f"epoch {epoch}: sparsity {pruner.sparsity:.4f}, {len(pruner.events)} events left")
masks = pruner.finish()
print(masks)
