"""Progress on the screen: bars with an ETA for the stage and for the whole run, or plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TextIO

_SECONDS_BETWEEN_LINES = 15.0


class Clock:
    """How far the run is, from what was planned, and how long the rest will take at the speed so far.

    The unit of work is the caller's; one speed serves all stages, since they are announced in one unit. The first
    report of a stage is not part of that speed: it may be work that an earlier, interrupted run did.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._began = now()
        self._planned: dict[str, float] = {}
        self._done: dict[str, float] = {}
        self._measured = 0.0
        self._working = 0.0
        self._last: float | None = None
        self.stage: str | None = None

    def plan(self, work: Mapping[str, float]) -> None:
        self._planned.update({stage: max(0.0, float(amount)) for stage, amount in work.items()})

    def start(self, stage: str) -> None:
        self.stage = stage
        self._done[stage] = 0.0
        self._last = None

    def advance(self, work: float) -> None:
        now = self._now()
        if self.stage is None:
            return
        self._done[self.stage] += work
        if self.stage in self._planned and self._last is not None:
            self._measured += work
            self._working += now - self._last
        self._last = now

    def finish(self) -> None:
        if self.stage in self._planned:
            self._done[self.stage] = self._planned[self.stage]
        self.stage = None

    @property
    def total(self) -> float:
        """Planned work of all stages."""
        return sum(self._planned.values())

    @property
    def done(self) -> float:
        """Planned work that is done; a stage never counts for more than was planned for it."""
        return sum(min(self._done.get(stage, 0.0), amount) for stage, amount in self._planned.items())

    @property
    def stage_done(self) -> float:
        return self._done.get(self.stage, 0.0) if self.stage else 0.0

    @property
    def stage_total(self) -> float | None:
        """Work of the current stage, ``None`` if nobody planned it."""
        return self._planned.get(self.stage) if self.stage else None

    @property
    def elapsed(self) -> float:
        return self._now() - self._began

    @property
    def remaining(self) -> float | None:
        """Seconds until the end, ``None`` while there is nothing to go by."""
        return self._seconds_for(self.total - self.done)

    @property
    def stage_remaining(self) -> float | None:
        """Seconds until the end of the stage, ``None`` while there is nothing to go by."""
        return None if self.stage_total is None else self._seconds_for(self.stage_total - self.stage_done)

    def _seconds_for(self, work: float) -> float | None:
        if self._measured <= 0 or self._working <= 0:
            return None
        return max(0.0, work) * self._working / self._measured


class PlainProgress:
    """A line when a stage starts, when it ends, and every 15 seconds between: for logs and pipes."""

    def __init__(self, stream: TextIO | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream or sys.stderr
        self._now = now
        self._clock = Clock(now)
        self._last_line = now()
        self._stage_began = now()

    def __enter__(self) -> PlainProgress:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def plan(self, work: Mapping[str, float]) -> None:
        self._clock.plan(work)

    def start(self, stage: str) -> None:
        self._clock.start(stage)
        self._stage_began = self._last_line = self._now()
        self._print(f"{_readable(stage)} ...")

    def advance(self, work: float, **figures: float) -> None:
        self._clock.advance(work)
        if self._now() - self._last_line >= _SECONDS_BETWEEN_LINES and self._clock.stage:
            self._last_line = self._now()
            self._print(f"{_readable(self._clock.stage)} {self._share()}{_figures(figures)}{self._rest()}")

    def finish(self) -> None:
        stage = self._clock.stage
        self._clock.finish()
        if stage:
            self._print(f"{_readable(stage)} done in {self._now() - self._stage_began:.1f} s{self._rest()}")

    def note(self, text: str) -> None:
        """A sentence between the progress lines."""
        self._print(text)

    def _share(self) -> str:
        total = self._clock.stage_total
        return f"{min(1.0, self._clock.stage_done / total):.0%}" if total else ""

    def _rest(self) -> str:
        remaining = self._clock.remaining
        if remaining is None or not self._clock.total:
            return ""
        return f" [run {self._clock.done / self._clock.total:.0%}, about {clock_time(remaining)} left]"

    def _print(self, text: str) -> None:
        print(f"advrbd: {text}", file=self._stream, flush=True)


class BarProgress:
    """Two bars that live at the foot of a terminal: the stage with its figures, and the whole run with its ETA."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._clock = Clock()
        self._bars = Progress(
            TextColumn("[bold]{task.description}", markup=True),
            BarColumn(bar_width=28),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[figures]}", markup=False),
            TextColumn("{task.fields[clock]}", style="cyan"),
            console=Console(stderr=True),
            transient=True,
        )
        self._run: int | None = None
        self._stage: int | None = None
        self._stage_began = 0.0

    def __enter__(self) -> BarProgress:
        self._bars.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bars.stop()

    def plan(self, work: Mapping[str, float]) -> None:
        self._clock.plan(work)
        if self._run is None:
            self._run = self._bars.add_task("whole run", total=self._clock.total, figures="", clock="")
        self._bars.update(self._run, total=self._clock.total)

    def start(self, stage: str) -> None:
        self._end_stage()
        self._clock.start(stage)
        self._stage_began = self._clock.elapsed
        total = self._clock.stage_total
        self._stage = self._bars.add_task(_readable(stage), total=total, figures="", clock="")
        self._draw("")

    def advance(self, work: float, **figures: float) -> None:
        self._clock.advance(work)
        self._draw(_figures(figures))

    def finish(self) -> None:
        stage = self._clock.stage
        self._clock.finish()
        self._end_stage()
        if stage:
            self._bars.console.print(f"[green]\u2713[/] {_readable(stage)} [dim]{self._stage_seconds():.1f} s[/]")
        self._draw("")

    def note(self, text: str) -> None:
        """A sentence above the bars."""
        self._bars.console.print(text, markup=False, highlight=False)

    def _stage_seconds(self) -> float:
        return self._clock.elapsed - self._stage_began

    def _end_stage(self) -> None:
        if self._stage is not None:
            self._bars.remove_task(self._stage)
            self._stage = None

    def _draw(self, figures: str) -> None:
        if self._stage is not None:
            times = _times(self._stage_seconds(), self._clock.stage_remaining)
            self._bars.update(self._stage, completed=self._clock.stage_done, figures=figures, clock=times)
        if self._run is not None:
            times = _times(self._clock.elapsed, self._clock.remaining)
            self._bars.update(self._run, completed=self._clock.done, clock=times)


def make_progress() -> BarProgress | PlainProgress:
    """Bars where a person watches, lines where a file or a pipe does."""
    return BarProgress() if sys.stderr.isatty() else PlainProgress()


def clock_time(seconds: float) -> str:
    """``1:02:03`` or ``2:03``."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _times(spent: float, left: float | None) -> str:
    return clock_time(spent) if left is None else f"{clock_time(spent)}, {clock_time(left)} left"


def _readable(stage: str) -> str:
    return stage.replace("_", " ")


def _figures(figures: Mapping[str, float]) -> str:
    return "".join(f" {name.replace('_', ' ')} {value:.3g}" for name, value in figures.items())
