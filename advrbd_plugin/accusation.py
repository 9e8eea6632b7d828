"""Which labels are attacked, and which of their samples carry the trigger. (Ours: the paper judges all at once.)

The consistency ranks name a few likely clean and a few likely poisoned samples of each label. A linear discriminant of
the backdoored model's features, begun with those and taught by its own answers, carries the distinction to the rest.
On an attacked label it finds two separate heaps; on a label that is simply easy, one heap cut in the middle. Which ranks
begin best differs from attack to attack, so several begin, and the best split is what a label is judged by.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# Shares of a label's samples that the discriminant is taught as (clean, poisoned): by consistency first, then by
# its own answer.
_FIRST_SHARES = (0.30, 0.15)
_LATER_SHARES = (0.40, 0.20)
_ROUNDS = 8
_MAX_DIMS = 32
_SAMPLES_PER_DIM = 8
_SHRINKAGE = 0.05
_MIN_SAMPLES = 40


@dataclass(frozen=True)
class LabelEvidence:
    """What speaks for an attack on one label.

    Attributes:
        label: the label.
        samples: how many samples carry it.
        gain: how much better two Gaussians explain them than one (difference of BIC per sample).
        separation: distance of the two means in standard deviations (root mean square of the two).
        share: weight of the suspicious Gaussian.
        accused: whether the label is held to be attacked.
        withdrawn: whether it was accused at first, and acquitted by the model trained without its suspicious samples.
    """

    label: int
    samples: int
    gain: float
    separation: float
    share: float
    accused: bool = False
    withdrawn: bool = False


@dataclass(frozen=True, eq=False)
class Accusation:
    """Attributes:
    suspicion: (N,) float32 in [0, 1]: probability of belonging to the suspicious heap of an accused label; 0 for every
        sample of the other labels.
    projection: (N,) float32: the discriminant, higher is more suspicious; comparable within a label only.
    evidence: one entry for each label.
    """

    suspicion: Tensor
    projection: Tensor
    evidence: tuple[LabelEvidence, ...]

    @property
    def accused_labels(self) -> tuple[int, ...]:
        """Labels found to be attacked, in ascending order."""
        return tuple(each.label for each in self.evidence if each.accused)


def accuse(
    features: Tensor,
    labels: Tensor,
    consistency: Tensor,
    num_classes: int,
    *,
    gain: float,
    agrees: Tensor | None = None,
) -> Accusation:
    """Split each label's samples in two and accuse the labels that fall apart.

    Args:
        features: (N, num_features) float32, see :mod:`advrbd_plugin.features`.
        labels: (N,) int64.
        consistency: (N,) or (K, N) float32, higher is more suspicious (:class:`advrbd_plugin.partition.Partition`).
            Each of the K begins a discriminant of its own, and the one that splits a label best counts.
        num_classes: number of labels.
        gain: a label is accused from this :attr:`LabelEvidence.gain` on.
        agrees: (N,) bool, whether the model itself gives a sample its label; all of them by default. A half that the
            model mostly gives other labels, unlike the other half, is the suspicious one, whatever its consistency:
            its labels are wrong, be it that the attack was not learned.
    """
    consistency = consistency.reshape(-1, len(labels))
    agrees = torch.ones_like(labels, dtype=torch.bool) if agrees is None else agrees
    suspicion, projection = torch.zeros(len(labels)), torch.zeros(len(labels))
    evidence = []
    for label in range(num_classes):
        members = (labels == label).nonzero().flatten()
        if len(members) < _MIN_SAMPLES:
            evidence.append(LabelEvidence(label, len(members), 0.0, 0.0, 0.0))
            continue
        whitened = whiten(features[members])
        splits = [
            _split(answer, label) for start in consistency for answer in discriminate(whitened, start[members])
        ]
        best = max(splits, key=lambda each: each.evidence.gain)
        projection[members] = best.projection
        if best.evidence.gain >= gain:
            best = _accused(best, whitened, agrees[members])
            projection[members], suspicion[members] = best.projection, best.probability
        evidence.append(best.evidence)
    return Accusation(suspicion, projection, tuple(evidence))


def discriminate(whitened: Tensor, consistency: Tensor) -> tuple[Tensor, Tensor]:
    """The self-taught linear discriminant of one label's samples.

    Args:
        whitened: (N, dims) float64, from :func:`whiten`.
        consistency: (N,) float32, higher is more suspicious.

    Returns:
        (N,) float32 each, higher is more suspicious: as taught by ``consistency``, and as taught by itself in the end.
        The first is the better one where the poison is no small part of the label.
    """
    answers = [consistency]
    for shares in [_FIRST_SHARES] + [_LATER_SHARES] * (_ROUNDS - 1):
        order = torch.argsort(answers[-1], stable=True)
        clean = whitened[order[: max(2, int(shares[0] * len(order)))]]
        poisoned = whitened[order[-max(2, int(shares[1] * len(order))) :]]
        answers.append((whitened @ _discriminant(clean, poisoned)).float())
    return answers[1], answers[-1]


def whiten(features: Tensor) -> Tensor:
    """The leading directions of (N, num_features) features, each scaled to unit variance: (N, dims) float64."""
    centred = features.double() - features.double().mean(dim=0)
    left, singular, _ = torch.linalg.svd(centred, full_matrices=False)
    useful = int((singular > 1e-6 * singular[0].clamp_min(1e-12)).sum())
    dims = max(1, min(_MAX_DIMS, len(features) // _SAMPLES_PER_DIM, useful))
    return left[:, :dims] * math.sqrt(len(features))


def _discriminant(clean: Tensor, poisoned: Tensor) -> Tensor:
    """Fisher's direction from ``clean`` to ``poisoned``, its covariance shrunk towards a sphere."""
    difference = poisoned.mean(dim=0) - clean.mean(dim=0)
    within = torch.cat([clean - clean.mean(dim=0), poisoned - poisoned.mean(dim=0)])
    covariance = within.T @ within / len(within)
    sphere = torch.eye(len(covariance), dtype=covariance.dtype) * covariance.diagonal().mean().clamp_min(1e-12)
    return torch.linalg.solve((1 - _SHRINKAGE) * covariance + _SHRINKAGE * sphere, difference)


