"""From the enhanced model and the detection to a verdict on each sample."""

from dataclasses import replace

import pytest
import torch

from advrbd_plugin.defense.config import IdentificationConfig
from advrbd_plugin.defense.detection import Detection
from advrbd_plugin.defense.enhancement import Enhancement
from advrbd_plugin.defense.findings import ClassFinding
from advrbd_plugin.defense.identification import Verdicts, identify, identify_misclassified
from advrbd_plugin.defense.mislabels import Mislabels
from advrbd_plugin.defense.scoring import Scores
from advrbd_plugin.defense.splits import LabelEvidence


def detection(poison_probability, *suspected):
    probability = torch.tensor(poison_probability)
    evidence = tuple(LabelEvidence(each, 1, 1.0, 3.0, 0.3, suspected=each in suspected) for each in range(3))
    return Detection(probability, probability, evidence)


def test_misclassified_by_the_enhanced_model_is_clean():
    logits = torch.tensor([[3.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.5, 0.0, 0.0]])
    verdicts = identify_misclassified(logits, torch.tensor([0, 0, 0]))
    assert verdicts.poisoned.tolist() == [True, False, True]
    assert verdicts.score[0] > verdicts.score[2] > 0.5 > verdicts.score[1]


def test_only_suspected_classes_hold_poison():
    scores = Scores(torch.tensor([[0.0, 0.5, 0.2, 1.0]]))
    labels = torch.tensor([1, 1, 1, 0])
    enhancement = Enhancement(torch.tensor([[0.0, -9.0], [0.0, 4.0], [0.0, -1.0], [9.0, 0.0]]), [])
    config = IdentificationConfig(abstain_threshold=3.0)
    verdicts = identify(detection([0.9, 0.1, 0.1, 0.0], 1), scores, labels, enhancement, config)
    # By its features; by the enhanced model; uncertain; of a class that is not suspected.
    assert verdicts.poisoned.tolist() == [True, True, False, False]
    assert verdicts.uncertain.tolist() == [False, False, True, False]
    assert verdicts.trusted.tolist() == [False, False, False, True]
    assert verdicts.score[3] == pytest.approx(0.01)
    nothing = identify(detection([0.9, 0.1, 0.1, 0.0]), scores, labels, None, config)
    assert not nothing.poisoned.any() and nothing.score.argsort().tolist() == scores.consistency.argsort().tolist()


def test_settling_suspects_or_clears_the_unconfirmed_classes():
    labels = torch.tensor([0, 1, 2, 2])
    found = replace(
        detection([0.0, 0.9, 0.8, 0.7], 1),
        findings=tuple(ClassFinding(label, label == 1, float(label == 1), "") for label in range(3)),
        unconfirmed_classes=(2,),
    )
    cleared = found.settle(labels, {2: ClassFinding(2, False, 0.0, "unusual")})
    assert cleared.suspected_classes == (1,) and cleared.unconfirmed_classes == ()
    assert cleared.poison_probability.tolist() == pytest.approx([0.0, 0.9, 0.0, 0.0])
    assert cleared.evidence[2].rejected and cleared.findings[2].sentence == "unusual"
    confirmed = found.settle(labels, {2: ClassFinding(2, True, 0.8, "elsewhere")})
    assert confirmed.suspected_classes == (1, 2) and torch.equal(confirmed.poison_probability, found.poison_probability)
    assert found.settle(labels, {}) is found


def test_errors_are_samples_that_are_not_poisoned():
    poisoned, uncertain = torch.tensor([True, False, False, False]), torch.tensor([False, True, False, False])
    labels = torch.tensor([1, 1, 1, 1])
    verdicts = Verdicts.without_errors(poisoned, poisoned.float(), labels, uncertain)
    assert verdicts.needs_cleaning and verdicts.trusted.tolist() == [False, False, True, True]
    found = verdicts.with_mislabels(Mislabels(torch.tensor([0.9, 0.9, 0.9, 0.1]), torch.tensor([3, 3, 3, 3]), 0.2))
    assert found.mislabelled.tolist() == [False, False, True, False]
    assert found.suggested_label.tolist() == [1, 1, 3, 1]
    assert found.trusted.tolist() == [False, False, False, True]
    assert found.mislabelled_score.tolist() == pytest.approx([0.0, 0.9, 0.9, 0.1])
