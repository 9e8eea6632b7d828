"""What the grid knows of a method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from advrbd_plugin.evaluation.cell import NO_ATTACK, Cell
from advrbd_plugin.evaluation.experiment import Experiment, Options, Outcome


def _nothing_missing(options: Options) -> None:
    return None


@dataclass(frozen=True)
class Method:
    """Attributes:
    name: as on the command line and in the results.
    title: as in tables.
    run: from the cell's experiment to what came of it.
    configuration: the settings that the result depends on, ready for JSON; a result of others is run again.
    cost: its time in trainings of the whole set, for the ETA until it was measured.
    uses_backdoored_model: whether the backdoored model is trained (or found) first.
    uses_algorithm: whether AdvrBD's verdicts play a part; results name the algorithm, those of another are run again.
    needs_attack: whether there is nothing to do on an unpoisoned set.
    missing: why it cannot run here, and what to do about it, in one line; ``None`` if it can.
    """

    name: str
    title: str
    run: Callable[[Experiment], Outcome]
    configuration: Callable[[Cell, Options], dict[str, Any]]
    cost: float = 1.0
    uses_backdoored_model: bool = True
    uses_algorithm: bool = False
    needs_attack: bool = False
    missing: Callable[[Options], str | None] = _nothing_missing

    def suits(self, attack: str) -> bool:
        return not (self.needs_attack and attack == NO_ATTACK)
