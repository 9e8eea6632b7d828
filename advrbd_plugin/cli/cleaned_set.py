"""What ``advrbd clean`` writes: a set's pictures, but for those that are left out, from wherever the set lies."""

from __future__ import annotations

import os
import shutil
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from advrbd_plugin.errors import AdvrBDError, is_out_of_memory, out_of_memory

if TYPE_CHECKING:
    from advrbd_plugin.data.reading import Listing
    from advrbd_plugin.data.sources import Source

WAYS = ("links", "copies", "manifest")
MANIFEST = "manifest.csv"
# What a picture file begins with, and its ending: rows of a table name none.
_ENDINGS = {
    b"\x89PNG": ".png",
    b"\xff\xd8": ".jpg",
    b"GIF8": ".gif",
    b"BM": ".bmp",
    b"RIFF": ".webp",
    b"II*\0": ".tif",
    b"MM\0*": ".tif",
}


@dataclass(frozen=True)
class Kept:
    """A picture of the cleaned set: its path (or id) in the verdicts, its label there, and its label from now on."""

    name: str
    label: str
    new_label: str


class CleanedSet:
    """Writes what was kept of a set.

    Args:
        data: the set, as the user named it.
        source, listing: its pictures.
        by_id: whether the verdicts name pictures by their ids, and not by their paths.
    """

    def __init__(self, data: str, source: Source, listing: Listing, *, by_id: bool) -> None:
        self._data, self._source, self._listing, self._by_id = data, source, listing, by_id
        names = map(str, listing.sample_ids.tolist()) if by_id else listing.paths
        self._places = {name: place for place, name in enumerate(names)}

    def check(self, rows: Sequence[dict[str, str]], kept: Sequence[Kept]) -> None:
        """Raise AdvrBDError unless what is kept is there, and all that is there has the label that it had."""
        key = "id" if self._by_id else "path"
        missing = [each.name for each in kept if each.name not in self._places]
        if missing:
            raise AdvrBDError(
                f"{len(missing):,} of {len(kept):,} pictures are not in {self._data} (first: {missing[0]}): give the "
                "set that was scanned"
            )
        labels, names = self._listing.labels.tolist(), [_form(name) for name in self._listing.class_names]
        there = (row for row in rows if row[key] in self._places)
        other = next((row for row in there if names[labels[self._places[row[key]]]] != _form(row["label"])), None)
        if other is not None:
            is_now = self._listing.class_names[labels[self._places[other[key]]]]
            raise AdvrBDError(
                f"{other[key]} is {is_now} in {self._data}, and {other['label']} in the verdicts: give the set that "
                "was scanned"
            )

    def count_without(self, rows: Sequence[dict[str, str]]) -> int:
        """How many pictures of the set have no verdict."""
        from advrbd_plugin.data.folder import is_picture

        known = {row["id" if self._by_id else "path"] for row in rows}
        paths = self._listing.paths
        return sum(name not in known and (self._by_id or is_picture(paths[at])) for name, at in self._places.items())

    def write(self, kept: Sequence[Kept], out: Path, way: str | None) -> str:
        """Make ``out``, whole or not at all.

        Args:
            kept: what stays.
            out: a new or empty folder.
            way: one of :data:`WAYS`; by default links where all pictures are files, else copies.

        Returns:
            The way that was taken.

        Raises:
            AdvrBDError: links are asked for where there are no files, a picture cannot be read, the disk is full.
        """
        from advrbd_plugin.files import workspace_for

        are_files = not self._by_id and all(self._source.file(each.name) is not None for each in kept)
        if way == "links" and not are_files:
            raise AdvrBDError(
                f"--as links needs pictures that are files, and those of {self._data} lie in an archive or an array: "
                "--as copies writes them, --as manifest lists them"
            )
        way = way or ("links" if are_files else "copies")
        with workspace_for(out) as workspace:
            made = workspace / "set"
            made.mkdir()
            if way == "manifest":
                (made / MANIFEST).write_bytes(self._manifest(kept, out))
            else:
                for each in kept:
                    self._put(each, made, copy=way == "copies")
            if out.is_dir():
                out.rmdir()
            os.replace(made, out)
        return way

    def _put(self, each: Kept, made: Path, *, copy: bool) -> None:
        path = self._listing.paths[self._places[each.name]]
        file = self._source.file(path)
        content = self._read(path) if copy and file is None else b""
        place = _free(made / _place_of(path + _ending(path, content), each))
        place.parent.mkdir(parents=True, exist_ok=True)
        if not copy:
            place.symlink_to(os.path.abspath(file or path))
        elif file is not None:
            shutil.copy2(file, place)
        else:
            place.write_bytes(content)

    def _read(self, path: str) -> bytes:
        from advrbd_plugin.data.sources import DAMAGE
        from advrbd_plugin.plain import brief, one_reason

        try:
            return self._source.read(path)
        except (*DAMAGE, OSError, ValueError, MemoryError) as error:
            if is_out_of_memory(error):
                raise out_of_memory(f"reading {self._data}") from error
            raise AdvrBDError(f"{self._data} ({brief(path)}) cannot be read: {one_reason(error)}") from error

    def _manifest(self, kept: Sequence[Kept], out: Path) -> bytes:
        from advrbd_plugin.report.text import file_bytes, spreadsheet_cell
        from advrbd_plugin.table import Table

        home = str(out.resolve())
        rows = tuple((spreadsheet_cell(self._named(each, home)), spreadsheet_cell(each.new_label)) for each in kept)
        return file_bytes(Table(("id" if self._by_id else "path", "label"), rows).csv())

    def _named(self, each: Kept, home: str) -> str:
        """A picture's file as seen from the folder ``home``; where there is none, what the verdicts call it."""
        file = None if self._by_id else self._source.file(each.name)
        if file is None:
            return each.name
        place = str(file.parent.resolve() / file.name)
        try:
            return os.path.relpath(place, home).replace(os.sep, "/")
        except ValueError:  # on another drive
            return place


def _form(name: str) -> str:
    """One Unicode form, since file systems differ in it."""
    return unicodedata.normalize("NFC", name)


def _place_of(path: str, each: Kept) -> PurePosixPath:
    """Where a picture goes: its own place, or the same in the folder of another class."""
    parts = list(PurePosixPath(path).parts)
    if each.label in parts[:-1]:
        parts[parts.index(each.label)] = each.new_label
        return PurePosixPath(*parts)
    return PurePosixPath(each.new_label, *parts)


def _ending(path: str, content: bytes) -> str:
    """What must follow ``path`` so that it ends as pictures do."""
    from advrbd_plugin.data.folder import is_picture

    if not content or is_picture(path, named=True):
        return ""
    return next((ending for start, ending in _ENDINGS.items() if content.startswith(start)), "")


def _free(place: Path) -> Path:
    """``place``, or one beside it where a picture that came from another class has taken it."""
    number = 1
    found = place
    while found.is_symlink() or found.exists():
        found, number = place.with_name(f"{place.stem}-{number}{place.suffix}"), number + 1
    return found
