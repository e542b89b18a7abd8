"""What shrinking returns is an ordinary network: it copies, saves, exports, compiles and trains as any other."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import inspect
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

import sparsewood as sw
from sparsewood.errors import SparsewoodError
from sparsewood.inputs import arguments
from sparsewood.shrinking.cut import named_tensors

pytestmark = [
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated"),  # torch.export's, of itself
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated"),  # torch.compile, when first called
]

Network = tuple[nn.Module, Any]


def run(model: nn.Module, inputs: Any) -> Tensor:
    """The first tensor that a network returns."""
    positional, keywords = arguments(inputs)
    with torch.no_grad():
        return first(model(*positional, **keywords))


def first(result: Any) -> Tensor:
    return result if isinstance(result, Tensor) else result[0]


def half(model: nn.Module, inputs: Any, **options: Any) -> sw.Shrunk:
    return sw.shrink(model, inputs, 0.5, scope=sw.PerLayer(), **options)


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in named_tensors(model).items()}


def same(before: dict[str, Tensor], after: dict[str, Tensor]) -> bool:
    return before.keys() == after.keys() and all(
        torch.equal(before[name], after[name]) and before[name].stride() == after[name].stride() for name in before
    )


# ---------------------------------------------------------------- copies and files


def test_it_is_smaller_and_of_the_same_class(network: Network) -> None:
    model, inputs = network
    small = half(model, inputs).model
    assert type(small) is type(model)
    assert sum(p.numel() for p in small.parameters()) < 0.7 * sum(p.numel() for p in model.parameters())
    assert run(small, inputs).shape == run(model, inputs).shape


def test_deepcopy(network: Network) -> None:
    model, inputs = network
    small = half(model, inputs).model
    copied = copy.deepcopy(small)
    expected = run(small, inputs)
    assert torch.equal(run(copied, inputs), expected)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert torch.equal(run(small, inputs), expected)


def _user_code(kind: type[nn.Module], directory: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of its own that holds a class, as somebody's file with a network does."""
    imports = "import torch\nfrom torch import Tensor, nn\nfrom torch.nn import functional as F\n\n\n"
    path = directory / "user_code.py"
    path.write_text(imports + inspect.getsource(kind))
    specification = importlib.util.spec_from_file_location("user_code", path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    monkeypatch.setitem(sys.modules, "user_code", module)
    specification.loader.exec_module(module)
    return module


def test_torch_save_is_read_where_this_library_is_not(
    conv: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, inputs = conv
    model = getattr(_user_code(type(given), tmp_path, monkeypatch), type(given).__name__)().eval()
    model.load_state_dict(given.state_dict())
    small = half(model, inputs).model
    torch.save(small, tmp_path / "small.pt")
    torch.save((inputs, run(small, inputs)), tmp_path / "expected.pt")
    code = """
import sys, torch
small = torch.load("small.pt", weights_only=False)
inputs, expected = torch.load("expected.pt")
with torch.no_grad():
    assert torch.equal(small(inputs), expected)
assert type(small).__module__ == "user_code" and not any(name.startswith("sparsewood") for name in sys.modules)
print(small.stem.out_channels, small.depthwise.groups, small.head.in_features)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["4", "6", "4"]


def test_the_state_fits_a_network_built_narrower(conv: Network) -> None:
    model, inputs = conv
    small = half(model, inputs).model
    built: Any = type(model)
    twin = built(width=4, hidden=6).eval()
    twin.load_state_dict(small.state_dict())
    assert torch.equal(run(twin, inputs), run(small, inputs))
    plain = {name: vars(module) for name, module in twin.named_modules()}
    for name, module in small.named_modules():
        ours = {key: value for key, value in vars(module).items() if not key.startswith("_")}
        assert ours == {key: plain[name][key] for key in ours}, name


# ---------------------------------------------------------------- compilers and exports


TO_COMPILE = pytest.mark.parametrize(
    "network",
    ["conv", *(pytest.param(name, marks=pytest.mark.slow) for name in ("transformer", "bert", "llama"))],
    indirect=True,
)


def test_torch_export(network: Network) -> None:
    model, inputs = network
    small = half(model, inputs).model
    positional, keywords = arguments(inputs)
    with torch.no_grad():
        program = torch.export.export(small, tuple(positional), dict(keywords))
        found = first(program.module()(*positional, **keywords))
    torch.testing.assert_close(found, run(small, inputs), rtol=1e-6, atol=1e-6)


@TO_COMPILE
@pytest.mark.parametrize("backend", ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_torch_compile(network: Network, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR", "")  # the compiler sets it for itself
    model, inputs = network
    small = half(model, inputs).model
    torch.compiler.reset()
    compiled = torch.compile(small, backend=backend, fullgraph=True)
    torch.testing.assert_close(run(compiled, inputs), run(small, inputs), rtol=1e-5, atol=1e-5)
    torch.compiler.reset()


@TO_COMPILE
def test_onnx(network: Network, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    model, inputs = network
    small = half(model, inputs).model
    positional, keywords = arguments(inputs)
    path = tmp_path / "small.onnx"
    torch.onnx.export(small, tuple(positional), path, kwargs=dict(keywords), dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path)
    given = [*positional, *keywords.values()]
    feeds = {one.name: value.numpy() for one, value in zip(session.get_inputs(), given, strict=True)}
    found = torch.from_numpy(session.run(None, feeds)[0])
    torch.testing.assert_close(found, run(small, inputs), rtol=1e-4, atol=1e-4)


_RANK = """
import os, sys, torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2] + "/meet", rank=rank, world_size=2)
small = torch.load("small.pt", weights_only=False)
inputs, labels = torch.load("data.pt")
wrapped = DistributedDataParallel(small)
optimizer = torch.optim.SGD(wrapped.parameters(), lr=0.1)
for _ in range(3):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(wrapped(inputs[rank::2]), labels[rank::2]).backward()
    optimizer.step()
