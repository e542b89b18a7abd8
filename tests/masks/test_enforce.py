"""enforce: masked entries are exactly zero after every step, and nothing else is different."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.optim import Optimizer

from sparsewood.errors import SparsewoodError, UnknownName
from sparsewood.masks import Keeper, apply_masks, enforce
from sparsewood.types import Masks

MakeOptimizer = Callable[..., Optimizer]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2))


def half(model: nn.Module, seed: int = 1) -> Masks:
    """About half of every parameter."""
    generator = torch.Generator().manual_seed(seed)
    return Masks({name: torch.rand(p.shape, generator=generator) < 0.5 for name, p in model.named_parameters()})


def data(steps: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(2)
    for _ in range(steps):
        yield torch.randn(8, 5, generator=generator)


def train(model: nn.Module, optimizer: Optimizer, steps: int = 4) -> None:
    for x in data(steps):

        def closure(x: Tensor = x) -> Tensor:
            optimizer.zero_grad(set_to_none=True)
            loss = (model(x.to(next(model.parameters()).dtype)) - 3).square().mean()
            loss.backward()
            return loss

        optimizer.step(closure)


def assert_zero(tensor: Tensor, mask: Tensor) -> None:
    masked = tensor[~mask]
    assert (masked == 0).all()
    assert not torch.signbit(masked).any()


def assert_held(model: nn.Module, masks: Masks) -> None:
    assert masks.removed
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in masks:
            assert_zero(parameter, masks[name])
            assert (parameter[masks[name]] != 0).all()


OPTIMIZERS: dict[str, MakeOptimizer] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "sgd_momentum_decay": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "sgd_nesterov": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "sgd_dampening": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.5),
    "sgd_maximize": lambda p: torch.optim.SGD(p, lr=0.001, momentum=0.9, maximize=True),
    "sgd_foreach": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01, foreach=True),
    "sgd_fused": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01, fused=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.01),
    "adam_amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adam_maximize": lambda p: torch.optim.Adam(p, lr=0.01, maximize=True),
    "adam_foreach": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True, foreach=True),
    "adam_fused": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "adamw_foreach": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, foreach=True),
    "adamw_fused": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, fused=True),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.01, decoupled_weight_decay=True, weight_decay=0.1),
    "radam": lambda p: torch.optim.RAdam(p, lr=0.01),
    "adamax": lambda p: torch.optim.Adamax(p, lr=0.01),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9, centered=True, weight_decay=0.01),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1, initial_accumulator_value=0.1),
    "adagrad_fused": lambda p: torch.optim.Adagrad(p, lr=0.1, fused=True),
    "adadelta": lambda p: torch.optim.Adadelta(p, lr=1.0),
    "asgd": lambda p: torch.optim.ASGD(p, lr=0.1),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
}
# Rprop's same-shaped step sizes are rates, which are left alone.
RATES = {"step_size"}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_7_1_and_004_42_masked_entries_and_state_are_exactly_zero_after_every_step(make: MakeOptimizer) -> None:
    """004-42 and regression 7.1, for parameters and for optimizer state."""
    model = net()
    masks = half(model)
    optimizer = make(model.parameters())
    enforce(model, masks, optimizer)
    assert_held(model, masks)
    for _ in range(4):
        train(model, optimizer, steps=1)
        assert_held(model, masks)
        for name, parameter in model.named_parameters():
            state = {key: value for key, value in optimizer.state[parameter].items() if key not in RATES}
            for value in state.values():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    assert_zero(value, masks[name])


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_kept_entries_take_the_steps_of_a_masked_forward(make: MakeOptimizer) -> None:
    """The whole trajectory equals that of a model whose forward multiplies by the mask."""
    ours, theirs = net(), net()
    masks = half(ours)
    optimizer = make(ours.parameters())
    enforce(ours, masks, optimizer)
    apply_masks(theirs, masks)
    for name, mask in masks.items():
        module, _, leaf = name.rpartition(".")
        prune.custom_from_mask(theirs.get_submodule(module), leaf, mask)
    train(ours, optimizer)
    train(theirs, make(theirs.parameters()))
    for name, parameter in ours.named_parameters():
        module, _, leaf = name.rpartition(".")
        expected = getattr(theirs.get_submodule(module), f"{leaf}_orig")
        torch.testing.assert_close(parameter[masks[name]], expected[masks[name]], rtol=1e-5, atol=1e-6)


def test_lbfgs_is_projected() -> None:
    model = net()
    masks = half(model)
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
    enforce(model, masks, optimizer)
    for _ in range(3):
        train(model, optimizer, steps=1)
        assert_held(model, masks)


def test_003_03_zero_after_a_step_without_a_forward() -> None:
    """003-03: the step alone, from momentum and weight decay, moves no masked entry."""
    layer = nn.Linear(2, 6)
    masks = Masks({"weight": torch.ones(6, 2).bool(), "bias": torch.tensor([1, 0, 1, 0, 0, 1]).bool()})
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    enforce(layer, masks, optimizer)
    for parameter in layer.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert_held(layer, masks)
    assert int((layer.bias == 0).sum()) == 3


def test_gradients_that_are_not_finite_leave_masked_entries_zero() -> None:
    layer = nn.Linear(2, 1, bias=False)
    mask = torch.tensor([[True, False]])
    optimizer = torch.optim.Adam(layer.parameters())
    enforce(layer, {"weight": mask}, optimizer)
    for value in (float("inf"), float("nan"), 1.0):
        layer.weight.grad = torch.tensor([[0.0, value]])
        optimizer.step()
        assert_zero(layer.weight, mask)
        assert_zero(optimizer.state[layer.weight]["exp_avg_sq"], mask)


@pytest.mark.parametrize("loss_is", ["finite", "infinite"])
def test_with_a_gradient_scaler_and_its_skipped_steps(loss_is: str) -> None:
    model = net()
    masks = half(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    enforce(model, masks, optimizer)
    before = model[0].weight.detach().clone()
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    factor = 1.0 if loss_is == "finite" else float("inf")
    scaler.scale(model(torch.ones(3, 5)).sum() * factor).backward()
    scaler.step(optimizer)
    scaler.update()
    assert_held(model, masks)
    assert torch.equal(model[0].weight, before) == (loss_is == "infinite")


def test_half_precision_parameters() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        model = net().to(dtype)
        masks = half(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, eps=1e-4)
        with enforce(model, masks, optimizer):
            train(model, optimizer)
            assert_held(model, masks)


def test_parameters_that_change_dtype_are_followed() -> None:
    model = net()
    masks = half(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    enforce(model, masks, optimizer)
    train(model, optimizer)
    model.to(torch.float64)
    train(model, optimizer)
    assert model[0].weight.dtype == torch.float64
    assert_held(model, masks)


def test_masks_on_another_device_are_copied_once() -> None:
    model = net()
    masks = half(model)
    model.to("meta")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    keeper = enforce(model, masks, optimizer)
    copies = [mask for _, _, mask in keeper._resolved]
    keeper.project()
    assert all(mask.is_meta for mask in copies)
    assert all(mask is before for (_, _, mask), before in zip(keeper._resolved, copies, strict=True))
    assert keeper.masks["0.weight"].device.type == "cpu"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_parameters_that_move_to_another_device_and_back_are_followed() -> None:
    model = net()
    masks = half(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    keeper = enforce(model, masks, optimizer)
    for device in ("cuda", "cpu"):
        model.to(device)
        for x in data(2):
            optimizer.zero_grad()
            model(x.to(device)).square().mean().backward()
            optimizer.step()
        assert all(mask.device.type == device for _, _, mask in keeper._resolved)
        for name, parameter in model.named_parameters():
            assert_zero(parameter.cpu(), masks[name])


def test_param_groups_and_those_added_later() -> None:
    model = net()
    masks = half(model)
    optimizer = torch.optim.Adam([{"params": model[0].weight, "lr": 0.1}, {"params": model[0].bias}], lr=0.01)
    enforce(model, masks, optimizer)
    train(model, optimizer)
    optimizer.add_param_group({"params": model[2].parameters()})
    train(model, optimizer)
    assert_held(model, masks)
    assert_zero(optimizer.state[model[2].weight]["exp_avg"], masks["2.weight"])


def test_tied_parameters() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    mask = torch.eye(4).bool()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    enforce(model, {"1.weight": mask}, optimizer)
    model(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    assert_zero(model[0].weight, mask)


def test_scalar_parameters_keep_the_step_counter() -> None:
    scale = nn.ParameterDict({"a": nn.Parameter(torch.tensor(2.0))})
    optimizer = torch.optim.Adam(scale.parameters())
    enforce(scale, {"a": torch.tensor(False)}, optimizer)
    scale["a"].grad = torch.tensor(1.0)
    optimizer.step()
    assert scale["a"].item() == 0
    assert optimizer.state[scale["a"]]["step"] == 1


def test_rates_are_left_alone() -> None:
    model = net()
    optimizer = torch.optim.Rprop(model.parameters(), lr=0.01)
    enforce(model, half(model), optimizer)
    train(model, optimizer, steps=1)
    assert (optimizer.state[model[0].weight]["step_size"] > 0).all()


def test_integer_state_is_left_alone() -> None:
    layer = nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    optimizer.state[layer.weight] = {"codes": torch.full((1, 2), 7, dtype=torch.uint8), "master": torch.ones(1, 2)}
    enforce(layer, {"weight": torch.tensor([[True, False]])}, optimizer)
    assert optimizer.state[layer.weight]["codes"].tolist() == [[7, 7]]
    assert optimizer.state[layer.weight]["master"].tolist() == [[1, 0]]


def test_new_masks_hold_at_once_and_returned_entries_start_afresh() -> None:
    model = net()
    first, second = half(model, 1), half(model, 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    keeper = enforce(model, first, optimizer)
    train(model, optimizer)
    keeper.masks = second
    assert keeper.masks == second
    returned = second["0.weight"] & ~first["0.weight"]
    assert returned.any()
    assert (optimizer.state[model[0].weight]["momentum_buffer"][returned] == 0).all()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter != 0, first[name] & second[name])
    train(model, optimizer)
    for name, parameter in model.named_parameters():
        assert_zero(parameter, second[name])
    assert (model[0].weight[returned] != 0).any()


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({"0.weight": torch.ones(5, 7).bool()}, SparsewoodError),
        ({"0.wait": torch.ones(7, 5).bool()}, UnknownName),
        ({"0.weight": torch.ones(7, 5)}, SparsewoodError),
    ],
)
def test_a_failed_assignment_leaves_the_old_masks_in_force(bad: dict[str, Tensor], error: type[Exception]) -> None:
    model = net()
    masks = half(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    keeper = enforce(model, masks, optimizer)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error):
        keeper.masks = bad
    assert keeper.masks == masks
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    train(model, optimizer)
    assert_held(model, masks)


def test_masks_given_as_a_plain_mapping_are_copied() -> None:
    model = net()
    mask = torch.zeros(7, 5, dtype=torch.bool)
    keeper = enforce(model, {"0.weight": mask}, torch.optim.SGD(model.parameters(), lr=0.1))
    mask.fill_(True)
    assert isinstance(keeper.masks, Masks)
    assert keeper.masks.sparsity == 1


def test_remove_and_the_end_of_a_with_block_stop_enforcing() -> None:
    model = net()
    masks = half(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with enforce(model, masks, optimizer) as keeper:
        train(model, optimizer)
        assert_held(model, masks)
    keeper.remove()
    keeper.remove()
    train(model, optimizer)
    assert (model[0].weight != 0).all()
    assert not optimizer._optimizer_step_post_hooks
    assert "removed" in repr(keeper)
    with pytest.raises(SparsewoodError, match="was removed"):
        keeper.masks = masks


def test_an_error_inside_the_with_block_passes_and_ends_it() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(KeyError), enforce(model, half(model), optimizer):
        raise KeyError
    assert not optimizer._optimizer_step_post_hooks


def test_a_keeper_that_nobody_holds_still_enforces() -> None:
    model = net()
    masks = half(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert isinstance(enforce(model, masks, optimizer), Keeper)
    train(model, optimizer)
    assert_held(model, masks)


def test_the_model_and_copies_are_plain() -> None:
    model = net()
    names = [name for name, _ in model.named_parameters()]
    optimizer = torch.optim.Adam(model.parameters())
    enforce(model, half(model), optimizer)
    train(model, optimizer)
    assert [name for name, _ in model.named_parameters()] == names == list(model.state_dict())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert all(torch.equal(value, model.state_dict()[key]) for key, value in twin.state_dict().items())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in twin.modules())
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert not twin._optimizer_step_post_hooks
        assert twin.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]


def test_7_8_sparsity_survives_saving_and_resuming() -> None:
    """Regression 7.8: achieved sparsity after training, after save and load, and after more training."""
    model = net()
    masks = half(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    enforce(model, masks, optimizer)
    train(model, optimizer)
    stream = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, stream)
    stream.seek(0)
    saved = torch.load(stream, weights_only=True)
    resumed = net()
    again = torch.optim.AdamW(resumed.parameters(), lr=0.01)
    keeper = enforce(resumed, masks, again)
    resumed.load_state_dict(saved["model"])
    again.load_state_dict(saved["optimizer"])
    assert_held(resumed, masks)
    train(resumed, again)
    train(model, optimizer)
    assert_held(resumed, keeper.masks)
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in model.state_dict().items())


def test_project_after_loading_dense_weights() -> None:
    model = net()
    masks = half(model)
    keeper = enforce(model, masks, torch.optim.SGD(model.parameters(), lr=0.1))
    model.load_state_dict(net().state_dict())
    keeper.project()
    assert_held(model, masks)


def test_learning_rate_schedules_do_not_interfere() -> None:
    model = net()
    masks = half(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)
    enforce(model, masks, optimizer)
    for _ in range(4):
        train(model, optimizer, steps=1)
        schedule.step()
        assert_held(model, masks)


def test_an_optimizer_of_another_model_is_refused_before_anything_changes() -> None:
    model, other = net(), net()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(SparsewoodError, match=r"SGD optimizer updates none of the 4 masked parameters \('0\.weight'"):
        enforce(model, half(model), torch.optim.SGD(other.parameters(), lr=0.1))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_no_masks_and_full_masks_cost_nothing() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert len(enforce(model, Masks({}), optimizer).masks) == 0
    full = {name: torch.ones_like(p, dtype=torch.bool) for name, p in model.named_parameters()}
    keeper = enforce(model, full, optimizer)
    assert keeper._resolved == []
    assert keeper.masks.sparsity == 0


def test_the_keeper_holds_no_second_copy_of_the_masks() -> None:
    model = net()
    masks = half(model)
    keeper = enforce(model, masks, torch.optim.SGD(model.parameters(), lr=0.1))
    assert keeper.masks is masks
    assert all(mask.data_ptr() == masks[name].data_ptr() for name, _, mask in keeper._resolved)
