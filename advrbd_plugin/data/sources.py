"""Where image files lie: a folder, or a zip that is read in place and never unpacked (``data/tar.py``: a tar)."""

from __future__ import annotations

import os
import re
import stat
import struct
import threading
import time
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from advrbd_plugin import limits
from advrbd_plugin.errors import AdvrBDError, is_out_of_memory, out_of_memory
from advrbd_plugin.plain import brief, one_reason

MAX_FILE_BYTES = limits.MAX_FILE_BYTES
_MAX_COMPRESSION = 200  # compressed picture formats never shrink this much in a zip; flat uncompressed ones may
_SMALL_FILE_BYTES = 2**20
_CHUNK = 2**18
HEAD_BYTES = 64
_LIST_MEMORY = limits.READING_MEMORY // 2
_ZIP_ENTRY_MEMORY = 1000  # bytes that zipfile and we keep for each entry, beside its name
_COMPRESSIONS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_METHODS = {1: "shrink", 6: "implode", 9: "deflate64", 12: "bzip2", 14: "lzma", 93: "zstd", 95: "xz", 98: "ppmd"}
# Zips made on these systems may separate folders by backslashes (APPNOTE 4.4.2: MS-DOS, OS/2, Windows, VFAT).
_BACKSLASH_SYSTEMS = {0, 6, 10, 11, 14}

# Folders and files that systems and tools leave beside a person's own; compared in lower case.
_SYSTEM_NAMES = {
    "__macosx",
    "@eadir",
    "#recycle",
    "#snapshot",
    "@recycle",
    "@recently-snapshot",
    "@__thumb",
    "@tmp",
    "$recycle.bin",
    "recycler",
    "recycled",
    "system volume information",
    "lost+found",
    "found.000",
    "__pycache__",
    "network trash folder",
    "temporary items",
    "thumbs.db",
    "ehthumbs.db",
    "ehthumbs_vista.db",
    "desktop.ini",
    "icon\r",
}
_SYSTEM_SUFFIXES = ("@synoeastream", "@synoresource")


class Source(ABC):
    """The files of a data set by their ``/``-separated path, and its folders, junk left away.

    Attributes:
        root: where it lies.
        files, folders: sorted.
        twice: (path, the other path) of folders that are one real folder, and so are read once.
        notes: sentences on what was passed over.
    """

    def __init__(self, root: Path, files: Iterable[str], folders: Iterable[str]) -> None:
        self.root = root
        self.files = sorted(path for path in files if not is_junk(path))
        self.folders = sorted(path for path in folders if not is_junk(path))
        self.twice: list[tuple[str, str]] = []
        self.notes: list[str] = []

    @abstractmethod
    def read(self, path: str) -> bytes:
        """The content of one file.

        Raises:
            OSError, ValueError, zipfile.BadZipFile, zlib.error: it cannot be read, lies outside, or is too large.
            MemoryError: the computer's memory is used up.
        """

    @abstractmethod
    def head(self, path: str) -> bytes:
        """The first :data:`HEAD_BYTES` of a file; raises as :meth:`read` does."""

    @abstractmethod
    def size(self, path: str) -> int:
        """Bytes that :meth:`read` will take, at most :data:`limits.MAX_FILE_BYTES`; raises as it does."""

    def file(self, path: str) -> Path | None:
        """The file on the disk that holds this picture and nothing else; ``None`` if it lies in something larger."""
        return None

    def close(self) -> None:  # noqa: B027 - a folder has nothing open
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
        home = os.path.realpath(root)
        seen = {home: ""}
        twice: list[tuple[str, str]] = []
        failures: list[OSError] = []
        budget = ListBudget(root)
        for parent, children, names in os.walk(root, followlinks=True, onerror=failures.append):
            if failures:
                break
            relative = os.path.relpath(parent, root).replace(os.sep, "/")
            prefix = "" if relative == "." else f"{relative}/"
            kept = []
            for child in sorted(children):
                path = f"{prefix}{child}"
                if is_junk(child):
                    continue
                budget.spend(path)
                real = os.path.realpath(os.path.join(parent, child))
                other = seen.get(real, _place_in(home, real) if os.path.islink(os.path.join(parent, child)) else None)
                if other is not None:  # a link into the set: what it leads to is read at its own place
                    twice.append((path, other))
                    continue
                seen[real] = path
                kept.append(child)
            children[:] = kept
            folders += [f"{prefix}{child}" for child in kept]
            for name in names:
                budget.spend(prefix + name)
                files.append(prefix + name)
        if failures:
            raise AdvrBDError(f"cannot read the folder {failures[0].filename}: {failures[0].strerror}")
        super().__init__(root, files, folders)
        self.twice = twice

    def read(self, path: str) -> bytes:
        return read_regular_file(self._place(path), limit=MAX_FILE_BYTES)

    def size(self, path: str) -> int:
        return min(self._place(path).stat().st_size, MAX_FILE_BYTES)

    def head(self, path: str) -> bytes:
        with open_regular(self._place(path)) as handle:
            return handle.read(HEAD_BYTES)

    def file(self, path: str) -> Path | None:
        return self._place(path)

    def _place(self, path: str) -> Path:
        if path.startswith("/") or ".." in path.split("/"):
            raise ValueError(f"{path} lies outside the folder")
        return self.root / path