torch.save(small.state_dict(), f"after{rank}.pt")
dist.barrier()
dist.destroy_process_group()
os._exit(0)  # at the interpreter's end, threads of the connections may still run when what they use is gone
"""


@pytest.mark.slow
def test_two_processes_train_it(tmp_path: Path) -> None:
    """Gradients averaged over halves of a batch are those of the batch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 12), nn.Tanh(), nn.Linear(12, 5))
    model, inputs = model.double(), torch.randn(8, 3, 6, 6, dtype=torch.float64)
    labels = torch.arange(8) % 5
    small = half(model, inputs).model
    torch.save(small, tmp_path / "small.pt")
    torch.save((inputs, labels), tmp_path / "data.pt")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _RANK]
    processes = [
        subprocess.Popen(
            [*command, rank, str(tmp_path)], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
        )
        for rank in "01"
    ]
    for process in processes:
        _, error = process.communicate(timeout=120)
        assert process.returncode == 0, error[-2000:]
    train(small, torch.optim.SGD(small.parameters(), lr=0.1), 3, inputs, labels)
    for rank in range(2):
        for name, tensor in torch.load(tmp_path / f"after{rank}.pt").items():
            torch.testing.assert_close(tensor, small.state_dict()[name], rtol=1e-12, atol=1e-14)


# ---------------------------------------------------------------- training


def train(model: nn.Module, optimizer: Optimizer, steps: int, inputs: Any, labels: Tensor) -> list[float]:
    """The losses of steps on one batch."""
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(first(model(*arguments(inputs)[0])), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", ["conv", "transformer"])
def test_it_goes_on_training(name: str, request: pytest.FixtureRequest) -> None:
    model, inputs = request.getfixturevalue(name)
    small = half(model, inputs).model.train()
    labels = torch.arange(len(inputs)) % 5
    losses = train(small, torch.optim.Adam(small.parameters(), lr=0.01), 40, inputs, labels)
    assert losses[-1] < 0.5 * losses[0]
    for where, parameter in small.named_parameters():
        assert parameter.grad is not None, where
        assert parameter.grad.shape == parameter.shape


OPTIMIZERS: dict[str, Callable[[Iterable[Any]], Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-2),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=1e-2),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}


