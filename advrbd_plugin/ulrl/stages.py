"""Running one stage of a repair: timed, and loaded from the work folder where an earlier run finished it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from advrbd_plugin.cache import StageStore
from advrbd_plugin.progress import Progress, timed_stage

# The tensors of a finished stage, and what else it found as JSON values.
Stored = tuple[dict[str, Tensor], Any]


@dataclass
class StageRunner:
    """Attributes:
    work_dir: where finished stages are stored; ``None`` stores nothing.
    progress: told of every stage.
    seconds: stage -> time of this run.
    """

    work_dir: str | Path | None
    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, stage: str, key: str, work: Callable[[], Stored]) -> Stored:
        """Load ``stage`` if a run with the same ``key`` stored it; else do ``work`` and store its result."""
        store = StageStore(self.work_dir)
        with timed_stage(self.progress, stage, self.seconds):
            result = store.load(stage, key)
            if result is None:
                result = work()
                store.save(stage, key, *result)
        return result
