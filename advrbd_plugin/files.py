"""Files that are either whole or not there: written beside their place, flushed to the disk, then moved in."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from advrbd_plugin.errors import StorageError

_OUT_OF_SPACE = {errno.ENOSPC, errno.EDQUOT}
_LEFT_BEHIND_AFTER = 3600.0  # seconds; a younger workspace may be another process's, at work


def explain_os_error(error: OSError, where: str | os.PathLike[str]) -> StorageError:
    """Turn an operating system's refusal into the line that a user needs."""
    if error.errno in _OUT_OF_SPACE:
        return StorageError(f"the disk that holds {where} is full: free some space and run the same command again")
    reason = error.strerror or str(error)
    return StorageError(f"cannot write {where}: {reason}")


@contextmanager
def atomic_file(path: str | os.PathLike[str], mode: str = "wb") -> Iterator[IO[Any]]:
    """Open ``path`` for writing such that it appears only once everything is on the disk.

    What a process left that was killed here more than an hour ago is removed first.

    Args:
        path: the file to make or to replace; missing parent folders are made.
        mode: ``"wb"``, or ``"w"`` for UTF-8 text with ``\\n`` line ends.

    Raises:
        StorageError: the disk is full or the place cannot be written. Nothing is left behind and an
            earlier version of ``path`` is untouched, as it is after any other exception in the body.
    """
    if mode not in ("w", "wb"):
        raise ValueError(f"mode must be 'w' or 'wb', got {mode!r}")
    path = Path(path)
    encoding, newline = ("utf-8", "") if mode == "w" else (None, None)
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_behind(path.parent, f".{path.name}.", ".part")
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        with os.fdopen(descriptor, mode, encoding=encoding, newline=newline) as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.chmod(temporary, 0o666 & ~umask())  # mkstemp makes it private; a result is an ordinary file
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise explain_os_error(error, path) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write ``content`` to ``path`` atomically (see :func:`atomic_file`)."""
    with atomic_file(path, "wb") as handle:
        handle.write(content)


def write_text(path: str | os.PathLike[str], content: str) -> None:
    """Write ``content`` to ``path`` as UTF-8, atomically (see :func:`atomic_file`)."""
    with atomic_file(path, "w") as handle:
        handle.write(content)


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write ``content`` as indented JSON, atomically; not-a-number and infinity are refused (no JSON has them)."""
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    if any("\ud800" <= character <= "\udfff" for character in text):  # from a file name that is no UTF-8
        text = json.dumps(content, indent=2, allow_nan=False)
    write_text(path, text + "\n")


def finite(content: Any) -> Any:
    """``content`` with tuples as lists and whatever is not a finite number as ``None``, as JSON wants it."""
    if isinstance(content, dict):
        return {str(key): finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [finite(value) for value in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content


@contextmanager
def workspace_for(place: str | os.PathLike[str]) -> Iterator[Path]:
    """A new folder beside ``place`` to make it in, so that one move puts it there. It is gone after the block.

    A process that is killed in the block leaves its workspace behind: those of ``place`` that are more than an hour
    old are removed first.

    Args:
        place: a file or folder to be; missing parent folders are made.

    Raises:
        StorageError: the disk is full or the place cannot be written, in the block too.
    """
    place = Path(place)
    prefix = f".{place.name}-"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_behind(place.parent, prefix)
        with tempfile.TemporaryDirectory(prefix=prefix, dir=place.parent) as folder:
            yield Path(folder)
    except OSError as error:
        raise explain_os_error(error, place) from error


def _remove_left_behind(parent: Path, prefix: str, suffix: str = "") -> None:
    """Exactly tempfile's eight characters stand in between: ``.a-b-12345678`` is no workspace of ``a``."""
    ours = re.compile(re.escape(prefix) + "[a-z0-9_]{8}" + re.escape(suffix))
    for path in parent.iterdir():
        with suppress(FileNotFoundError):  # another process may be done with it
            if ours.fullmatch(path.name) and time.time() - path.lstat().st_mtime > _LEFT_BEHIND_AFTER:
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()


def umask() -> int:
    """The process's file mode mask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
