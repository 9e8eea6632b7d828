"""Links from the page to the user's own files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from advrbd_plugin.report.record import RunRecord

_TRIED = 5


@dataclass(frozen=True)
class Links:
    """Where the pictures lie, as seen from the page.

    Attributes:
        root: folder that the pictures' paths are below; ``None`` where they came from no files (an archive, say).
        page: folder of the page.
    """

    root: Path | None
    page: Path

    @classmethod
    def of(cls, record: RunRecord, page: str | os.PathLike[str]) -> Links:
        """Links to the files of ``record``, as far as its first pictures are found on the disk."""
        paths = (record.image_set.paths or ())[:_TRIED]
        data = Path(record.data)
        for root in (data, data.parent) if paths else ():
            if all(_is_file(root / path) for path in paths):
                return cls(root.resolve(), Path(page).resolve())
        return cls(None, Path(page).resolve())

    @property
    def base(self) -> str | None:
        """The link to the root, with a slash at its end; ``None`` without files."""
        return None if self.root is None else _quoted(os.path.relpath(self.root, self.page)) + "/"

    def to(self, path: str) -> str:
        """A relative link to a picture's file; ``""`` without files."""
        if self.root is None:
            return ""
        return _quoted(os.path.relpath(self.root / path, self.page))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or with a null byte
        return False


def _quoted(path: str) -> str:
    """Percent-encoded, so that no name can be a scheme, a query or a place; bytes that are no text stay those bytes."""
    try:
        return quote(os.fsencode(path), safe="/")
    except UnicodeEncodeError:
        return ""
