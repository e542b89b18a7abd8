"""`trace` through small networks: what is coupled, what is left as it was, what happens off the beaten track."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sparsewood as sw
from sparsewood.structure import Structure, rules


def footprint(structure: Structure) -> dict[str, tuple[int, set[tuple[str, int]]]]:
    """For every removable group: its units and the axes that it has positions on."""
    return {group.name: (group.units, {(one.param, one.axis) for one in group.slices}) for group in structure.prunable}


def same(a: Structure, b: Structure) -> bool:
    """Whether two structures have the same groups with the same owners."""
    return [
        (g.name, g.units, g.exact, g.frozen_by, [(s.param, s.axis, s.role, s.owner.tolist()) for s in g.slices])
        for g in a.groups
    ] == [
        (g.name, g.units, g.exact, g.frozen_by, [(s.param, s.axis, s.role, s.owner.tolist()) for s in g.slices])
        for g in b.groups
    ]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(x + self.bn2(self.conv2(x)))
        return self.fc(x.mean((2, 3)))


IMAGE = torch.zeros(1, 3, 8, 8)


def test_a_shortcut_makes_one_group() -> None:
    structure = sw.trace(Residual(), IMAGE)
    norms = {(f"bn{i}.{name}", 0) for i in (1, 2) for name in ("weight", "bias", "running_mean", "running_var")}
    axes = {("conv1.weight", 0), ("conv1.bias", 0), ("conv2.weight", 0), ("conv2.bias", 0), ("conv2.weight", 1)}
    assert footprint(structure) == {"conv1": (4, norms | axes | {("fc.weight", 1)})}
    assert structure.group("conv1").exact
    roles = {(one.param, one.axis): one.role for one in structure.group("conv1").slices}
    assert {key for key, role in roles.items() if role == "in"} == {("conv2.weight", 1), ("fc.weight", 1)}


def test_taps_are_behind_normalisation_shortcut_and_a_shared_activation() -> None:
    taps = sw.trace(Residual(), IMAGE).group("conv1").taps
    assert [(tap.producer, tap.module, tap.call, tap.at, tap.axis) for tap in taps] == [
        ("conv1.weight", "relu", 0, "output", 1),
        ("conv2.weight", "relu", 1, "output", 1),
    ]
    assert taps[0].owner.tolist() == [0, 1, 2, 3]


class Functional(nn.Module):
    """Without a module for the activation, it is seen where it enters the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.gelu(self.first(x)))


def test_a_functional_activation_is_tapped_where_it_is_read() -> None:
    (tap,) = sw.trace(Functional(), torch.zeros(1, 3)).group("first").taps
    assert (tap.producer, tap.module, tap.at, tap.index, tap.axis) == ("first.weight", "second", "input", 0, 1)


def test_inputs_and_outputs_stay() -> None:
    structure = sw.trace(Functional(), torch.zeros(1, 3))
    frozen = {(one.param, one.axis) for group in structure.groups if group.frozen_by for one in group.slices}
    assert frozen == {("first.weight", 1), ("second.weight", 0), ("second.bias", 0)}
    assert all((one.owner == -1).all() for group in structure.groups if group.frozen_by for one in group.slices)
    assert [barrier.why for barrier in structure.barriers if barrier.module == ""] == ["it is an output of the network"]


# ---------------------------------------------------------------- independence


def test_neither_gradients_nor_mode_matter_and_all_is_left_as_found() -> None:
    model = Residual()
    expected = sw.trace(model, IMAGE)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.train()
    model.bn2.eval()
    model.conv1.requires_grad_(False)
    before = [module.training for module in model.modules()]
    with torch.enable_grad():
        assert same(sw.trace(model, IMAGE), expected)
    with torch.inference_mode():
        assert same(sw.trace(model, IMAGE), expected)
    assert [module.training for module in model.modules()] == before
    assert [p.requires_grad for p in model.conv1.parameters()] == [False, False]
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert type(model.conv1.in_channels) is int
    assert all(not hasattr(tensor, "_sparsewood_axes") for tensor in model.parameters())


def test_a_forward_that_raises_leaves_all_as_found() -> None:
    model = Residual()
    with pytest.raises(sw.SparsewoodError, match=r"forward of Residual .* failed"):
        sw.trace(model, torch.zeros(1, 5, 8, 8))
    assert type(model.conv1.in_channels) is int
    assert torch.backends.mha.get_fastpath_enabled()
    assert model.training