def kept_units(structure: sw.Structure, plan: sw.ShrinkPlan) -> dict[str, np.ndarray]:
    """One truth value for each unit, read from the positions that a plan keeps."""
    found = {}
    for group in structure.prunable:
        one = group.slices[0]
        kept = plan.kept.get(one.param, {}).get(one.axis)
        owners = one.owner if kept is None else one.owner[kept.numpy()]
        found[group.name] = np.isin(np.arange(group.units), owners)
    return found


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("kind", ["conv", "plain"])
def test_training_goes_on_as_that_of_the_masked_network(
    conv: Network, name: str, dtype: torch.dtype, close: float, kind: str
) -> None:
    """Batch statistics, weight decay and momenta included: the losses of both agree at every step."""
    model, inputs = conv if kind == "conv" else (_plain(), torch.randn(4, 3, 8, 8))
    model, inputs = model.to(dtype).train(), inputs.to(dtype)
    labels = torch.arange(4) % 5
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer, 5, inputs, labels)
    structure = sw.trace(model, inputs)
    masked, beside = copy.deepcopy((model, optimizer))
    shrunk = half(model, inputs, optimizer=optimizer, structure=structure)
    assert shrunk.model.training
    keeper = sw.enforce(masked, structure.to_masks(kept_units(structure, shrunk.plan)), beside)
    expected = train(masked, beside, 20, inputs, labels)
    keeper.remove()
    assert train(shrunk.model, optimizer, 20, inputs, labels) == pytest.approx(expected, rel=close, abs=close)
    assert expected[-1] < expected[0]
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert held == {id(parameter) for parameter in shrunk.model.parameters()}


def _plain() -> nn.Module:
    """Without normalisation: biases of removed units, a grouped and a transposed convolution, flattening."""
    torch.default_generator.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 12, 1, groups=2), nn.GELU(), nn.ConvTranspose2d(12, 6, 2),
        nn.PReLU(6), nn.Flatten(), nn.Linear(96, 10), nn.Tanh(), nn.Linear(10, 5),
    )  # fmt: skip


# ---------------------------------------------------------------- what survives


def test_the_original_is_unchanged_to_the_bit(network: Network) -> None:
    model, inputs = network
    before, settings = state_of(model), repr(model)
    gradients = [p.grad for p in model.parameters()]
    half(model, inputs)
    half(model, inputs, bias_propagation=True)
    assert same(before, state_of(model))
    assert repr(model) == settings
    assert [p.grad for p in model.parameters()] == gradients
    assert not vars(model).keys() & vars(sw).keys()
    assert "_sparsewood_plan" not in vars(model)


