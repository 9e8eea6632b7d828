"""How long jobs will take, from those that were measured."""

from __future__ import annotations

from collections.abc import Iterable

from advrbd_plugin.evaluation.job import Kind


class Estimate:
    """Expected seconds of a job: the mean of its kind, or else in proportion to the costs of the methods that were
    measured in the same place."""

    def __init__(self) -> None:
        self._measured: dict[Kind, list[float]] = {}

    def add(self, kind: Kind, seconds: float | None) -> None:
        """Learn from a job that took so long; nothing from ``None``."""
        if seconds is not None:
            self._measured.setdefault(kind, []).append(seconds)

    def seconds(self, kind: Kind) -> float | None:
        """Expected seconds of a job; ``None`` while nothing was measured in its place."""
        own = self._measured.get(kind)
        if own:
            return sum(own) / len(own)
        alike = [
            value / other.cost
            for other, values in self._measured.items()
            if other.place == kind.place
            for value in values
        ]
        return kind.cost * sum(alike) / len(alike) if alike else None

    def remaining(self, waiting: Iterable[Kind], running: Iterable[tuple[Kind, float]], parallel: int) -> float | None:
        """Seconds until all jobs are done; ``None`` while the time of one of them is not known.

        Args:
            waiting: jobs that have not begun.
            running: jobs at work with the seconds that they took so far.
            parallel: how many run at a time.
        """
        rests = [_rest(self.seconds(kind), spent) for kind, spent in running]
        expected = [self.seconds(kind) for kind in waiting]
        known = [value for value in (*rests, *expected) if value is not None]
        if len(known) < len(rests) + len(expected):
            return None
        return max(sum(known) / parallel, *known[: len(rests)], 0.0)


def _rest(expected: float | None, spent: float) -> float | None:
    return None if expected is None else max(0.0, expected - spent)
