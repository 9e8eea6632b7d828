"""A table before it is written in any language: what its cells say, and how that is put into words."""

from __future__ import annotations

from dataclasses import dataclass, field

from advrbd_plugin.evaluation.result import Result
from advrbd_plugin.report.evaluation.measured import Mean

NOT_MEASURED = "\u2013"
PERCENT, PLAIN = "percent", "plain"


@dataclass(frozen=True)
class Value:
    """What one cell of a table says.

    Attributes:
        text: our figure, or a mark where there is none.
        paper: the paper's, or ``""``.
        link: the result's file, relative to the results' folder, or ``""``.
    """

    text: str
    paper: str = ""
    link: str = ""


@dataclass(frozen=True)
class Table:
    """Attributes:
    title: one line.
    groups: (name, number of columns) of the upper header, or empty.
    columns: names of the lower header; the first ``labels`` of them name the rows.
    rows: each with its labels and then its values.
    labels: how many columns name the rows.
    notes: sentences below it.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[tuple[str, ...], tuple[Value, ...]], ...]
    groups: tuple[tuple[str, int], ...] = ()
    labels: int = 1
    notes: tuple[str, ...] = field(default=())


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction in percent; a dash where there is none."""
    return NOT_MEASURED if value is None else f"{100 * value:.{digits}f}"


def value_of(mean: Mean, paper: float | None = None, *, kind: str = PERCENT, link: str = "") -> Value:
    """A mean as a table says it, with an asterisk where cells are missing from it."""
    text = percent(mean.value) if kind == PERCENT or mean.value is None else f"{mean.value:.3f}"
    mark = "" if mean.value is None or mean.is_complete else "*"
    return Value(text + mark, "" if paper is None else percent(paper, 2), link)


def mark_of(result: Result | None) -> str:
    """What stands where a cell has no figures."""
    return NOT_MEASURED if result is None else result.content["status"]