@dataclass(frozen=True, eq=False)
class _Split:
    """One label's samples in two heaps."""

    projection: Tensor
    probability: Tensor  # of the suspicious heap
    evidence: LabelEvidence


def _split(projected: Tensor, label: int) -> _Split:
    from sklearn.mixture import GaussianMixture

    values = projected.double().numpy()[:, None]
    values = (values - values.mean()) / max(values.std(), 1e-12)
    one = GaussianMixture(1, random_state=0).fit(values)
    two = GaussianMixture(2, n_init=3, random_state=0).fit(values)
    means, variances = two.means_[:, 0], two.covariances_[:, 0, 0]
    suspicious = int(means.argmax())
    found_gain = float(one.bic(values) - two.bic(values)) / len(values)
    found_separation = float(abs(means[0] - means[1]) / np.sqrt(variances.mean()))
    probability = torch.from_numpy(_monotone(two.predict_proba(values)[:, suspicious], values[:, 0])).float()
    evidence = LabelEvidence(
        label=label,
        samples=len(values),
        gain=found_gain,
        separation=found_separation,
        share=float(two.weights_[suspicious]),
    )
    return _Split(projected, probability, evidence)


def _accused(split: _Split, whitened: Tensor, agrees: Tensor) -> _Split:
    """The split that sorts the samples of a label which ``split`` accuses; its gain stays what it was accused for."""
    sorting = _wrong_labels_suspicious(_sharpened(split, whitened), agrees)
    evidence = dataclasses.replace(sorting.evidence, gain=split.evidence.gain, accused=True)
    return dataclasses.replace(sorting, evidence=evidence)


def _sharpened(split: _Split, whitened: Tensor) -> _Split:
    """The same, taught by its own two heaps as long as they part further."""
    for _ in range(_ROUNDS):
        suspicious = split.probability > 0.5
        if min(suspicious.sum(), (~suspicious).sum()) < 2:
            break
        answer = whitened @ _discriminant(whitened[~suspicious], whitened[suspicious])
        following = _split(answer.float(), split.evidence.label)
        if following.evidence.gain <= split.evidence.gain:
            break
        split = following
    return split


def _wrong_labels_suspicious(split: _Split, agrees: Tensor) -> _Split:
    """The same, turned round where the model disowns most of the half that was taken for clean, and not the other."""
    suspicious = split.probability > 0.5
    if suspicious.all() or not suspicious.any():
        return split
    owned_suspicious, owned_clean = agrees[suspicious].float().mean(), agrees[~suspicious].float().mean()
    if owned_clean < 0.5 < owned_suspicious:
        return _split(-split.projection, split.evidence.label)
    return split


def _monotone(probability: np.ndarray, values: np.ndarray) -> np.ndarray:
    """No sample may look less suspicious than one further left, as happens where the two variances differ."""
    probability = np.where(values < values[np.argmin(probability)], probability.min(), probability)
    order = np.argsort(values, kind="stable")
    result = np.empty_like(probability)
    result[order] = np.maximum.accumulate(probability[order])
    return result
