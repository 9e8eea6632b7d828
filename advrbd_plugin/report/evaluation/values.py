"""What the report's tables say of measured figures."""

from __future__ import annotations

from advrbd_plugin.evaluation.result import Result
from advrbd_plugin.report.evaluation.measured import Mean
from advrbd_plugin.table import NOT_MEASURED, Value, percent

PERCENT, PLAIN = "percent", "plain"
INCOMPLETE, OTHER_ALGORITHM = "*", "\u2020"


def value_of(mean: Mean, paper: float | None = None, *, kind: str = PERCENT, link: str = "") -> Value:
    """A mean with its marks: an asterisk where cells are missing from it, a dagger where another algorithm made one."""
    if mean.value is None:
        text = NOT_MEASURED
    else:
        text = percent(mean.value) if kind == PERCENT else f"{mean.value:.3f}"
        text += "" if mean.is_complete else INCOMPLETE
        text += OTHER_ALGORITHM if mean.other_algorithm else ""
    return Value(text, "" if paper is None else percent(paper, 2), link)


def mark_of(result: Result | None) -> str:
    """What stands where a cell has no figures."""
    return NOT_MEASURED if result is None else str(result.content["status"])


def dagger_note(other_algorithm: int, done: int) -> tuple[str, ...]:
    """The footnote that says how many cells bear a dagger; none where none does.

    Args:
        other_algorithm: cells of another or an unknown version of AdvrBD.
        done: cells that depend on AdvrBD's verdicts.
    """
    if not other_algorithm:
        return ()
    cells = f"{other_algorithm} of {done} {'cell' if done == 1 else 'cells'}"
    return (
        f"{OTHER_ALGORITHM} {cells} with AdvrBD's verdicts: made by another or an unknown version of the algorithm.",
    )
