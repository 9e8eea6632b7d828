"""Which labels are attacked, and which of their samples carry the trigger. (Ours: the paper judges all at once.)

The consistency ranks name a few likely clean and a few likely poisoned samples of each label. A linear discriminant of
the backdoored model's features, begun with those and taught by its own answers, carries the distinction to the rest.
On an attacked label it finds two separate heaps; on a label that is simply easy, one heap cut in the middle. Which ranks
begin best differs from attack to attack, so several begin, and the best split is what a label is judged by.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from advrbd_plugin.defense.clusters import Shares, Split, discriminate, held_out_gain, sharpen, turned, whiten

_MIN_SAMPLES = 40
_SHARES = Shares(first=(0.30, 0.15), later=(0.40, 0.20))
# For poison that is a small part of its label. The outermost samples of any label stand a little apart, so this asks
# for more: twice the gain, and a part that is small indeed (a quarter and more is what tails were seen to make).
_SMALL_SHARES = Shares(first=(0.30, 0.05), later=(0.50, 0.07))
_SMALL_GAIN = 2.0
_SMALL = 0.2
# So much more varied is the half that is not called suspicious only where the two were taken for one another; poison
# that comes from one class is less varied than the rest, but not by so much.
_MORE_VARIED = 0.7
# Samples to which the model itself gives another label than it gives the rest are wrongly labelled, where they stand
# apart at all: halves of clean labels that it hardly knows do not.
_DISOWNED = 0.5
_DISOWNED_GAIN = 0.1
# Two Gaussians explain a label's samples better by chance, too: by so much in all (difference of BIC), many or few.
_CHANCE = 30.0


@dataclass(frozen=True)
class LabelEvidence:
    """What speaks for an attack on one label.

    Attributes:
        label: the label.
        samples: how many samples carry it.
        gain: how much better two Gaussians explain them than one (difference of BIC per sample), along directions
            found on other samples of the label.
        separation: distance of the two means in standard deviations (root mean square of the two).
        share: weight of the suspicious Gaussian.
        agreement: share of the suspicious half that the model itself gives the label.
        predicted_share_of_rest: the same of the other half.
        variety: how much more varied the model's second choices are on the suspicious half than on the other
            (difference of entropy, nats). Samples that a trigger brings to a label come from many classes.
        suspected: whether the label is held to be attacked.
        rejected: whether it was suspected at first, and rejected by the model trained without its suspicious samples.
    """

    label: int
    samples: int
    gain: float
    separation: float
    share: float
    agreement: float = 1.0
    predicted_share_of_rest: float = 1.0
    variety: float = 0.0
    suspected: bool = False
    rejected: bool = False


@dataclass(frozen=True, eq=False)
class Detection:
    """Attributes:
    poison_probability: (N,) float32 in [0, 1]: probability of belonging to the suspicious heap of a suspected label; 0 for every
        sample of the other labels.
    projection: (N,) float32: the discriminant, higher is more suspicious; comparable within a label only.
    evidence: one entry for each label.
    """

    poison_probability: Tensor
    projection: Tensor
    evidence: tuple[LabelEvidence, ...]

    @property
    def suspected_classes(self) -> tuple[int, ...]:
        """Labels found to be attacked, in ascending order."""
        return tuple(each.label for each in self.evidence if each.suspected)


def detect(features: Tensor, logits: Tensor, labels: Tensor, consistency: Tensor, *, gain: float) -> Detection:
    """Split each label's samples in two and accuse the labels that fall apart.

    Args:
        features: (N, num_features) float32, see :mod:`advrbd_plugin.nn.features`.
        logits: (N, num_classes) float32, the model's own.
        labels: (N,) int64.
        consistency: (N,) or (K, N) float32, higher is more suspicious (:class:`advrbd_plugin.defense.paper.Partition`).
            Each of the K begins a discriminant of its own, and the one that splits a label best counts.
        gain: a label of many samples is suspected from this :attr:`LabelEvidence.gain` on; one of few needs more.
    """
    consistency = consistency.reshape(-1, len(labels))
    rivals, owned = runner_up_classes(logits, labels), logits.argmax(dim=1) == labels
    poison_probability, projection = torch.zeros(len(labels)), torch.zeros(len(labels))
    evidence = []
    for label in range(logits.shape[1]):
        members = (labels == label).nonzero().flatten()
        if len(members) < _MIN_SAMPLES:
            evidence.append(LabelEvidence(label, len(members), 0.0, 0.0, 0.0))
            continue
        samples = _Label(label, whiten(features[members]), consistency[:, members], rivals[members], owned[members])
        split, found = _judge(samples, gain)
        projection[members] = split.projection
        if found.suspected:
            poison_probability[members] = split.probability
        evidence.append(found)
    return Detection(poison_probability, projection, tuple(evidence))


def runner_up_classes(logits: Tensor, labels: Tensor) -> Tensor:
    """(N,) int64: the class, other than its label, that each sample is most likely to be of.

    Args:
        logits: (N, num_classes) float32.
        labels: (N,) int64.
    """
    return logits.scatter(1, labels[:, None], -torch.inf).argmax(dim=1)


@dataclass(frozen=True, eq=False)
class _Label:
    """The samples of one label."""

    label: int
    whitened: Tensor  # (N, dims) float64
    consistency: Tensor  # (K, N) float32
    rivals: Tensor  # (N,) int64
    owned: Tensor  # (N,) bool, the model itself gives them the label


def _judge(samples: _Label, gain: float) -> tuple[Split, LabelEvidence]:
    """The split of one label's samples and what it says; by the small shares where only those accuse."""
    by_chance = _CHANCE / len(samples.whitened)
    split, found = _split(samples, _SHARES)
    disowned = found.agreement < _DISOWNED * found.predicted_share_of_rest
    if found.gain >= (_DISOWNED_GAIN if disowned else 1.0) * gain + by_chance:
        return split, replace(found, suspected=True)
    small_split, small_found = _split(samples, _SMALL_SHARES)
    if _is_small_poison(small_found, gain + by_chance):
        return small_split, replace(small_found, suspected=True)
    return split, found


def _is_small_poison(found: LabelEvidence, gain: float) -> bool:
    return found.gain >= _SMALL_GAIN * gain and found.share <= _SMALL


def _split(samples: _Label, shares: Shares) -> tuple[Split, LabelEvidence]:
    begun = [discriminate(samples.whitened, start, shares) for start in samples.consistency]
    best = max(range(len(begun)), key=lambda start: begun[start].gain)
    split = sharpen(samples.whitened, begun[best])
    if _variety(split, samples.rivals) < -_MORE_VARIED:
        # The ranks took the wrong half for poisoned, as they do where most of a label is.
        split = turned(samples.whitened, split)
    suspicious = split.suspicious
    return split, LabelEvidence(
        label=samples.label,
        samples=len(samples.whitened),
        gain=held_out_gain(samples.whitened, samples.consistency[best], shares),
        separation=split.separation,
        share=split.share,
        agreement=float(samples.owned[suspicious].float().mean()) if split.parted else 1.0,
        predicted_share_of_rest=float(samples.owned[~suspicious].float().mean()) if split.parted else 1.0,
        variety=_variety(split, samples.rivals),
    )


def _variety(split: Split, rivals: Tensor) -> float:
    suspicious = split.suspicious
    return _entropy(rivals[suspicious]) - _entropy(rivals[~suspicious]) if split.parted else 0.0


def _entropy(values: Tensor) -> float:
    """Of the distribution of small whole numbers, in nats."""
    counts = torch.bincount(values).float()
    return float(torch.distributions.Categorical(probs=counts / counts.sum()).entropy())
