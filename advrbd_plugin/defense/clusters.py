"""Two clusters in the features of one class's samples, found by a linear discriminant that trains itself."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_LATER_ROUNDS = 7
_SHARPENING_ROUNDS = 8
_FOLDS = 4
_MAX_DIMS = 32
_SAMPLES_PER_DIM = 8
_SHRINKAGE = 0.05


@dataclass(frozen=True)
class Shares:
    """Shares of a class's samples that a discriminant is fitted to as (clean, suspicious).

    Attributes:
        first: by the ranks that it begins with.
        later: by its own projection.
    """

    first: tuple[float, float]
    later: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Split:
    """One class's samples in two clusters.

    Attributes:
        direction: (dims,) float64 in the whitened features, towards the suspicious cluster.
        projection: (N,) float32 along it, higher is more suspicious.
        probability: (N,) float32 in [0, 1] of belonging to the suspicious cluster; never falls with the projection.
        gain: how much better two Gaussians explain the projection than one (difference of BIC per sample).
        separation: distance of the two means in standard deviations (root mean square of the two).
        share: weight of the suspicious Gaussian.
    """

    direction: Tensor
    projection: Tensor
    probability: Tensor
    gain: float
    separation: float
    share: float

    @property
    def suspicious(self) -> Tensor:
        """(N,) bool."""
        return self.probability > 0.5

    @property
    def has_two_clusters(self) -> bool:
        """Whether either cluster has enough samples to fit a discriminant to."""
        return 2 <= int(self.suspicious.sum()) <= len(self.suspicious) - 2


def whiten(features: Tensor) -> Tensor:
    """The leading directions of (N, num_features) features, each scaled to unit variance: (N, dims) float64."""
    centred = features.double() - features.double().mean(dim=0)
    left, singular, _ = torch.linalg.svd(centred, full_matrices=False)
    useful = int((singular > 1e-6 * singular[0].clamp_min(1e-12)).sum())
    dims = max(1, min(_MAX_DIMS, len(features) // _SAMPLES_PER_DIM, useful))
    return left[:, :dims] * math.sqrt(len(features))


def discriminate(whitened: Tensor, consistency: Tensor, shares: Shares) -> Split:
    """Fit a discriminant to ranks, then to its own projection: the better of the first and the last split.

    The first is the better one where the suspicious cluster is far from the share that is fitted.

    Args:
        whitened: (N, dims) float64, from :func:`whiten`.
        consistency: (N,) float32, higher is more suspicious.
        shares: how many samples it is fitted to.
    """
    first = _fit(whitened, consistency, shares.first)
    direction = first
    for _ in range(_LATER_ROUNDS):
        direction = _fit(whitened, whitened @ direction, shares.later)
    return max((split_along(whitened, each) for each in (first, direction)), key=lambda split: split.gain)


def sharpen(whitened: Tensor, split: Split) -> Split:
    """Fit the discriminant to its own two clusters as long as that separates them further."""
    for _ in range(_SHARPENING_ROUNDS):
        if not split.has_two_clusters:
            break
        suspicious = split.suspicious
        following = split_along(whitened, _fisher(whitened[~suspicious], whitened[suspicious]))
        if following.gain <= split.gain:
            break
        split = following
    return split


def held_out_gain(whitened: Tensor, consistency: Tensor, shares: Shares) -> float:
    """The gain on held-out samples: each quarter is split along a direction that was fitted to the others.

    Any direction found in many dimensions separates the samples that it was fitted to a little.
    """
    fold = torch.arange(len(whitened)) % _FOLDS
    gains = []
    for held_out in (fold == each for each in range(_FOLDS)):
        fitted = sharpen(whitened[~held_out], discriminate(whitened[~held_out], consistency[~held_out], shares))
        gains.append(split_along(whitened[held_out], fitted.direction).gain)
    return sum(gains) / _FOLDS


def split_between(whitened: Tensor, clean: Tensor, suspicious: Tensor) -> Split:
    """The split along Fisher's direction from the ``clean`` to the ``suspicious`` samples, (N,) bool each."""
    return split_along(whitened, _fisher(whitened[clean], whitened[suspicious]))


def split_of(suspicious: Tensor) -> Split:
    """The (N,) bool samples as they are, where no direction separates them."""
    ones = suspicious.float()
    return Split(torch.ones(1, dtype=torch.float64), ones, ones, 0.0, 0.0, float(ones.mean()))


def swapped(whitened: Tensor, split: Split) -> Split:
    """The same clusters with the other one suspicious."""
    return split_along(whitened, -split.direction)


def split_along(whitened: Tensor, direction: Tensor) -> Split:
    """Fit one Gaussian and two to the samples along a direction."""
    from sklearn.mixture import GaussianMixture

    projection = (whitened @ direction).float()
    values = projection.double().numpy()[:, None]
    values = (values - values.mean()) / max(values.std(), 1e-12)
    one = GaussianMixture(1, random_state=0).fit(values)
    two = GaussianMixture(2, n_init=3, random_state=0).fit(values)
    means, variances = two.means_[:, 0], two.covariances_[:, 0, 0]
    suspicious = int(means.argmax())
    probability = _monotone(two.predict_proba(values)[:, suspicious], values[:, 0])
    return Split(
        direction=direction,
        projection=projection,
        probability=torch.from_numpy(probability).float(),
        gain=float(one.bic(values) - two.bic(values)) / len(values),
        separation=float(abs(means[0] - means[1]) / np.sqrt(variances.mean())),
        share=float(two.weights_[suspicious]),
    )


def _fit(whitened: Tensor, order_by: Tensor, shares: tuple[float, float]) -> Tensor:
    """The direction from the samples that come first to those that come last."""
    order = torch.argsort(order_by, stable=True)
    clean, suspicious = (max(2, int(share * len(order))) for share in shares)
    return _fisher(whitened[order[:clean]], whitened[order[-suspicious:]])


def _fisher(clean: Tensor, suspicious: Tensor) -> Tensor:
    """Fisher's direction from ``clean`` to ``suspicious``, its covariance shrunk towards a sphere."""
    difference = suspicious.mean(dim=0) - clean.mean(dim=0)
    within = torch.cat([clean - clean.mean(dim=0), suspicious - suspicious.mean(dim=0)])
    return torch.linalg.solve(shrunk_covariance(within, _SHRINKAGE), difference)


def shrunk_covariance(centred: Tensor, shrinkage: float) -> Tensor:
    """(dims, dims) float64: the covariance of (N, dims) float64 points about 0, a share of it that of a sphere."""
    covariance = centred.T @ centred / len(centred)
    sphere = torch.eye(len(covariance), dtype=covariance.dtype) * covariance.diagonal().mean().clamp_min(1e-12)
    return (1 - shrinkage) * covariance + shrinkage * sphere


def _monotone(probability: np.ndarray, values: np.ndarray) -> np.ndarray:
    """No sample may look less suspicious than one further left, as happens where the two variances differ."""
    probability = np.where(values < values[np.argmin(probability)], probability.min(), probability)
    order = np.argsort(values, kind="stable")
    result = np.empty_like(probability)
    result[order] = np.maximum.accumulate(probability[order])
    return result
