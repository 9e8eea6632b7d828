"""A table of texts, written as Markdown, LaTeX, HTML, CSV or for a terminal."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import rich.table

NOT_MEASURED = "\u2013"
_LATEX = {each: f"\\{each}" for each in "&%$#_{}"}
_LATEX |= {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\u2013": "--",
    "\u2020": r"\dag{}",
}


@dataclass(frozen=True)
class Value:
    """An entry that says more than its text.

    Attributes:
        text: the figure, or a mark where there is none.
        reference: a published figure to compare with, shown in brackets; or ``""``.
        link: the file that the figure comes from, or ``""``; Markdown and HTML link to it.
    """

    text: str
    reference: str = ""
    link: str = ""


Entry: TypeAlias = "str | Value"


@dataclass(frozen=True)
class Table:
    """Attributes:
    columns: names of the columns.
    rows: one entry for each column.
    title: one line; or ``""``.
    groups: (name, number of columns) of a second header above the last columns; or empty.
    align: ``l`` or ``r`` for each column from the left; the columns beyond it are ``r``.
    notes: sentences below the table.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Entry, ...], ...]
    title: str = ""
    groups: tuple[tuple[str, int], ...] = ()
    align: str = "l"
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        wrong = [row for row in self.rows if len(row) != len(self.columns)]
        if wrong:
            raise ValueError(f"a row has {len(wrong[0])} entries for {len(self.columns)} columns")

    def markdown(self) -> str:
        """The title as a heading, the table, and the notes as paragraphs."""
        names = [f"{group} {name}".strip() for group, name in zip(self._group_names(), self.columns, strict=True)]
        rules = ["---" if side == "l" else "---:" for side in self._sides()]
        rows = [[_markdown(entry) for entry in row] for row in self.rows]
        heading = [f"### {self.title}", ""] if self.title else []
        return "\n".join([*heading, *map(_markdown_line, (names, rules, *rows)), *self._paragraphs()]) + "\n"

    def latex(self, *, booktabs: bool = False) -> str:
        """A ``table`` environment; a bare ``tabular`` where there is no title.

        Args:
            booktabs: draw the lines of the package booktabs; otherwise no package is needed.
        """
        top, middle, bottom = (r"\toprule", r"\midrule", r"\bottomrule") if booktabs else (r"\hline",) * 3
        groups = [self._latex_groups()] if self.groups else []
        names = _latex_line(map(_escape_latex, self.columns))
        rows = [_latex_line(_escape_latex(_plain(entry)) for entry in row) for row in self.rows]
        sides = "".join(self._sides())
        lines = [f"\\begin{{tabular}}{{{sides}}}", top, *groups, names, middle, *rows, bottom, r"\end{tabular}"]
        if not self.title:
            return "\n".join(lines) + "\n"
        head = [r"\begin{table}", f"\\caption{{{_escape_latex(self.title)}}}"]
        return "\n".join([*head, *lines, *map(_escape_latex, self._paragraphs()), r"\end{table}"]) + "\n"

    def html(self) -> str:
        """A heading, a table that scrolls sideways, and the notes; right-aligned cells have the class ``number``."""
        classes = ["" if side == "l" else ' class="number"' for side in self._sides()]
        heads = [f"<th{kind}>{html.escape(name)}</th>" for name, kind in zip(self.columns, classes, strict=True)]
        lines = [f"<h2>{html.escape(self.title)}</h2>"] if self.title else []
        lines.append('<div class="scroll"><table>')
        if self.groups:
            lines.append(_html_row(self._html_groups()))
        lines.append(_html_row(heads))
        for row in self.rows:
            lines.append(_html_row(f"<td{kind}>{_html(entry)}</td>" for entry, kind in zip(row, classes, strict=True)))
        lines.append("</table></div>")
        lines += [f'<p class="soft">{html.escape(note)}</p>' for note in self.notes]
        return "\n".join(lines) + "\n"

    def csv(self) -> str:
        """The columns' names and the rows, without title and notes; lines end in ``\\n``."""
        rows = ([_plain(entry) for entry in row] for row in self.rows)
        return "".join(map(_csv_line, (self.columns, *rows)))

    def terminal(self, caption: str = "") -> rich.table.Table:
        """The table for a console of ``rich``; no text in it is read as markup."""
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(title=Text(self.title) if self.title else None, caption=Text(caption) if caption else None)
        for number, (name, side) in enumerate(zip(self.columns, self._sides(), strict=True)):
            table.add_column(Text(name), justify="left" if side == "l" else "right", no_wrap=number == 0)
        for row in self.rows:
            table.add_row(*(Text(_plain(entry)) for entry in row))
        return table

    def _sides(self) -> list[str]:
        return list(self.align.ljust(len(self.columns), "r"))

    def _group_names(self) -> list[str]:
        """The group of each column, ``""`` where it has none."""
        names = [name for name, width in self.groups for _ in range(width)]
        return [""] * (len(self.columns) - len(names)) + names

    def _ungrouped(self) -> int:
        """How many columns stand before the groups."""
        return len(self.columns) - sum(width for _, width in self.groups)

    def _latex_groups(self) -> str:
        heads = [f"\\multicolumn{{{width}}}{{c}}{{{_escape_latex(name)}}}" for name, width in self.groups]
        return _latex_line([*[""] * self._ungrouped(), *heads])

    def _html_groups(self) -> list[str]:
        heads = [f'<th class="group" colspan="{width}">{html.escape(name)}</th>' for name, width in self.groups]
        return ["<th></th>"] * self._ungrouped() + heads

    def _paragraphs(self) -> list[str]:
        return [f"\n{note}" for note in self.notes]


def percent(share: float | None, digits: int = 1, *, missing: str = NOT_MEASURED) -> str:
    """A fraction in percent, without the sign; ``missing`` where there is none."""
    return missing if share is None else f"{100 * share:.{digits}f}"


def percentage(share: float | None, *, missing: str = "-") -> str:
    """A fraction for people: one decimal and the sign; what is not quite all or nothing is not rounded to it."""
    if share is None or share != share:
        return missing
    if 0 < share < 0.0005:
        return "<0.1%"
    return ">99.9%" if 0.9995 <= share < 1 - 1e-9 else f"{100 * share:.1f}%"


def _plain(entry: Entry) -> str:
    if isinstance(entry, str):
        return entry
    return f"{entry.text} ({entry.reference})" if entry.reference else entry.text


def _markdown(entry: Entry) -> str:
    if isinstance(entry, str):
        return entry
    text = f"[{entry.text}]({entry.link})" if entry.link else entry.text
    return f"{text} ({entry.reference})" if entry.reference else text


def _markdown_line(entries: Sequence[str]) -> str:
    return "| " + " | ".join(entry.replace("|", "\\|") for entry in entries) + " |"


def _csv_line(entries: Sequence[str]) -> str:
    text = io.StringIO()
    # With \r\n for the end of a line, the writer quotes entries that hold either of the two.
    csv.writer(text, lineterminator="\r\n").writerow(entries)
    return text.getvalue()[:-2] + "\n"


def _latex_line(entries: Iterable[str]) -> str:
    return " & ".join(entries) + r" \\"


def _escape_latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def _html(entry: Entry) -> str:
    if isinstance(entry, str):
        return html.escape(entry)
    text = html.escape(entry.text)
    linked = f'<a href="{html.escape(entry.link)}">{text}</a>' if entry.link else text
    return linked + (f' <span class="soft">({html.escape(entry.reference)})</span>' if entry.reference else "")


def _html_row(cells: Iterable[str]) -> str:
    return f"  <tr>{''.join(cells)}</tr>"
