"""Parquet files, and data sets that Hugging Face's ``datasets`` saved on the disk, read with pyarrow alone.

pyarrow is an extra (``advrbd_plugin[parquet]``). Of a file only two columns are read, the pictures (bytes, or a struct
of bytes and path, or paths) and the labels; a type that a file names beyond Arrow's own is not looked up.
"""

from __future__ import annotations

import os
import sys
import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from advrbd_plugin import limits
from advrbd_plugin.data.labels import check_distinct
from advrbd_plugin.data.manifest import load_named_files, path_inside
from advrbd_plugin.data.reading import LoadedImages, read_listing
from advrbd_plugin.data.sources import HEAD_BYTES, ListBudget, Source, read_regular_file
from advrbd_plugin.data.tables import (
    LABEL_COLUMNS,
    PATH_COLUMNS,
    Columns,
    choose_column,
    label_or_fault,
    list_rows,
    several,
)
from advrbd_plugin.errors import AdvrBDError, is_out_of_memory, out_of_memory
from advrbd_plugin.plain import brief, one_reason, parse_json, read_json

PARQUET = ".parquet"
_IMAGE_COLUMNS = ("image", "img", "picture", "photo", "jpg", "png", *PATH_COLUMNS)
_INFO, _STATE, _SPLITS = "dataset_info.json", "state.json", "dataset_dict.json"
_PART_NAMES = {"train": ("train", "training"), "test": ("test", "validation", "valid", "val")}
_BATCH_BYTES = 2**28  # of one batch of rows: no value is larger than its column's part of the file says
_KEPT_BYTES = 2**28
_MOST_ROWS_AT_ONCE = 256


def find_tables(path: Path, part: str) -> list[Path] | None:
    """The Parquet files of one part in a folder (or in its ``data``); ``None`` if it holds none."""
    for folder in (path, path / "data"):
        found = sorted(folder.glob(f"*{PARQUET}")) if folder.is_dir() else []
        if found:
            names = {
                name: [each for each in found if _begins_with(each.stem, words)] for name, words in _PART_NAMES.items()
            }
            return names[part] or (found if not any(names.values()) else names["train"] or names["test"])
    return None


def _begins_with(stem: str, words: Sequence[str]) -> bool:
    return any(stem.lower() == word or stem.lower().startswith((f"{word}-", f"{word}_", f"{word}.")) for word in words)


def is_saved_dataset(path: Path) -> bool:
    """Whether a folder is what ``save_to_disk`` of Hugging Face's ``datasets`` wrote."""
    return (path / _SPLITS).is_file() or ((path / _STATE).is_file() and (path / _INFO).is_file())


def load_parquet(
    data: str,
    files: Sequence[Path],
    *,
    root: str | os.PathLike[str] | None = None,
    columns: Columns = Columns(),  # noqa: B008 - frozen
    **reading: Any,
) -> LoadedImages:
    """The rows of Parquet files that hold pictures, or the paths of pictures.

    Args:
        data: as the user named it.
        files: of one part, in their order.
        root: the folder that paths in them are below; the folder of the first file by default.
        columns: which to read; those with the usual names by default.
        reading: as :func:`advrbd_plugin.data.reading.read_listing`, and ``class_names``.

    Raises:
        AdvrBDError: pyarrow is missing, a file is damaged or empty, a column is missing, or a row is wrong.
    """
    _pyarrow()
    tables: list[_Table] = []
    try:
        for file in files:
            tables.append(_ParquetTable(file, columns))
        return _load(data, tables, Path(root) if root is not None else files[0].parent, reading)
    finally:
        for table in tables:
            table.close()


def load_saved_dataset(
    path: Path,
    *,
    part: str = "train",
    root: str | os.PathLike[str] | None = None,
    columns: Columns = Columns(),  # noqa: B008 - frozen
    **reading: Any,
) -> LoadedImages:
    """A data set that ``save_to_disk`` wrote, or one part of a dictionary of them.

    Args, raises: as :func:`load_parquet`.
    """
    _pyarrow()
    home = _split(path, part)
    state = _mapping(read_json(home / _STATE), home / _STATE)
    table = _ArrowTable(home, state, columns)
    try:
        return _load(str(path), [table], Path(root) if root is not None else home, reading)
    finally:
        table.close()


def _split(path: Path, part: str) -> Path:
    """The folder of one part."""
    if not (path / _SPLITS).is_file():
        return path
    splits = _mapping(read_json(path / _SPLITS), path / _SPLITS).get("splits")
    names = [name for name in splits if isinstance(name, str)] if isinstance(splits, list) else []
    name = next((name for name in _PART_NAMES[part] if name in names), names[0] if len(names) == 1 else None)
    if name is None or path_inside(path, name) is None or not (path / name / _STATE).is_file():
        raise AdvrBDError(
            f"{path} has no part {part}: its parts are {', '.join(names[:8]) or 'not named'}; give one's folder"
        )
    return path / name


