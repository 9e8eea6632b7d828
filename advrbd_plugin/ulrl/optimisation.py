"""The SGD step and the curve row that unlearning and relearning share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advrbd_plugin.errors import AdvrBDError


@dataclass(frozen=True)
class Descent:
    """One optimiser with its gradient bound; ``stage`` and ``rate_key`` are named if it diverges.

    Attributes:
        optimizer: over all parameters of ``model``.
        max_norm: largest gradient norm; ``math.inf`` sets no limit.
        rate_key, rate: the setting of the learning rate and its value.
    """

    stage: str
    model: nn.Module
    optimizer: torch.optim.Optimizer
    max_norm: float
    rate_key: str
    rate: float

    def step(self, objective: Tensor) -> None:
        """Minimise ``objective``, a scalar, by one step.

        Raises:
            AdvrBDError: the objective or a gradient is NaN or infinite.
        """
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(objective)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.max_norm)
        if not (bool(torch.isfinite(objective.detach())) and bool(torch.isfinite(norm))):
            raise AdvrBDError(
                f"{self.stage} diverged: its loss is not a finite number; use a {self.rate_key} below {self.rate}"
            )
        self.optimizer.step()


class EpochMeans:
    """Sums one epoch's loss and accuracy over its batches."""

    def __init__(self) -> None:
        self._loss, self._right, self._seen = 0.0, 0, 0

    def add(self, loss: float, right: int, count: int) -> None:
        """Add a batch of ``count`` samples with mean ``loss``, of which ``right`` are classified right."""
        self._loss += loss * count
        self._right += right
        self._seen += count

    def row(self, epoch: int) -> dict[str, float]:
        """The means as a curve's row: ``epoch`` (from 1), ``loss``, ``accuracy``."""
        return {"epoch": epoch, "loss": self._loss / self._seen, "accuracy": self._right / self._seen}
