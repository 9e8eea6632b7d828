"""SCAn: find labels that hold two kinds of samples (Tang et al., "Demon in the variant", USENIX Security 2021).

A sample's features are its label's identity plus a variation whose covariance all labels share. EM estimates both
covariances from a few clean samples. Each label of the training set is then tested for two groups against one. A label
whose statistic stands far above the other labels' is a suspected target class, and one of its groups is poisoned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advrbd_plugin.baselines.covariances import Covariances, estimate_covariances
from advrbd_plugin.baselines.groups import Split, find_split, likelihood_ratio
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.settings import Settings, between
from advrbd_plugin.statistics import median_and_deviation


@dataclass(frozen=True)
class ScanConfig(Settings):
    """The settings; docs/baselines.md gives their sources.

    Attributes:
        threshold: a label is suspected if its statistic is this many robust standard deviations above the median of all
            labels; exp(2) by default.
        iterations: most rounds of EM and of 2-means.
        tolerance: EM ends once nothing changes by more than this (Frobenius norm, features scaled to unit variance).
        ridge: added to the variance of the variation, as a share of its mean over the features; it keeps the covariance
            invertible where there are fewer clean samples than features.
        starts: number of directions from which the search for two groups begins; the likeliest split counts.
    """

    threshold: float = between(0.0, 1e6, 7.38905609893065)
    iterations: int = between(1, 10_000, 100)
    tolerance: float = between(0.0, 1.0, 1e-5)
    ridge: float = between(0.0, 1.0, 1e-3)
    starts: int = between(1, 100, 4)

    preset_files: ClassVar[Mapping[str, str]] = {"paper": "baselines/scan.yaml"}


@dataclass(frozen=True, eq=False)
class ScanResult:
    """Attributes:
    suspected_classes: suspected target classes, in ascending order.
    anomaly: (num_classes,) float64, robust standard deviations above the median of all labels; higher is more
        suspicious.
    statistic: (num_classes,) float64, twice the log-likelihood ratio of two groups against one, per sample.
    poisoned: (N,) bool, the samples of the suspected classes' suspicious groups.
    score: (N,) float32 in [0, 1], higher is more suspicious; 0 outside suspected classes, above 0.5 if poisoned.
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
    """Find suspected target classes and their poisoned samples.

    Args:
        features: (N, M) float, of the training set, from the attacked model.
        labels: (N,) int64, of the training set.
        clean_features: (K, M) float, of clean samples of at least two labels, from the same model.
        clean_labels: (K,) int64.
        num_classes: number of labels.
        config: the settings.

    Raises:
        AdvrBDError: fewer than two labels have two clean samples.
    """
    config = config or ScanConfig()
    _check_clean_labels(clean_labels, num_classes)
    features, clean_features = _standardised(features, clean_features)
    covariances = estimate_covariances(
        clean_features,
        clean_labels,
        iterations=config.iterations,
        tolerance=config.tolerance,
        ridge=config.ridge,
    )
    precision = torch.linalg.inv(covariances.variation)
    centre = features.mean(dim=0)
    splits, statistic = _test_labels(features - centre, labels, covariances, precision, num_classes, config)
    tested = torch.tensor([label in splits for label in range(num_classes)])
    anomaly = anomaly_index(statistic, tested)
    suspected = tuple((anomaly > config.threshold).nonzero().flatten().tolist())
    poisoned, score = torch.zeros(len(labels), dtype=torch.bool), torch.zeros(len(labels))
    for label in suspected:
        own = (labels == label).nonzero().flatten()
        clean = clean_features[clean_labels == label] - centre
        margin = splits[label].margins(features[own] - centre, clean, precision)
        poisoned[own], score[own] = margin > 0, margin.sigmoid().float()
    return ScanResult(suspected, anomaly, statistic, poisoned, score)


def anomaly_index(statistic: Tensor, tested: Tensor) -> Tensor:
    """Robust standard deviations above the median, over the labels that were tested (Tang et al., Section 4.3).

    Args:
        statistic: (num_classes,) float64.
        tested: (num_classes,) bool; the others get minus infinity.
    """
    median, deviation = median_and_deviation(statistic[tested])
    index = (statistic - median) / deviation.clamp(min=1e-12)
    return index.masked_fill(~tested, -torch.inf)


def _check_clean_labels(clean_labels: Tensor, num_classes: int) -> None:
    counts = torch.bincount(clean_labels, minlength=num_classes)
    if int((counts >= 2).sum()) < 2:
        raise AdvrBDError(
            f"SCAn needs clean samples, at least two of each of two labels, got {len(clean_labels)} of "
            f"{int((counts > 0).sum())} labels"
        )


def _standardised(features: Tensor, clean_features: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64, scaled to the clean samples' mean 0 and variance 1."""
    mean, scale = clean_features.double().mean(dim=0), clean_features.double().std(dim=0).clamp(min=1e-6)
    return (features.double() - mean) / scale, (clean_features.double() - mean) / scale


def _test_labels(
    features: Tensor,
    labels: Tensor,
    covariances: Covariances,
    precision: Tensor,
    num_classes: int,
    config: ScanConfig,
) -> tuple[dict[int, Split], Tensor]:
    """Split each label of two samples or more; return label -> split and the (num_classes,) statistic."""
    splits: dict[int, Split] = {}
    statistic = torch.zeros(num_classes, dtype=torch.float64)
    for label in range(num_classes):
        own = features[labels == label]
        if len(own) < 2:
            continue
        splits[label] = find_split(own, precision, starts=config.starts, iterations=config.iterations)
        statistic[label] = likelihood_ratio(own, splits[label], covariances, precision)
    return splits, statistic
