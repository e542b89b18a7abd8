"""sparsewood: make PyTorch networks smaller and faster, exactly, and measure what it did.

>>> import torch, sparsewood as sw
>>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
>>> masks = sw.prune(model, sw.Magnitude(), sparsity=0.75)
>>> masks
Masks(1 tensors, 96 of 128 removed, sparsity 0.7500)
>>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
>>> with sw.enforce(model, masks, optimizer):
...     model(torch.ones(2, 8)).sum().backward()
...     _ = optimizer.step()
>>> int((model[0].weight == 0).sum())
96
"""

import lazy_loader

# The public names stand in __init__.pyi. Each is imported when first used, because importing PyTorch takes a second
# that the command line's help should not wait for.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.1.0"
