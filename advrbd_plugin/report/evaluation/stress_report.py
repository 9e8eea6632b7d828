"""The report on the stress suite, from all its results in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.evaluation.algorithm import current_algorithm
from advrbd_plugin.evaluation.cell import STRESS, UNDEFENDED
from advrbd_plugin.evaluation.result import Result, read_results
from advrbd_plugin.evaluation.stress_bars import StressRow, collect_rows
from advrbd_plugin.evaluation.stress_grid import REFERENCE
from advrbd_plugin.files import write_json, write_text
from advrbd_plugin.report.evaluation.stress_tables import (
    LEGEND,
    csv_table,
    row_mapping,
    suite_table,
    triggers_table,
)
from advrbd_plugin.report.template import render
from advrbd_plugin.table import Table

TITLE = "The stress suite"


def write_stress_report(out: str | Path) -> list[Path]:
    """Write ``report.md``, ``report.csv``, ``report.json`` and ``report.html`` into the folder ``stress`` of ``out``.

    Returns:
        What was written.

    Raises:
        AdvrBDError: there are no results of the suite, or a file in the way is none.
    """
    results = {result.cell: result for result in read_results(out) if result.cell.scale == STRESS}
    rows = collect_rows(results)
    if not rows:
        raise AdvrBDError(f"{out} holds no defended set of the stress suite: run `advrbd reproduce --suite stress`")
    without = [result for result in results.values() if not result.is_done]
    tables = _tables(rows, without)
    paths = {name: Path(out) / STRESS / f"report.{name}" for name in ("md", "csv", "json", "html")}
    text = "\n".join([f"# {TITLE}\n", *(f"{line}\n" for line in LEGEND), *(table.markdown() for table in tables)])
    write_text(paths["md"], text)
    write_text(paths["csv"], csv_table(rows).csv())
    failed = [{"cell": each.cell.name, "status": each.content["status"], "reason": each.reason} for each in without]
    content = {"algorithm": current_algorithm(), "sets": list(map(row_mapping, rows)), "without_figures": failed}
    write_json(paths["json"], content)
    write_text(paths["html"], _page(tables))
    return list(paths.values())


def _tables(rows: Sequence[StressRow], without: Sequence[Result]) -> list[Table]:
    """A table for each network and method, and one of the triggers."""
    kinds = dict.fromkeys((row.defended.cell.method, row.defended.cell.model) for row in rows)
    tables = []
    for method, model in kinds:
        own = [row for row in rows if (row.defended.cell.method, row.defended.cell.model) == (method, model)]
        methods = (UNDEFENDED, REFERENCE, method)
        missing = [each for each in without if each.cell.model == model and each.cell.method in methods]
        tables.append(suite_table(method, model, own, missing))
        triggers = triggers_table(own)
        tables += [triggers] if triggers.rows else []
    return tables


def _page(tables: Sequence[Table]) -> str:
    return render("stress.html", title=TITLE, legend=LEGEND, tables=tables)
