"""A network after its training."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn


class Trained(NamedTuple):
    """What a training gives.

    Attributes:
        model: for images in pixel scale [0, 1].
        rows: one an epoch: ``epoch``, ``loss``, ``accuracy``.
        mean_probabilities: (N, num_classes) float32, what it said of each sample while it learned, see
            :class:`advrbd_plugin.nn.trajectory.Trajectory`; ``None`` where it was not asked for or is too large.
    """

    model: nn.Module
    rows: list[dict[str, float]]
    mean_probabilities: Tensor | None = None
