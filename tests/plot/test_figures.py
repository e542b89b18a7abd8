"""All pictures: figures that no window knows of, written as PNG, SVG or PDF, without a display."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import nn

import sparsewood as sw
from sparsewood.errors import OutputError, SparsewoodError
from sparsewood.plot.panels import middle_cut, split

NET = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
LOG = "epoch,train_loss,train_acc1,val_loss,val_acc1\n1,0.7,0.5,0.8,0.4\n"

Draw = Callable[[Path, "Path | None"], Figure]
PICTURES: dict[str, Draw] = {
    "kernels": lambda _, path: sw.plot.kernels(NET, path=path),
    "weight_sharing": lambda _, path: sw.plot.weight_sharing(torch.randn(3, 3), torch.ones(3, 3), path=path),
    "activations": lambda _, path: sw.plot.activations(NET, torch.randn(2, 1, 6, 6), path=path),
    "layer_sparsity": lambda _, path: sw.plot.layer_sparsity(NET, path=path),
    "training": lambda directory, path: sw.plot.training(directory, path=path),
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "logs.csv").write_text(LOG)
    return tmp_path / "run"


def test_every_picture_is_tried_here() -> None:
    functions = {name for name in sw.plot.__all__ if name[0].islower()}
    of_studies = {name for name in functions if ".study_" in getattr(sw.plot, name).__module__}  # test_study_figures.py
    assert functions - of_studies - {"activation_calls", "kernel_maps", "value_counts"} == set(PICTURES)


@pytest.mark.parametrize("draw", PICTURES.values(), ids=PICTURES)
def test_001_20_figures_are_returned_and_pyplot_is_left_alone(draw: Draw, directory: Path) -> None:
    loaded = "matplotlib.pyplot" in sys.modules
    figure = draw(directory, None)
    assert type(figure) is Figure
    assert isinstance(figure.canvas, FigureCanvasAgg)
    assert getattr(figure, "number", None) is None, "pyplot numbers the figures it knows"
    assert ("matplotlib.pyplot" in sys.modules) == loaded
    figure.canvas.draw()
    assert np.ptp(np.asarray(figure.canvas.buffer_rgba())[..., :3]) > 100, "something is drawn"


@pytest.mark.parametrize(
    ("ending", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF"), ("PNG", b"\x89PNG")]
)
@pytest.mark.parametrize("draw", PICTURES.values(), ids=PICTURES)
def test_the_ending_says_what_is_written(draw: Draw, directory: Path, ending: str, begins: bytes) -> None:
    path = directory.parent / f"picture.{ending}"
    draw(directory, path)
    assert path.read_bytes().startswith(begins)
    assert sorted(one.name for one in directory.parent.iterdir()) == sorted([path.name, "run"])


@pytest.mark.parametrize("draw", PICTURES.values(), ids=PICTURES)
def test_other_endings_and_no_matplotlib_are_refused(
    draw: Draw, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("picture.txt", "picture"):
        with pytest.raises(OutputError, match=r"End it in \.png, \.svg or"):
            draw(directory, directory.parent / name)
    assert [one.name for one in directory.parent.iterdir()] == ["run"]
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(SparsewoodError, match=r"pip install 'sparsewood\[report\]'"):
        draw(directory, None)


def test_matplotlib_is_not_imported_before_something_is_drawn() -> None:
    code = "import sys, sparsewood as sw; sw.plot.kernels; assert 'matplotlib' not in sys.modules; print('fine')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "fine\n"


def test_panels_do_not_overlap() -> None:
    """Axes and their titles, of many layers of different sizes, lie beside one another on the sheet."""
    torch.manual_seed(0)
    sizes = [(3, 7, 1), (7, 40, 3), (40, 9, 5), (9, 1, 1), (1, 80, 3), (80, 3, 11), (3, 3, 3)]
    net = nn.Sequential(*(nn.Conv2d(into, out, kernel) for into, out, kernel in sizes))
    figure = sw.plot.kernels(net, most=30)
    figure.canvas.draw()
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    width, height = figure.canvas.get_width_height()
    for number, box in enumerate(boxes):
        assert box is not None
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height
        for other in boxes[:number]:
            assert other is not None
            assert not box.overlaps(other)


def test_columns_keep_the_order_and_are_about_equally_high() -> None:
    assert split([1.0] * 10, 3) == [range(4), range(4, 8), range(8, 10)]
    assert split([5.0, 1.0, 1.0, 1.0], 2) == [range(1), range(1, 4)]
    assert split([1.0, 2.0], 9) == [range(1), range(1, 2)]


def test_long_names_lose_their_middle() -> None:
    assert middle_cut("a" * 50 + "conv1", 11) == "aaaa...onv1"
    assert len(middle_cut("b" * 100, 40)) == 40