@pytest.mark.parametrize("device_dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_any_precision(device_dtype: torch.dtype) -> None:
    model = Residual().to(device_dtype)
    assert same(sw.trace(model, IMAGE.to(device_dtype)), sw.trace(Residual(), IMAGE))


_COMPILER = "ignore:.torch.jit:DeprecationWarning"


@pytest.mark.filterwarnings(_COMPILER)
def test_wrappers_are_looked_through() -> None:
    model = Residual()
    compiled = torch.compile(model)
    structure = sw.trace(compiled, IMAGE)  # pyright: ignore[reportArgumentType]
    names = {one.param for group in structure.groups for one in group.slices}
    assert names <= {name for name, _ in [*compiled.named_parameters(), *compiled.named_buffers()]}  # pyright: ignore
    assert [group.units for group in structure.prunable] == [4]
    parallel = sw.trace(nn.DataParallel(model), IMAGE)
    assert [(group.name, group.units) for group in parallel.prunable] == [("module.conv1", 4)]


@pytest.mark.filterwarnings(_COMPILER)
def test_a_compiled_part_is_not_compiled() -> None:
    model = nn.Sequential(nn.Linear(3, 4))
    model.append(torch.compile(nn.Sequential(nn.ReLU(), nn.Linear(4, 2))))  # pyright: ignore[reportArgumentType]
    assert [group.units for group in sw.trace(model, torch.zeros(1, 3)).prunable] == [4]


def test_the_choice_of_attention_is_checked() -> None:
    with pytest.raises(sw.SparsewoodError, match="'heads' or 'head_dims'"):
        sw.trace(Functional(), torch.zeros(1, 3), attention="dims")  # pyright: ignore[reportArgumentType]


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(sw.SparsewoodError, match=r"torch\.nn\.Module"):
        sw.trace(nn.Linear, torch.zeros(1, 3))  # pyright: ignore[reportArgumentType]
    with pytest.raises(sw.SparsewoodError, match="lazy"):
        sw.trace(nn.LazyLinear(3), torch.zeros(1, 3))


# ---------------------------------------------------------------- inputs and outputs


@dataclass
class Answer:
    logits: Tensor
    loss: Tensor | None = None


class Pair(NamedTuple):
    logits: Tensor
    number: int


@pytest.mark.parametrize(
    "wrap", [lambda y: {"logits": y}, Answer, lambda y: Pair(y, 1), lambda y: [(y,)], lambda y: {"a": [y]}]
)
def test_outputs_are_found_in_containers(wrap: Callable[[Tensor], Any]) -> None:
    class Wrapped(Functional):
        def forward(self, x: Tensor) -> Any:
            return wrap(super().forward(x))

    assert footprint(sw.trace(Wrapped(), torch.zeros(1, 3))) == footprint(sw.trace(Functional(), torch.zeros(1, 3)))


def test_keyword_inputs_and_inputs_in_lists() -> None:
    class Many(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(2, 4), nn.Linear(4, 1)

        def forward(self, xs: list[Tensor], *, scale: float = 1.0) -> Tensor:
            return self.c(self.a(xs[0]) * scale + self.b(xs[1]))

    structure = sw.trace(Many(), {"xs": [torch.zeros(1, 3), torch.zeros(1, 2)], "scale": 2.0})
    assert footprint(structure)["a"] == (
        4,
        {("a.weight", 0), ("a.bias", 0), ("b.weight", 0), ("b.bias", 0), ("c.weight", 1)},
    )


# ---------------------------------------------------------------- sharing, reuse, what is not used


def test_a_shared_module_and_a_tied_parameter_have_one_name() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(7, 4)
            self.inner = nn.Linear(4, 4)
            self.out = nn.Linear(4, 7, bias=False)
            self.out.weight = self.embed.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.inner(self.inner(self.embed(x))))

    structure = sw.trace(Tied(), torch.zeros(1, 2, dtype=torch.long))
    assert footprint(structure) == {
        "embed": (4, {("embed.weight", 1), ("inner.weight", 0), ("inner.weight", 1), ("inner.bias", 0)})
    }


def test_what_the_forward_does_not_use_stays() -> None:
    model = Functional()
    model.extra = nn.Linear(4, 4)
    structure = sw.trace(model, torch.zeros(1, 3))
    (barrier,) = [one for one in structure.barriers if one.why == "the forward does not use it"]
    assert barrier.parameters == 20
    assert [group.name for group in structure.prunable] == ["first"]


def test_what_only_training_uses_belongs_to_the_structure() -> None:
    class Auxiliary(Functional):
        def __init__(self) -> None:
            super().__init__()
            self.aux = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Any:
            hidden = F.gelu(self.first(x))
            return (self.second(hidden), self.aux(hidden)) if self.training else self.second(hidden)

    structure = sw.trace(Auxiliary().eval(), torch.zeros(1, 3))
    assert ("aux.weight", 1) in footprint(structure)["first"][1]


def test_both_sides_of_a_decision_that_depends_on_values() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.first(x).relu()
            return self.a(hidden) if hidden.sum() > 0 else self.b(hidden)

    structure = sw.trace(Branch(), torch.zeros(1, 3))
    assert {("a.weight", 1), ("b.weight", 1)} <= footprint(structure)["first"][1]
    assert structure.record.branches == ("",)


def test_a_number_that_depends_on_values_needs_real_ones() -> None:
    class Item(Functional):
        def forward(self, x: Tensor) -> Tensor:
            hidden = F.gelu(self.first(x))
            return self.second(hidden * max(1.0, hidden.abs().max().item()))

    structure = sw.trace(Item(), torch.ones(1, 3))
    assert "value" in structure.record.fallback
    assert footprint(structure) == footprint(sw.trace(Functional(), torch.zeros(1, 3)))


def test_an_operation_without_a_rule_is_a_barrier() -> None:
    class Inverse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.linalg.inv(self.first(x)))

    structure = sw.trace(Inverse(), torch.ones(4, 4))
    assert not structure.prunable
    why = next(one for one in structure.barriers if "no rule" in one.why)
    assert "linalg_inv" in why.op
    assert why.shapes


