"""Libraries that write to stderr by themselves: what a file's fault is, the reader says in a line of its own."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import logging


@functools.cache
def quiet_pillow() -> None:
    """Stop libtiff and Pillow from writing their own lines about damaged pictures, for the rest of the process.

    libtiff, which Pillow brings along, prints every bad code word of a damaged file; where it is not found, nothing
    changes. What cannot be read raises all the same.
    """
    from PIL import Image  # noqa: F401  # loads libtiff

    logging.getLogger("PIL").addHandler(logging.NullHandler())  # without one, Python prints what Pillow logs
    for path in _loaded_libtiffs():
        with contextlib.suppress(OSError, AttributeError):
            library = ctypes.CDLL(path)
            for setter in (library.TIFFSetErrorHandler, library.TIFFSetWarningHandler):
                setter.argtypes, setter.restype = [ctypes.c_void_p], ctypes.c_void_p
                setter(None)


def _loaded_libtiffs() -> set[str]:
    """Paths of the libtiff that this process has loaded, as Linux tells them."""
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
            paths = {line.split(maxsplit=5)[-1].rstrip("\n") for line in maps if "libtiff" in line}
    except OSError:
        return set()
    return {path for path in paths if path.startswith("/")}
