"""Which samples are poisoned, from what the enhanced model predicts for them (paper, Section V-B3)."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from advrbd_plugin.defense.config import IdentificationConfig
from advrbd_plugin.defense.detection import Detection
from advrbd_plugin.defense.enhancement import Enhancement
from advrbd_plugin.defense.scoring import Scores
from advrbd_plugin.nn.inference import log_odds

_THRESHOLD = 0.5
# A sample whose class is not suspected scores its consistency rank times this, below every sample of a suspected class.
_NOT_SUSPECTED_SCALE = 0.01


@dataclass(frozen=True, eq=False)
class Verdicts:
    """Attributes:
    poisoned: (N,) bool.
    score: (N,) float32 in [0, 1], higher is more suspicious; poisoned from 0.5 on.
    suggested_label: (N,) int64: the label that a poisoned sample should have, as far as the clean model can tell; the
        label that it came with for every other sample.
    uncertain: (N,) bool: not called poisoned, yet not trusted enough to be trained on.
    mislabelled: (N,) bool: in place under another label, without a trigger: an error, no attack.
    """

    poisoned: Tensor
    score: Tensor
    suggested_label: Tensor
    uncertain: Tensor
    mislabelled: Tensor

    @property
    def trusted(self) -> Tensor:
        """(N,) bool: neither poisoned nor uncertain nor mislabelled."""
        return ~self.poisoned & ~self.uncertain & ~self.mislabelled

    def of(self, indices: Tensor) -> Verdicts:
        """Those of the samples at ``indices``."""
        return Verdicts(*(getattr(self, each.name)[indices] for each in fields(self)))


def identify(
    detection: Detection,
    scores: Scores,
    labels: Tensor,
    enhancement: Enhancement | None,
    config: IdentificationConfig,
) -> Verdicts:
    """Poisoned is, within the suspected classes, what its features or the enhanced model's prediction give away.

    Args:
        detection: may suspect no class: then every sample is clean.
        scores: order the samples of all other classes, which are called clean.
        labels: (N,) int64.
        enhancement: ``None`` where there was none.
        config: the settings.
    """
    suspected = torch.isin(labels, torch.tensor(detection.suspected_classes, dtype=torch.int64))
    found = detection.poison_probability.clone()
    uncertain = torch.zeros_like(suspected)
    if enhancement is not None:
        odds = log_odds(enhancement.logits, labels)
        found = torch.maximum(found, odds.sigmoid())
        uncertain = suspected & (odds > -config.abstain_threshold)
    poisoned = suspected & (found >= _THRESHOLD)
    lifted = _NOT_SUSPECTED_SCALE + (1 - 2 * _NOT_SUSPECTED_SCALE) * found  # one half stays one half
    score = torch.where(suspected, lifted, _NOT_SUSPECTED_SCALE * scores.consistency)
    return Verdicts(poisoned, score.float(), labels.clone(), uncertain & ~poisoned, torch.zeros_like(poisoned))


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
    return Verdicts(poisoned, score.float(), labels.clone(), torch.zeros_like(poisoned), torch.zeros_like(poisoned))


@dataclass(frozen=True, eq=False)
class Findings:
    """What the stages before retraining know of a set.

    Attributes:
        scores, detection, enhancement, verdicts: of these stages.
    """

    scores: Scores
    detection: Detection
    enhancement: Enhancement | None
    verdicts: Verdicts

    def curves(self) -> dict[str, list[dict[str, float]]]:
        """Stage -> rows: the evidence of each class, and the enhancement's training."""
        evidence = [each.to_row() for each in self.detection.evidence]
        return {"detection": evidence, "enhancement": self.enhancement.rows if self.enhancement else []}

    def reject(self, labels: Tensor, classes: tuple[int, ...]) -> Findings:
        """The same with ``classes`` no longer suspected: their samples clean, scored like those of any other class.

        Args:
            labels: (N,) int64.
            classes: suspected ones.
        """
        if not classes:
            return self
        concerned = torch.isin(labels, torch.tensor(classes, dtype=torch.int64))
        clean_score = (_NOT_SUSPECTED_SCALE * self.scores.consistency).float()
        verdicts = Verdicts(
            poisoned=self.verdicts.poisoned & ~concerned,
            score=torch.where(concerned, clean_score, self.verdicts.score),
            suggested_label=self.verdicts.suggested_label,
            uncertain=self.verdicts.uncertain & ~concerned,
            mislabelled=self.verdicts.mislabelled,
        )
        return Findings(self.scores, self.detection.reject(classes), self.enhancement, verdicts)
