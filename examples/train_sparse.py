"""Prune a network, train it on with its zeros held, keep the masks in a file, measure what it became.

python examples/train_sparse.py
"""

import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import sparsewood as sw

generator = torch.Generator().manual_seed(0)
images, labels = torch.rand(256, 1, 8, 8, generator=generator), torch.randint(10, (256,), generator=generator)
data = [(images[i : i + 64], labels[i : i + 64]) for i in range(0, 256, 64)]
model = sw.models.small_conv()

masks = sw.prune(model, sw.WeightTimesGradient(), sw.Compression(8), data=data, loss=cross_entropy)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
with sw.enforce(model, masks, optimizer):
    for x, y in data:
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

print(sw.measure(model, images[:1], repeats=5))
with tempfile.TemporaryDirectory() as directory:
    path = Path(directory) / "masks.safetensors"
    masks.save(path)
    print(f"{path.stat().st_size:,} bytes for {masks.total:,} mask entries")
    assert sw.Masks.load(path) == masks
