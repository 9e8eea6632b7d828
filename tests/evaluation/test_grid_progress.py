"""What the grid shows: lines in a log, and bars whose times are rich's own."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import pytest

from advrbd_plugin.cli.grid_progress import GridBars, PlainGrid
from advrbd_plugin.evaluation.result import Result

from .conftest import small_cell


@dataclass(frozen=True)
class NamedJob:
    """As much of a job as a display asks for."""

    name: str

    @property
    def key(self) -> str:
        return self.name


FIRST, SECOND = NamedJob("first"), NamedJob("second")
DONE = Result(small_cell(), {"status": "done", "figures": {"acc": 0.8, "asr": 0.1}, "seconds": 125.0}, Path())
FAILED = Result(small_cell(), {"status": "failed", "reason": "the loss\nis NaN"}, Path())


def test_the_lines_of_a_log():
    stream = io.StringIO()
    with PlainGrid(stream) as display:
        display.begin([FIRST, SECOND], [NamedJob("third")])
        display.tick([], None)
        display.started(FIRST)
        display.ended(FIRST, DONE)
        display.tick([], 3700.0)
        display.started(SECOND)
        display.ended(SECOND, FAILED)
    assert stream.getvalue().splitlines() == [
        "advrbd: 2 cells to run, 1 done before",
        "advrbd: first ...",
        "advrbd: [1/2] first: ACC 80.0%, ASR 10.0% in 2:05",
        "advrbd: second ... [about 1:01:40 left for all]",
        "advrbd: [2/2] second: failed: the loss\\nis NaN",
    ]


@pytest.fixture
def bars(monkeypatch) -> GridBars:
    """Bars on a clock that the test sets."""
    bars = GridBars()
    bars.now = 0.0
    bars._bars.get_time = lambda: bars.now
    for task in bars._bars.tasks:
        task.start_time, task._get_time = 0.0, bars._bars.get_time
    return bars


def play(bars: GridBars, seconds: float, expected: float | None, remaining_of_all: float | None) -> None:
    """Time passes while the first cell is at work."""
    start = bars.now
    while bars.now < start + seconds:
        bars.now += 0.5
        left = None if remaining_of_all is None else remaining_of_all - bars.now
        bars.tick([(FIRST, bars.now, expected)], left)


def test_richs_columns_tell_the_time_that_is_left(bars):
    bars.begin([FIRST, SECOND], [])
    bars.started(FIRST)
    play(bars, 30, expected=60.0, remaining_of_all=100.0)
    grid, cell = bars._bars.tasks
    assert (cell.elapsed, cell.time_remaining) == (30.0, 30.0)
    assert (grid.description, grid.elapsed, grid.time_remaining) == ("whole grid, 0 of 2", 30.0, 70.0)
    bars.ended(FIRST, DONE)
    assert [task.description for task in bars._bars.tasks] == ["whole grid, 1 of 2"]


def test_a_cell_that_takes_longer_than_expected_is_not_finished(bars):
    bars.begin([FIRST], [])
    bars.started(FIRST)
    play(bars, 90, expected=60.0, remaining_of_all=None)
    grid, cell = bars._bars.tasks
    assert not cell.finished and cell.elapsed == 90.0 and grid.total is None
    play(bars, 10, expected=200.0, remaining_of_all=None)  # the estimate has learned
    assert cell.time_remaining == 100.0
