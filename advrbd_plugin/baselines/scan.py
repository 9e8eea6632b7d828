"""SCAn: which labels hold two kinds of samples (Tang et al., "Demon in the variant", USENIX Security 2021).

A sample's features are its label's identity plus a variation whose covariance all labels share. Both covariances are
estimated by EM from a few clean samples. In each label of the training set one group is then tested against two; a
label whose statistic stands far above the other labels' is attacked, and one of its two groups is poison.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.settings import Settings, between

_NORMAL_MAD = 1.4826  # the standard deviation of a normal distribution over its median absolute deviation


@dataclass(frozen=True)
class ScanConfig(Settings):
    """The settings; docs/baselines.md says where they come from.

    Attributes:
        threshold: a label is suspected whose statistic lies so many robust standard deviations above the median of all
            labels; exp(2) by default.
        iterations: most rounds of each EM.
        tolerance: an EM ends where nothing changes by more than this (Frobenius norm, features scaled to unit variance).
        ridge: added to the variance of the variations, as a share of its mean over the features, so that it can be
            inverted where there are fewer clean samples than features.
        starts: directions from which the search for two groups begins; the best split counts.
    """

    threshold: float = between(0.0, 1e6, 7.38905609893065)
    iterations: int = between(1, 10_000, 100)
    tolerance: float = between(0.0, 1.0, 1e-5)
    ridge: float = between(0.0, 1.0, 1e-3)
    starts: int = between(1, 100, 4)

    preset_files: ClassVar[Mapping[str, str]] = {"paper": "baselines/scan.yaml"}


@dataclass(frozen=True, eq=False)
class Covariances:
    """Attributes:
    identity: (M, M) float64, of the labels' identities.
    variation: (M, M) float64, of the samples about their label's identity.
    """

    identity: Tensor
    variation: Tensor


@dataclass(frozen=True, eq=False)
class ScanResult:
    """Attributes:
    suspected_classes: in ascending order.
    anomaly: (num_classes,) float64, robust standard deviations above the median of all labels; higher is more
        suspicious.
    statistic: (num_classes,) float64, the log-likelihood ratio of two groups against one, per sample, times two.
    poisoned: (N,) bool, the samples of the suspected labels' suspicious group.
    score: (N,) float32 in [0, 1], higher is more suspicious; from 0.5 on, and only in suspected labels, poisoned.
    """

    suspected_classes: tuple[int, ...]
    anomaly: Tensor
    statistic: Tensor
    poisoned: Tensor
    score: Tensor


def scan(
    features: Tensor,
    labels: Tensor,
    clean_features: Tensor,
    clean_labels: Tensor,
    *,
    num_classes: int,
    config: ScanConfig | None = None,
) -> ScanResult:
    """Accuse labels, and tell the poisoned samples of a suspected one.

    Args:
        features: (N, M) float, of the training set, from the attacked model.
        labels: (N,) int64, as they came.
        clean_features: (K, M) float, of clean samples of at least two labels, from the same model.
        clean_labels: (K,) int64.
        num_classes: how many labels there are.
        config: the settings.

    Raises:
        AdvrBDError: the clean samples are too few to estimate anything from.
    """
    config = config or ScanConfig()
    counts = torch.bincount(clean_labels, minlength=num_classes)
    if int((counts >= 2).sum()) < 2:
        raise AdvrBDError(
            f"SCAn needs clean samples, at least two of each of two labels, got {len(clean_labels)} of "
            f"{int((counts > 0).sum())} labels"
        )
    mean, scale = clean_features.double().mean(dim=0), clean_features.double().std(dim=0).clamp(min=1e-6)
    features, clean_features = ((each.double() - mean) / scale for each in (features, clean_features))
    covariances = estimate_covariances(clean_features, clean_labels, config)
    precision = torch.linalg.inv(covariances.variation)
    statistic = torch.zeros(num_classes, dtype=torch.float64)
    groups: dict[int, Split] = {}
    for label in range(num_classes):
        own = features[labels == label] - features.mean(dim=0)
        if len(own) < 2:
            continue
        groups[label] = find_split(own, precision, config)
        statistic[label] = likelihood_ratio(own, groups[label], covariances, precision)
    tested = torch.tensor([label in groups for label in range(num_classes)])
    anomaly = anomaly_index(statistic, tested)
    suspected = tuple((anomaly > config.threshold).nonzero().flatten().tolist())
    poisoned, score = torch.zeros(len(labels), dtype=torch.bool), torch.zeros(len(labels))
    for label in suspected:
        own = (labels == label).nonzero().flatten()
        clean = clean_features[clean_labels == label] - features.mean(dim=0)
        margin = groups[label].margins(features[own] - features.mean(dim=0), clean, precision)
        poisoned[own], score[own] = margin > 0, margin.sigmoid().float()
    return ScanResult(suspected, anomaly, statistic, poisoned, score)


def estimate_covariances(features: Tensor, labels: Tensor, config: ScanConfig) -> Covariances:
    """EM for r = identity + variation, both normal with mean zero (Tang et al., Section 4.2).

    Args:
        features: (K, M) float64 of clean samples.
        labels: (K,) int64.
    """
    centred = features - features.mean(dim=0)
    present, member = labels.unique(return_inverse=True)
    sizes = torch.bincount(member).double()
    sums = torch.zeros(len(present), features.shape[1], dtype=torch.float64).index_add_(0, member, centred)
    identities = sums / sizes[:, None]
    previous = None
    for _ in range(config.iterations):
        identity = _covariance(identities[member])
        variation = _with_ridge(_covariance(centred - identities[member]), config.ridge)
        current = torch.stack([identity, variation])
        if previous is not None and float((current - previous).norm()) <= config.tolerance:
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


@dataclass(frozen=True, eq=False)
class Split:
    """Two groups of one label's samples.

    Attributes:
        second: (n,) bool, which samples are in the second group.
        means: (2, M) float64.
    """

    second: Tensor
    means: Tensor

    def margins(self, features: Tensor, clean: Tensor, precision: Tensor) -> Tensor:
        """(n,) float64: how much nearer each sample lies to the suspicious group; above zero it belongs to it.

        The suspicious group is the one that fewer of the label's clean samples belong to; without any, the smaller.
        """
        towards_second = _nearer_to_second(features, self.means, precision)
        clean_in_second = (_nearer_to_second(clean, self.means, precision) > 0).double()
        share = clean_in_second.mean() if len(clean) else (towards_second > 0).double().mean()
        return towards_second if float(share) <= 0.5 else -towards_second


def find_split(features: Tensor, precision: Tensor, config: ScanConfig) -> Split:
    """Two groups with a shared covariance: hard EM from several directions, the likeliest split of all.

    Args:
        features: (n, M) float64, n at least 2.
        precision: (M, M) float64, the inverse of the shared covariance.
    """
    root = torch.linalg.cholesky(precision)
    white = (features - features.mean(dim=0)) @ root
    _, _, directions = torch.linalg.svd(white, full_matrices=False)
    best, best_gain = None, -1.0
    for direction in directions[: config.starts]:
        second = _two_groups(white, white @ direction > 0, config.iterations)
        sizes = torch.stack([(~second).sum(), second.sum()]).double()
        if float(sizes.min()) == 0:
            continue
        apart = white[~second].mean(dim=0) - white[second].mean(dim=0)
        gain = float(
            sizes.prod() / sizes.sum() * apart.square().sum()
        )  # what the split takes off the squared distances
        if gain > best_gain:
            best, best_gain = second, gain
    if best is None:  # all samples are alike
        best = torch.arange(len(features)) == 0
    return Split(best, torch.stack([features[~best].mean(dim=0), features[best].mean(dim=0)]))


def likelihood_ratio(features: Tensor, split: Split, covariances: Covariances, precision: Tensor) -> float:
    """2 log(P(samples | two groups) / P(samples | one)) per sample; higher speaks for two (Tang et al., Section 4.3).

    Args:
        features: (n, M) float64 of one label, centred on the mean of all.
    """
    count = len(features)
    one = covariances.identity @ torch.linalg.solve(
        count * covariances.identity + covariances.variation, features.sum(dim=0)
    )
    two = split.means[split.second.long()]
    return float((_distances(features - one, precision) - _distances(features - two, precision)).mean())


def anomaly_index(statistic: Tensor, tested: Tensor) -> Tensor:
    """Robust standard deviations above the median, from the labels that could be tested (Tang et al., Section 4.3).

    Args:
        statistic: (num_classes,) float64.
        tested: (num_classes,) bool; the others get minus infinity.
    """
    known = statistic[tested]
    middle = known.quantile(0.5)
    spread = _NORMAL_MAD * (known - middle).abs().quantile(0.5)
    index = (statistic - middle) / spread.clamp(min=1e-12)
    return index.masked_fill(~tested, -torch.inf)


def _two_groups(white: Tensor, second: Tensor, rounds: int) -> Tensor:
    """2-means on whitened features, from a first split."""
    for _ in range(rounds):
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


def _covariance(samples: Tensor) -> Tensor:
    """(M, M) of (n, M) samples whose mean is zero by the model."""
    return samples.T @ samples / len(samples)


def _with_ridge(covariance: Tensor, ridge: float) -> Tensor:
    return covariance + ridge * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=covariance.dtype)
