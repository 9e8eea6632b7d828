"""Which samples are poisoned, from what the enhanced model predicts for them (paper, Section V-B3)."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from advrbd_plugin.defense.config import IdentificationConfig
from advrbd_plugin.defense.detection import Detection
from advrbd_plugin.defense.enhancement import Enhancement
from advrbd_plugin.defense.mislabels import Mislabels
from advrbd_plugin.defense.scoring import Scores
from advrbd_plugin.nn.inference import log_odds

_THRESHOLD = 0.5
# A sample whose class is not suspected scores its consistency rank times this, below every sample of a suspected class.
_NOT_SUSPECTED_SCALE = 0.01


@dataclass(frozen=True, eq=False, repr=False)
class Verdicts:
    """Attributes:
    poisoned: (N,) bool.
    score: (N,) float32 in [0, 1], higher is more suspicious; poisoned from 0.5 on.
    suggested_label: (N,) int64: the label that a poisoned sample should have, as far as the clean model can tell, or a
        mislabelled one; the label that it came with for every other sample.
    uncertain: (N,) bool: not called poisoned, yet not trusted enough to be trained on.
    mislabelled: (N,) bool: in place under another label, without a trigger: an error, no attack.
    mislabelled_score: (N,) float32 in [0, 1], higher is more likely an error; mislabelled from 0.5 on.

    Examples:
        >>> import torch
        >>> no = torch.tensor([False, False])
        >>> verdicts = Verdicts(torch.tensor([True, False]), torch.tensor([0.9, 0.1]), torch.tensor([1, 0]), no, no)
        >>> verdicts
        Verdicts(2 samples: 1 poisoned, 0 uncertain, 0 mislabelled)
        >>> verdicts.words()
        ['poisoned', 'clean']
    """

    poisoned: Tensor
    score: Tensor
    suggested_label: Tensor
    uncertain: Tensor
    mislabelled: Tensor
    mislabelled_score: Tensor = None  # type: ignore[assignment]  # never None once it is made

    def __post_init__(self) -> None:
        if self.mislabelled_score is None:
            object.__setattr__(self, "mislabelled_score", self.mislabelled.float())

    @classmethod
    def without_errors(cls, poisoned: Tensor, score: Tensor, suggested_label: Tensor, uncertain: Tensor) -> Verdicts:
        """Where nobody asked about wrong labels."""
        return cls(poisoned, score, suggested_label, uncertain, torch.zeros_like(poisoned), torch.zeros(len(poisoned)))

    @property
    def trusted(self) -> Tensor:
        """(N,) bool: neither poisoned nor uncertain nor mislabelled."""
        return ~self.poisoned & ~self.uncertain & ~self.mislabelled

    @property
    def needs_cleaning(self) -> bool:
        """Whether another model is to be trained: something is poisoned or mislabelled."""
        return bool(self.poisoned.any() or self.mislabelled.any())

    def with_mislabels(self, found: Mislabels) -> Verdicts:
        """The same, with errors among the samples that are neither poisoned nor uncertain."""
        errors = found.mislabelled & ~self.poisoned & ~self.uncertain
        return replace(
            self,
            mislabelled=errors,
            mislabelled_score=found.probability.masked_fill(self.poisoned, 0.0),
            suggested_label=torch.where(errors, found.better_label, self.suggested_label),
        )

    def words(self) -> list[str]:
        """A word for each sample: ``poisoned``, ``mislabelled``, ``uncertain`` or ``clean``."""
        words = ["clean"] * len(self.poisoned)
        for word in ("uncertain", "mislabelled", "poisoned"):  # the last one counts
            for index in getattr(self, word).nonzero().flatten().tolist():
                words[index] = word
        return words

    def __repr__(self) -> str:
        counts = [f"{int(getattr(self, word).sum()):,} {word}" for word in ("poisoned", "uncertain", "mislabelled")]
        return f"Verdicts({len(self.poisoned):,} samples: {', '.join(counts)})"

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
        odds, asked = log_odds(enhancement.logits, labels), suspected
        if enhancement.classes is not None:
            asked = suspected & torch.isin(labels, torch.tensor(enhancement.classes, dtype=torch.int64))
        found = torch.where(asked, torch.maximum(found, odds.sigmoid()), found)
        uncertain = asked & (odds > -config.abstain_threshold)
    poisoned = suspected & (found >= _THRESHOLD)
    lifted = _NOT_SUSPECTED_SCALE + (1 - 2 * _NOT_SUSPECTED_SCALE) * found  # one half stays one half
    score = torch.where(suspected, lifted, _NOT_SUSPECTED_SCALE * scores.consistency)
    return Verdicts.without_errors(poisoned, score.float(), labels.clone(), uncertain & ~poisoned)


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
    return Verdicts.without_errors(poisoned, score.float(), labels.clone(), torch.zeros_like(poisoned))


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
