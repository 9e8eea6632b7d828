"""Tables as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from advrbd_plugin.report.evaluation.table import Table, Value
from advrbd_plugin.report.evaluation.targets import Target


def table_markdown(table: Table) -> str:
    """A table with its title and notes; our figures link to their files, the paper's stand in brackets."""
    names = [f"{group} {name}".strip() for group, name in zip(_groups(table), table.columns, strict=True)]
    rule = ["---"] * table.labels + ["---:"] * (len(names) - table.labels)
    rows = [(*labels, *map(_value, values)) for labels, values in table.rows]
    lines = [f"### {table.title}", "", *(_line(row) for row in (names, rule, *rows))]
    return "\n".join([*lines, *(f"\n{note}" for note in table.notes)]) + "\n"


def targets_markdown(targets: Sequence[Target], curves: dict[str, str]) -> str:
    """The targets with links to the curves of the cells that miss them.

    Args:
        curves: name of a cell -> its picture's file.
    """
    lines = [_line(("Target", "Ours", "")), _line(("---", "---:", "---"))]
    for target in targets:
        links = ", ".join(f"[{cell.name}]({curves[cell.name]})" for cell in target.cells if cell.name in curves)
        lines.append(_line((target.text, target.value, target.state + (f": curves of {links}" if links else ""))))
    return "\n".join(["### Targets", "", *lines]) + "\n"


def _groups(table: Table) -> list[str]:
    """The upper header's name of each column, ``""`` where it has none."""
    names = [name for name, width in table.groups for _ in range(width)]
    return [""] * (len(table.columns) - len(names)) + names


def _value(value: Value) -> str:
    text = f"[{value.text}]({value.link})" if value.link else value.text
    return f"{text} ({value.paper})" if value.paper else text


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
