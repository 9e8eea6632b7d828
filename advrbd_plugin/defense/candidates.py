"""Candidate clusters: parts of a label whose pictures may have something in common that the rest has not. (Ours.)

A label may hold several kinds of content, with or without poison, so it is not cut in two: its layered features are
described by a mixture of Gaussians, with as many components as pay. Nothing is decided here. A component of innocent
pictures is expected, and the evidence of :mod:`.transplant` tells it from poison.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from advrbd_plugin.nn.inference import runner_up_classes

_DIMS = 8
_MOST_COMPONENTS = 6
LEAST = 12  # pictures of a cluster; the mean of fewer is noise
LEAST_PROBABILITY = 1e-4  # below which a network's opinion makes no difference
COMPONENTS = ("mixture", "learning")
"""Sources whose clusters do not overlap, and which are put to every kind of evidence."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A cluster of one label.

    Attributes:
        label: the label.
        members: (M,) int64, positions in the set, ascending.
        source: how it was found: ``mixture``, ``learning``, ``second_choice``, ``discriminant``, or ``mark``
            (:mod:`.marks`); ``unmarked`` is a reference alone.
    """

    label: int
    members: Tensor
    source: str


def find_candidates(
    features: Tensor,
    logits: Tensor,
    labels: Tensor,
    *,
    mean_probabilities: Tensor | None = None,
    splits: dict[int, Tensor] | None = None,
    seed: int = 0,
) -> list[Candidate]:
    """The clusters of every label, those of a label behind one another.

    Args:
        features: (N, num_features) float32, see :func:`layered_features`.
        logits: (N, num_classes) float32, the model's own.
        labels: (N,) int64.
        mean_probabilities: (N, num_classes) float32, what the network said while it learned
            (:class:`advrbd_plugin.nn.trajectory.Trajectory`). Poison of a dirty-label attack is learned late and looks
            like other classes until then, so that few or weak ones stand apart there and nowhere else.
        splits: label -> (N,) bool, the suspicious half of a split that began with the consistency ranks.
        seed: of the mixtures' starts.

    Returns:
        Clusters of at least 12 pictures. No two of a label are the same; those of different sources overlap.
    """
    found: list[Candidate] = []
    for label in range(logits.shape[1]):
        members = (labels == label).nonzero().flatten()
        if len(members) < 2 * LEAST:
            continue
        parts = [(part, "mixture") for part in mixture_components(features[members], seed=seed)]
        if mean_probabilities is not None:
            opinions = mean_probabilities[members].clamp_min(LEAST_PROBABILITY).log()
            parts += [(part, "learning") for part in mixture_components(opinions, seed=seed)]
        parts += [(part, "second_choice") for part in runner_up_groups(logits[members], label)]
        if splits is not None and label in splits:
            parts += [(splits[label][members], "discriminant"), (~splits[label][members], "discriminant")]
        kept: list[Tensor] = []
        for part, source in parts:
            if int(part.sum()) >= LEAST and not any(same(part, other) for other in kept):
                kept.append(part)
                found.append(Candidate(label, members[part], source))
    return found


def mixture_components(features: Tensor, *, seed: int = 0) -> list[Tensor]:
    """The components of a Gaussian mixture in the leading directions of what is known of one label's samples.

    Args:
        features: (M, num_features) float32.

    Returns:
        (M,) bool masks, disjoint, one for each component; 1 to 6 of them, as the BIC says.
    """
    from sklearn.mixture import GaussianMixture

    directions = leading_directions(features, _DIMS)
    points = (directions / directions.std(dim=0).mean().clamp_min(1e-12)).numpy()
    best, least = None, float("inf")
    for count in range(1, min(_MOST_COMPONENTS, len(points) // LEAST) + 1):
        fit = GaussianMixture(count, n_init=2, random_state=seed, reg_covar=1e-3).fit(points)
        bic = fit.bic(points)
        if bic < least:
            best, least = fit, bic
    if best is None:
        return [torch.ones(len(points), dtype=torch.bool)]
    assigned = torch.from_numpy(best.predict(points))
    return [assigned == component for component in range(best.n_components)]


def runner_up_groups(logits: Tensor, label: int) -> list[Tensor]:
    """One label's samples by the class, other than the label, that the model would give them.

    Poison that comes from a single class (TaCT) is one of these groups, where the features of the last layers have
    mixed it with the label's own pictures.

    Args:
        logits: (M, num_classes) float32.

    Returns:
        (M,) bool masks, one for each runner-up class that occurs, disjoint.
    """
    runner_up = runner_up_classes(logits, torch.full((len(logits),), label, dtype=torch.int64))
    return [runner_up == choice for choice in runner_up.unique()]


def leading_directions(features: Tensor, dims: int) -> Tensor:
    """(M, dims) float64: principal components of (M, num_features) features, not scaled."""
    centred = features.double() - features.double().mean(dim=0)
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    return centred @ vectors[:, -min(dims, centred.shape[1]) :].flip(1)


def same(part: Tensor, other: Tensor) -> bool:
    """Whether nine in ten of either are in both."""
    return int((part & other).sum()) > 0.9 * int((part | other).sum())
