"""The exceptions that a person is meant to read."""

from __future__ import annotations


class AdvrBDError(Exception):
    """One clear line for the user: what is wrong, where, and what to do about it.

    The command line prints it after ``advrbd: error:`` and exits with status 1, without a traceback.
    Programming mistakes (a wrong shape handed to a function) stay ``ValueError`` and ``TypeError``.
    """


class StorageError(AdvrBDError):
    """A file could not be written. The work so far is kept: once there is room, the same command goes on with it."""
