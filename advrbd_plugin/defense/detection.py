"""Which classes are targets of an attack, and which of their samples carry the trigger. (Ours.)

Two witnesses. The transplants (:mod:`.transplant_detection`) ask whether what a cluster's pictures have in common acts
in other pictures; they decide by themselves. The discriminant's split (:mod:`.splits`) finds clusters that stand apart,
also where a trigger leaves nothing that can be transplanted. Innocent classes of two kinds of content fall apart, too,
but less far. So a class without transplants is suspected only where its clusters stand far apart and
:mod:`.confirmation` has shown that the suspicious one belongs elsewhere. That also settles classes of which the
transplants make poison likely, but not likely enough.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.defense.config import DetectionConfig
from advrbd_plugin.defense.findings import ClassFinding
from advrbd_plugin.defense.scoring import Scores
from advrbd_plugin.defense.splits import ClassSplits, LabelEvidence, split_classes
from advrbd_plugin.defense.trained import Trained
from advrbd_plugin.defense.transplant_detection import TransplantDetection, detect_by_transplant, is_trained_enough
from advrbd_plugin.nn.features import layered_features

CANDIDATE_WORK = 400
"""What a candidate costs, in pictures looked at once."""


@dataclass(frozen=True, eq=False)
class Detection:
    """Attributes:
    poison_probability: (N,) float32 in [0, 1]: probability of carrying the trigger of a suspected class, or of
        belonging to the suspicious cluster of an unconfirmed one; 0 for every sample of the other classes.
    projection: (N,) float32: higher is more suspicious; comparable within a class only.
    evidence: one entry for each class; none where classes were not examined.
    findings: the same, in words.
    fit: share of the samples that the model gives their labels.
    trained_enough: whether that is far enough from chance for a verdict; if not, nothing is suspected.
    unconfirmed_classes: those whose clusters stand far apart although nothing of theirs acts in other pictures, and
        those of which the transplants are undecided; they are to be settled by :mod:`.confirmation`.
    """

    poison_probability: Tensor
    projection: Tensor
    evidence: tuple[LabelEvidence, ...]
    findings: tuple[ClassFinding, ...] = ()
    fit: float = 1.0
    trained_enough: bool = True
    unconfirmed_classes: tuple[int, ...] = ()

    @classmethod
    def none(cls, count: int) -> Detection:
        """Of ``count`` samples whose classes were not examined."""
        return cls(torch.zeros(count), torch.zeros(count), ())

    @property
    def suspected_classes(self) -> tuple[int, ...]:
        """Classes taken for targets, in ascending order."""
        return tuple(each.label for each in self.evidence if each.suspected)

    @property
    def teachable(self) -> Detection:
        """The same with those classes suspected alone whose trigger brings pictures to the class.

        A trigger that merely drives pictures away (untargeted poison) says nothing of the label beside it.
        """
        untargeted = {each.label for each in self.findings if each.kind == "leaves"}
        evidence = (replace(each, suspected=each.suspected and each.label not in untargeted) for each in self.evidence)
        return replace(self, evidence=tuple(evidence))

    def settle(self, labels: Tensor, findings: Mapping[int, ClassFinding]) -> Detection:
        """The same with the classes of ``findings`` suspected or rejected, as their findings say.

        Args:
            labels: (N,) int64.
            findings: class -> what was found in the end.
        """
        if not findings:
            return self
        rejected = [label for label, each in findings.items() if not each.suspected]
        cleared = torch.isin(labels, torch.tensor(rejected, dtype=torch.int64))
        return replace(
            self,
            poison_probability=self.poison_probability.masked_fill(cleared, 0.0),
            evidence=tuple(
                replace(each, suspected=findings[each.label].suspected, rejected=not findings[each.label].suspected)
                if each.label in findings
                else each
                for each in self.evidence
            ),
            findings=tuple(findings.get(each.label, each) for each in self.findings),
            unconfirmed_classes=tuple(label for label in self.unconfirmed_classes if label not in findings),
        )

    def told_of_errors(self, samples: ImageSet, mislabelled: Tensor, gathered: Sequence[int]) -> Detection:
        """The same, with a sentence for the classes that are not suspected, but in which wrong labels gather.

        Args:
            samples: the set.
            mislabelled: (N,) bool.
            gathered: the classes.
        """
        findings = []
        for each in self.findings:
            if each.label in gathered and not each.suspected:
                members = samples.labels == each.label
                count = int((mislabelled & members).sum())
                sentence = (
                    f"{samples.class_names[each.label]}: {count} of its pictures look like other classes, while hardly "
                    "any of theirs look like it: wrong labels, or an attack whose trigger the model has not learned"
                )
                each = replace(each, sentence=sentence, kind="misplacement", share=count / int(members.sum()))
            findings.append(each)
        return replace(self, findings=tuple(findings))

    def to_stored(self) -> tuple[dict[str, Tensor], Any]:
        tensors = {"poison_probability": self.poison_probability, "projection": self.projection}
        return tensors, {
            "evidence": [asdict(each) for each in self.evidence],
            "findings": [each.to_json() for each in self.findings],
            "fit": self.fit,
            "trained_enough": self.trained_enough,
            "unconfirmed_classes": list(self.unconfirmed_classes),
        }

    @classmethod
    def from_stored(cls, tensors: dict[str, Tensor], rest: Any) -> Detection:
        return cls(
            **tensors,
            evidence=tuple(LabelEvidence(**each) for each in rest["evidence"]),
            findings=tuple(ClassFinding.from_json(each) for each in rest["findings"]),
            fit=rest["fit"],
            trained_enough=rest["trained_enough"],
            unconfirmed_classes=tuple(rest["unconfirmed_classes"]),
        )


Detector = Callable[[Trained, ImageSet, Scores, DetectionConfig, Callable[[int], None] | None], Detection]
"""From a trained model, samples, their scores, the settings and ``on_batch`` to what :func:`detect_targets` gives."""


def detect_targets(
    trained: Trained,
    samples: ImageSet,
    scores: Scores,
    config: DetectionConfig,
    on_batch: Callable[[int], None] | None = None,
) -> Detection:
    """Find the target classes by transplants, and the classes to be confirmed by the discriminant's splits.

    Args:
        trained: the model that was trained on the set, and what it said while it learned.
        samples: the whole training set.
        scores: theirs.
        config: the settings.
        on_batch: called with the size of each batch that is done, and with :data:`CANDIDATE_WORK` for each candidate.

    Raises:
        AdvrBDError: the model has no linear layer, or a logit is not finite.
    """
    model = trained.model
    features, logits, fit = _answers(model, samples, config.mixed_precision, on_batch)
    if not is_trained_enough(fit, samples.class_counts()):
        return _untrained(samples, fit)
    splits = split_classes(features, logits, samples.labels, scores.ranks, gain=config.detection_gain)
    found = detect_by_transplant(
        model,
        samples,
        features,
        logits,
        mean_probabilities=trained.mean_probabilities,
        splits=splits.suspicious,
        with_undecided=True,
        seed=config.seed,
        mixed_precision=config.mixed_precision,
        on_candidate=_told_of_candidates(on_batch),
    )
    return combine(samples.labels, splits, found, fit, config.strong_separation)


def examine(
    model: nn.Module,
    samples: ImageSet,
    *,
    seed: int,
    mixed_precision: bool = True,
    on_batch: Callable[[int], None] | None = None,
) -> Detection:
    """Put a clean model to the transplants alone, without consistency scores.

    Args:
        model: takes images in pixel scale [0, 1].
        samples: what it was trained on, with those labels.
        seed: of mixtures, recipients and donors.
        on_batch: as for :func:`detect_targets`.
    """
    features, logits, fit = _answers(model, samples, mixed_precision, on_batch)
    if not is_trained_enough(fit, samples.class_counts()):
        return _untrained(samples, fit)
    found = detect_by_transplant(
        model,
        samples,
        features,
        logits,
        seed=seed,
        mixed_precision=mixed_precision,
        on_candidate=_told_of_candidates(on_batch),
    )
    evidence = tuple(LabelEvidence(each.label, 0, 0.0, 0.0, 0.0, suspected=each.suspected) for each in found.findings)
    return Detection(found.poison_probability, found.projection, evidence, found.findings, fit)


def _answers(
    model: nn.Module, samples: ImageSet, mixed_precision: bool, on_batch: Callable[[int], None] | None
) -> tuple[Tensor, Tensor, float]:
    """The model's features and logits on the samples, and the share of them that it gives their labels."""
    features, logits = layered_features(model, samples.images, mixed_precision=mixed_precision, on_batch=on_batch)
    return features, logits, float((logits.argmax(dim=1) == samples.labels).double().mean())


