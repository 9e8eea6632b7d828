"""What a person sees while waiting, with a clock that the test turns."""

from __future__ import annotations

import io

import pytest

from advrbd_plugin.cli.progress import BarProgress, Clock, PlainProgress, clock_time


class HandClock:
    def __init__(self):
        self.time = 100.0

    def __call__(self):
        return self.time


def test_one_speed_gives_the_eta_of_the_whole_run():
    now = HandClock()
    clock = Clock(now)
    clock.plan({"train": 10, "retrain": 30})
    assert clock.remaining is None
    clock.start("train")
    clock.advance(4)  # taken over from an interrupted run: no sign of speed
    assert clock.remaining is None
    now.time += 20
    clock.advance(5)
    assert clock.remaining == pytest.approx(31 * 4)
    clock.finish()  # early: what was not needed counts as done
    assert clock.done == 10 and clock.remaining == pytest.approx(30 * 4)
    now.time += 1000  # time between stages is nobody's speed
    clock.start("retrain")
    clock.advance(0)
    now.time += 40
    clock.advance(10)
    assert clock.remaining == pytest.approx(20 * 4)


def test_a_stage_that_nobody_planned_does_not_disturb_the_eta():
    clock = Clock(HandClock())
    clock.plan({"train": 10})
    clock.start("read images")
    clock.advance(500)
    clock.finish()
    assert clock.done == 0 and clock.remaining is None


def test_more_work_than_planned_is_never_more_than_all():
    clock = Clock(HandClock())
    clock.plan({"train": 10})
    clock.start("train")
    clock.advance(25)
    assert clock.done == clock.total == 10


def test_plain_lines_are_few():
    now, stream = HandClock(), io.StringIO()
    with PlainProgress(stream, now) as progress:
        progress.plan({"first_training": 100.0})
        progress.start("first_training")
        for _ in range(100):
            now.time += 0.4
            progress.advance(1.0, loss=0.25)
        progress.finish()
    lines = stream.getvalue().splitlines()
    assert lines[0] == "advrbd: first training ..."
    assert lines[1] == "advrbd: first training 38% loss 0.25 [run 38%, about 0:25 left]"
    assert lines[-1] == "advrbd: first training done in 40.0 s [run 100%, about 0:00 left]" and len(lines) == 4


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
    shown = capsys.readouterr().err
    assert "[red]not markup" in shown and "train" in shown


def test_times_read_as_clocks_do():
    assert [clock_time(seconds) for seconds in (0, 59.6, 125, 3725)] == ["0:00", "1:00", "2:05", "1:02:05"]
