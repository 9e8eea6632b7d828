"""A grid at work on the screen: its cells, and when all of it will be done."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from advrbd_plugin.cli.progress import clock_time
from advrbd_plugin.report.text import one_line

if TYPE_CHECKING:
    from advrbd_plugin.evaluation.cell import Cell
    from advrbd_plugin.evaluation.result import Result


class PlainGrid:
    """A line when a cell starts and when it ends: for logs and pipes."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._total = self._done = 0
        self._remaining: float | None = None

    def __enter__(self) -> PlainGrid:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def begin(self, waiting: int, kept: int) -> None:
        self._total = waiting
        self._print(f"{waiting} cells to run, {kept} done before")

    def started(self, cell: Cell) -> None:
        left = "" if self._remaining is None else f" [about {clock_time(self._remaining)} left for all]"
        self._print(f"{cell.name} ...{left}")

    def ended(self, cell: Cell, result: Result) -> None:
        self._done += 1
        self._print(f"[{self._done}/{self._total}] {cell.name}: {outcome_of(result)}")

    def tick(self, running: Sequence[tuple[Cell, float, float | None]], remaining: float | None) -> None:
        self._remaining = remaining

    def _print(self, text: str) -> None:
        print(f"advrbd: {text}", file=self._stream, flush=True)


class GridBars:
    """Bars that live at the foot of a terminal: one for each cell at work, and the whole grid with its ETA."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=28),
            TextColumn("{task.fields[clock]}", style="cyan", markup=False),
            console=Console(stderr=True),
            transient=True,
        )
        self._grid = self._bars.add_task("whole grid", total=None, clock="")
        self._cells: dict[Cell, int] = {}

    def __enter__(self) -> GridBars:
        self._bars.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._bars.stop()

    def begin(self, waiting: int, kept: int) -> None:
        self._bars.update(self._grid, total=waiting)
        self._bars.console.print(f"{waiting} cells to run, {kept} done before", highlight=False)

    def started(self, cell: Cell) -> None:
        self._cells[cell] = self._bars.add_task(cell.name, total=None, clock="")

    def ended(self, cell: Cell, result: Result) -> None:
        if cell in self._cells:
            self._bars.remove_task(self._cells.pop(cell))
        self._bars.advance(self._grid)
        mark = "\u2713" if result.is_done else "\u2717"
        self._bars.console.print(f"{mark} {cell.name}: {outcome_of(result)}", markup=False, highlight=False)

    def tick(self, running: Sequence[tuple[Cell, float, float | None]], remaining: float | None) -> None:
        for cell, seconds, expected in running:
            clock = clock_time(seconds) if expected is None else f"{clock_time(seconds)} of {clock_time(expected)}"
            self._bars.update(self._cells[cell], total=expected, completed=seconds, clock=clock)
        left = "" if remaining is None else f"about {clock_time(remaining)} left"
        self._bars.update(self._grid, clock=left)


def make_grid_display() -> GridBars | PlainGrid:
    """Bars where a person watches, lines where a file or a pipe does."""
    return GridBars() if sys.stderr.isatty() else PlainGrid()


def outcome_of(result: Result) -> str:
    """A result in a line."""
    if not result.is_done:
        return f"{result.content['status']}: {one_line(result.reason)}"
    figures = ((name.upper(), result.figure(name)) for name in ("acc", "asr"))
    shares = ", ".join(f"{name} {100 * value:.1f}%" for name, value in figures if value is not None)
    return f"{shares} in {clock_time(result.content['seconds'])}"
