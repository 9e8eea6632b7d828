"""``report.html``: one self-contained page."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from advrbd_plugin.report import figures
from advrbd_plugin.report.record import RunRecord
from advrbd_plugin.report.text import one_line, printable

_GALLERY = 48
_EVIDENCE_ROWS = 50
# The columns of LabelEvidence (advrbd_plugin/defense/detection.py) for a reader of the page.
_EVIDENCE_MEANINGS = {
    "samples": "samples that carry this label.",
    "gain": "how much better two Gaussians explain these samples than one (difference of BIC per sample).",
    "separation": "distance of the two clusters' means, in standard deviations.",
    "share": "size of the suspicious cluster, as a share of the class.",
    "predicted share": "share of the suspicious cluster that the backdoored model predicts as this class.",
    "predicted share of rest": "the same of the other cluster.",
    "entropy gap": "entropy (nats) of the model's runner-up classes in the suspicious cluster, less that in the other; "
    "triggered samples come from many classes.",
    "suspected": "1 where the class is taken for a target of the attack.",
    "rejected": "1 where the class was suspected at first, and a retrained model did not confirm it.",
}


def report_html(record: RunRecord, summary: Mapping[str, Any], comparison: Mapping[str, Any] | None = None) -> str:
    """The page as text; images are data URIs and nothing is loaded from elsewhere.

    Args:
        summary: what :func:`advrbd_plugin.report.record.summarise` gives.
        comparison: where the truth is known: ``attack``, ``columns`` and ``rows`` of a table of ready texts.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    evidence = _evidence(record)
    environment = Environment(
        loader=PackageLoader("advrbd_plugin.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("report.html").render(
        summary=printable(summary),
        comparison=comparison,
        gallery=_gallery(record),
        evidence=evidence,
        meanings=[(name, meaning) for name, meaning in _EVIDENCE_MEANINGS.items() if evidence and name in evidence[0]],
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
    """The evidence for each class as texts, the suspected classes first."""
    names, suspected = record.image_set.class_names, record.result.suspected_classes
    rows = [row for rows in record.result.curves.values() if rows and figures.is_by_label(rows) for row in rows]
    rows = sorted(rows, key=lambda row: int(row["label"]) not in suspected)[:_EVIDENCE_ROWS]
    return [
        {
            "class" if key == "label" else key.replace("_", " "): (
                one_line(names[int(value)]) if key == "label" else f"{value:.4g}"
            )
            for key, value in row.items()
        }
        for row in rows
    ]


def data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
