"""Running one stage: from the cache if it is there, timed and shown otherwise."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from advrbd_plugin.cache import digest, open_stages
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.defense.result import Rows
from advrbd_plugin.defense.trained import Trained
from advrbd_plugin.nn.checkpoints import StoredTraining, cached_training
from advrbd_plugin.nn.repeatable import repeatable
from advrbd_plugin.nn.training import TRAINING_WORK, TrainingOptions, describe_training, train
from advrbd_plugin.nn.trajectory import Trajectory
from advrbd_plugin.processes import current
from advrbd_plugin.progress import Progress, ScaledProgress, timed_stage
from advrbd_plugin.randomness import derive_seed


class Stored(Protocol):
    """A stage's result that can be cached."""

    def to_stored(self) -> tuple[dict[str, Tensor], Any]:
        """Its tensors, and the rest ready for JSON."""
        ...

    @classmethod
    def from_stored(cls, tensors: dict[str, Tensor], rest: Any, /) -> Any:
        """The result that :meth:`to_stored` described."""
        ...


StoredT = TypeVar("StoredT", bound=Stored)


def shared(result: StoredT) -> StoredT:
    """That of rank 0 where several processes share the work, so that all of them decide alike."""
    processes = current()
    if processes.count == 1:
        return result
    tensors, rest = result.to_stored()
    tensors = processes.receive_tensors(lambda: tensors)
    again: StoredT = type(result).from_stored(tensors, processes.receive(lambda: rest))
    return again


class StageRunner:
    """What every stage of a run shares.

    Args:
        make_model: builds a freshly initialised network.
        device: where to train.
        work_dir: the folder of cached stages; ``None`` stores nothing.
        progress: told of every batch.

    Attributes:
        seconds: stage -> time so far.
    """

    def __init__(
        self, make_model: Callable[[], nn.Module], device: torch.device, work_dir: str | Path | None, progress: Progress
    ) -> None:
        self._make_model, self._device, self._store = make_model, device, open_stages(work_dir)
        self.progress = progress
        self.seconds: dict[str, float] = {}

    def timed(self, stage: str) -> AbstractContextManager[None]:
        """Show and time what runs within this context."""
        return timed_stage(self.progress, stage, self.seconds)

    def cached(self, kind: type[StoredT], stage: str, key: str, work: Callable[[], StoredT]) -> StoredT:
        """A stage's result, of this ``kind``, from the cache or from ``work``."""
        stored = self._store.load(stage, key)
        if stored is not None:
            result: StoredT = kind.from_stored(*stored)
            return result
        with self.timed(stage):
            result = work()
        self._store.save(stage, key, *result.to_stored())
        return shared(result)

    def train(
        self, stage: str, samples: ImageSet, options: TrainingOptions, seed: int, key: str, *, record: bool = False
    ) -> Trained:
        """A network of the stage's own initialisation, trained on ``samples``.

        Args:
            seed: the run's, from which the initial weights derive.
            key: names all that the result depends on beside the recipe and the initial weights.
            record: whether to note what the network says of each sample while it learns.
        """
        with repeatable(self._device, derive_seed(seed, "weights", stage)):
            model = self._make_model().to(self._device)
        progress = ScaledProgress(self.progress, TRAINING_WORK)
        size = len(samples), samples.num_classes, options.epochs
        trajectory = Trajectory.recordable(*size) if record else None

        def work(checkpoint: StoredTraining) -> Rows:
            return train(
                model,
                samples.images,
                samples.labels,
                samples.sample_ids,
                options,
                stage=stage,
                progress=progress,
                checkpoint=checkpoint,
                trajectory=trajectory,
            )

        rows = self.train_on(stage, model, options, key, work, trajectory)
        return Trained(model, rows, None if trajectory is None else trajectory.mean)

    def train_on(
        self,
        stage: str,
        model: nn.Module,
        options: TrainingOptions,
        key: str,
        work: Callable[[StoredTraining], Rows],
        trajectory: Trajectory | None = None,
    ) -> Rows:
        """Run ``work``, which trains ``model`` in place by ``options``, or load what it gave before."""
        key = digest(key, describe_training(model, options), *model.state_dict().values())
        with self.timed(stage):
            return cached_training(self._store, stage, key, model, work, trajectory)
