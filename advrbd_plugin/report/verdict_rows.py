"""All verdicts as data for the page's table, and the script that shows them."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from importlib.resources import files

from advrbd_plugin.report.links import Links
from advrbd_plugin.report.record import VERDICTS, RunRecord, verdict_codes
from advrbd_plugin.report.text import one_line

_STEPS = 100_000  # probabilities are whole numbers of these on the page


def rows_json(record: RunRecord, links: Links) -> str:
    """Columns of the table, one entry a sample, as JSON that may stand inside a ``<script>`` element.

    The keys: ``names`` (of the classes), ``verdicts`` (what codes mean), ``paths``, ``labels``, ``codes`` (one digit
    each), ``probabilities`` (in 100,000ths), ``suggested`` (row -> label, where it is another one), ``base`` (link to
    the files' folder, or ``null``), ``links`` (row -> link, where it is not the path itself).
    """
    images, verdicts = record.image_set, record.result.verdicts
    labels, suggested = images.labels.tolist(), verdicts.suggested_label.tolist()
    paths = [record.path(index) for index in range(len(images))]
    shown = [one_line(path) for path in paths]
    base = links.base
    content = {
        "names": [one_line(name) for name in images.class_names],
        "verdicts": VERDICTS,
        "paths": shown,
        "labels": labels,
        "codes": "".join(map(str, verdict_codes(verdicts).tolist())),
        "probabilities": (verdicts.score.double().nan_to_num() * _STEPS).round().long().tolist(),
        "suggested": {
            row: other for row, (own, other) in enumerate(zip(labels, suggested, strict=True)) if own != other
        },
        "base": base,
        "links": {}
        if base is None
        else {row: links.to(path) for row, (path, text) in enumerate(zip(paths, shown, strict=True)) if path != text},
    }
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@cache
def script() -> str:
    """The page's script."""
    return (files("advrbd_plugin.report") / "templates" / "report.js").read_text(encoding="utf-8")


def script_hash() -> str:
    """What names that script, and no other, in the page's security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script().encode()).digest()).decode("ascii")
