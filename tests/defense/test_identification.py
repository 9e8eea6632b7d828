"""From the enhanced model and the detection to a verdict on each sample."""

import pytest
import torch

from advrbd_plugin.defense.config import IdentificationConfig
from advrbd_plugin.defense.detection import Detection, LabelEvidence
from advrbd_plugin.defense.enhancement import Enhancement
from advrbd_plugin.defense.identification import Findings, Verdicts, identify, identify_misclassified
from advrbd_plugin.defense.scoring import Scores


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


def test_a_rejected_class_is_left_clean():
    verdicts = Verdicts(
        torch.tensor([True, True]),
        torch.tensor([0.9, 0.8]),
        torch.tensor([1, 2]),
        uncertain=torch.zeros(2, dtype=torch.bool),
        mislabelled=torch.zeros(2, dtype=torch.bool),
    )
    findings = Findings(Scores(torch.tensor([[0.5, 0.5]])), detection([0.9, 0.8], 1, 2), None, verdicts)
    left = findings.reject(torch.tensor([1, 2]), (1,))
    assert left.verdicts.poisoned.tolist() == [False, True]
    assert left.verdicts.score.tolist() == pytest.approx([0.005, 0.8])
    assert left.detection.suspected_classes == (2,) and left.detection.evidence[1].rejected
    assert findings.detection.suspected_classes == (1, 2) and findings.reject(torch.tensor([1, 2]), ()) is findings
