"""The machine-readable tables: a verdict on every sample, and the curves of every stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from advrbd_plugin.defense.result import NO_VERDICT
from advrbd_plugin.files import finite
from advrbd_plugin.report.record import VERDICTS, RunRecord, verdict_codes
from advrbd_plugin.report.text import spreadsheet_cell
from advrbd_plugin.table import Table

VERDICT_COLUMNS = ("path", "label", "verdict", "probability", "suggested_label")
"""The first is ``id`` where the pictures came from no files."""


def verdicts_csv(record: RunRecord) -> str:
    """One row a sample in the order of the paths; ``probability`` is that of poison.

    Paths and class names (the labels) are those on the disk, character for character; see
    :func:`advrbd_plugin.report.text.spreadsheet_cell` for the one exception. ``verdict`` is one of
    :data:`advrbd_plugin.report.record.VERDICTS`, or ``unknown`` where the model was not trained enough.
    ``suggested_label`` is a guess that training can use, never the truth.
    """
    verdicts, images = record.result.verdicts, record.image_set
    names = [spreadsheet_cell(name) for name in images.class_names]
    identities = images.sample_ids.tolist() if images.paths is None else map(spreadsheet_cell, images.paths)
    columns = (
        map(str, identities),
        (names[label] for label in images.labels.tolist()),
        (VERDICTS[code] if record.result.trained_enough else NO_VERDICT for code in verdict_codes(verdicts).tolist()),
        (f"{score:.7g}" for score in verdicts.score.tolist()),
        (names[label] for label in verdicts.suggested_label.tolist()),
    )
    first = "id" if images.paths is None else "path"
    return Table((first, *VERDICT_COLUMNS[1:]), tuple(zip(*columns, strict=True))).csv()


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
