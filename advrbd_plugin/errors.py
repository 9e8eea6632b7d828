"""The exceptions that a person is meant to read."""

from __future__ import annotations

import errno

# What the libraries below us say in place of raising MemoryError.
_OUT_OF_MEMORY_WORDS = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "failed to allocate",
    "could not allocate",
    "unable to allocate",
    "insufficient memory",
    "could not create a primitive",  # oneDNN
    "could not create a memory",
    "defaultcpuallocator",
    "bad_alloc",
    "can't start new thread",
)


class AdvrBDError(Exception):
    """One clear line for the user: what is wrong, where, and what to do about it.

    The command line prints it after ``advrbd: error:`` and exits with status 2, without a traceback.
    Programming mistakes (a wrong shape handed to a function) stay ``ValueError`` and ``TypeError``.

    Examples:
        >>> from advrbd_plugin import AdvrBDConfig
        >>> try:
        ...     AdvrBDConfig(patch_size=0)
        ... except AdvrBDError as error:
        ...     print(error)
        patch_size must be ...
    """


class StorageError(AdvrBDError):
    """A file could not be written. Finished stages stay: once there is room, the same command goes on from there."""


class OutOfMemory(AdvrBDError):
    """The computer's memory is used up. Never taken for a damaged file: the same command can succeed with more."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of any library says that memory is used up (Python, Pillow, zlib, PyTorch, oneDNN)."""
    if isinstance(error, (MemoryError, OutOfMemory)) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    if not isinstance(error, (OSError, RuntimeError)) and type(error).__module__ not in ("zlib", "safetensors_rust"):
        return False
    text = str(error).lower()
    return any(words in text for words in _OUT_OF_MEMORY_WORDS)


def out_of_memory(doing: str, advice: str = "end other programs, or give it more memory") -> OutOfMemory:
    """The line for memory that ends while ``doing`` something."""
    return OutOfMemory(f"the computer's memory is used up while {doing}: {advice}")
