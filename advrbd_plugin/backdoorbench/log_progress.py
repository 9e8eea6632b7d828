"""A method's progress as lines of BackdoorBench's log, with an ETA."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping


class LogProgress:
    """A :class:`advrbd_plugin.progress.Progress` that writes a line when a stage starts and every ``every`` seconds."""

    def __init__(self, *, every: float = 15.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._every = every
        self._clock = clock
        self._work: dict[str, float] = {}
        self._done: dict[str, float] = {}
        self._stage = ""
        self._began: float | None = None
        self._told = 0.0

    def plan(self, work: Mapping[str, float]) -> None:
        """Store the work of each stage; a later call changes only the stages that it names."""
        self._work.update(work)

    def start(self, stage: str) -> None:
        """Log that ``stage`` begins."""
        now = self._clock()
        self._began = now if self._began is None else self._began
        self._told = now
        self._stage = stage
        self._done.setdefault(stage, 0.0)
        names = list(self._work)
        place = f"{names.index(stage) + 1}/{len(names)} " if stage in names else ""
        logging.info("stage %s%s", place, stage)

    def advance(self, work: float, **figures: float) -> None:
        """Count ``work`` units; log share, figures and ETA if the last line is old enough."""
        self._done[self._stage] = self._done.get(self._stage, 0.0) + work
        now = self._clock()
        if now - self._told < self._every:
            return
        self._told = now
        told = " ".join(f"{name}={value:.4g}" for name, value in figures.items())
        logging.info("%s: %.0f%% of the run %s%s", self._stage, 100 * self._share(), told, self._eta(now))

    def finish(self) -> None:
        """Count the stage as done, even if less work was reported."""
        self._done[self._stage] = max(self._done.get(self._stage, 0.0), self._work.get(self._stage, 0.0))

    def _share(self) -> float:
        total = sum(self._work.values())
        done = sum(min(self._done.get(stage, 0.0), work) for stage, work in self._work.items())
        return done / total if total else 0.0

    def _eta(self, now: float) -> str:
        share = self._share()
        if not share or self._began is None:
            return ""
        left = (now - self._began) * (1 - share) / share
        return f" ETA {int(left) // 60}:{int(left) % 60:02d}"
