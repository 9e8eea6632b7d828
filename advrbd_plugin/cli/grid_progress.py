"""A grid at work on the screen: its cells, and when all of it will be done."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from advrbd_plugin.cli import messages
from advrbd_plugin.cli.progress import clock_time
from advrbd_plugin.report.text import one_line

if TYPE_CHECKING:
    from rich.progress import TaskID

    from advrbd_plugin.evaluation.job import AnyJob
    from advrbd_plugin.evaluation.result import Result

# A bar that is full counts as finished for rich, whose clock then stops; a cell may take longer than expected.
_NEARLY_FULL = 0.99
_WORTH_REDRAWING = 2.0  # seconds; a bar of another length forgets its speed


class PlainGrid:
    """A line when a cell starts and when it ends: for logs and pipes.

    Args:
        stream: where the lines go; by default they are records of the logger ``advrbd_plugin``.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._total = self._done = 0
        self._remaining: float | None = None

    def __enter__(self) -> PlainGrid:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def begin(self, waiting: Sequence[AnyJob], cached: Sequence[AnyJob]) -> None:
        self._total = len(waiting)
        self._print(f"{len(waiting)} cells to run, {len(cached)} done before")

    def started(self, job: AnyJob) -> None:
        left = "" if self._remaining is None else f" [about {clock_time(self._remaining)} left for all]"
        self._print(f"{job.name} ...{left}")

    def ended(self, job: AnyJob, result: Result) -> None:
        self._done += 1
        self._print(f"[{self._done}/{self._total}] {job.name}: {outcome_of(result)}")

    def tick(self, running: Sequence[tuple[AnyJob, float, float | None]], remaining: float | None) -> None:
        self._remaining = remaining

    def _print(self, text: str) -> None:
        if self._stream is None:
            messages.LOGGER.info("%s", text)
        else:
            print(f"advrbd: {text}", file=self._stream, flush=True)


class GridBars:
    """Bars that live at the foot of a terminal: one for each cell at work, and the whole grid with its ETA.

    The length of a bar is the time that it is expected to take, so rich's columns tell the time that is left.
    """

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=28),
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._grid = self._bars.add_task("whole grid", total=None)
        self._cells: dict[Any, TaskID] = {}
        self._total = self._done = 0

    def __enter__(self) -> GridBars:
        self._bars.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bars.stop()

    def begin(self, waiting: Sequence[AnyJob], cached: Sequence[AnyJob]) -> None:
        self._total = len(waiting)
        self._bars.console.print(f"{len(waiting)} cells to run, {len(cached)} done before", highlight=False)
        self._name_grid()

    def started(self, job: AnyJob) -> None:
        self._cells[job.key] = self._bars.add_task(job.name, total=None)

    def ended(self, job: AnyJob, result: Result) -> None:
        if job.key in self._cells:
            self._bars.remove_task(self._cells.pop(job.key))
        self._done += 1
        self._name_grid()
        mark = "\u2713" if result.is_done else "\u2717"
        self._bars.console.print(f"{mark} {job.name}: {outcome_of(result)}", markup=False, highlight=False)

    def tick(self, running: Sequence[tuple[AnyJob, float, float | None]], remaining: float | None) -> None:
        for job, seconds, expected in running:
            self._draw(self._cells[job.key], seconds, expected)
        spent = self._bars.tasks[0].elapsed or 0.0
        self._draw(self._grid, spent, None if remaining is None else spent + remaining)

    def _name_grid(self) -> None:
        self._bars.update(self._grid, description=f"whole grid, {self._done} of {self._total}")

    def _draw(self, bar: TaskID, spent: float, expected: float | None) -> None:
        (total,) = (task.total for task in self._bars.tasks if task.id == bar)
        if expected is None or total is None or abs(expected - total) > _WORTH_REDRAWING:
            total = expected
        completed = spent if total is None else min(spent, _NEARLY_FULL * total)
        self._bars.update(bar, total=total, completed=completed)


def make_grid_display() -> GridBars | PlainGrid:
    """Bars where a person watches, lines where a file or a pipe does, nothing where the command is to be quiet."""
    return GridBars() if sys.stderr.isatty() and not messages.is_quiet() else PlainGrid()


def outcome_of(result: Result) -> str:
    """A result in a line."""
    if not result.is_done:
        return f"{result.content['status']}: {one_line(result.reason)}"
    figures = ((name.upper(), result.figure(name)) for name in ("acc", "asr"))
    shares = ", ".join(f"{name} {100 * value:.1f}%" for name, value in figures if value is not None)
    return f"{shares} in {clock_time(result.content['seconds'])}"
