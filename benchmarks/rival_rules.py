"""Detectors of others as rules on what a kept model gives: features, predictions under overlays. Higher scores are more
suspicious. Each flags samples by its authors' own rule; where that needs more than the poisoned set, it says so."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

_AT_ONCE = 500  # pictures that are held with an overlay, so that memory does not grow with the set


@dataclass(frozen=True, eq=False)
class Flagged:
    """What a detector says.

    Attributes:
        poisoned: (N,) bool, flagged by the method's own rule.
        score: (N,) float, higher is more suspicious; ``None`` where the method ranks nothing.
    """

    poisoned: Tensor
    score: Tensor | None


def activation_clustering(
    activations: Tensor,
    labels: Tensor,
    *,
    components: int = 10,
    largest_share: float = 0.35,
    least_silhouette: float = 0.1,
    seed: int = 0,
) -> Flagged:
    """2-means in each label's independent components; a small and distinct cluster is flagged (arXiv 1811.03728).

    The rule is the authors' own in the Adversarial Robustness Toolbox: the smaller cluster is poisoned where it holds
    at most ``largest_share`` of the label and the silhouette is above ``least_silhouette`` (the paper: between 0.10
    and 0.15). The score, which the paper has not, is how much nearer a sample is to the smaller cluster's centre, times
    the silhouette.

    Args:
        activations: (N, M) float, of the last hidden layer.
        labels: (N,) int64.
        components: dimensions that are kept (the paper: 10).
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import FastICA
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.metrics import silhouette_score

    poisoned, score = torch.zeros(len(labels), dtype=torch.bool), torch.zeros(len(labels), dtype=torch.float64)
    for label in labels.unique().tolist():
        own = (labels == label).nonzero().flatten()
        if len(own) <= components:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            reduced = FastICA(components, whiten="unit-variance", max_iter=1000, tol=0.005, random_state=seed)
            points = reduced.fit_transform(activations[own].double().numpy())
        means = KMeans(2, n_init=10, random_state=seed).fit(points)
        assigned = torch.from_numpy(means.labels_).long()
        counts = torch.bincount(assigned, minlength=2)
        smaller = int(counts.argmin())
        silhouette = float(silhouette_score(points, means.labels_))
        distance = torch.from_numpy(means.transform(points))
        score[own] = (distance[:, 1 - smaller] - distance[:, smaller]) * max(silhouette, 0.0)
        if silhouette > least_silhouette and float(counts[smaller]) <= largest_share * len(own):
            poisoned[own] = assigned == smaller
    return Flagged(poisoned, score)


def spectral_signatures(activations: Tensor, labels: Tensor, *, bound: float = 0.1) -> Flagged:
    """The samples that stand out most along each label's first principal direction (arXiv 1811.00636).

    Args:
        activations: (N, M) float, of the last hidden layer.
        labels: (N,) int64.
        bound: upper bound of the share of poison in a label, which the defender has to know; 1.5 times this share of
            every label is flagged. The paper poisons 5% and 10% of a label.
    """
    poisoned, score = torch.zeros(len(labels), dtype=torch.bool), torch.zeros(len(labels), dtype=torch.float64)
    for label in labels.unique().tolist():
        own = (labels == label).nonzero().flatten()
        centred = activations[own].double() - activations[own].double().mean(dim=0)
        direction = torch.linalg.svd(centred, full_matrices=False).Vh[0]
        score[own] = (centred @ direction).square()
        removed = min(len(own), math.floor(1.5 * bound * len(own)))
        poisoned[own[score[own].topk(removed).indices]] = True
    return Flagged(poisoned, score)


def strip(entropies: Tensor, clean_entropies: Tensor, *, false_rejection: float = 0.01) -> Flagged:
    """Samples whose predictions stay sure under overlaid pictures (STRIP, arXiv 1902.06531).

    Args:
        entropies: (N,) float, of the training set, from :func:`overlay_entropies`.
        clean_entropies: (K,) float, of clean samples. A normal distribution is fitted to them, and what lies below its
            ``false_rejection`` quantile is flagged.
    """
    clean = clean_entropies.double()
    quantile = torch.special.ndtri(torch.tensor(false_rejection, dtype=torch.float64))
    return Flagged(entropies.double() < clean.mean() + quantile * clean.std(), -entropies)


def overlay_entropies(predict, images: Tensor, overlays: Tensor) -> Tensor:
    """(N,) float, the mean entropy in bits of the predictions for each picture with each overlay added to it.

    Args:
        predict: from (N, C, H, W) uint8 to (N, num_classes) logits.
        images: (N, C, H, W) uint8.
        overlays: (K, C, H, W) uint8; sums are clipped at 255.
    """
    parts = [torch.zeros(0, dtype=torch.float64)]
    for batch in images.split(_AT_ONCE):
        total = torch.zeros(len(batch), dtype=torch.float64)
        for overlay in overlays:
            logits = predict((batch.short() + overlay.short()).clamp_(max=255).to(torch.uint8)).double()
            total += -(logits.softmax(1) * logits.log_softmax(1)).sum(1) / math.log(2)
        parts.append(total / max(1, len(overlays)))
    return torch.cat(parts)
