"""The grid's results by cell, and the figures that follow from several of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from advrbd_plugin.evaluation.cell import Cell
from advrbd_plugin.evaluation.result import Result


def defense_effectiveness_rating(acc: float, asr: float, undefended_acc: float, undefended_asr: float) -> float:
    """DER = (max(0, ASR drop) - max(0, ACC drop) + 1) / 2, from and as fractions; 0.5 is no effect, 1 is perfect."""
    return (max(0.0, undefended_asr - asr) - max(0.0, undefended_acc - acc) + 1) / 2


@dataclass(frozen=True)
class Mean:
    """A mean over cells.

    Attributes:
        value: of those that were measured; ``None`` if none was.
        measured, asked: how many were, of how many; each seed counts.
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
        self._settings = {cell.prerequisite for cell in self.results}

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
        """The cell with each seed that any method has a result for on the same data; itself if none has."""
        alike = [replace(cell, seed=seed) for seed in self._seeds]
        return [each for each in alike if each.prerequisite in self._settings] or [cell]

    def mean(self, cells: Sequence[Cell], name: str) -> Mean:
        """The mean of a figure over cells, each over its seeds."""
        values = [[self.figure(each, name) for each in self.over_seeds(cell)] for cell in cells]
        known = [[value for value in each if value is not None] for each in values]
        means = [sum(each) / len(each) for each in known if each]
        return Mean(
            sum(means) / len(means) if means else None,
            measured=sum(len(each) for each in known),
            asked=sum(len(each) for each in values),
        )

    def are_configured_alike(self, cells: Sequence[Cell]) -> bool:
        """Whether those of the cells that are done were run with the same settings, but for the seed."""
        there = [self.results[each] for cell in cells for each in self.over_seeds(cell) if each in self.results]
        # The training's settings were not kept from the beginning.
        return all(
            len({_without_seed(result.content[part]) for result in there if result.content.get(part)}) <= 1
            for part in ("configuration", "training")
        )


def _without_seed(settings: Mapping[str, Any]) -> str:
    """As text to compare; ``arguments`` are those of a script of the toolbox."""
    arguments = list(settings.get("arguments", ()))
    if "--random_seed" in arguments:
        place = arguments.index("--random_seed")
        del arguments[place : place + 2]
    return json.dumps({**settings, "seed": None, "arguments": arguments}, sort_keys=True)