class ZipSource(Source):
    """The entries of a zip; names that point outside it are refused, entries that swell are not read.

    Names are read as the zip's maker meant them: ``.\\cat\\1.png`` and ``./cat/1.png`` are ``cat/1.png``.
    """

    def __init__(self, root: Path) -> None:
        self._zip = open_zip(root)
        try:
            self._entries, folders, twice = _entries_by_path(root, self._zip)
        except BaseException:
            self._zip.close()
            raise
        self._swollen = 0
        self._lock = threading.Lock()
        super().__init__(root, self._entries, folders)
        if twice:
            self.notes.append(f"{twice} files of the zip have the name of another; the last of each name is read.")

    def read(self, path: str) -> bytes:
        entry = self._entry(path)
        self._check(entry)
        return read_entry(self._zip, entry)

    def head(self, path: str) -> bytes:
        return read_entry(self._zip, self._entry(path), first=HEAD_BYTES)

    def size(self, path: str) -> int:
        return min(self._entry(path).file_size, MAX_FILE_BYTES)

    def _entry(self, path: str) -> zipfile.ZipInfo:
        if path not in self._entries:
            raise ValueError("not in the zip")
        return self._entries[path]

    def _check(self, entry: zipfile.ZipInfo) -> None:
        if entry.file_size > MAX_FILE_BYTES:
            raise ValueError(f"{entry.file_size} bytes is more than the limit of {MAX_FILE_BYTES}")
        if entry.file_size <= max(_SMALL_FILE_BYTES, _MAX_COMPRESSION * entry.compress_size):
            return
        if not is_flat_picture(read_entry(self._zip, entry, first=4096), entry.file_size):
            raise ValueError(f"{entry.compress_size} bytes swell to {entry.file_size}: a zip bomb")
        with self._lock:
            self._swollen += entry.file_size
            if self._swollen > limits.MAX_SWOLLEN_BYTES:
                raise ValueError(f"the zip swells to more than {limits.MAX_SWOLLEN_BYTES} bytes: a zip bomb")

    def close(self) -> None:
        self._zip.close()


