"""Files that a defense or a detection wrote into its record."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from advrbd_plugin import limits
from advrbd_plugin.backdoorbench import safe_pickle
from advrbd_plugin.backdoorbench.record import AttackRecord
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.plain import read_text


def defense_folder(record: AttackRecord, name: str) -> Path:
    """The folder in which the toolbox stores a defense's results."""
    return record.folder / "defense" / name


def notes_path(record: AttackRecord, name: str) -> Path:
    """The file that stores the cell."""
    return defense_folder(record, name) / "compare.json"


def is_result(path: Path) -> bool:
    """Whether a defense got as far as saving its model (a loss of NaN leaves an empty dictionary)."""
    try:
        # Asked of any record, so by the allow-list alone.
        return path.is_file() and "model" in safe_pickle.load(path)
    except (AdvrBDError, TypeError):
        return False


def has_own_detection(record: AttackRecord, name: str) -> bool:
    """Whether the defense also detects poisoned samples, as AdvrBD does."""
    return (defense_folder(record, name) / "detection_info.csv").is_file()


def detection_rates(record: AttackRecord, name: str) -> tuple[float, float] | None:
    """TPR and FPR of the newest row of the method's ``detection_info.csv``, wherever the toolbox puts it."""
    places = (f"defense/{name}", f"detection/{name}_pretrain", f"detection_pretrain/{name}")
    for place in places:
        path = record.folder / place / "detection_info.csv"
        if path.is_file():
            return _rates(read_text(path, limit=limits.MAX_TABLE_BYTES).splitlines())
    return None


def _rows(lines: Iterable[str]) -> list[list[str]]:
    """The rows of a table; none of one that is damaged."""
    try:
        return list(csv.reader(lines))
    except csv.Error:
        return []


def _rates(lines: Iterable[str]) -> tuple[float, float] | None:
    """The last row's rates; the toolbox repeats the header before every row."""
    header: list[str] = []
    rates = None
    for row in _rows(lines):
        if row and row[0] == "record":
            header = row
        elif row and header:
            values = dict(zip(header, row, strict=False))
            try:
                rates = float(values["TPR"]), float(values["FPR"])
            except (KeyError, ValueError):
                rates = None
    return rates
