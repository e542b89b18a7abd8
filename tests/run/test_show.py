"""Tables where they are printed."""

from __future__ import annotations

import pytest

from sparsewood.report.table import Table, as_text
from sparsewood.run.show import show

TABLE = Table("Reached", ("variant", "round", "test [%]"), (("magnitude_rewound", "10", "85.00 +- 2.00"),) * 2)


@pytest.mark.parametrize("width", [20, 44, 45, 100])
def test_no_number_is_cut_off_on_a_narrow_terminal(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    show(TABLE)
    shown = capsys.readouterr().out
    assert shown.count("85.00 +- 2.00") == shown.count("magnitude_rewound") == 2
    assert (shown == as_text(TABLE) + "\n") is (width < 45), "lines where they fit"


def test_a_pipe_gets_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    show(TABLE)
    assert capsys.readouterr().out == as_text(TABLE) + "\n"