class ListBudget:
    """What the list of a set's files may take in memory and time, and how deep and long its paths may be."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.left = _LIST_MEMORY
        self.ends = time.thread_time() + limits.READING_SECONDS
        self.steps = 0

    def spend(self, path: str) -> None:
        parts = path.split("/")
        if len(parts) > limits.MAX_PATH_PARTS or max(map(len, parts)) > limits.MAX_NAME_CHARACTERS:
            raise AdvrBDError(
                f"{self.root} names a file {len(parts)} folders deep, or by a name that no disk holds "
                f"({brief(path)}): it was not made to be trusted"
            )
        self.left -= 200 + 4 * len(path)
        if self.left < 0:
            raise AdvrBDError(
                f"{self.root} lists more files than fit in {_LIST_MEMORY // 2**20} MiB: give a part of it"
            )
        self.steps += 1
        if not self.steps & 0xFFF and time.thread_time() > self.ends:
            raise AdvrBDError(f"listing {self.root} takes longer than {limits.READING_SECONDS:g} s: give a part of it")


def _place_in(home: str, real: str) -> str | None:
    """The path of a real folder in the folder ``home``; ``None`` if it is not there or would be passed over."""
    if not real.startswith(home.rstrip(os.sep) + os.sep):
        return None
    path = os.path.relpath(real, home).replace(os.sep, "/")
    return None if is_junk(path) else path


def open_zip(path: Path) -> zipfile.ZipFile:
    """A zip, once its list of entries is known to fit in memory.

    Raises:
        AdvrBDError: it is no zip, is damaged, or lists too many entries.
    """
    try:
        with open(path, "rb", opener=_open_without_waiting) as handle:
            entries = _count_entries(handle)
        if entries * _ZIP_ENTRY_MEMORY > limits.READING_MEMORY // 2:
            raise AdvrBDError(f"{path} lists {entries} entries, more than fit in memory: unpack it and give the folder")
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error, EOFError) as error:
        if is_out_of_memory(error):
            raise out_of_memory(f"reading {path}") from error
        raise AdvrBDError(f"{path} cannot be read as a zip: {one_reason(error)}") from error


def _count_entries(handle: IO[bytes]) -> int:
    """An upper bound of the entries, from where the list stands: zipfile itself believes any list."""
    handle.seek(0, os.SEEK_END)
    length = handle.tell()
    handle.seek(max(0, length - 2**16 - 22))
    tail = handle.read()
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or place + 22 > len(tail):
        raise zipfile.BadZipFile("it has no list of entries")
    end, size = length - len(tail) + place, struct.unpack_from("<L", tail, place + 12)[0]
    handle.seek(max(0, end - 76))
    record = handle.read(76)
    if len(record) == 76 and record[:4] == b"PK\x06\x06" and record[56:60] == b"PK\x06\x07":  # zip64
        end, size = end - 76, struct.unpack_from("<Q", record, 40)[0]
    size = min(size, length)
    least = 46 + 1  # bytes of an entry with the shortest name
    if size // least * _ZIP_ENTRY_MEMORY <= limits.READING_MEMORY // 2:
        return size // least
    handle.seek(max(0, end - size))
    return _walk_entries(handle, size)


def _walk_entries(handle: IO[bytes], size: int) -> int:
    count = 0
    while size > 0:
        head = handle.read(46)
        if len(head) < 46 or head[:4] != b"PK\x01\x02":
            break
        more = sum(struct.unpack_from("<3H", head, 28))
        handle.seek(more, os.SEEK_CUR)
        size -= 46 + more
        count += 1
    return count


def _entries_by_path(root: Path, archive: zipfile.ZipFile) -> tuple[dict[str, zipfile.ZipInfo], set[str], int]:
    """(path -> entry of every file, all folders, how many files stand there twice)."""
    entries: dict[str, zipfile.ZipInfo] = {}
    folders: set[str] = set()
    twice = 0
    budget = ListBudget(root)
    infos = archive.infolist()
    no_slash = not any("/" in info.filename for info in infos)
    for info in infos:
        name = info.filename
        if no_slash or info.create_system in _BACKSLASH_SYSTEMS:
            name = name.replace("\\", "/")
        if points_outside(name):
            raise AdvrBDError(
                f"{root} names a file outside itself ({brief(info.filename)}): it was not made to be trusted"
            )
        parts = [part for part in name.split("/") if part not in ("", ".")]
        path = "/".join(parts)
        if not path:
            continue
        budget.spend(path)
        if name.endswith("/"):
            folders.add(path)
        else:
            twice += path in entries
            entries[path] = info
        for end in range(len(parts) - 1, 0, -1):
            parent = "/".join(parts[:end])
            if parent in folders:  # and so are its own parents
                break
            budget.spend(parent)
            folders.add(parent)
    return entries, folders, twice


def read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, *, first: int | None = None) -> bytes:
    """The content of an entry, or its ``first`` bytes; never more than the entry's own size says.

    Raises:
        ValueError: it is encrypted, or compressed by another method than deflate.
        OSError, zipfile.BadZipFile, zlib.error: it is damaged.
    """
    if entry.flag_bits & 0x1:
        raise ValueError("encrypted in the zip")
    if entry.compress_type not in _COMPRESSIONS:
        method = _METHODS.get(entry.compress_type, f"method {entry.compress_type}")
        raise ValueError(f"compressed in the zip by {method}; stored and deflated files are read")
    wanted = entry.file_size if first is None else min(first, entry.file_size)
    with archive.open(entry) as handle:
        content = bytearray()
        while len(content) < wanted:
            chunk = handle.read(min(_CHUNK, wanted - len(content)))
            if not chunk:
                raise zipfile.BadZipFile("cut short in the zip")
            content += chunk
        if first is None:
            handle.read(1)  # the end, where zipfile compares the checksum
    return bytes(content)


def is_flat_picture(head: bytes, size: int) -> bool:
    """Whether a file that shrinks very much may be a picture of few colours in a format without compression."""
    if head[:2] == b"BM" and len(head) >= 30:
        width, height, bits = *struct.unpack_from("<ii", head, 18), struct.unpack_from("<H", head, 28)[0]
        pixels, data = abs(width * height), (abs(width) * bits + 31) // 32 * 4 * abs(height)
        return pixels <= limits.MAX_PIXELS and size <= data + 2**17
    if head[:4] in (b"II*\x00", b"MM\x00*"):
        return (
            size <= 8 * limits.MAX_PIXELS
        )  # its sizes stand anywhere in the file; they are looked at when it is opened
    found = re.match(rb"P([4-6])\s+(?:#[^\n]*\n\s*)*(\d{1,8})\s+(?:#[^\n]*\n\s*)*(\d{1,8})\s", head)
    if found:
        pixels = int(found[2]) * int(found[3])
        return pixels <= limits.MAX_PIXELS and size <= 6 * pixels + 2**17
    return False


def open_source(path: str | os.PathLike[str]) -> Source:
    """The source at ``path``: a directory, a zip or a tar.

    Raises:
        AdvrBDError: there is nothing, or none of the three.
    """
    from advrbd_plugin.data.tar import TarSource, is_tar

    root = Path(path)
    if root.is_dir():
        return FolderSource(root)
    if not root.exists():
        raise AdvrBDError(f"{root} does not exist: give a folder with one sub-folder of images for each class")
    if root.is_file() and is_tar(root):
        return TarSource(root)
    if not root.is_file() or not zipfile.is_zipfile(root):
        raise AdvrBDError(f"{root} is no folder, zip or tar: give a folder with one sub-folder for each class")
    return ZipSource(root)


def read_regular_file(path: str | os.PathLike[str], *, limit: int) -> bytes:
    """The content of an ordinary file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is a pipe or another thing that is no file, or has more than ``limit`` bytes.
        MemoryError: the computer's memory is used up.
    """
    with open_regular(path) as handle:
        size = os.fstat(handle.fileno()).st_size
        if size > limit:
            raise ValueError(f"{size} bytes is more than the limit of {limit}")
        return handle.read(size + 1)[:limit]


@contextmanager
def open_regular(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """An ordinary file, open; raises ValueError for any other."""
    with open(path, "rb", opener=_open_without_waiting) as handle:
        if not stat.S_ISREG(os.fstat(handle.fileno()).st_mode):
            raise ValueError("not an ordinary file")
        yield handle


def points_outside(name: str) -> bool:
    """Whether a file that a zip or a table names would lie outside the data set, on any system."""
    parts = name.replace("\\", "/").split("/")
    return parts[0] == "" or ".." in parts or re.match(r"[A-Za-z]:($|[\\/])", name) is not None


def is_junk(path: str) -> bool:
    """Hidden files and what systems and tools leave in folders."""
    return any(
        part.startswith(".") or part.lower() in _SYSTEM_NAMES or part.lower().endswith(_SYSTEM_SUFFIXES)
        for part in path.split("/")
    )


def _open_without_waiting(path: str, flags: int) -> int:
    """Open such that a named pipe among the images does not block for ever."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))


DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, struct.error)
"""What damage inside an archive raises, beside OSError and ValueError."""
