"""The comparison as a table on the screen, and the same as CSV, Markdown and LaTeX.

One record: a row for each defense. Several: the papers' layout, attacks down, defenses across, averages below.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from advrbd_plugin.evaluation.compare.cell import UNDEFENDED, CompareCell
from advrbd_plugin.files import write_text
from advrbd_plugin.table import Table, percentage

_MISSING = "-"
_ONE_RECORD = ("defense", "ACC", "ASR", "RA", "TPR", "FPR", "time", "memory")
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


def write_tables(cells: Sequence[CompareCell], folder: Path, name: str = "comparison") -> list[Path]:
    """Write ``NAME.csv`` (fractions), ``NAME.md`` and ``NAME.tex`` (in %) into ``folder``; return their paths."""
    table = layout(cells)
    contents = {"csv": figures_table(cells).csv(), "md": table.markdown(), "tex": table.latex(booktabs=True)}
    paths = [folder / f"{name}.{ending}" for ending in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        write_text(path, content)
    return paths


def layout(cells: Sequence[CompareCell]) -> Table:
    """The figures in %, for one record or for several."""
    records = list(dict.fromkeys(cell.record for cell in cells))
    return _one_record(cells) if len(records) == 1 else _several_records(cells, records)


def figures_table(cells: Sequence[CompareCell]) -> Table:
    """One row for each cell, shares as fractions, empty where there is no figure."""
    rows = []
    for cell in cells:
        base = _undefended(cells, cell.record)
        changes = [_difference(cell, base, name) for name in ("acc", "asr", "ra")]
        memory = [_mebibytes(cell.peak_memory_bytes), _mebibytes(cell.peak_cuda_bytes)]
        seconds = None if cell.seconds is None else round(cell.seconds, 1)
        row = (cell.record, cell.defense, cell.acc, cell.asr, cell.ra, *changes, cell.tpr, cell.fpr)
        rows.append(tuple("" if value is None else str(value) for value in (*row, seconds, *memory, cell.problem)))
    return Table(_COLUMNS, tuple(rows))


def show(cells: Sequence[CompareCell]) -> None:
    """Print the table, and why the cells that have no figures have none."""
    from rich.console import Console

    table = layout(cells)
    changes = "; (change in percentage points against no defense)" if table.columns == _ONE_RECORD else ""
    caption = f"ACC and RA: higher is better, ASR: lower is better{changes}"
    # A terminal that is too narrow gets broken cells; a file gets whole lines, however long.
    console = Console(width=None if sys.stdout.isatty() else 1000, highlight=False)
    console.print(table.terminal(caption))
    for cell in cells:
        if cell.problem:
            console.print(f"{cell.record} / {cell.defense}: {cell.problem}", soft_wrap=True, markup=False)
    unmeasured = [cell for cell in cells if _is_unmeasured(cell)]
    if unmeasured:
        console.print(how_to_measure(unmeasured), soft_wrap=True, markup=False)


def how_to_measure(cells: Sequence[CompareCell]) -> str:
    """How to get the time and memory of defenses that were run by hand."""
    names = ", ".join(dict.fromkeys(cell.defense for cell in cells))
    return (
        f"Run by hand, so time and memory are not known: {names}. The same command with --defenses "
        f"{names.replace(', ', ',')} --rerun runs and measures them, and replaces their results."
    )


def _is_unmeasured(cell: CompareCell) -> bool:
    return cell.defense != UNDEFENDED and cell.is_done and cell.seconds is None


def _one_record(cells: Sequence[CompareCell]) -> Table:
    rows = []
    for cell in cells:
        base = _undefended(cells, cell.record)
        shares = [_with_change(cell, base, name) for name in ("acc", "asr", "ra")]
        rates = (percentage(cell.tpr), percentage(cell.fpr))
        rows.append((_name(cell), *shares, *rates, _time(cell), _memory(cell)))
    return Table(_ONE_RECORD, tuple(rows))


def _several_records(cells: Sequence[CompareCell], records: Sequence[str]) -> Table:
    defenses = list(dict.fromkeys(cell.defense for cell in cells))
    found = {(cell.record, cell.defense): cell for cell in cells}
    rows = [(record, *(_figures([found[record, defense]]) for defense in defenses)) for record in records]
    rows.append(("average", *(_figures([found[record, defense] for record in records]) for defense in defenses)))
    return Table(("attack (ACC / ASR / RA)", *map(_label, defenses)), tuple(rows))


def _figures(cells: Sequence[CompareCell]) -> str:
    """Averages over the cells that have figures, and over how many of them if some have none.

    A method that only detects has TPR and FPR in place of the model's figures.
    """
    for names, text in ((("acc", "asr", "ra"), "{} / {} / {}"), (("tpr", "fpr"), "TPR {} FPR {}")):
        complete = [cell for cell in cells if None not in [getattr(cell, name) for name in names]]
        if complete:
            shares = [percentage(fmean(getattr(cell, name) for cell in complete)) for name in names]
            counted = f" ({len(complete)} of {len(cells)})" if len(complete) < len(cells) else ""
            return text.format(*shares) + counted
    return "failed" if any(cell.problem for cell in cells) else _MISSING


def _undefended(cells: Sequence[CompareCell], record: str) -> CompareCell | None:
    return next((cell for cell in cells if cell.record == record and cell.defense == UNDEFENDED), None)


def _difference(cell: CompareCell, base: CompareCell | None, name: str) -> float | None:
    value, reference = getattr(cell, name), getattr(base, name) if base else None
    return None if value is None or reference is None or cell is base else value - reference


def _with_change(cell: CompareCell, base: CompareCell | None, name: str) -> str:
    difference = _difference(cell, base, name)
    return percentage(getattr(cell, name)) + ("" if difference is None else f" ({100 * difference:+.1f})")


def _label(defense: str) -> str:
    return "no defense" if defense == UNDEFENDED else defense


def _name(cell: CompareCell) -> str:
    return _label(cell.defense) + (" (failed)" if cell.problem and cell.acc is None and cell.tpr is None else "")


def _time(cell: CompareCell) -> str:
    return _MISSING if cell.seconds is None else f"{cell.seconds:.0f} s"


def _memory(cell: CompareCell) -> str:
    sizes = [_mebibytes(size) for size in (cell.peak_memory_bytes, cell.peak_cuda_bytes)]
    told = [f"{size} MiB{where}" for size, where in zip(sizes, ("", " GPU"), strict=True) if size is not None]
    return " + ".join(told) or _MISSING


def _mebibytes(size: int | None) -> int | None:
    return None if size is None else round(size / 2**20)
