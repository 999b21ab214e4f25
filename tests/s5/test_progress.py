"""Lines elsewhere, a bar on a terminal, and always the items themselves."""

import io
import sys

import pytest

from s5 import progress as room
from s5.progress import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_items_pass_through_and_short_work_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress(range(5), "x")) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().err == ""


def test_a_line_every_thirty_seconds_with_rate_and_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10_000, 10))  # every look at the clock is 10 s later
    monkeypatch.setattr(room.time, "monotonic", lambda: float(next(clock)))
    assert list(progress(iter("abcdefgh"), "S4P", total=10, initial=2)) == list("abcdefgh")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "S4P: 5/10, 0.10 step/s, 0:00:50 left"
    assert lines[1] == "S4P: 8/10, 0.10 step/s, 0:00:20 left"
    assert lines[-1] == "S4P: 8 steps in 0:01:30"


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert list(progress(range(3), "scoring")) == [0, 1, 2]
    assert "scoring" in terminal.getvalue() and "3/3" in terminal.getvalue()
