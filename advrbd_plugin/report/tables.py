"""The machine-readable tables: a verdict on every sample, and the curves of every stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from advrbd_plugin.files import finite
from advrbd_plugin.report.record import RunRecord
from advrbd_plugin.report.text import spreadsheet_cell
from advrbd_plugin.table import Table

VERDICT_COLUMNS = ("path", "label", "score", "verdict", "suggested_label")


def verdicts_csv(record: RunRecord) -> str:
    """One row a sample in the order of the paths; a higher score is more suspicious.

    Paths and class names (the labels) are those on the disk, character for character; see
    :func:`advrbd_plugin.report.text.spreadsheet_cell` for the one exception. ``suggested_label`` is a guess that
    training can use, never the truth.
    """
    verdicts, labels = record.result.verdicts, record.image_set.labels
    names = [spreadsheet_cell(name) for name in record.image_set.class_names]
    rows = tuple(
        (
            spreadsheet_cell(record.path(index)),
            names[label],
            f"{score:.7g}",
            "poisoned" if poisoned else "clean",
            names[suggested],
        )
        for index, (label, score, poisoned, suggested) in enumerate(
            zip(
                labels.tolist(),
                verdicts.score.tolist(),
                verdicts.poisoned.tolist(),
                verdicts.suggested_label.tolist(),
                strict=True,
            )
        )
    )
    return Table(VERDICT_COLUMNS, rows).csv()


def curves_csv(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """All stages below one another: stage, row (from 0), then one column for each figure that any stage has."""
    figures = list(dict.fromkeys(name for rows in curves.values() for row in rows for name in row))
    rows = tuple(
        (stage, str(number), *(_entry(row.get(name)) for name in figures))
        for stage, stage_rows in curves.items()
        for number, row in enumerate(stage_rows)
    )
    return Table(("stage", "row", *figures), rows).csv()


def _entry(value: Any) -> str:
    value = finite(value)
    return "" if value is None else str(value)
