"""A tar of pictures, read in place; a compressed one is inflated into a temporary file that nobody else sees."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from advrbd_plugin import limits
from advrbd_plugin.data.sources import DAMAGE, HEAD_BYTES, ListBudget, Source, points_outside
from advrbd_plugin.errors import AdvrBDError, is_out_of_memory, out_of_memory
from advrbd_plugin.plain import brief, one_reason

_COMPRESSIONS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_LONG_HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_DAMAGE = (*DAMAGE, OSError, ValueError, lzma.LZMAError, tarfile.TarError, RecursionError)


def is_tar(path: Path) -> bool:
    """Whether a file is a tar, by its name or by what it begins with."""
    if path.name.lower().endswith(_SUFFIXES):
        return True
    try:
        with path.open("rb") as handle:
            return handle.read(265)[257:262] == b"ustar"
    except OSError:
        return False


class _Header(tarfile.TarInfo):
    """A header that is looked at before what it announces is read."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        header = super().frombuf(buf, encoding, errors)
        if header.type in _LONG_HEADERS and header.size > limits.MAX_TAR_HEADER_BYTES:
            raise AdvrBDError(f"its header of {header.size} bytes is no name of a file")
        if header.type == tarfile.GNUTYPE_SPARSE:
            raise AdvrBDError("it holds a sparse file")
        return header


class TarSource(Source):
    """The files of a tar; names that point outside it are refused, links in it are not followed."""

    def __init__(self, root: Path) -> None:
        self._handle = _open(root)
        try:
            self._entries, folders, twice, links = _list(root, self._handle)
        except BaseException:
            self._handle.close()
            raise
        super().__init__(root, self._entries, folders)
        if twice:
            self.notes.append(f"{twice} files of the tar have the name of another; the last of each name is read.")
        if links:
            self.notes.append(f"{links} links in the tar are not followed.")

    def read(self, path: str) -> bytes:
        start, size = self._entry(path)
        if size > limits.MAX_FILE_BYTES:
            raise ValueError(f"{size} bytes is more than the limit of {limits.MAX_FILE_BYTES}")
        return self._part(start, size)

    def head(self, path: str) -> bytes:
        start, size = self._entry(path)
        return self._part(start, min(size, HEAD_BYTES))

    def size(self, path: str) -> int:
        return min(self._entry(path)[1], limits.MAX_FILE_BYTES)

    def close(self) -> None:
        self._handle.close()

    def _entry(self, path: str) -> tuple[int, int]:
        if path not in self._entries:
            raise ValueError("not in the tar")
        return self._entries[path]

    def _part(self, start: int, size: int) -> bytes:
        content = os.pread(self._handle.fileno(), size, start)  # many threads read at once
        if len(content) != size:
            raise ValueError("cut short in the tar")
        return content


def _open(root: Path) -> IO[bytes]:
    """The tar itself, inflated if it is compressed."""
    handle = root.open("rb")
    try:
        start = handle.read(6)
        opener = next((opener for magic, opener in _COMPRESSIONS.items() if start.startswith(magic)), None)
        handle.seek(0)
        if opener is None:
            return handle
        inflated = tempfile.TemporaryFile()  # noqa: SIM115 - the source closes it
        try:
            most = limits.MAX_UNPACKED_BYTES + limits.MAX_UNPACKED_RATIO * root.stat().st_size
            with opener(handle) as stream:
                while chunk := stream.read(2**20):
                    if inflated.tell() + len(chunk) > most:
                        raise AdvrBDError(f"{root} swells to more than {most} bytes: it was not made to be trusted")
                    inflated.write(chunk)
            inflated.seek(0)
        except BaseException:
            inflated.close()
            raise
        handle.close()
        return inflated
    except _DAMAGE as error:
        handle.close()
        raise _explained(root, error) from error
    except BaseException:
        handle.close()
        raise


def _list(root: Path, handle: IO[bytes]) -> tuple[dict[str, tuple[int, int]], set[str], int, int]:
    """(path -> where its bytes begin and how many, all folders, how many files stand there twice, how many links)."""
    entries: dict[str, tuple[int, int]] = {}
    folders: set[str] = set()
    twice = links = 0
    budget = ListBudget(root)
    try:
        with tarfile.TarFile(fileobj=handle, mode="r", tarinfo=_Header, encoding="utf-8") as archive:
            while (entry := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                if points_outside(entry.name):
                    raise AdvrBDError(
                        f"{root} names a file outside itself ({brief(entry.name)}): it was not made to be trusted"
                    )
                parts = [part for part in entry.name.split("/") if part not in ("", ".")]
                path = "/".join(parts)
                if not path:
                    continue
                budget.spend(path)
                if entry.isdir():
                    folders.add(path)
                elif entry.isreg():
                    twice += path in entries
                    entries[path] = (entry.offset_data, entry.size)
                else:
                    links += 1
                    continue
                for end in range(len(parts) - 1, 0, -1):
                    parent = "/".join(parts[:end])
                    if parent in folders:
                        break
                    budget.spend(parent)
                    folders.add(parent)
            _check_end(handle, archive.offset)
    except AdvrBDError as error:
        raise (
            error if str(error).startswith(str(root)) else AdvrBDError(f"{root} cannot be read as a tar: {error}")
        ) from error
    except _DAMAGE as error:
        raise _explained(root, error) from error
    return entries, folders, twice, links


def _check_end(handle: IO[bytes], offset: int) -> None:
    """Python takes a damaged header for the end of the tar, and the rest would be missing without a word."""
    handle.seek(offset - offset % tarfile.BLOCKSIZE)
    if handle.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise AdvrBDError("it is damaged in the middle")


def _explained(root: Path, error: Exception) -> Exception:
    if is_out_of_memory(error):
        return out_of_memory(f"reading {root}")
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, tarfile.TarError):
        return (
            error
            if error.filename is None and error.errno == 28
            else AdvrBDError(f"{root} cannot be read: {error.strerror}")
        )
    return AdvrBDError(f"{root} cannot be read as a tar: {one_reason(error)}")
