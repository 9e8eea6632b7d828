"""Tables as LaTeX that needs no package."""

from __future__ import annotations

from collections.abc import Sequence

from advrbd_plugin.report.evaluation.table import Table, Value

_SPECIAL = {each: f"\\{each}" for each in "&%$#_{}"}
_SPECIAL |= {"\u2013": "--", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def table_latex(table: Table) -> str:
    """A ``table`` environment; the paper's figures stand in brackets behind ours."""
    columns = "l" * table.labels + "r" * (len(table.columns) - table.labels)
    lines = [r"\begin{table}", f"\\caption{{{_escape(table.title)}}}", f"\\begin{{tabular}}{{{columns}}}", r"\hline"]
    if table.groups:
        heads = [f"\\multicolumn{{{width}}}{{c}}{{{_escape(name)}}}" for name, width in table.groups]
        lines.append(_line([*[""] * table.labels, *heads]))
    lines += [_line([_escape(name) for name in table.columns]), r"\hline"]
    lines += [_line([*map(_escape, labels), *map(_value, values)]) for labels, values in table.rows]
    lines += [r"\hline", r"\end{tabular}", *(f"\n{_escape(note)}" for note in table.notes), r"\end{table}"]
    return "\n".join(lines) + "\n"


def _value(value: Value) -> str:
    return _escape(f"{value.text} ({value.paper})" if value.paper else value.text)


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _escape(text: str) -> str:
    return "".join(_SPECIAL.get(character, character) for character in text.replace("\\", "/"))
