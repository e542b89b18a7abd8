import subprocess
import sys

import pytest
import torch

from sparsewood.models.wheels import ensure_torchvision, nms


def overlap(first: torch.Tensor, second: torch.Tensor) -> float:
    width, height = (torch.minimum(first[2:], second[2:]) - torch.maximum(first[:2], second[:2])).clamp(min=0)
    area = lambda box: (box[2] - box[0]) * (box[3] - box[1])  # noqa: E731
    return float(width * height / (area(first) + area(second) - width * height))


@pytest.mark.parametrize("seed", range(5))
def test_nms_against_its_definition(seed):
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(30, 2, generator=generator)
    boxes = torch.cat([low, low + torch.rand(30, 2, generator=generator)], 1)
    scores = torch.rand(30, generator=generator)
    expected: list[int] = []
    for i in scores.argsort(descending=True).tolist():
        if all(overlap(boxes[i], boxes[j]) <= 0.3 for j in expected):
            expected.append(i)
    assert nms(boxes, scores, 0.3).tolist() == expected


def test_nms_of_nothing():
    assert nms(torch.zeros(0, 4), torch.zeros(0), 0.5).tolist() == []


def test_torchvision_imports_and_nms_works():
    pytest.importorskip("importlib.metadata").version("torchvision")
    ensure_torchvision()
    ensure_torchvision()
    from torchvision import ops

    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
    assert ops.nms(boxes, torch.tensor([0.1, 0.2]), 0.5).tolist() == [1]


def test_nothing_is_imported_without_torchvision():
    """In a fresh interpreter in which torchvision cannot be found."""
    code = (
        "import sys; sys.modules.pop('torchvision', None)\n"
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'torchvision' else find(name, *rest)\n"
        "from sparsewood.models.wheels import ensure_torchvision, _definitions\n"
        "ensure_torchvision()\n"
        "assert 'torchvision' not in sys.modules and not _definitions\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
