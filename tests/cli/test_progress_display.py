"""What a person sees while waiting, with a clock that the test turns."""

from __future__ import annotations

import io

import pytest

from advrbd_plugin.cli.progress import BarProgress, PlainProgress, clock_time
from advrbd_plugin.progress import timed_stage


class HandClock:
    def __init__(self):
        self.time = 100.0

    def __call__(self):
        return self.time


@pytest.fixture
def now():
    return HandClock()


@pytest.fixture
def progress(now):
    with PlainProgress(io.StringIO(), now) as progress:
        yield progress


def lines_of(progress):
    return progress._stream.getvalue().splitlines()


def test_the_time_left_is_that_of_all_planned_stages(progress, now):
    progress.plan({"train": 10, "retrain": 30})
    progress.start("train")
    progress.advance(4)  # what an interrupted run did: no sign of speed
    assert progress.run_task.time_remaining is None and progress.run_task.completed == 4
    for _ in range(2):
        now.time += 8
        progress.advance(2)
    assert progress.run_task.time_remaining == pytest.approx(32 * 4)
    assert progress.stage_task.time_remaining == pytest.approx(2 * 4)
    progress.finish()  # early: what was not needed counts as done, and is no sign of speed
    assert progress.run_task.completed == 10 and progress.run_task.time_remaining == pytest.approx(30 * 4)
    now.time += 1000
    progress.start("retrain")
    for _ in range(3):
        now.time += 10
        progress.advance(5)  # the first report counts where it takes time
    assert progress.run_task.completed == 25 and progress.run_task.time_remaining == pytest.approx(15 * 2)


def test_a_stage_that_nobody_planned_does_not_disturb_the_run(progress, now):
    progress.plan({"train": 10})
    progress.start("read images")
    for _ in range(3):
        now.time += 20
        progress.advance(500, files=1500)
    progress.finish()
    assert (progress.run_task.completed, progress.run_task.total) == (0, 10)
    assert lines_of(progress)[1] == "advrbd: read images files 1.5e+03 [run 0%]"


def test_more_work_than_planned_is_never_more_than_all(progress):
    progress.plan({"train": 10, "retrain": 5})
    progress.start("train")
    for _ in range(5):
        progress.advance(5)
    assert progress.run_task.completed == 10 and progress.run_task.total == 15
    progress.finish()
    assert progress.run_task.completed == 10 and progress.run_task.total == 15


def test_plain_lines_are_few(progress, now):
    progress.plan({"first_training": 100.0})
    progress.start("first_training")
    progress.advance(0)
    for _ in range(100):
        now.time += 0.4
        progress.advance(1.0, loss=0.25)
    progress.finish()
    lines = lines_of(progress)
    assert lines[0] == "advrbd: first training ..."
    assert lines[1] == "advrbd: first training 38% loss 0.25 [run 38%, about 0:25 left]"
    assert lines[-1] == "advrbd: first training done in 40.0 s [run 100%, about 0:00 left]" and len(lines) == 4


def test_a_stage_that_an_error_cuts_off_is_not_shown_as_done(progress, capsys):
    for display in (progress, BarProgress()):
        with pytest.raises(KeyboardInterrupt), display, timed_stage(display, "training", {}):
            raise KeyboardInterrupt
    shown = capsys.readouterr().err
    assert "\u2713" not in shown and "done" not in shown
    assert lines_of(progress) == ["advrbd: training ..."]
    seconds = {}
    with timed_stage(progress, "scoring", seconds):
        pass
    assert lines_of(progress)[-1] == "advrbd: scoring done in 0.0 s" and list(seconds) == ["scoring"]


def test_bars_take_the_same_calls(capsys):
    with BarProgress() as progress:
        progress.start("read images")
        progress.advance(1, files=3)
        progress.finish()
        progress.plan({"train": 2})
        progress.start("train")
        progress.advance(1, loss=0.5)
        progress.note("[red]not markup")
        progress.finish()
        progress.finish()
    shown = capsys.readouterr().err
    assert "[red]not markup" in shown and "\u2713 train" in shown and shown.count("\u2713") == 2


def test_times_read_as_clocks_do():
    assert [clock_time(seconds) for seconds in (0, 59.6, 125, 3725)] == ["0:00", "1:00", "2:05", "1:02:05"]
