"""Where image files lie: a folder, or a zip that is read in place and never unpacked."""

from __future__ import annotations

import os
import stat
import zipfile
from abc import ABC, abstractmethod
from pathlib import Path, PurePosixPath

from advrbd_plugin.errors import AdvrBDError

MAX_FILE_BYTES = 256 * 2**20
_MAX_COMPRESSION = 200  # no picture format that stands inside a zip shrinks this much; a zip bomb does
_SMALL_FILE_BYTES = 2**20
_JUNK = {"__MACOSX", "thumbs.db", "desktop.ini"}


class Source(ABC):
    """The files of a data set by their ``/``-separated path, and its folders, junk left away."""

    def __init__(self, root: Path, files: list[str], folders: list[str]) -> None:
        self.root = root
        self.files = sorted(path for path in files if not _is_junk(path))
        self.folders = sorted(path for path in folders if not _is_junk(path))

    @abstractmethod
    def read(self, path: str) -> bytes:
        """The content of one file.

        Raises:
            OSError, ValueError, zipfile.BadZipFile: it cannot be read, lies outside, or is larger than 256 MiB.
        """

    def close(self) -> None:
        """Let go of what is open."""

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class FolderSource(Source):
    """A directory tree; links are followed, each real folder once."""

    def __init__(self, root: Path) -> None:
        files: list[str] = []
        folders: list[str] = []
        seen = {os.path.realpath(root)}
        failures: list[OSError] = []
        for parent, children, names in os.walk(root, followlinks=True, onerror=failures.append):
            relative = Path(parent).relative_to(root)
            kept = []
            for child in sorted(children):
                real = os.path.realpath(os.path.join(parent, child))
                if real not in seen:
                    seen.add(real)
                    kept.append(child)
            children[:] = kept
            folders += [(relative / child).as_posix() for child in kept]
            files += [(relative / name).as_posix() for name in names]
        if failures:
            raise AdvrBDError(f"cannot read the folder {failures[0].filename}: {failures[0].strerror}")
        super().__init__(root, files, folders)

    def read(self, path: str) -> bytes:
        if path.startswith("/") or ".." in path.split("/"):
            raise ValueError(f"{path} lies outside the folder")
        with open(self.root / path, "rb", opener=_open_without_waiting) as handle:
            status = os.fstat(handle.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("not an ordinary file")
            if status.st_size > MAX_FILE_BYTES:
                raise ValueError(f"{status.st_size} bytes is more than the limit of {MAX_FILE_BYTES}")
            return handle.read(MAX_FILE_BYTES)


class ZipSource(Source):
    """The entries of a zip; names that point outside it are refused, entries that swell are not read."""

    def __init__(self, root: Path) -> None:
        try:
            self._zip = zipfile.ZipFile(root)
            names = self._zip.namelist()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise AdvrBDError(f"{root} cannot be read as a zip: {' '.join(str(error).split())}") from error
        for name in names:
            if points_outside(name):
                self._zip.close()
                raise AdvrBDError(f"{root} names a file outside itself ({name!r}): it was not made to be trusted")
        files = [name for name in names if not name.endswith("/")]
        folders = {name.rstrip("/") for name in names if name.endswith("/")}
        for name in files:
            folders.update(parent.as_posix() for parent in PurePosixPath(name).parents if parent.name)
        super().__init__(root, list(dict.fromkeys(files)), list(folders))

    def read(self, path: str) -> bytes:
        entry = self._zip.getinfo(path)
        if entry.flag_bits & 0x1:
            raise ValueError("encrypted in the zip")
        if entry.file_size > MAX_FILE_BYTES:
            raise ValueError(f"{entry.file_size} bytes is more than the limit of {MAX_FILE_BYTES}")
        if entry.file_size > max(_SMALL_FILE_BYTES, _MAX_COMPRESSION * entry.compress_size):
            raise ValueError(f"{entry.compress_size} bytes swell to {entry.file_size}: a zip bomb")
        with self._zip.open(entry) as handle:
            return handle.read(MAX_FILE_BYTES)

    def close(self) -> None:
        self._zip.close()


def open_source(path: str | os.PathLike[str]) -> Source:
    """The source at ``path``: a directory or a zip.

    Raises:
        AdvrBDError: there is nothing, or neither of the two.
    """
    root = Path(path)
    if root.is_dir():
        return FolderSource(root)
    if not root.exists():
        raise AdvrBDError(f"{root} does not exist: give a folder with one sub-folder of images for each class")
    if not zipfile.is_zipfile(root):
        raise AdvrBDError(f"{root} is neither a folder nor a zip: give a folder with one sub-folder for each class")
    return ZipSource(root)


def points_outside(name: str) -> bool:
    """Whether a file that a zip or a table names would lie outside the data set, on any system."""
    return name.startswith("/") or "\\" in name or ":" in name.split("/")[0] or ".." in name.split("/")


def _is_junk(path: str) -> bool:
    """Hidden files and what macOS and Windows leave in folders."""
    return any(part.startswith(".") or part in _JUNK or part.lower() in _JUNK for part in path.split("/"))


def _open_without_waiting(path: str, flags: int) -> int:
    """Open such that a named pipe among the images does not block for ever."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
