from itertools import permutations
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from sparsewood.errors import SparsewoodError
from sparsewood.measurement import evaluate
from sparsewood.measurement.accuracy import top_k_credit


def scores_and_targets(samples: int = 23, classes: int = 7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(samples, classes, generator=generator)
    return scores, torch.randint(0, classes, (samples,), generator=generator)


def test_against_the_definition():
    scores, targets = scores_and_targets()
    result = evaluate(nn.Identity(), [(scores, targets)], topk=(1, 3))
    right = lambda k: (scores.topk(k).indices == targets[:, None]).any(1).double().mean().item()  # noqa: E731
    assert result.top == {1: pytest.approx(right(1)), 3: pytest.approx(right(3))}
    assert result.loss == pytest.approx(F.cross_entropy(scores, targets).item())
    assert result.samples == 23


@pytest.mark.parametrize("size", [1, 2, 5, 22, 23])
def test_a_smaller_last_batch_does_not_weigh_more(size):
    scores, targets = scores_and_targets()
    whole = evaluate(nn.Identity(), [(scores, targets)], topk=(1, 3))
    cut = evaluate(nn.Identity(), DataLoader(TensorDataset(scores, targets), batch_size=size), topk=(1, 3))
    assert cut.top == {k: pytest.approx(share) for k, share in whole.top.items()}
    assert cut.loss == pytest.approx(whole.loss)


def test_constant_scores_get_chance_level_whatever_the_targets():
    data = [(torch.zeros(4, 10), torch.tensor(targets)) for targets in ([0, 0, 0, 0], [9, 9, 3, 0])]
    for batch in data:
        assert evaluate(nn.Identity(), [batch]).top == {1: pytest.approx(0.1), 5: pytest.approx(0.5)}


@given(st.lists(st.integers(0, 2), min_size=2, max_size=5), st.data())
def test_credit_is_the_average_over_orders_of_ties(row, data):
    target, k = data.draw(st.integers(0, len(row) - 1)), data.draw(st.integers(1, len(row)))
    orders = list(permutations(range(len(row))))
    ranked = [sorted(range(len(row)), key=lambda c, order=order: (-row[c], order[c])) for order in orders]
    expected = sum(target in ranking[:k] for ranking in ranked) / len(orders)
    credit = top_k_credit(torch.tensor([row]).float(), torch.tensor([target]), k)
    assert float(credit) == pytest.approx(expected)


def test_k_of_all_classes_is_left_out():
    scores, targets = scores_and_targets(classes=5)
    assert set(evaluate(nn.Identity(), [(scores, targets)]).top) == {1}
    assert evaluate(nn.Identity(), [(scores, targets)], topk=()).top == {}


def test_own_loss_per_sample_or_mean():
    scores, targets = scores_and_targets()
    batches = [(scores[:20], targets[:20]), (scores[20:], targets[20:])]
    mean = evaluate(nn.Identity(), batches).loss
    assert evaluate(nn.Identity(), batches, loss=nn.CrossEntropyLoss(reduction="none")).loss == pytest.approx(mean)
    with pytest.raises(SparsewoodError, match="returns a sum over the batch"):
        evaluate(nn.Identity(), batches, loss=nn.CrossEntropyLoss(reduction="sum"))


def test_regression_and_soft_targets_by_loss_alone():
    x = torch.ones(4, 3)
    assert evaluate(nn.Identity(), [(x, torch.zeros(4, 3))], loss=F.mse_loss, topk=()).loss == 1.0
    with pytest.raises(SparsewoodError, match=r"Got \(4, 3\) and \(4, 3\) of torch.float32. Pass topk=\(\)"):
        evaluate(nn.Identity(), [(x, torch.zeros(4, 3))], loss=F.mse_loss)


def test_dense_prediction():
    scores = torch.zeros(2, 3, 4, 4)
    scores[:, 1] = 1
    targets = torch.ones(2, 4, 4, dtype=torch.int64)
    targets[0] = 0
    assert evaluate(nn.Identity(), [(scores, targets)]).top == {1: 0.5}


def test_mode_and_random_state_are_restored():
    model = nn.Sequential(nn.BatchNorm1d(7), nn.Dropout())
    scores, targets = scores_and_targets()
    loader = DataLoader(TensorDataset(scores, targets), batch_size=4, shuffle=True)
    random = torch.get_rng_state()
    evaluate(model, loader)
    assert model.training
    assert model[1].training
    assert model[0].num_batches_tracked == 0
    assert torch.equal(random, torch.get_rng_state())


def test_dictionary_inputs():
    scores, targets = scores_and_targets()
    model = nn.Linear(7, 7)
    assert evaluate(model, [({"input": scores}, targets)]).samples == 23


class Nan(nn.Module):
    """NaN for all-zero inputs."""

    def forward(self, x: Tensor) -> Tensor:
        return x / x.sum(1, keepdim=True)


GOOD = (torch.ones(2, 3), torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "evaluate got no sample"),
        ([(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))], "evaluate got no sample"),
        ([GOOD, (torch.zeros(2, 3), torch.tensor([0, 1]))], "Batch 1: the loss is NaN"),
        ([GOOD, torch.ones(2, 3)], r"Batch 1 given to evaluate must be a pair \(inputs, targets\). Got Tensor"),
        ([(torch.ones(2, 3),)], "Batch 0 given to evaluate must be a pair.* Got 1 items"),
        ([(torch.ones(2, 3), 1)], "Batch 0: evaluate needs a model that returns one tensor"),
        ([(torch.ones(2, 3), torch.tensor([0, 1, 2]))], r"Batch 0: the loss failed on outputs of shape \(2, 3\)"),
        (
            [(torch.ones(2, 3), torch.tensor([0, -100]))],
            r"Batch 0: targets must lie in 0..2 for 3 classes. Got -100..0",
        ),
        ([(torch.ones(2, 3), torch.tensor([0, 3]))], "Batch 0: the loss failed"),
    ],
)
def test_errors_name_the_batch(data, message):
    with pytest.raises(SparsewoodError, match=message):
        evaluate(Nan(), data)


def test_nan_scores_under_a_loss_that_hides_them():
    with pytest.raises(SparsewoodError, match="Batch 0: the model's scores hold NaN"):
        evaluate(Nan(), [(torch.zeros(2, 3), torch.tensor([0, 1]))], loss=lambda *_: torch.tensor(0.0))


@pytest.mark.parametrize("topk", [(0,), (1.0,), (True,)])
def test_topk_must_be_positive_integers(topk):
    with pytest.raises(SparsewoodError, match="'topk' parameter of evaluate"):
        evaluate(nn.Identity(), [GOOD], topk=topk)


@pytest.mark.parametrize("loss", [lambda *_: None, lambda outputs: outputs, "mse", lambda o, t: o.no_such_method(t)])
def test_a_loss_that_fails_in_any_way_is_named_with_its_batch(loss: Any) -> None:
    data = [(torch.randn(2, 3), torch.tensor([0, 1]))]
    with pytest.raises(SparsewoodError, match=r"Batch 0: the loss failed on outputs of shape \(2, 3\)"):
        evaluate(torch.nn.Identity(), data, loss=loss)


@pytest.mark.parametrize("data", [None, 5, torch.ones(2, 2)])
def test_what_is_no_data_is_refused(data: Any) -> None:
    with pytest.raises(SparsewoodError, match="data must be batches"):
        evaluate(torch.nn.Identity(), data)
