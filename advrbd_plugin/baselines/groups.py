"""SCAn's untangling: one label's samples as two groups, and the test of two groups against one (Tang et al., 4.3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from advrbd_plugin.baselines.covariances import Covariances


@dataclass(frozen=True, eq=False)
class Split:
    """Two groups of one label's samples.

    Attributes:
        second: (n,) bool, the samples of the second group.
        means: (2, M) float64.
    """

    second: Tensor
    means: Tensor

    def margins(self, features: Tensor, clean: Tensor, precision: Tensor) -> Tensor:
        """How much nearer each sample lies to the suspicious group; above zero it belongs to it.

        The suspicious group is the one with fewer of the label's clean samples; without any, the smaller group.

        Args:
            features: (n, M) float64 of the label, centred as for :func:`find_split`.
            clean: (k, M) float64, the label's clean samples, centred alike.
            precision: (M, M) float64, the inverse of the shared covariance.

        Returns:
            (n,) float64, half the difference of squared Mahalanobis distances.
        """
        towards_second = _nearer_to_second(features, self.means, precision)
        clean_in_second = (_nearer_to_second(clean, self.means, precision) > 0).double()
        share = clean_in_second.mean() if len(clean) else (towards_second > 0).double().mean()
        return towards_second if float(share) <= 0.5 else -towards_second


def find_split(features: Tensor, precision: Tensor, *, starts: int, iterations: int) -> Split:
    """Split one label's samples in two groups with a shared covariance: 2-means on whitened features.

    Args:
        features: (n, M) float64, n at least 2.
        precision: (M, M) float64, the inverse of the shared covariance.
        starts: leading directions of the whitened features to begin from; the likeliest split counts.
        iterations: most rounds of 2-means.
    """
    root = torch.linalg.cholesky(precision)
    white = (features - features.mean(dim=0)) @ root
    _, _, directions = torch.linalg.svd(white, full_matrices=False)
    best, best_gain = None, -1.0
    for direction in directions[:starts]:
        second = _two_means(white, white @ direction > 0, iterations)
        gain = _gain(white, second)
        if gain is not None and gain > best_gain:
            best, best_gain = second, gain
    if best is None:  # all samples are alike
        best = torch.arange(len(features)) == 0
    return Split(best, torch.stack([features[~best].mean(dim=0), features[best].mean(dim=0)]))


def likelihood_ratio(features: Tensor, split: Split, covariances: Covariances, precision: Tensor) -> float:
    """2 log(P(samples | two groups) / P(samples | one)) per sample; higher speaks for two groups.

    Args:
        features: (n, M) float64 of one label, centred on the mean of all labels.
        split: of the same samples.
        covariances: of :func:`~advrbd_plugin.baselines.covariances.estimate_covariances`.
        precision: (M, M) float64, the inverse of ``covariances.variation``.
    """
    count = len(features)
    one = covariances.identity @ torch.linalg.solve(
        count * covariances.identity + covariances.variation, features.sum(dim=0)
    )
    two = split.means[split.second.long()]
    return float((_distances(features - one, precision) - _distances(features - two, precision)).mean())


def _gain(white: Tensor, second: Tensor) -> float | None:
    """How much the split lowers the sum of squared distances to the mean; ``None`` if a group is empty."""
    sizes = torch.stack([(~second).sum(), second.sum()]).double()
    if float(sizes.min()) == 0:
        return None
    apart = white[~second].mean(dim=0) - white[second].mean(dim=0)
    return float(sizes.prod() / sizes.sum() * apart.square().sum())


def _two_means(white: Tensor, second: Tensor, iterations: int) -> Tensor:
    """2-means on whitened features (n, M) from a first split (n,) bool."""
    for _ in range(iterations):
        if bool(second.all()) or not bool(second.any()):
            return second
        means = torch.stack([white[~second].mean(dim=0), white[second].mean(dim=0)])
        changed = torch.cdist(white, means).argmin(dim=1) == 1
        if torch.equal(changed, second):
            return second
        second = changed
    return second


def _nearer_to_second(features: Tensor, means: Tensor, precision: Tensor) -> Tensor:
    first, second = (_distances(features - mean, precision) for mean in means)
    return (first - second) / 2


def _distances(differences: Tensor, precision: Tensor) -> Tensor:
    """(n,) squared Mahalanobis norms of (n, M) differences."""
    return ((differences @ precision) * differences).sum(dim=1)
