"""The grid's results by cell, and the figures that follow from several of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from advrbd_plugin.reproduce.cell import Cell
from advrbd_plugin.reproduce.result import Result


def defense_effectiveness_rating(
    acc: float, asr: float, undefended_acc: float, undefended_asr: float
) -> float:
    """DER = (max(0, ASR drop) - max(0, ACC drop) + 1) / 2, from and as fractions; 0.5 is no effect, 1 is perfect."""
    return (max(0.0, undefended_asr - asr) - max(0.0, undefended_acc - acc) + 1) / 2


@dataclass(frozen=True)
class Mean:
    """A mean over cells.

    Attributes:
        value: of those that were measured; ``None`` if none was.
        measured, asked: how many were, of how many.
    """

    value: float | None
    measured: int
    asked: int

    @property
    def is_complete(self) -> bool:
        return self.measured == self.asked > 0


class Measured:
    """Results to ask figures of.

    Args:
        results: of one scale.
    """

    def __init__(self, results: Iterable[Result]) -> None:
        self.results = {result.cell: result for result in results}
        self._seeds = sorted({cell.seed for cell in self.results})

    @property
    def first_seed(self) -> int:
        """The lowest seed that there is a result of."""
        return self._seeds[0] if self._seeds else 0

    def result(self, cell: Cell) -> Result | None:
        return self.results.get(cell)

    def figure(self, cell: Cell, name: str) -> float | None:
        """A figure of a cell: what its file has, or ``der``, which also asks for the undefended model."""
        result = self.results.get(cell)
        if result is None or name != "der":
            return None if result is None else result.figure(name)
        before = self.results.get(cell.prerequisite)
        needed = [each and each.figure(figure) for each in (result, before) for figure in ("acc", "asr")]
        return None if any(value is None for value in needed) else defense_effectiveness_rating(*needed)

    def over_seeds(self, cell: Cell) -> list[Cell]:
        """The cell with each seed that it has a result for; itself if it has none."""
        alike = [replace(cell, seed=seed) for seed in self._seeds]
        return [each for each in alike if each in self.results] or [cell]

    def mean(self, cells: Sequence[Cell], name: str) -> Mean:
        """The mean of a figure over cells, each over its seeds."""
        values = [self._mean_over_seeds(cell, name) for cell in cells]
        known = [value for value in values if value is not None]
        return Mean(sum(known) / len(known) if known else None, len(known), len(cells))

    def _mean_over_seeds(self, cell: Cell, name: str) -> float | None:
        values = [self.figure(each, name) for each in self.over_seeds(cell)]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None