def test_values_that_leave_the_graph_are_a_barrier() -> None:
    class Numpy(Functional):
        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.from_numpy(self.first(x).numpy() * 2))

    structure = sw.trace(Numpy(), torch.ones(1, 3))
    assert not structure.prunable
    assert any("leave the graph" in one.why for one in structure.barriers)


def test_data_goes_around_autograd_but_not_around_the_labels() -> None:
    class Data(Functional):
        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x).data)

    assert footprint(sw.trace(Data(), torch.zeros(1, 3))) == footprint(sw.trace(Functional(), torch.zeros(1, 3)))


def test_an_activation_written_into_a_constant_stays() -> None:
    class Writes(Functional):
        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.zeros(len(x), 4)
            hidden[:] = self.first(x)
            return self.second(hidden)

    assert not sw.trace(Writes(), torch.ones(1, 3)).prunable


def test_networks_without_parameters_have_no_groups() -> None:
    structure = sw.trace(nn.ReLU(), torch.zeros(1, 3))
    assert structure.groups == ()


def test_a_unit_that_only_its_reader_sees_through_a_sigmoid_is_exact() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 2))
    assert sw.trace(model, torch.zeros(1, 3)).group("0").exact


def test_a_layer_norm_averages_over_units() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    group = sw.trace(model, torch.zeros(1, 3)).group("0")
    assert not group.exact
    assert group.inexact == ("normalised over units",)


# ---------------------------------------------------------------- ways on which labels could be lost


