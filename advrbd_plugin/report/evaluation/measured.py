"""The grid's results by cell, and the figures that follow from several of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard

from advrbd_plugin.defense.config import AdvrBDConfig
from advrbd_plugin.evaluation.algorithm import is_of_current_algorithm
from advrbd_plugin.evaluation.cell import Cell
from advrbd_plugin.evaluation.methods import METHODS
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
        other_algorithm: how many of those measured were made by another or an unknown version of AdvrBD.
    """

    value: float | None
    measured: int
    asked: int
    other_algorithm: int = 0

    @property
    def is_complete(self) -> bool:
        return self.measured == self.asked > 0


class Measured:
    """The results of one scale, by cell.

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
        """A figure of a cell's file, or ``der``, which needs the undefended model's too."""
        result = self.results.get(cell)
        if result is None or name != "der":
            return None if result is None else result.figure(name)
        before = self.results.get(cell.prerequisite)
        if before is None:
            return None
        known = [
            value
            for each in (result, before)
            for figure in ("acc", "asr")
            if (value := each.figure(figure)) is not None
        ]
        return defense_effectiveness_rating(*known) if len(known) == 4 else None

    def over_seeds(self, cell: Cell) -> list[Cell]:
        """The cell with each seed for which any method has a result on the same data; itself if there is none."""
        alike = [replace(cell, seed=seed) for seed in self._seeds]
        return [each for each in alike if each.prerequisite in self._settings] or [cell]

    def mean(self, cells: Sequence[Cell], name: str) -> Mean:
        """The mean of a figure over cells, each over its seeds."""
        values = [{each: self.figure(each, name) for each in self.over_seeds(cell)} for cell in cells]
        known = [{each: value for each, value in seeds.items() if value is not None} for seeds in values]
        means = [sum(seeds.values()) / len(seeds) for seeds in known if seeds]
        return Mean(
            sum(means) / len(means) if means else None,
            measured=sum(map(len, known)),
            asked=sum(map(len, values)),
            other_algorithm=sum(self.is_of_other_algorithm(each) for seeds in known for each in seeds),
        )

    def is_of_other_algorithm(self, cell: Cell) -> bool:
        """Whether a cell has figures that depend on AdvrBD's verdicts, by another or an unknown version of it."""
        result = self.results.get(cell)
        return self._uses_algorithm(result) and not is_of_current_algorithm(result.content)

    def count_algorithms(self, cells: Iterable[Cell]) -> tuple[int, int]:
        """Of the cells that are done and depend on AdvrBD's verdicts: those of another version, and all. Over seeds."""
        return self.count_algorithms_of({each for cell in cells for each in self.over_seeds(cell)})

    def count_algorithms_of(self, cells: Iterable[Cell]) -> tuple[int, int]:
        """The same for these very cells."""
        done = [cell for cell in cells if self._uses_algorithm(self.results.get(cell))]
        return sum(map(self.is_of_other_algorithm, done)), len(done)

    @staticmethod
    def _uses_algorithm(result: Result | None) -> TypeGuard[Result]:
        return result is not None and result.is_done and METHODS[result.cell.method].uses_algorithm

    def are_configured_alike(self, cells: Sequence[Cell]) -> bool:
        """Whether those of the cells that are done were run with the same settings, but for the seed."""
        there = [self.results[each] for cell in cells for each in self.over_seeds(cell) if each in self.results]
        # The oldest files lack the training's settings.
        return all(
            len({_without_seed(result.content[part]) for result in there if result.content.get(part)}) <= 1
            for part in ("configuration", "training")
        )


def _without_seed(settings: Mapping[str, Any]) -> str:
    """As text to compare; ``arguments`` are those of a script of the toolbox."""
    settings = _by_current_names(settings)
    arguments = list(settings.get("arguments", ()))
    if "--random_seed" in arguments:
        place = arguments.index("--random_seed")
        del arguments[place : place + 2]
    return json.dumps({**settings, "seed": None, "arguments": arguments}, sort_keys=True)


def _by_current_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an older file under the names that their keys have now."""
    return {
        AdvrBDConfig.renamed.get(key, key): _by_current_names(value) if isinstance(value, Mapping) else value
        for key, value in settings.items()
    }
