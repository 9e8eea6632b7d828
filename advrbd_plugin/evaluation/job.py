"""What the engine knows of a cell: the processes that make its result, and whether it has a current one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Hashable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from advrbd_plugin.evaluation.child import Command, Ended


class CellResult(Protocol):
    """What a job gives: figures, or the reason why there are none."""

    @property
    def is_done(self) -> bool:
        """Whether it has figures."""

    @property
    def reason(self) -> str:
        """Why it has none, in one line."""


R = TypeVar("R", bound=CellResult)


@dataclass(frozen=True)
class Kind:
    """Jobs of one kind take alike long.

    Attributes:
        place: what jobs of different methods have in common, such as the data set and the network.
        method: what is run there.
        cost: its time in an arbitrary unit that all methods of the place share, for the ETA until it was measured.
    """

    place: tuple[str, ...]
    method: str
    cost: float = 1.0


class Job(ABC, Generic[R]):
    """One cell of a table, to be computed by one process or by several, one after another.

    Attributes:
        key: tells it from all other jobs.
        name: for people.
        kind: for the ETA.
        needs: the key of the job that has to end first, or ``None``.
        why: in words, why it is run, or why its stored result is taken.
    """

    key: Hashable
    name: str
    kind: Kind
    needs: Hashable | None = None
    why: str = "running"

    @abstractmethod
    def stored(self) -> R | None:
        """The result of an earlier run, if it is what a run would give now; otherwise ``None``."""

    def obstacle(self, before: R | None) -> str | None:
        """Why the job cannot run here, in one line, or ``None``.

        Args:
            before: the result of the job that it needs, once that has ended.
        """
        return None

    @abstractmethod
    def not_run(self, reason: str) -> R:
        """Record that there was an obstacle."""

    @abstractmethod
    def run(self) -> Generator[Command, Ended, R]:
        """Yield each process to run, take how it ended, and return the result, a failure included.

        The generator is closed where the run is stopped.
        """

    def measured_seconds(self, result: R) -> float | None:
        """How long the job took, where that says how long others of its kind will take."""
        return None


AnyJob = Job[Any]
