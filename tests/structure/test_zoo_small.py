"""The coverage table runs, and what it says of a dozen small networks stays true."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ZOO = Path(__file__).parents[2] / "benchmarks" / "zoo.py"

LEAST = {
    "torchvision:resnet18": 0.99,
    "torchvision:mobilenet_v3_small": 0.99,
    "torchvision:shufflenet_v2_x0_5": 0.99,
    "torchvision:squeezenet1_1": 0.99,
    "timm:convnext_atto": 0.99,
    "timm:vit_tiny_patch16_224": 0.95,
    "timm:efficientvit_m0": 0.9,
    "timm:lcnet_035": 0.99,
    "transformers:gpt2": 0.95,
    "transformers:llama": 0.95,
    "transformers:bert": 0.9,
    "own:unet": 0.99,
    "own:lstm": 0.95,
    "own:gru": 0.95,
}
"""The share of parameters that can be removed, at least."""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    if not all(find_spec(library) for library in ("torchvision", "timm", "transformers")):
        pytest.skip("torchvision, timm or transformers is missing")
    file = tmp_path_factory.mktemp("zoo") / "rows.json"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ZOO), "--small", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return {row["model"]: row for row in json.loads(file.read_text("utf-8"))}


def test_the_table_has_every_network(rows: dict[str, dict[str, Any]]) -> None:
    assert set(rows) == set(LEAST)
    assert not [name for name, row in rows.items() if row["raised"]]


@pytest.mark.parametrize("name", LEAST)
def test_most_of_a_network_can_be_removed(rows: dict[str, dict[str, Any]], name: str) -> None:
    row = rows[name]
    assert row["prunable"] >= LEAST[name], row["kept"]
    assert row["values"] == "meta", row["fallback"]
    assert not row["gaps"]
