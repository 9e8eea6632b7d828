"""Progress on the screen: bars with the time left for the stage and for the whole run, or plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from advrbd_plugin.cli import messages

if TYPE_CHECKING:
    from typing import Self

    from rich.progress import Progress, Task, TaskID

_SECONDS_BETWEEN_LINES = 15.0
_SPEED_PERIOD = 120.0  # seconds of work that the time left is estimated from
_AT_ONCE = 0.5  # seconds


class _Display:
    """Two of rich's tasks, the stage and the whole run, in the unit of work that was planned.

    One speed serves all stages of the run. Work that takes no time has no part in it: what an earlier, interrupted run
    did, which a stage reports at once, and whatever a stage had planned and did not need.
    """

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._planned: dict[str, float] = {}
        self._run_id: TaskID | None = None
        self._stage_id: TaskID | None = None
        self._stage = ""
        self._reported: float | None = None  # of the stage's work; None before its first report

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def plan(self, work: Mapping[str, float]) -> None:
        self._planned.update({stage: max(0.0, float(amount)) for stage, amount in work.items()})
        if self._run_id is None:
            self._run_id = self._bars.add_task("whole run", total=0.0, figures="")
        self._bars.update(self._run_id, total=sum(self._planned.values()))

    def start(self, stage: str) -> None:
        self._remove_stage()
        self._stage, self._reported = stage, None
        self._stage_id = self._bars.add_task(readable(stage), total=self._planned.get(stage), figures="")

    def advance(self, work: float, **figures: float) -> None:
        if self._stage_id is None:
            return
        task = self.stage_task
        was_done = self._reported is None and task is not None and (task.elapsed or 0.0) < _AT_ONCE
        before, planned = self._reported or 0.0, self._planned.get(self._stage, 0.0)
        self._reported = min(planned, before + work)
        for number, amount in ((self._stage_id, work), (self._run_id, self._reported - before)):
            if was_done:
                self._skip(number, amount)
            elif number is not None:
                self._bars.update(number, advance=amount)
        self._bars.update(self._stage_id, figures=_as_text(figures))

    def finish(self) -> None:
        """End the stage; all that was planned for it counts as done."""
        self._skip(self._run_id, self._planned.get(self._stage, 0.0) - (self._reported or 0.0))
        self._remove_stage()

    @property
    def stage_task(self) -> Task | None:
        """The stage at work."""
        return self._task(self._stage_id)

    @property
    def run_task(self) -> Task | None:
        """The whole run, once it is planned."""
        return self._task(self._run_id)

    def _skip(self, number: TaskID | None, work: float) -> None:
        task = self._task(number)
        if task is not None and work > 0:
            task.completed += work  # not by `update`, which would take it for speed
            self._bars.update(task.id)

    def _remove_stage(self) -> None:
        if self._stage_id is not None:
            self._bars.remove_task(self._stage_id)
            self._stage_id = None

    def _task(self, number: TaskID | None) -> Task | None:
        return next((task for task in self._bars.tasks if task.id == number), None)


class PlainProgress(_Display):
    """A line when a stage starts, when it ends, and every 15 seconds between: for logs and pipes.

    Args:
        stream: where the lines go; by default they are records of the logger ``advrbd_plugin``.
        now: a clock, in seconds.
    """

    def __init__(self, stream: TextIO | None = None, now: Callable[[], float] = time.monotonic) -> None:
        from rich.progress import Progress

        super().__init__(Progress(get_time=now, speed_estimate_period=_SPEED_PERIOD, disable=True))
        self._stream, self._now = stream, now
        self._last_line = now()

    def start(self, stage: str) -> None:
        super().start(stage)
        self._last_line = self._now()
        self.note(f"{readable(stage)} ...")

    def advance(self, work: float, **figures: float) -> None:
        super().advance(work, **figures)
        task = self.stage_task
        if task is not None and self._now() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = self._now()
            share = f" {task.percentage:.0f}%" if task.total else ""
            self.note(f"{task.description}{share}{_as_text(figures)}{self._rest()}")

    def finish(self) -> None:
        task = self.stage_task
        super().finish()
        if task is not None:
            self.note(f"{task.description} done in {task.elapsed or 0.0:.1f} s{self._rest()}")

    def note(self, text: str) -> None:
        """A sentence between the progress lines."""
        if self._stream is None:
            messages.LOGGER.info("%s", text)
        else:
            print(f"advrbd: {text}", file=self._stream, flush=True)

    def _rest(self) -> str:
        run = self.run_task
        if run is None or not run.total:
            return ""
        left = "" if run.time_remaining is None else f", about {clock_time(run.time_remaining)} left"
        return f" [run {run.percentage:.0f}%{left}]"


class BarProgress(_Display):
    """Two bars at the foot of a terminal: the stage with its figures, and the whole run."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        bars = Progress(
            TextColumn("[bold]{task.description}", markup=True),
            BarColumn(bar_width=28),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[figures]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
            speed_estimate_period=_SPEED_PERIOD,
        )
        super().__init__(bars)
        self._shown = ExitStack()

    def __enter__(self) -> Self:
        self._bars.start()
        self._shown.enter_context(messages.above_bars(self.note))
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._shown.close()
        self._bars.stop()

    def finish(self) -> None:
        task = self.stage_task
        super().finish()
        if task is not None:
            self._bars.console.print(f"[green]\u2713[/] {task.description} [dim]{task.elapsed or 0.0:.1f} s[/]")

    def note(self, text: str) -> None:
        """A sentence above the bars."""
        self._bars.console.print(text, markup=False, highlight=False)


def make_progress() -> BarProgress | PlainProgress:
    """Bars where a person watches, lines where a file or a pipe does, nothing where the command is to be quiet."""
    return BarProgress() if sys.stderr.isatty() and not messages.is_quiet() else PlainProgress()


def clock_time(seconds: float) -> str:
    """``1:02:03`` or ``2:03``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def readable(stage: str) -> str:
    """A stage's name in words."""
    return stage.replace("_", " ")


def _as_text(figures: Mapping[str, float]) -> str:
    return "".join(f" {name.replace('_', ' ')} {value:.3g}" for name, value in figures.items())
