"""Algorithm 1: the samples whose prediction moves most under perturbation are taken as clean."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Partition:
    """Attributes:
    clean: (N,) bool, D_c: the least consistent samples, taken as clean.
    consistency: (N,) float32 in [0, 1], the rank of each sample: 1 is the most consistent, hence most suspicious.
    """

    clean: Tensor
    consistency: Tensor

    @property
    def suspect(self) -> Tensor:
        """(N,) bool, D_u: the rest, which still holds the poison."""
        return ~self.clean


def partition(scores: Tensor, alpha: float) -> Partition:
    """Split a set by its consistency scores (paper, Algorithm 1).

    Args:
        scores: (N,) float, from :func:`advrbd_plugin.defense.scoring.consistency_scores`: higher is more likely clean.
        alpha: share of the samples that is taken as clean, in (0, 1).

    Raises:
        ValueError: ``alpha`` is out of range, or a score is NaN.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be in (0, 1), got {alpha}")
    least_consistent_first = _least_consistent_first(scores)
    clean = torch.zeros(len(scores), dtype=torch.bool)
    clean[least_consistent_first[: round(alpha * len(scores))]] = True
    return Partition(clean, _ranks(least_consistent_first))


def ranks(scores: Tensor) -> Tensor:
    """(N,) float32 in [0, 1]: :attr:`Partition.consistency`, which no share has a part in.

    Args:
        scores: (N,) float, as :func:`partition` takes them.

    Raises:
        ValueError: a score is NaN.
    """
    return _ranks(_least_consistent_first(scores))


def _least_consistent_first(scores: Tensor) -> Tensor:
    if torch.isnan(scores).any():
        raise ValueError(f"scores must not be NaN, got {int(torch.isnan(scores).sum())} of them")
    return torch.argsort(scores, descending=True, stable=True)


def _ranks(least_consistent_first: Tensor) -> Tensor:
    count = len(least_consistent_first)
    consistency = torch.empty(count)
    consistency[least_consistent_first] = torch.arange(count, dtype=torch.float32) / max(1, count - 1)
    return consistency
