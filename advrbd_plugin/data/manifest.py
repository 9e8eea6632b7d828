"""A CSV table that names picture files and their labels."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from advrbd_plugin import limits
from advrbd_plugin.data.reading import LoadedImages, read_listing
from advrbd_plugin.data.sources import HEAD_BYTES, ListBudget, Source, open_regular, points_outside, read_regular_file
from advrbd_plugin.data.tables import (
    LABEL_COLUMNS,
    PATH_COLUMNS,
    Columns,
    choose_column,
    label_or_fault,
    list_rows,
    several,
)
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.plain import brief, one_reason, read_text

DELIMITERS = ",;\t"
SUFFIXES = (".csv", ".tsv")


class NamedFiles(Source):
    """Files that a table names by their path in a folder; nothing outside the folder is read."""

    def __init__(self, root: Path, paths: Iterable[str]) -> None:
        super().__init__(root, (), ())
        self.files = list(paths)

    def read(self, path: str) -> bytes:
        return read_regular_file(self._place(path), limit=limits.MAX_FILE_BYTES)

    def size(self, path: str) -> int:
        return min(self._place(path).stat().st_size, limits.MAX_FILE_BYTES)

    def head(self, path: str) -> bytes:
        with open_regular(self._place(path)) as handle:
            return handle.read(HEAD_BYTES)

    def file(self, path: str) -> Path | None:
        return self._place(path)

    def _place(self, path: str) -> Path:
        if points_outside(path):
            raise ValueError(f"{path} lies outside the folder")
        return self.root / path


def path_inside(root: Path, path: str) -> str | None:
    """A table's path as one below ``root``, ``/``-separated; ``None`` if it lies outside."""
    if "\0" in path:
        return None
    if os.path.isabs(path):
        path = os.path.relpath(path, os.path.abspath(root))
    path = os.path.normpath(path.replace("\\", "/") if os.sep == "\\" else path).replace(os.sep, "/")
    return None if points_outside(path) or path == "." else path


def _inside(table: Path, home: Path, path: str) -> str | None:
    """A path of ``table`` as one below ``home``: from there, or from the table's own folder."""
    found = path_inside(home, path)
    if found is not None or os.path.isabs(path) or "\0" in path:
        return found
    return path_inside(Path(os.path.realpath(home)), os.path.join(os.path.realpath(table.parent), path))


def load_manifest(
    path: Path,
    *,
    root: str | os.PathLike[str] | None = None,
    columns: Columns = Columns(),  # noqa: B008 - frozen
    class_names: Sequence[str] | None = None,
    **reading: Any,
) -> LoadedImages:
    """The pictures that a CSV file names, one a row, with their labels.

    Args:
        path: text in UTF-8, its first row the columns' names, separated by commas, semicolons or tabs.
        root: the folder that the paths are below; the file's own by default. A path that leads out of it is taken from
            the file's own folder, and must then lie below ``root``.
        columns: which to read; ``path`` and ``label`` (and other usual names) by default.
        class_names: the classes of a model that is to be judged.
        reading: as :func:`advrbd_plugin.data.reading.read_listing`.

    Raises:
        AdvrBDError: a column or file is missing, or a row is wrong; the line names the rows.
    """
    home = Path(root) if root is not None else path.parent
    paths, values, lines = _read_rows(path, home, columns)
    return load_named_files(str(path), home, paths, values, lines, class_names=class_names, **reading)


def load_named_files(
    where: str,
    home: Path,
    paths: list[str],
    values: Sequence[int | str],
    lines: Sequence[int],
    *,
    names: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    **reading: Any,
) -> LoadedImages:
    """The picture files that a table names, once all of them are known to be there.

    Args:
        where: the table.
        home: the folder that ``paths`` are below.
        paths, values, lines: each row's file, label, and number in the table.
        names, class_names, reading: as :func:`advrbd_plugin.data.tables.list_rows` and :func:`read_listing`.

    Raises:
        AdvrBDError: files are missing, or what those functions refuse.
    """
    missing = [
        f"row {line} ({brief(path)})" for path, line in zip(paths, lines, strict=True) if not (home / path).is_file()
    ]
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        noun = "file is" if len(missing) == 1 else "files are"
        raise AdvrBDError(f"{where}: {len(missing)} of {len(paths)} {noun} missing below {home} (--root): {shown}")

    def place(index: int) -> str:
        return f"{where}, row {lines[index]}"

    listing = list_rows(where, paths, values, place, names=names, class_names=class_names)
    with NamedFiles(home, paths) as source:
        return read_listing(source, listing, must_be_complete=class_names is None, **reading)


def _read_rows(path: Path, home: Path, columns: Columns) -> tuple[list[str], list[int | str], list[int]]:
    """(paths below ``home``, labels, row numbers as a spreadsheet counts them)."""
    text = read_text(path, limit=limits.MAX_TABLE_BYTES)
    header = text[: text.find("\n")] if "\n" in text else text
    delimiter = max(DELIMITERS, key=header.count)
    budget = ListBudget(path)
    paths: list[str] = []
    values: list[int | str] = []
    lines: list[int] = []
    faults: list[str] = []
    rows = _rows(path, text, delimiter)
    names = next(rows, (1, []))[1]
    if not any(names):
        raise AdvrBDError(f"{path} is empty: its first row must name the columns, as in path,label")
    image = names.index(choose_column(str(path), names, columns.image, PATH_COLUMNS, "paths", "--image-column"))
    label = names.index(choose_column(str(path), names, columns.label, LABEL_COLUMNS, "labels", "--label-column"))
    total = 0
    for number, row in rows:
        total += 1
        fault, inside, value = None, None, None
        if len(row) != len(names):
            fault = f"it has {len(row)} cells, the first row {len(names)}"
        else:
            value = label_or_fault(row[label])
            inside = _inside(path, home, row[image].strip()) if row[image].strip() else None
            if not row[image].strip():
                fault = f"{names[image]} is empty"
            elif inside is None:
                fault = f"{brief(row[image])} lies outside {home} (--root)"
            elif value is None:
                fault = f"{names[label]} is empty or no label"
        if fault is not None or inside is None or value is None:
            faults.append(f"row {number}: {fault}")
            continue
        budget.spend(inside)
        paths.append(inside)
        values.append(value)
        lines.append(number)
    if faults:
        raise several(str(path), faults, total)
    return paths, values, lines


def _rows(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(row number from 1, cells); rows without any cell are passed over, and counted."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    number = 0
    while True:
        number += 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise AdvrBDError(f"{path}, row {number}, is no CSV: {one_reason(error)}") from error
        if row:
            yield number, row
