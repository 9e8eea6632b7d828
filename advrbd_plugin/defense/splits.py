"""Each class's samples in two clusters, begun by the consistency ranks. (Ours: the paper judges all samples at once.)

The consistency ranks name a few likely clean and a few likely poisoned samples of each class. A linear discriminant of
the backdoored model's features is fitted to those, then to its own projection, and so reaches the other samples. In a
target class it finds two separate clusters; in a class that is simply easy, one cluster cut in the middle. The patch
size whose ranks begin best differs from attack to attack, so each size begins a split, and the best split counts.

Clusters that stand apart are no proof of an attack: a class may hold two kinds of content.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from advrbd_plugin.defense.clusters import Shares, Split, discriminate, held_out_gain, sharpen, swapped, whiten
from advrbd_plugin.nn.inference import runner_up_classes

_MIN_SAMPLES = 40
_SHARES = Shares(first=(0.30, 0.15), later=(0.40, 0.20))
# For poison that is a small part of its class. The outermost samples of any class stand a little apart, so this asks
# for more: twice the gain, and a small cluster (tails of clean classes make a quarter and more).
_SMALL_SHARES = Shares(first=(0.30, 0.05), later=(0.50, 0.07))
_SMALL_GAIN = 2.0
_SMALL = 0.2
# Where the runner-up classes of the cluster that is not suspicious have this much more entropy (nats), the two clusters
# were swapped. Poison that comes from one class has less entropy than the rest, but not by so much.
_SWAPPED_ENTROPY_GAP = 0.7
# A cluster to which the model itself gives another label than to the rest is wrongly labelled, if it stands apart at
# all: it needs a tenth of the gain. Clusters of clean classes that the model hardly knows do not stand apart.
_MOSTLY_NOT_PREDICTED = 0.5
_NOT_PREDICTED_GAIN = 0.1
# Two Gaussians explain a class's samples better by chance, too: by so much in all (difference of BIC), many or few.
_CHANCE = 30.0


@dataclass(frozen=True)
class LabelEvidence:
    """How the samples of one class fall into two clusters.

    Attributes:
        label: the class.
        samples: how many samples carry its label.
        gain: how much better two Gaussians explain them than one (difference of BIC per sample), along directions
            fitted to other samples of the class.
        separation: distance of the two means in standard deviations (root mean square of the two).
        share: weight of the suspicious Gaussian.
        predicted_share: share of the suspicious cluster that the model predicts as the class.
        predicted_share_of_rest: the same of the other cluster.
        entropy_gap: entropy (nats) of the model's runner-up classes in the suspicious cluster less that in the other.
            Samples that a trigger brings to a class come from many classes.
        separate: whether the two clusters stand apart by more than chance and the shape of one class explain.
        suspected: whether the class is taken for a target.
        rejected: whether its clusters stand apart, and no other evidence confirms that one of them is poison.
    """

    label: int
    samples: int
    gain: float
    separation: float
    share: float
    predicted_share: float = 1.0
    predicted_share_of_rest: float = 1.0
    entropy_gap: float = 0.0
    separate: bool = False
    suspected: bool = False
    rejected: bool = False

    def to_row(self) -> dict[str, float]:
        """Numbers alone, for tables and curves."""
        return {name: int(value) if isinstance(value, bool) else value for name, value in asdict(self).items()}


@dataclass(frozen=True, eq=False)
class ClassSplits:
    """Attributes:
    probability: (N,) float32 in [0, 1] of belonging to the suspicious cluster of the sample's class.
    projection: (N,) float32: the discriminant, higher is more suspicious; comparable within a class only.
    evidence: one entry for each class.
    """

    probability: Tensor
    projection: Tensor
    evidence: tuple[LabelEvidence, ...]

    @property
    def separate_classes(self) -> tuple[int, ...]:
        """Classes whose clusters stand apart, in ascending order."""
        return tuple(each.label for each in self.evidence if each.separate)

    @property
    def suspicious(self) -> dict[int, Tensor]:
        """Class -> (N,) bool, its suspicious cluster, for the classes that were split."""
        flagged = self.probability > 0.5
        return {each.label: flagged for each in self.evidence if each.share}


def split_classes(features: Tensor, logits: Tensor, labels: Tensor, consistency: Tensor, *, gain: float) -> ClassSplits:
    """Split each class's samples in two clusters.

    Args:
        features: (N, num_features) float32, see :mod:`advrbd_plugin.nn.features`.
        logits: (N, num_classes) float32, the model's own.
        labels: (N,) int64.
        consistency: (N,) or (K, N) float32, higher is more suspicious (:class:`advrbd_plugin.defense.scoring.Scores`).
            Each of the K gives a candidate split, and the one that separates a class best counts.
        gain: the clusters of a class of many samples stand apart from this :attr:`LabelEvidence.gain` on; those of one
            of few need more.
    """
    consistency = consistency.reshape(-1, len(labels))
    runner_up, predicted = runner_up_classes(logits, labels), logits.argmax(dim=1) == labels
    probability, projection = torch.zeros(len(labels)), torch.zeros(len(labels))
    evidence = []
    for label in range(logits.shape[1]):
        members = (labels == label).nonzero().flatten()
        if len(members) < _MIN_SAMPLES:
            evidence.append(LabelEvidence(label, len(members), 0.0, 0.0, 0.0))
            continue
        samples = _Class(
            label, whiten(features[members]), consistency[:, members], runner_up[members], predicted[members]
        )
        split, found = _judge(samples, gain)
        probability[members], projection[members] = split.probability, split.projection
        evidence.append(found)
    return ClassSplits(probability, projection, tuple(evidence))


@dataclass(frozen=True, eq=False)
class _Class:
    """The samples of one class."""

    label: int
    whitened: Tensor  # (N, dims) float64
    consistency: Tensor  # (K, N) float32
    runner_up: Tensor  # (N,) int64
    predicted: Tensor  # (N,) bool, the model itself gives them the label


def _judge(samples: _Class, gain: float) -> tuple[Split, LabelEvidence]:
    """The split of one class's samples and its evidence; by the small shares where only those stand apart."""
    by_chance = _CHANCE / len(samples.whitened)
    split, found = _split(samples, _SHARES)
    not_predicted = found.predicted_share < _MOSTLY_NOT_PREDICTED * found.predicted_share_of_rest
    if found.gain >= (_NOT_PREDICTED_GAIN if not_predicted else 1.0) * gain + by_chance:
        return split, replace(found, separate=True)
    small_split, small_found = _split(samples, _SMALL_SHARES)
    if _is_small_poison(small_found, gain + by_chance):
        return small_split, replace(small_found, separate=True)
    return split, found