def _mapping(content: Any, where: Path) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise AdvrBDError(f"{where} must be a JSON object, got {brief(content)}")
    return content


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise AdvrBDError(
            f"Parquet and Hugging Face data sets need pyarrow, which cannot be imported ({one_reason(error)}): "
            "pip install 'advrbd_plugin[parquet]'"
        ) from error
    return pyarrow


@dataclass(frozen=True)
class _Cell:
    """One row's picture: its bytes, or where it lies."""

    content: bytes | None
    path: str | None


class _Table:
    """One file or data set: the labels at once, the pictures row by row.

    Attributes:
        where: for errors.
        image, label: the columns.
        names: of the labels, where the file says them.
        paths_only: whether the column of pictures holds only paths.
    """

    where: Path
    image: str
    label: str
    names: tuple[str, ...] | None
    paths_only: bool

    def labels(self) -> list[Any]:
        raise NotImplementedError

    def paths(self) -> list[Any]:
        """The cells of a column of paths."""
        raise NotImplementedError

    def cell(self, row: int) -> Any:
        """One picture as Python has it: bytes, or a dictionary of bytes and path."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of what is open."""

    def _choose(self, schema: Any, features: dict[str, Any], columns: Columns) -> None:
        names = list(schema.names)
        marked = [name for name, feature in features.items() if _type_of(feature) == "Image" and name in names]
        usual = (*(name.lower() for name in marked), *_IMAGE_COLUMNS)
        self.image = choose_column(str(self.where), names, columns.image, usual, "pictures", "--image-column")
        labelled = [name for name, feature in features.items() if _type_of(feature) == "ClassLabel" and name in names]
        usual = (*(name.lower() for name in labelled[:1]), *LABEL_COLUMNS)
        self.label = choose_column(str(self.where), names, columns.label, usual, "labels", "--label-column")
        self.paths_only = _kind_of(self.where, self.image, schema.field(self.image).type)
        kind = schema.field(self.label).type
        if not _is_label(kind):
            raise AdvrBDError(f"{self.where}: the column {brief(self.label)} must hold numbers or names, got {kind}")
        declared = features.get(self.label)
        listed = declared.get("names") if isinstance(declared, dict) else None
        self.names = None
        if isinstance(listed, list):
            self.names = check_distinct(listed, f"{self.where}: the names of {brief(self.label)}")


def _type_of(feature: Any) -> Any:
    return feature.get("_type") if isinstance(feature, dict) else None


def _is_label(kind: Any) -> bool:
    types = _pyarrow().types
    if types.is_dictionary(kind):
        kind = kind.value_type
    return types.is_integer(kind) or types.is_floating(kind) or types.is_string(kind) or types.is_large_string(kind)


def _kind_of(where: Path, name: str, kind: Any) -> bool:
    """Whether a column holds paths alone.

    Raises:
        AdvrBDError: it holds neither pictures nor paths.
    """
    types = _pyarrow().types
    if types.is_string(kind) or types.is_large_string(kind):
        return True
    if types.is_binary(kind) or types.is_large_binary(kind):
        return False
    if types.is_struct(kind):
        index = kind.get_field_index("bytes")
        if index >= 0 and (types.is_binary(kind.field(index).type) or types.is_large_binary(kind.field(index).type)):
            return False
    raise AdvrBDError(f"{where}: the column {brief(name)} must hold pictures as bytes, or paths, got {str(kind)[:80]}")


