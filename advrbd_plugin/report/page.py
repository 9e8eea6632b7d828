"""``report.html``: one self-contained page."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from advrbd_plugin.report import figures
from advrbd_plugin.report.histogram import histogram_svg
from advrbd_plugin.report.links import Links
from advrbd_plugin.report.pictures import data_uri, galleries
from advrbd_plugin.report.record import VERDICTS, RunRecord, verdict_codes
from advrbd_plugin.report.template import render
from advrbd_plugin.report.text import one_line, printable
from advrbd_plugin.report.trigger import triggers
from advrbd_plugin.report.verdict_rows import rows_json, script, script_hash
from advrbd_plugin.report.wording import answer
from advrbd_plugin.table import percentage

_CLASS_ROWS = 50
_METER = 5  # rem, of a class that is wholly poisoned
# The stages (advrbd_plugin/defense/planning.py) for a reader of the page.
STAGE_MEANINGS = {
    "training": "trains a model on everything",
    "scoring": "measures how steady its answer to each picture is",
    "detection": "looks for classes that are the target of an attack",
    "enhancement": "teaches a copy of the model to react to the trigger alone",
    "retraining": "trains a model without the poisoned pictures",
    "relearning": "trains it on, the poisoned pictures under their suggested labels",
}


def report_html(
    record: RunRecord,
    summary: Mapping[str, Any],
    place: str | os.PathLike[str],
    comparison: Mapping[str, Any] | None = None,
) -> str:
    """The page as text; images are data URIs, and nothing is loaded from elsewhere.

    Args:
        summary: what :func:`advrbd_plugin.report.record.summarise` gives, with ``models`` of
            :func:`advrbd_plugin.report.before_after.before_and_after`.
        place: the folder that the page will lie in; links to the user's files start there.
        comparison: where the truth is known: ``attack``, ``columns`` and ``rows`` of a table of ready texts.
    """
    links, verdicts = Links.of(record, place), record.result.verdicts
    codes = verdict_codes(verdicts)
    return render(
        "report.html",
        summary=printable(summary),
        judged=record.result.trained_enough,
        answer=answer(record, summary, os.fspath(place)),
        out=one_line(os.fspath(place)),
        triggers=triggers(record, links),
        galleries=galleries(record, links) if record.result.trained_enough else [],
        models=_models(summary) if record.result.trained_enough else None,
        classes=_classes(record, summary),
        sentences=[one_line(each.sentence) for each in record.result.findings[:_CLASS_ROWS] if each.sentence],
        comparison=comparison,
        histogram=_markup(histogram_svg(verdicts.score, codes)),
        curves=[(stage, data_uri(drawn, "image/svg+xml")) for stage, drawn in figures.curves_svgs(record).items()],
        stages=[
            (stage, STAGE_MEANINGS.get(stage, ""), duration(seconds)) for stage, seconds in summary["seconds"].items()
        ],
        seconds_total=duration(sum(summary["seconds"].values())),
        verdicts=VERDICTS,
        percentage=percentage,
        rows=rows_json(record, links),
        script=script(),
        script_hash=script_hash(),
    )


def duration(seconds: float) -> str:
    """``42 s``, ``7 min 05 s`` or ``3 h 20 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _markup(text: str) -> Any:
    from markupsafe import Markup

    return Markup(text)


def _models(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    figures = summary.get("models")
    if figures is None:
        return None
    names = {"before": "trained on everything", "after": "trained without the poisoned pictures"}
    return {
        "title": "Before and after" if "after" in figures else "What the model learned",
        "trusted": figures["trusted_images"],
        "poisoned": figures["poisoned_images"],
        "rows": [(words, figures[name]) for name, words in names.items() if name in figures],
    }


def _classes(record: RunRecord, summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of the classes, the suspected and the most probable targets first."""
    probabilities = {each.label: each.probability for each in record.result.findings}
    rows = [
        {
            "name": one_line(name),
            "suspected": label in record.result.suspected_classes,
            "order": probabilities.get(label, 0.0),
            "probability": percentage(probabilities.get(label)),
            "width": round(_METER * counts["poisoned"] / max(1, counts["images"]), 2),
            **counts,
        }
        for label, (name, counts) in enumerate(summary["classes"].items())
    ]
    return sorted(rows, key=lambda row: (not row["suspected"], -row["order"], -row["poisoned"]))[:_CLASS_ROWS]
