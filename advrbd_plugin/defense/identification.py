"""Which samples are poisoned, from what the enhanced model makes of them (paper, Section V-B3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from advrbd_plugin.defense.enhancement import log_odds

_THRESHOLD = 0.5
# A sample whose label is not accused scores its consistency rank times this, below every sample of an accused label.
_UNACCUSED_SCALE = 0.01


@dataclass(frozen=True, eq=False)
class Verdicts:
    """Attributes:
    poisoned: (N,) bool.
    score: (N,) float32 in [0, 1], higher is more suspicious; poisoned from 0.5 on.
    suggested_label: (N,) int64: the label that a poisoned sample should have, as far as the clean model can tell; the
        label that it came with for every other sample.
    doubtful: (N,) bool: not called poisoned, yet not trusted enough to be trained on.
    """

    poisoned: Tensor
    score: Tensor
    suggested_label: Tensor
    doubtful: Tensor


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


def identify_accused(
    suspicion: Tensor,
    consistency: Tensor,
    labels: Tensor,
    accused_labels: tuple[int, ...],
    enhanced_logits: Tensor | None,
    *,
    doubt: float,
) -> Verdicts:
    """Poisoned is, within the accused labels, what its features or the enhanced model's answer give away.

    Args:
        suspicion: (N,) float32 in [0, 1], from the :class:`advrbd_plugin.defense.detection.Accusation`.
        consistency: (N,) float32 in [0, 1]: orders the samples of all other labels, which are called clean.
        labels: (N,) int64.
        accused_labels: may be empty: then every sample is clean.
        enhanced_logits: (N, num_classes) float32, or ``None`` where there was no enhancement.
        doubt: a sample with log-odds of its label above minus this is doubtful.
    """
    accused = torch.isin(labels, torch.tensor(accused_labels, dtype=torch.int64))
    found = suspicion.clone()
    doubtful = torch.zeros_like(accused)
    if enhanced_logits is not None:
        odds = log_odds(enhanced_logits, labels)
        found = torch.maximum(found, odds.sigmoid())
        doubtful = accused & (odds > -doubt)
    poisoned = accused & (found >= _THRESHOLD)
    lifted = _UNACCUSED_SCALE + (1 - 2 * _UNACCUSED_SCALE) * found  # one half stays one half
    score = torch.where(accused, lifted, _UNACCUSED_SCALE * consistency)
    return Verdicts(poisoned, score.float(), labels.clone(), doubtful & ~poisoned)


def withdraw(verdicts: Verdicts, labels: Tensor, consistency: Tensor, acquitted: tuple[int, ...]) -> Verdicts:
    """The verdicts with every sample of the ``acquitted`` labels clean, scored like those of any other label."""
    concerned = torch.isin(labels, torch.tensor(acquitted, dtype=torch.int64))
    return Verdicts(
        poisoned=verdicts.poisoned & ~concerned,
        score=torch.where(concerned, (_UNACCUSED_SCALE * consistency).float(), verdicts.score),
        suggested_label=verdicts.suggested_label,
        doubtful=verdicts.doubtful & ~concerned,
    )
