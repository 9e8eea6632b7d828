"""Which samples are poisoned, from what the enhanced model makes of them (paper, Section V-B3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from advrbd_plugin.defense.enhancement import log_odds

_THRESHOLD = 0.5
# A sample whose label is not suspected scores its consistency rank times this, below every sample of a suspected label.
_UNACCUSED_SCALE = 0.01


@dataclass(frozen=True, eq=False)
class Verdicts:
    """Attributes:
    poisoned: (N,) bool.
    score: (N,) float32 in [0, 1], higher is more suspicious; poisoned from 0.5 on.
    suggested_label: (N,) int64: the label that a poisoned sample should have, as far as the clean model can tell; the
        label that it came with for every other sample.
    uncertain: (N,) bool: not called poisoned, yet not trusted enough to be trained on.
    """

    poisoned: Tensor
    score: Tensor
    suggested_label: Tensor
    uncertain: Tensor


def identify_misclassified(enhanced_logits: Tensor, labels: Tensor) -> Verdicts:
    """What the enhanced model misclassifies is clean, the rest poisoned (paper, Section V-B3).

    Args:
        enhanced_logits: (N, num_classes) float32.
        labels: (N,) int64, as they came.

    Returns:
        Verdicts whose score is the enhanced model's probability of the label, moved to the side of 0.5 on which its
        decision lies.
    """
    poisoned = enhanced_logits.argmax(dim=1) == labels
    probability = enhanced_logits.softmax(dim=1).gather(1, labels[:, None])[:, 0]
    score = torch.where(poisoned, 0.5 + probability / 2, probability.clamp(max=1 - 1e-6) / 2)
    return Verdicts(poisoned, score.float(), labels.clone(), torch.zeros_like(poisoned))


def identify_suspected(
    poison_probability: Tensor,
    consistency: Tensor,
    labels: Tensor,
    suspected_classes: tuple[int, ...],
    enhanced_logits: Tensor | None,
    *,
    abstain_threshold: float,
) -> Verdicts:
    """Poisoned is, within the suspected labels, what its features or the enhanced model's answer give away.

    Args:
        poison_probability: (N,) float32 in [0, 1], from the :class:`advrbd_plugin.defense.detection.Detection`.
        consistency: (N,) float32 in [0, 1]: orders the samples of all other labels, which are called clean.
        labels: (N,) int64.
        suspected_classes: may be empty: then every sample is clean.
        enhanced_logits: (N, num_classes) float32, or ``None`` where there was no enhancement.
        abstain_threshold: a sample with log-odds of its label above minus this is uncertain.
    """
    suspected = torch.isin(labels, torch.tensor(suspected_classes, dtype=torch.int64))
    found = poison_probability.clone()
    uncertain = torch.zeros_like(suspected)
    if enhanced_logits is not None:
        odds = log_odds(enhanced_logits, labels)
        found = torch.maximum(found, odds.sigmoid())
        uncertain = suspected & (odds > -abstain_threshold)
    poisoned = suspected & (found >= _THRESHOLD)
    lifted = _UNACCUSED_SCALE + (1 - 2 * _UNACCUSED_SCALE) * found  # one half stays one half
    score = torch.where(suspected, lifted, _UNACCUSED_SCALE * consistency)
    return Verdicts(poisoned, score.float(), labels.clone(), uncertain & ~poisoned)


def reject(verdicts: Verdicts, labels: Tensor, consistency: Tensor, rejected: tuple[int, ...]) -> Verdicts:
    """The verdicts with every sample of the ``rejected`` labels clean, scored like those of any other label."""
    concerned = torch.isin(labels, torch.tensor(rejected, dtype=torch.int64))
    return Verdicts(
        poisoned=verdicts.poisoned & ~concerned,
        score=torch.where(concerned, (_UNACCUSED_SCALE * consistency).float(), verdicts.score),
        suggested_label=verdicts.suggested_label,
        uncertain=verdicts.uncertain & ~concerned,
    )
