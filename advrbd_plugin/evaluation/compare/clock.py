"""Which cell is at work and how long the rest may take."""

from __future__ import annotations

import time
from collections.abc import Callable


class Clock:
    """Says which cell is at work and how long the rest may take."""

    def __init__(self, cells: int, tell: Callable[[str], None]) -> None:
        self._left = cells
        self._tell = tell
        self._ran: list[float] = []
        self._began = 0.0
        self._name = ""

    def begin(self, name: str, what: str = "running") -> None:
        """A cell is run from now on; ``what`` says so."""
        self._name, self._began = name, time.monotonic()
        expected = self._left * sum(self._ran) / len(self._ran) if self._ran else None
        eta = f", about {expected / 60:.0f} min for the {self._left} left" if expected else ""
        self._tell(f"{name}: {what}{eta}")

    def keep(self, name: str, why: str = "it was finished before") -> None:
        """A cell is not run, for this reason; it says nothing about the rest's time."""
        self._left -= 1
        self._tell(f"{name}: kept, {why}")

    def end(self, outcome: str) -> None:
        """The cell that was begun has ended."""
        self._left -= 1
        self._ran.append(time.monotonic() - self._began)
        self._tell(f"{self._name}: {outcome}")
