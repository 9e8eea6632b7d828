"""A lock between the processes of one machine, let go when its holder ends, however it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def held(lock: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the file ``lock`` within this context.

    Args:
        lock: made where it is missing, and left there.
        wait: for whoever holds it now; otherwise the context says ``False`` and nothing is held.
    """
    import fcntl

    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True  # let go when the file is closed, also by a crash
