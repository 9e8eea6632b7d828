"""SCAn's decomposition of features: the covariances of identity and variation, by EM (Tang et al., Section 4.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Covariances:
    """Attributes:
    identity: (M, M) float64, of the labels' identities (their feature means).
    variation: (M, M) float64, of the samples about their label's identity.
    """

    identity: Tensor
    variation: Tensor


def estimate_covariances(
    features: Tensor, labels: Tensor, *, iterations: int, tolerance: float, ridge: float
) -> Covariances:
    """EM for features = identity + variation, both normal with mean zero.

    Args:
        features: (K, M) float64 of clean samples.
        labels: (K,) int64.
        iterations: most rounds.
        tolerance: EM ends once neither covariance changes by more than this (Frobenius norm).
        ridge: added to the variance of the variation, as a share of its mean over the features.
    """
    centred = features - features.mean(dim=0)
    present, member = torch.unique(labels, return_inverse=True)
    sizes = torch.bincount(member).double()
    sums = torch.zeros(len(present), features.shape[1], dtype=torch.float64).index_add_(0, member, centred)
    identities, previous = sums / sizes[:, None], None
    for _ in range(iterations):
        identity = _covariance(identities[member])
        variation = _with_ridge(_covariance(centred - identities[member]), ridge)
        current = torch.stack([identity, variation])
        if previous is not None and float((current - previous).norm()) <= tolerance:
            break
        previous = current
        # The expected identity of a label given its n samples: S_u (n S_u + S_e)^-1 times their sum.
        identities = torch.stack(
            [
                identity @ torch.linalg.solve(size * identity + variation, total)
                for size, total in zip(sizes, sums, strict=True)
            ]
        )
    return Covariances(identity, variation)


def _covariance(samples: Tensor) -> Tensor:
    """(M, M) of (n, M) samples whose mean the model assumes to be zero."""
    return samples.T @ samples / len(samples)


def _with_ridge(covariance: Tensor, ridge: float) -> Tensor:
    return covariance + ridge * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=covariance.dtype)
