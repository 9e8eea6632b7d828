"""How long-running work reports where it stands."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

_LOG = logging.getLogger(__name__)


class Progress(Protocol):
    """What the algorithm calls while it runs; a display implements it."""

    def plan(self, work: Mapping[str, float]) -> None:
        """Announce every stage with its expected work, all in one unit, so that a whole-run ETA can be given."""

    def start(self, stage: str) -> None:
        """Begin ``stage``, a name that :meth:`plan` announced."""

    def advance(self, work: float, **figures: float) -> None:
        """Report ``work`` more units done, with figures worth showing, such as ``loss=0.3``."""

    def finish(self) -> None:
        """End the stage that was started last: it is complete, whatever share of its work was reported.

        A stage that an error or Ctrl-C cuts off is never finished.
        """


class SilentProgress:
    """Shows nothing."""

    def plan(self, work: Mapping[str, float]) -> None:
        pass

    def start(self, stage: str) -> None:
        pass

    def advance(self, work: float, **figures: float) -> None:
        pass

    def finish(self) -> None:
        pass


class LoggedProgress:
    """Each stage's beginning and end, as a record of the logger ``advrbd_plugin``.

    ``logging.basicConfig(level=logging.INFO)`` shows them.
    """

    def __init__(self) -> None:
        self._stage, self._began = "", 0.0

    def plan(self, work: Mapping[str, float]) -> None:
        pass

    def start(self, stage: str) -> None:
        self._stage, self._began = stage.replace("_", " "), time.perf_counter()
        _LOG.info("%s ...", self._stage)

    def advance(self, work: float, **figures: float) -> None:
        pass

    def finish(self) -> None:
        _LOG.info("%s done in %.1f s", self._stage, time.perf_counter() - self._began)


class ScaledProgress:
    """Reports each unit as several to another progress, so that all stages count in one unit of work."""

    def __init__(self, progress: Progress, factor: float) -> None:
        self._progress, self._factor = progress, factor

    def plan(self, work: Mapping[str, float]) -> None:
        self._progress.plan(work)

    def start(self, stage: str) -> None:
        self._progress.start(stage)

    def advance(self, work: float, **figures: float) -> None:
        self._progress.advance(work * self._factor, **figures)

    def finish(self) -> None:
        self._progress.finish()


@contextmanager
def timed_stage(progress: Progress, stage: str, seconds: dict[str, float]) -> Iterator[None]:
    """Start ``stage``, finish it unless the block raises, and add the time that it took to ``seconds[stage]``."""
    began = time.perf_counter()
    progress.start(stage)
    yield
    progress.finish()
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - began