def _is_small_poison(found: LabelEvidence, gain: float) -> bool:
    return found.gain >= _SMALL_GAIN * gain and found.share <= _SMALL


def _split(samples: _Class, shares: Shares) -> tuple[Split, LabelEvidence]:
    candidates = [discriminate(samples.whitened, ranks, shares) for ranks in samples.consistency]
    best = max(range(len(candidates)), key=lambda candidate: candidates[candidate].gain)
    split = sharpen(samples.whitened, candidates[best])
    if _entropy_gap(split, samples.runner_up) < -_SWAPPED_ENTROPY_GAP:
        # The ranks took the wrong cluster for poisoned, as they do where most of a class is.
        split = swapped(samples.whitened, split)
    suspicious, two = split.suspicious, split.has_two_clusters
    return split, LabelEvidence(
        label=samples.label,
        samples=len(samples.whitened),
        gain=held_out_gain(samples.whitened, samples.consistency[best], shares),
        separation=split.separation,
        share=split.share,
        predicted_share=float(samples.predicted[suspicious].float().mean()) if two else 1.0,
        predicted_share_of_rest=float(samples.predicted[~suspicious].float().mean()) if two else 1.0,
        entropy_gap=_entropy_gap(split, samples.runner_up),
    )


def _entropy_gap(split: Split, runner_up: Tensor) -> float:
    suspicious = split.suspicious
    return _entropy(runner_up[suspicious]) - _entropy(runner_up[~suspicious]) if split.has_two_clusters else 0.0


def _entropy(classes: Tensor) -> float:
    """Of the distribution of (N,) class indices, in nats."""
    counts = torch.bincount(classes).float()
    return float(torch.distributions.Categorical(probs=counts / counts.sum()).entropy())
