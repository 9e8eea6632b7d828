"""``report.html``: one page with everything inside it, to open, mail or keep."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from advrbd_plugin.report import figures
from advrbd_plugin.report.record import RunRecord
from advrbd_plugin.report.text import one_line, printable

_GALLERY = 48
_EVIDENCE_ROWS = 50


def report_html(record: RunRecord, summary: Mapping[str, Any], comparison: Mapping[str, Any] | None = None) -> str:
    """The page as text; images are data URIs and nothing is loaded from elsewhere.

    Args:
        summary: what :func:`advrbd_plugin.report.record.summarise` gives.
        comparison: where the truth is known: ``attack``, ``columns`` and ``rows`` of a table of ready texts.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("advrbd_plugin.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("report.html").render(
        summary=printable(summary),
        comparison=comparison,
        gallery=_gallery(record),
        evidence=_evidence(record),
        scores=data_uri(figures.scores_svg(record), "image/svg+xml"),
        classes=data_uri(figures.classes_svg(record), "image/svg+xml"),
        curves=data_uri(figures.curves_svg(record), "image/svg+xml"),
        seconds_total=duration(sum(summary["seconds"].values())),
    )


def duration(seconds: float) -> str:
    """``42 s``, ``7 min 05 s`` or ``3 h 20 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _gallery(record: RunRecord) -> list[dict[str, str]]:
    names, verdicts = record.image_set.class_names, record.result.verdicts
    return [
        {
            "image": data_uri(figures.thumbnail_png(record.image_set.images[index]), "image/png"),
            "label": one_line(names[int(record.image_set.labels[index])]),
            "suggestion": one_line(names[int(verdicts.suggested_label[index])]),
            "path": one_line(record.path(index)),
            "score": f"score {float(verdicts.score[index]):.3g}",
        }
        for index in record.most_suspicious(_GALLERY)
    ]


def _evidence(record: RunRecord) -> list[dict[str, str]]:
    """What spoke for and against each label, as ready texts; the suspected first."""
    names, suspected = record.image_set.class_names, record.result.suspected_classes
    rows = [row for rows in record.result.curves.values() if rows and figures.is_by_label(rows) for row in rows]
    rows = sorted(rows, key=lambda row: int(row["label"]) not in suspected)[:_EVIDENCE_ROWS]
    return [
        {
            key.replace("_", " "): one_line(names[int(value)]) if key == "label" else f"{value:.4g}"
            for key, value in row.items()
        }
        for row in rows
    ]


def data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