def _second(function: Callable[[nn.Module, Tensor], Tensor]) -> nn.Module:
    """Linear a (and b), then whatever the function does, then Linear c."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(5, 8), nn.Linear(5, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return function(self, x)

    return Model()


def _into_a_view(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    torch.exp(m.b(x), out=y[:])
    return m.c(y)


def _replaced_data(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    y.data = m.b(x)
    return m.c(y)


def _storage(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    return m.c(torch.empty(0).set_(y.untyped_storage(), 0, y.shape, y.stride()) + m.b(x))


X = torch.ones(4, 5)


def test_a_result_written_over_a_view_goes_with_what_was_there() -> None:
    (group,) = sw.trace(_second(_into_a_view), X).prunable
    assert {one.param for one in group.slices} == {"a.weight", "a.bias", "b.weight", "b.bias", "c.weight"}


@pytest.mark.parametrize(
    "function",
    [
        _replaced_data,
        _storage,
        lambda m, x: m.c(nn.Parameter(m.a(x) + m.b(x))),
        lambda m, x: copy.deepcopy(m.c)(m.a(x) + m.b(x)),
    ],
)
def test_tensors_made_anew_take_everything_with_them(function: Callable[[nn.Module, Tensor], Tensor]) -> None:
    assert not sw.trace(_second(function), X).prunable


def test_parameters_in_the_same_memory_go_together() -> None:
    model: Any = _second(lambda m, x: m.c(m.a(x)) + m.c(m.b(x).relu()))  # pyright: ignore
    assert len(sw.trace(model, X).prunable) == 1
    apart: Any = _second(lambda m, x: m.c(m.a(x)) + m.b(x).sum())  # pyright: ignore
    apart.b.weight.data = apart.a.weight.data
    assert {one.param for one in sw.trace(apart, X).group("a").slices} >= {"a.weight", "b.weight"}


def test_a_way_that_cannot_be_followed_without_values_is_followed_with_them() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = (m.a(x) + m.b(x)).relu()
        if x.sum() > 0:
            return m.c(h)
        return m.c(h.softmax(1)) + torch.nonzero(x[0] > 100).sum()

    assert not sw.trace(_second(forward), X).prunable


def test_what_is_done_in_training_only_counts_wherever_the_mode_is_asked_for() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        h = (m.a(x) + m.b(x)).relu()
        return m.c(h * torch.ones(8) if m.training else h)

    assert not sw.trace(_second(forward), X).prunable
    assert not hasattr(nn.Module, "training")


def test_a_value_that_is_read_makes_what_it_was_computed_from_count() -> None:
    group = sw.trace(_second(lambda m, x: m.c(m.a(x).relu()) * m.b(x).relu().mean().item()), X).group("b")  # pyright: ignore
    assert group.inexact == ("mean over units",)


def test_outputs_in_objects_of_any_kind_stay() -> None:
    model = _second(lambda m, x: SimpleNamespace(logits=m.c(m.a(x) + m.b(x))))  # pyright: ignore
    (group,) = sw.trace(model, X).prunable
    assert ("c.weight", 0) not in {(one.param, one.axis) for one in group.slices}


def test_what_a_forward_keeps_is_taken_back() -> None:
    class Box:
        pass

    def forward(m: Any, x: Tensor) -> Tensor:
        h = m.a(x) + m.b(x)
        m.box.last, m.nest["x"][0] = h, h
        m.width = m.c.in_features * 2
        return m.c(h)

    model: Any = _second(forward)
    model.box, model.nest = Box(), {"x": {}}
    sw.trace(model, X)
    assert vars(model.box) == {}
    assert model.nest == {"x": {}}
    assert not hasattr(model, "width")


def test_weights_are_not_written_to() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        m.a.weight.data.mul_(0.5)
        return m.c(m.a(x) + m.b(x)) * x.sum().item()

    model: Any = _second(forward)
    before = model.a.weight.clone()
    sw.trace(model, X)
    assert torch.equal(model.a.weight, before)


@pytest.mark.filterwarnings("ignore")  # PyTorch announces the end of this form of quantisation
def test_quantised_weights_are_named() -> None:
    model = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2)), {nn.Linear})
    why = [str(one) for one in sw.trace(model, torch.zeros(1, 4)).barriers]
    assert any("quantised" in one for one in why)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Linear(4, 6), (1, 5)),
        (nn.Conv2d(3, 4, 3), (1, 2, 8, 8)),
        (nn.Conv2d(3, 4, 3), (1, 3, 2, 2)),
        (nn.BatchNorm2d(4), (1, 3, 8, 8)),
        (nn.LayerNorm(4), (1, 5)),
        (nn.GroupNorm(2, 4), (1, 6, 3)),
        (nn.MultiheadAttention(4, 2), (3, 5)),
    ],
)
def test_inputs_that_do_not_fit_are_refused(module: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape)
    with pytest.raises(sw.SparsewoodError, match="failed on the inputs"):
        sw.trace(module, (x, x, x) if isinstance(module, nn.MultiheadAttention) else x)


def test_a_function_rule_that_fails_leaves_the_function_to_the_rules_of_its_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: Any) -> Tensor:
        raise ValueError("not written for this")

    monkeypatch.setitem(rules._function_rules, F.normalize, fails)
    model = _second(lambda m, x: m.c(F.normalize(m.a(x) + m.b(x), dim=0)))
    structure = sw.trace(model, X)
    assert structure.record.fallback == ""
    assert structure.barriers