def test_nothing_is_shared_with_the_original(network: Network) -> None:
    model, inputs = network
    small = half(model, inputs).model
    expected = run(small, inputs)
    with torch.no_grad():
        for tensor in named_tensors(model).values():
            tensor.zero_()
    assert torch.equal(run(small, inputs), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtypes_survive(conv: Network, dtype: torch.dtype) -> None:
    model, inputs = conv
    shrunk = half(model.to(dtype), inputs.to(dtype))
    assert {p.dtype for p in shrunk.model.parameters()} == {dtype}
    assert run(shrunk.model, inputs.to(dtype)).dtype == dtype
    assert shrunk.report.exact
    assert shrunk.report.after.bytes == sum(t.numel() * t.element_size() for t in shrunk.model.state_dict().values())


def test_channels_last_survives(conv: Network) -> None:
    model, inputs = conv
    model = model.to(memory_format=torch.channels_last)
    small: Any = half(model, inputs).model
    assert small.stem.weight.shape == (4, 3, 3, 3)
    assert small.stem.weight.is_contiguous(memory_format=torch.channels_last)
    assert not small.stem.weight.is_contiguous()


@pytest.mark.parametrize("training", [True, False])
def test_modes_survive(conv: Network, training: bool) -> None:
    model, inputs = conv
    model.train(training)
    model.get_submodule("norm").eval()
    small = half(model, inputs).model
    assert {name: module.training for name, module in small.named_modules()} == {
        name: module.training for name, module in model.named_modules()
    }
    assert model.training is training


def test_requires_grad_and_gradients_survive(conv: Network) -> None:
    model, inputs = conv
    model.get_parameter("stem.weight").requires_grad_(False)
    model(inputs).sum().backward()
    shrunk = half(model, inputs)
    small = shrunk.model
    assert [p.requires_grad for p in small.parameters()] == [p.requires_grad for p in model.parameters()]
    assert {id(p) for p in small.parameters()}.isdisjoint(id(p) for p in model.parameters())


def test_hooks_survive(conv: Network) -> None:
    model, inputs = conv
    seen = Counter[str]()
    model.get_submodule("depthwise").register_forward_hook(lambda *_: seen.update(forward=1))
    model.get_submodule("stem").register_forward_pre_hook(lambda *_: seen.update(before=1))
    small = half(model, inputs).model
    seen.clear()
    run(small, inputs)
    assert seen == {"forward": 1, "before": 1}


class Tied(nn.Module):
    """Embedding and output share a matrix, and two names mean one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.inner, self.out = nn.Embedding(11, 16), nn.Linear(16, 16), nn.Linear(16, 11, bias=False)
        self.again = self.inner
        self.out.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.again(self.inner(self.embed(tokens)).relu()))


def test_ties_survive() -> None:
    torch.manual_seed(0)
    model, tokens = Tied(), torch.arange(11)[None]
    small = half(model, tokens).model
    assert small.out.weight is small.embed.weight
    assert small.again is small.inner
    assert small.out.weight.shape == (11, 8)
    assert (small.inner.in_features, small.inner.out_features, small.embed.embedding_dim) == (8, 8, 8)
    assert len(list(small.parameters())) == len(list(model.parameters()))


def test_parametrisations_survive() -> None:
    torch.manual_seed(0)
    reparametrised = nn.utils.parametrizations
    model = nn.Sequential(
        reparametrised.weight_norm(nn.Linear(4, 8)),
        nn.ReLU(),
        reparametrised.spectral_norm(nn.Linear(8, 8)),
        nn.ReLU(),
        nn.Linear(8, 3),
    ).eval()
    shrunk = half(model, torch.randn(5, 4))
    for number in (0, 2):
        assert nn.utils.parametrize.is_parametrized(shrunk.model[number], "weight")
    assert shrunk.model[0].weight.shape == (4, 4)
    assert shrunk.model[2].weight.shape == (4, 4)


def test_a_failed_proof_leaves_everything_as_it_was(conv: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = conv
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    train(model.train(), optimizer, 2, inputs, torch.arange(4))
    before, beside = state_of(model), copy.deepcopy(optimizer.state_dict())
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    monkeypatch.setattr(importlib.import_module("sparsewood.shrinking.proving"), "tolerable", lambda *_: False)
    with pytest.raises(SparsewoodError, match="The model is as it was"):
        half(model, inputs, optimizer=optimizer)
    assert same(before, state_of(model))
    assert [id(p) for group in optimizer.param_groups for p in group["params"]] == held
    after = optimizer.state_dict()
    assert after["param_groups"] == beside["param_groups"]
    for number, remembered in beside["state"].items():
        for key, value in remembered.items():
            assert torch.equal(after["state"][number][key], value)


def test_on_a_later_network_the_optimizer_is_the_new_ones(conv: Network) -> None:
    """Two shrinkings, one optimizer: it holds the parameters of the last network."""
    model, inputs = conv
    labels = torch.arange(4)
    optimizer = torch.optim.SGD(model.train().parameters(), lr=0.01, momentum=0.9)
    train(model, optimizer, 2, inputs, labels)
    for _ in range(2):
        model = sw.shrink(model, inputs, 0.25, optimizer=optimizer).model
        train(model, optimizer, 2, inputs, labels)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model.parameters()]
    assert len(optimizer.state) == len(list(model.parameters()))
