"""How long cells will take, from those that were measured."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from advrbd_plugin.evaluation.cell import Cell
from advrbd_plugin.evaluation.methods import METHODS
from advrbd_plugin.evaluation.result import Result, read_results


class Estimate:
    """Expected seconds of cells: the mean of the same method on the same network and data, or else in proportion to
    the methods' costs."""

    def __init__(self) -> None:
        self._measured: dict[tuple[str, ...], list[float]] = {}

    @classmethod
    def from_results(cls, out: str | Path) -> Estimate:
        """What all results below a folder teach, whatever grid they belong to."""
        estimate = cls()
        for result in read_results(out):
            if result.is_done:
                estimate.add(result)
        return estimate

    def add(self, result: Result) -> None:
        """Learn from a cell that is done; nothing from one that only found its model again."""
        seconds, stages = result.content["seconds"], result.content.get("stage_seconds")
        if not result.cell.is_prerequisite or stages is None or stages.get("training", 0.0) > 0.5 * seconds:
            self._measured.setdefault(self._kind(result.cell), []).append(seconds)

    def seconds(self, cell: Cell) -> float | None:
        """Expected seconds of a cell; ``None`` while there is nothing to go by."""
        own = self._measured.get(self._kind(cell))
        if own:
            return sum(own) / len(own)
        *place, method = self._kind(cell)
        alike = [
            value / METHODS[other].cost
            for (*elsewhere, other), values in self._measured.items()
            if elsewhere == place
            for value in values
        ]
        return METHODS[method].cost * sum(alike) / len(alike) if alike else None

    def remaining(self, waiting: Iterable[Cell], running: Iterable[tuple[Cell, float]], jobs: int) -> float | None:
        """Seconds until all cells are done.

        Args:
            waiting: cells that have not begun.
            running: cells at work with the seconds that they took so far.
            jobs: how many run at a time.
        """
        rests = [self._rest(self.seconds(cell), spent) for cell, spent in running]
        todo = [self.seconds(cell) for cell in waiting]
        if any(value is None for value in (*rests, *todo)):
            return None
        return max([sum(rests + todo) / jobs, *rests])

    @staticmethod
    def _rest(expected: float | None, spent: float) -> float | None:
        return None if expected is None else max(0.0, expected - spent)

    @staticmethod
    def _kind(cell: Cell) -> tuple[str, ...]:
        return cell.scale, cell.dataset, cell.model, cell.method
