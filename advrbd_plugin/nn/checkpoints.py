"""Finished and half-finished trainings in a stage cache."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from advrbd_plugin.cache import StageStore


class TrainingCheckpoint:
    """Where an interrupted training goes on; this one stores nothing."""

    def load(self) -> tuple[int, dict[str, Tensor]] | None:
        """The number of finished epochs and the tensors that :meth:`save` was given, or ``None``."""
        return None

    def save(self, epochs_done: int, tensors: dict[str, Tensor]) -> None:
        """Store the state after ``epochs_done`` epochs."""


class StoredTraining(TrainingCheckpoint):
    """A training's epochs in a :class:`StageStore`."""

    def __init__(self, store: StageStore, stage: str, key: str) -> None:
        self._store, self._stage, self._key = store, f"{stage}-unfinished", key

    def load(self) -> tuple[int, dict[str, Tensor]] | None:
        found = self._store.load(self._stage, self._key)
        return None if found is None else (int(found[1]), found[0])

    def save(self, epochs_done: int, tensors: dict[str, Tensor]) -> None:
        self._store.save(self._stage, self._key, tensors, epochs_done)

    def remove(self) -> None:
        """Forget the epochs, once the training's result is cached."""
        self._store.remove(self._stage, self._key)


def cached_training(
    store: StageStore,
    stage: str,
    key: str,
    model: nn.Module,
    work: Callable[[StoredTraining], list[dict[str, float]]],
) -> list[dict[str, float]]:
    """Run ``work``, which trains ``model`` and gives its rows, or load what it gave before."""
    cached = store.load(stage, key)
    if cached is not None:
        tensors, rows = cached
        model.load_state_dict(tensors)
        model.to(memory_format=torch.channels_last).eval()
        return rows
    checkpoint = StoredTraining(store, stage, key)
    rows = work(checkpoint)
    store.save(stage, key, model.state_dict(), rows)
    checkpoint.remove()
    return rows