class _ParquetTable(_Table):
    def __init__(self, where: Path, columns: Columns) -> None:
        from pyarrow import parquet

        self.where = where
        with _explained(where):
            self._file = parquet.ParquetFile(where, memory_map=False, pre_buffer=False)
            schema, self._meta = self._file.schema_arrow, self._file.metadata
        self._choose(schema, _features(where, schema.metadata), columns)
        counts = [self._meta.row_group(group).num_rows for group in range(self._meta.num_row_groups)]
        self._starts = [0, *accumulate(counts)]
        self._lock = threading.Lock()
        self._kept: dict[int, Any] = {}
        self._size = 0
        self._rows: Iterator[tuple[int, Any]] = iter(())
        self._next = sys.maxsize  # the row that comes next; no reading has begun

    def labels(self) -> list[Any]:
        return self._column(self.label)

    def paths(self) -> list[Any]:
        return self._column(self.image)

    def _column(self, name: str) -> list[Any]:
        budget, values = ListBudget(self.where), []
        with _explained(self.where):
            for batch in self._file.iter_batches(4096, columns=[name], use_threads=False):
                for value in batch.column(0).to_pylist():
                    budget.spend(value[:1000] if isinstance(value, str) else "")
                    values.append(value)
        return values

    def cell(self, row: int) -> Any:
        """Rows are asked for nearly in their order, by several threads: one goes on, and the others find them kept."""
        with self._lock:
            if row in self._kept:
                return self._kept[row]
            if not self._next <= row < self._next + 4 * _MOST_ROWS_AT_ONCE:
                self._rows, self._next = self._from(row), row
            for place, value in self._rows:
                self._keep(place, value)
                self._next = place + 1
                if place == row:
                    return value
        raise ValueError("the row is missing in the file")

    def _keep(self, row: int, value: Any) -> None:
        if row not in self._kept:
            self._kept[row] = value
            self._size += _length(value)
        while self._size > _KEPT_BYTES and len(self._kept) > 1:
            oldest = next(iter(self._kept))
            self._size -= _length(self._kept.pop(oldest))

    def _from(self, row: int) -> Iterator[tuple[int, Any]]:
        """(row, value) from the beginning of the group that holds ``row``; rows before it are passed over."""
        first = bisect_right(self._starts, row) - 1
        for group in range(first, self._meta.num_row_groups):
            place = self._starts[group]
            rows = self._rows_at_once(group)
            for batch in self._file.iter_batches(rows, row_groups=[group], columns=[self.image], use_threads=False):
                column = batch.column(0)
                for index in range(len(column)):
                    if place >= row:
                        yield place, column[index].as_py()
                    place += 1

    def _rows_at_once(self, group: int) -> int:
        """So few that they fit in the budget even if each were as large as all that the group holds."""
        about = self._meta.row_group(group)
        chunks = (about.column(index) for index in range(about.num_columns))
        size = sum(each.total_uncompressed_size for each in chunks if each.path_in_schema.split(".")[0] == self.image)
        return max(1, min(_MOST_ROWS_AT_ONCE, _BATCH_BYTES // max(1, size)))

    def close(self) -> None:
        self._file.close()


class _ArrowTable(_Table):
    """Arrow files in the stream format, mapped into memory."""

    def __init__(self, where: Path, state: dict[str, Any], columns: Columns) -> None:
        self.where = where
        info = _mapping(read_json(where / _INFO), where / _INFO)
        features = info.get("features")
        batches = [batch for file in _listed(where, state, "_data_files") for batch in _read_arrow(where / file)]
        if not batches:
            raise AdvrBDError(f"{where} holds no rows: it is empty")
        self._choose(batches[0].schema, features if isinstance(features, dict) else {}, columns)
        pyarrow = _pyarrow()
        with _explained(where):
            table = pyarrow.Table.from_batches([batch.select([self.image, self.label]) for batch in batches])
            self._images, self._labels = table.column(self.image), table.column(self.label)
        self._order: list[int] | None = None
        if state.get("_indices_data_files"):  # a selection or another order of the rows
            files = _listed(where, state, "_indices_data_files")
            order = [
                value for file in files for batch in _read_arrow(where / file) for value in batch.column(0).to_pylist()
            ]
            if not all(type(each) is int and 0 <= each < len(self._images) for each in order):
                raise AdvrBDError(f"{where}: its indices name rows that its {len(self._images)} rows do not have")
            self._order = order

    def labels(self) -> list[Any]:
        return self._ordered(self._labels.to_pylist())

    def paths(self) -> list[Any]:
        return self._ordered(self._images.to_pylist())

    def _ordered(self, values: list[Any]) -> list[Any]:
        return values if self._order is None else [values[index] for index in self._order]

    def cell(self, row: int) -> Any:
        return self._images[row if self._order is None else self._order[row]].as_py()


def _listed(where: Path, state: dict[str, Any], key: str) -> list[str]:
    """The files that the state names, all in its own folder."""
    entries = state.get(key)
    names = (
        [each.get("filename") if isinstance(each, dict) else None for each in entries]
        if isinstance(entries, list)
        else []
    )
    for name in names:
        if not isinstance(name, str) or path_inside(where, name) is None or os.path.isabs(name):
            raise AdvrBDError(f"{where / _STATE} must name files in its own folder under {key}, got {brief(name)}")
        if not (where / name).is_file():
            raise AdvrBDError(f"{where} lacks the file {brief(name)}, which {_STATE} names")
    return [str(name) for name in names]


def _read_arrow(file: Path) -> list[Any]:
    """The record batches of an Arrow file, each checked against its own claims before it is used."""
    pyarrow = _pyarrow()
    with _explained(file):
        source = pyarrow.memory_map(str(file))
        try:
            batches = list(pyarrow.ipc.open_stream(source))
        except pyarrow.ArrowInvalid:
            source.seek(0)
            reader = pyarrow.ipc.open_file(source)
            batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
        for batch in batches:
            batch.validate(full=True)
        return batches


def _features(where: Path, metadata: Any) -> dict[str, Any]:
    """What Hugging Face's ``datasets`` wrote about the columns."""
    text = (metadata or {}).get(b"huggingface", b"")
    if not text or len(text) > limits.MAX_JSON_BYTES:
        return {}
    content = parse_json(text.decode("utf-8", "replace"), f"{where} (its metadata)")
    info = content.get("info") if isinstance(content, dict) else None
    features = info.get("features") if isinstance(info, dict) else None
    return features if isinstance(features, dict) else {}


class _explained:  # noqa: N801 - used as a statement
    """Whatever pyarrow raises on a damaged file as one line."""

    def __init__(self, where: Path) -> None:
        self._where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type | None, error: BaseException | None, trace: Any) -> None:
        if error is None or isinstance(error, AdvrBDError) or not isinstance(error, Exception):
            return
        if is_out_of_memory(error):
            raise out_of_memory(f"reading {self._where}") from error
        raise AdvrBDError(f"{self._where} cannot be read: {one_reason(error)}") from error


def _length(value: Any) -> int:
    content = value.get("bytes") if isinstance(value, dict) else value
    return 200 + (len(content) if isinstance(content, (bytes, str)) else 0)


class _RowSource(Source):
    """The pictures of tables as files called ``NAME#ROW``."""

    def __init__(self, root: Path, tables: Sequence[_Table], home: Path, places: dict[str, tuple[int, int]]) -> None:
        super().__init__(root, (), ())
        self.files = list(places)
        self._tables, self._home, self._places = tables, home, places

    def read(self, path: str) -> bytes:
        table, row = self._places[path]
        cell = _cell(self._tables[table].cell(row))
        if cell.content is not None:
            if len(cell.content) > limits.MAX_FILE_BYTES:
                raise ValueError(f"{len(cell.content)} bytes is more than the limit of {limits.MAX_FILE_BYTES}")
            return cell.content
        inside = None if cell.path is None else path_inside(self._home, cell.path)
        if inside is None:
            raise ValueError(
                f"the row holds no picture, and names {brief(cell.path)}, which is not below {self._home} (--root)"
            )
        return read_regular_file(self._home / inside, limit=limits.MAX_FILE_BYTES)

    def head(self, path: str) -> bytes:
        return self.read(path)[:HEAD_BYTES]

    def size(self, path: str) -> int:
        return len(self.read(path))


def _cell(value: Any) -> _Cell:
    if isinstance(value, bytes):
        return _Cell(value, None)
    if isinstance(value, dict):
        content, path = value.get("bytes"), value.get("path")
        return _Cell(content if isinstance(content, bytes) else None, path if isinstance(path, str) else None)
    return _Cell(None, None)


def _load(data: str, tables: Sequence[_Table], home: Path, reading: dict[str, Any]) -> LoadedImages:
    """The rows of all tables, in their order."""
    paths: list[str] = []
    values: list[int | str] = []
    rows: list[int] = []
    places: dict[str, tuple[int, int]] = {}
    faults: list[str] = []
    total = 0
    class_names = reading.pop("class_names", None)
    names = tables[0].names
    for number, table in enumerate(tables):
        if table.names != names or table.paths_only != tables[0].paths_only:
            raise AdvrBDError(
                f"{table.where} has other classes or columns than {tables[0].where}: they are no one data set"
            )
        named = table.paths() if table.paths_only else None
        for row, value in enumerate(table.labels()):
            total += 1
            label = label_or_fault(value)
            name: str | None = f"{table.where.name}#{row + 1}"
            if named is not None:
                name = path_inside(home, named[row]) if isinstance(named[row], str) and named[row] else None
            if label is None or name is None:
                what = (
                    f"{table.label} is {brief(value)}"
                    if label is None
                    else f"{brief((named or [None])[row])} lies outside {home} (--root)"
                )
                faults.append(f"row {row + 1}{f' of {table.where.name}' if len(tables) > 1 else ''}: {what}")
                continue
            paths.append(name)
            values.append(label)
            rows.append(row + 1)
            places[name] = (number, row)
    if faults:
        raise several(data, faults, total)
    if tables[0].paths_only:
        return load_named_files(data, home, paths, values, rows, names=names, class_names=class_names, **reading)
    where = data
    listing = list_rows(
        where, paths, values, lambda index: f"{where}, row {rows[index]}", names=names, class_names=class_names
    )
    with _RowSource(Path(data), tables, home, places) as source:
        return read_listing(source, listing, must_be_complete=class_names is None, **reading)
