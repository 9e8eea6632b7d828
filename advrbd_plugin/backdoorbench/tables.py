"""The comparison as a table on the screen, and the same as CSV, Markdown and LaTeX.

One record: a row for each defense. Several: the papers' layout, attacks down, defenses across, averages below.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from advrbd_plugin.evaluation.compare import UNDEFENDED, Cell
from advrbd_plugin.files import write_text

_MISSING = "-"
_ONE_RECORD = ["defense", "ACC", "ASR", "RA", "TPR", "FPR", "time", "memory"]
_COLUMNS = (
    "record",
    "defense",
    "ACC",
    "ASR",
    "RA",
    "ACC_change",
    "ASR_change",
    "RA_change",
    "TPR",
    "FPR",
    "seconds",
    "peak_memory_MiB",
    "peak_cuda_MiB",
    "problem",
)


def write_tables(cells: Sequence[Cell], folder: Path, name: str = "comparison") -> list[Path]:
    """Write ``NAME.csv`` (fractions), ``NAME.md`` and ``NAME.tex`` (per cent) into ``folder``; return their paths."""
    header, rows = layout(cells)
    contents = {"csv": to_csv(cells), "md": to_markdown(header, rows), "tex": to_latex(header, rows)}
    paths = [folder / f"{name}.{ending}" for ending in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        write_text(path, content)
    return paths


def layout(cells: Sequence[Cell]) -> tuple[list[str], list[list[str]]]:
    """Return header and rows, in per cent, for one record or for several."""
    records = list(dict.fromkeys(cell.record for cell in cells))
    return _one_record(cells) if len(records) == 1 else _several_records(cells, records)


def to_csv(cells: Sequence[Cell]) -> str:
    """One row for each cell, shares as fractions, empty where there is no figure."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for cell in cells:
        base = _undefended(cells, cell.record)
        changes = [_difference(cell, base, name) for name in ("acc", "asr", "ra")]
        memory = [_mebibytes(cell.peak_memory_bytes), _mebibytes(cell.peak_cuda_bytes)]
        row = [cell.record, cell.defense, cell.acc, cell.asr, cell.ra, *changes, cell.tpr, cell.fpr]
        row += [None if cell.seconds is None else round(cell.seconds, 1), *memory, cell.problem]
        writer.writerow(["" if value is None else value for value in row])
    return text.getvalue()


def to_markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, figures to the right."""
    lines = ["| " + " | ".join(header) + " |", "| --- |" + " ---: |" * (len(header) - 1)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def to_latex(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A tabular for booktabs."""
    escape = str.maketrans({"_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#"})
    body = [" & ".join(cell.translate(escape) for cell in row) + r" \\" for row in rows]
    lines = [
        r"\begin{tabular}{l" + "r" * (len(header) - 1) + "}",
        r"\toprule",
        " & ".join(name.translate(escape) for name in header) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def show(cells: Sequence[Cell]) -> None:
    """Print the table, and why the cells that have no figures have none."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    header, rows = layout(cells)
    changes = "; (change against no defense)" if header == _ONE_RECORD else ""
    table = Table(caption=f"per cent; ACC and RA: higher is better, ASR: lower is better{changes}")
    for number, name in enumerate(header):
        table.add_column(Text(name), justify="right" if number else "left", no_wrap=number == 0)
    for row in rows:
        table.add_row(*map(Text, row))  # in a string, a record named [/x] would be markup
    # A terminal that is too narrow gets broken cells; a file gets whole lines, however long.
    console = Console(width=None if _is_terminal() else 1000, highlight=False)
    console.print(table)
    for cell in cells:
        if cell.problem:
            console.print(f"{cell.record} / {cell.defense}: {cell.problem}", soft_wrap=True, markup=False)


def _one_record(cells: Sequence[Cell]) -> tuple[list[str], list[list[str]]]:
    rows = []
    for cell in cells:
        base = _undefended(cells, cell.record)
        shares = [_with_change(cell, base, name) for name in ("acc", "asr", "ra")]
        rows.append([_name(cell), *shares, _percent(cell.tpr), _percent(cell.fpr), _time(cell), _memory(cell)])
    return _ONE_RECORD, rows


def _several_records(cells: Sequence[Cell], records: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    defenses = list(dict.fromkeys(cell.defense for cell in cells))
    found = {(cell.record, cell.defense): cell for cell in cells}
    header = ["attack (ACC / ASR / RA)", *map(_label, defenses)]
    rows = []
    for record in records:
        rows.append([record, *(_figures([found[record, defense]]) for defense in defenses)])
    rows.append(["average", *(_figures([found[record, defense] for record in records]) for defense in defenses)])
    return header, rows


def _figures(cells: Sequence[Cell]) -> str:
    """Averages over the cells that have figures, and over how many of them if some have none.

    A method that only detects has TPR and FPR in place of the model's figures.
    """
    for names, text in ((("acc", "asr", "ra"), "{} / {} / {}"), (("tpr", "fpr"), "TPR {} FPR {}")):
        complete = [cell for cell in cells if None not in [getattr(cell, name) for name in names]]
        if complete:
            shares = [_percent(fmean(getattr(cell, name) for cell in complete)) for name in names]
            counted = f" ({len(complete)} of {len(cells)})" if len(complete) < len(cells) else ""
            return text.format(*shares) + counted
    return "failed" if any(cell.problem for cell in cells) else _MISSING


def _undefended(cells: Sequence[Cell], record: str) -> Cell | None:
    return next((cell for cell in cells if cell.record == record and cell.defense == UNDEFENDED), None)


def _difference(cell: Cell, base: Cell | None, name: str) -> float | None:
    value, reference = getattr(cell, name), getattr(base, name) if base else None
    return None if value is None or reference is None or cell is base else value - reference


def _with_change(cell: Cell, base: Cell | None, name: str) -> str:
    difference = _difference(cell, base, name)
    return _percent(getattr(cell, name)) + ("" if difference is None else f" ({100 * difference:+.1f})")


def _label(defense: str) -> str:
    return "no defense" if defense == UNDEFENDED else defense


def _name(cell: Cell) -> str:
    return _label(cell.defense) + (" (failed)" if cell.problem and cell.acc is None and cell.tpr is None else "")


def _percent(share: float | None) -> str:
    return _MISSING if share is None else f"{100 * share:.1f}"


def _time(cell: Cell) -> str:
    return _MISSING if cell.seconds is None else f"{cell.seconds:.0f} s"


def _memory(cell: Cell) -> str:
    sizes = [_mebibytes(size) for size in (cell.peak_memory_bytes, cell.peak_cuda_bytes)]
    told = [f"{size} MiB{where}" for size, where in zip(sizes, ("", " GPU"), strict=True) if size is not None]
    return " + ".join(told) or _MISSING


def _mebibytes(size: int | None) -> int | None:
    return None if size is None else round(size / 2**20)


def _is_terminal() -> bool:
    import sys

    return sys.stdout.isatty()