def _told_of_candidates(on_batch: Callable[[int], None] | None) -> Callable[[int, int], None] | None:
    return None if on_batch is None else lambda done, of: on_batch(CANDIDATE_WORK)


def _untrained(samples: ImageSet, fit: float) -> Detection:
    """The model fits too little of its training set to be asked about it: nobody is suspected."""
    counts = samples.class_counts().tolist()
    evidence = tuple(LabelEvidence(label, count, 0.0, 0.0, 0.0) for label, count in enumerate(counts))
    sentence = f"not judged: the model fits {fit:.0%} of its own training data, which says nothing about them"
    findings = tuple(ClassFinding(label, False, 0.0, sentence) for label in range(samples.num_classes))
    nothing = torch.zeros(len(samples))
    return Detection(nothing, nothing.clone(), evidence, findings, fit, trained_enough=False)


def combine(
    labels: Tensor, splits: ClassSplits, found: TransplantDetection, fit: float, strong_separation: float
) -> Detection:
    """The transplants' samples where they suspect a class or are undecided, the split's where clusters stand far apart.

    Args:
        labels: (N,) int64.
        splits, found: of the same samples.
        fit: share of them that the model gives their labels.
        strong_separation: from which on clusters stand far apart, in standard deviations.
    """
    suspected = found.suspected_classes
    evidence = tuple(
        replace(each, suspected=each.label in suspected, rejected=each.separate and each.label not in suspected)
        for each in splits.evidence
    )
    far_apart = {each.label for each in evidence if each.rejected and each.separation >= strong_separation}
    unconfirmed = tuple(sorted(far_apart | set(found.undecided)))
    by_transplant = torch.isin(labels, torch.tensor((*suspected, *found.undecided), dtype=torch.int64))
    by_split = torch.isin(labels, torch.tensor(unconfirmed, dtype=torch.int64))
    probability = torch.where(by_split, splits.probability, torch.zeros(()))
    return Detection(
        torch.where(by_transplant, found.poison_probability, probability),
        torch.where(by_transplant, found.projection, splits.projection),
        evidence,
        found.findings,
        fit,
        unconfirmed_classes=unconfirmed,
    )
