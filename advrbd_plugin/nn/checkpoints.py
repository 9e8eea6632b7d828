"""Finished and half-finished trainings in a stage cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from advrbd_plugin.cache import StageStore
from advrbd_plugin.nn.trajectory import Trajectory


class TrainingCheckpoint:
    """Where an interrupted training goes on; this one stores nothing."""

    def load(self) -> tuple[int, dict[str, Tensor]] | None:
        """The number of finished epochs and the tensors that :meth:`save` was given, or ``None``."""
        return None

    def save(self, epochs_done: int, tensors: dict[str, Tensor]) -> None:
        """Store the state after ``epochs_done`` epochs."""


class StoredTraining(TrainingCheckpoint):
    """A training's epochs in a :class:`StageStore`.

    Args:
        model: the network that is trained; stored weights of other shapes count as damaged. ``None`` checks no shapes.
    """

    def __init__(self, store: StageStore, stage: str, key: str, model: nn.Module | None = None) -> None:
        self._store, self._stage, self._key = store, f"{stage}-unfinished", key
        self._model = model

    def load(self) -> tuple[int, dict[str, Tensor]] | None:
        found = self._store.load(self._stage, self._key)
        if found is None:
            return None
        tensors, epochs_done = found
        if not self._fits(tensors, epochs_done):
            self._store.report_damage(self._stage, self._key)
            return None
        return epochs_done, tensors

    def save(self, epochs_done: int, tensors: dict[str, Tensor]) -> None:
        self._store.save(self._stage, self._key, tensors, epochs_done)

    def remove(self) -> None:
        """Forget the epochs, once the training's result is cached."""
        self._store.remove(self._stage, self._key)

    def _fits(self, tensors: Mapping[str, Tensor], epochs_done: Any) -> bool:
        if type(epochs_done) is not int or epochs_done < 0:
            return False
        if self._model is None:
            return True
        prefix = "model."
        weights = {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}
        return _same_shapes(weights, self._model.state_dict())


def cached_training(
    store: StageStore,
    stage: str,
    key: str,
    model: nn.Module,
    work: Callable[[StoredTraining], list[dict[str, float]]],
    trajectory: Trajectory | None = None,
) -> list[dict[str, float]]:
    """Run ``work``, which trains ``model``, fills ``trajectory`` and gives its rows, or load what it gave before.

    The trajectory is a file of its own: a training that was stored without one serves whoever asks for none, and is
    done again for whoever asks for it.
    """
    cached = store.load(stage, key)
    if cached is not None and not _same_shapes(cached[0], model.state_dict()):
        store.report_damage(stage, key)
        cached = None
    if cached is not None and _load_trajectory(store, stage, key, trajectory):
        tensors, rows = cached
        model.load_state_dict(tensors)
        model.to(memory_format=torch.channels_last).eval()
        return list(rows)
    checkpoint = StoredTraining(store, stage, key, model)
    rows = work(checkpoint)
    if trajectory is not None:  # first, so that a finished training has it
        store.save(_trajectory_stage(stage), key, trajectory.to_stored())
    store.save(stage, key, model.state_dict(), rows)
    checkpoint.remove()
    return rows


def _load_trajectory(store: StageStore, stage: str, key: str, trajectory: Trajectory | None) -> bool:
    """Whether all that is asked of a finished training's trajectory was found."""
    if trajectory is None:
        return True
    stored = store.load(_trajectory_stage(stage), key)
    if stored is None:
        return False
    if not trajectory.from_stored(stored[0]):
        store.report_damage(_trajectory_stage(stage), key)
        return False
    return True


def _trajectory_stage(stage: str) -> str:
    return f"trajectory-{stage}"


def _same_shapes(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    return {name: (value.shape, value.dtype) for name, value in tensors.items()} == {
        name: (value.shape, value.dtype) for name, value in expected.items()
    }
