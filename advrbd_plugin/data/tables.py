"""What a table of pictures says: which column holds the pictures, which the labels, and where each row is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from advrbd_plugin.data.labels import number_labels
from advrbd_plugin.data.reading import Listing, path_ids
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.plain import brief

PATH_COLUMNS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img")
LABEL_COLUMNS = ("label", "labels", "class", "class_name", "target", "category", "y", "fine_label", "cls")
_NAMED = 5


@dataclass(frozen=True)
class Columns:
    """Which columns to read; ``None`` takes one of the usual names.

    Attributes:
        image: with the pictures, or their paths.
        label: with the labels.
    """

    image: str | None = None
    label: str | None = None


def choose_column(
    where: str, found: Sequence[str], asked: str | None, usual: Iterable[str], what: str, option: str
) -> str:
    """The column to take.

    Args:
        where: the file, for errors.
        found: the table's columns.
        asked: the name that the user gave.
        usual: names to look for, whatever their capitals.
        what, option: what the column holds, and the option that names it, for errors.

    Raises:
        AdvrBDError: there is no such column.
    """
    held = ", ".join(brief(name)[1:-1] for name in found[:20]) or "none"
    if asked is not None:
        if asked not in found:
            raise AdvrBDError(f"{where} has no column {brief(asked)} ({option}); its columns are {held}")
        return asked
    lower = {name.strip().lower(): name for name in reversed(found)}
    name = next((lower[name] for name in usual if name in lower), None)
    if name is None:
        raise AdvrBDError(f"{where} has no column with the {what}: name it by {option}; its columns are {held}")
    return name


def several(where: str, faults: Sequence[str], rows: int) -> AdvrBDError:
    """One line on the rows that are wrong: the first ones in words, the others by their number."""
    more = f", and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
    noun = "row is" if len(faults) == 1 else "rows are"
    return AdvrBDError(f"{where}: {len(faults)} of {rows} {noun} wrong: {'; '.join(faults[:_NAMED])}{more}")


def list_rows(
    where: str,
    paths: list[str],
    values: Sequence[int | str],
    place: Callable[[int], str],
    *,
    names: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    notes: tuple[str, ...] = (),
) -> Listing:
    """A listing of rows, in their order.

    Args:
        where: the file, for errors.
        paths: of the pictures, or what stands for them.
        values: the labels, numbers or names.
        place: says where a position stands ("labels.csv, row 3").
        names, class_names: as :func:`advrbd_plugin.data.labels.number_labels`.
        notes: whole sentences for the user.

    Raises:
        AdvrBDError: no rows, a path twice, or what :func:`number_labels` refuses.
    """
    if not paths:
        raise AdvrBDError(f"{where} holds no pictures: it is empty")
    first: dict[str, int] = {}
    for index, path in enumerate(paths):
        if first.setdefault(path, index) != index:
            raise AdvrBDError(f"{place(index)}: {brief(path)} is named again; it stands first in {place(first[path])}")
    labels, known = number_labels(values, place, names=names, class_names=class_names)
    return Listing(paths, labels, path_ids(paths), known, notes)


def label_or_fault(value: object) -> int | str | None:
    """A cell's label; ``None`` if it is none."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, int):
        return value
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return value.strip() or None if isinstance(value, str) and len(value) <= 1000 else None
