"""ACC, ASR, RA and detection figures against tables worked by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from advrbd_plugin.data import ImageSet
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.evaluation.metrics import Detection, Performance, evaluate, judge_detection


class ReadsFirstPixel(nn.Module):
    """Gives an image the label that its first pixel spells."""

    def __init__(self, factor: float = 1.0):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, images):
        return nn.functional.one_hot((images[:, 0, 0, 0] * 255).round().long(), 4).float() * self.factor


def pictures(answers: list[int], labels: list[int]) -> ImageSet:
    images = torch.zeros(len(answers), 3, 2, 2, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.tensor(answers, dtype=torch.uint8)
    return ImageSet(images, torch.tensor(labels, dtype=torch.int64), ("a", "b", "c", "d"))


def test_performance_by_hand():
    clean = pictures([0, 1, 2, 0], [0, 1, 2, 3])
    triggered = pictures([1, 1, 2, 0, 1], [0, 2, 2, 3, 1])  # the last is of the target class and does not count
    assert evaluate(ReadsFirstPixel(), clean, triggered, 1) == Performance(acc=0.75, asr=0.5, ra=0.25)
    assert evaluate(ReadsFirstPixel(), clean) == Performance(acc=0.75)


def test_performance_needs_something_to_judge():
    with pytest.raises(AdvrBDError, match="no clean test images"):
        evaluate(ReadsFirstPixel(), pictures([], []))
    with pytest.raises(AdvrBDError, match="of the target class"):
        evaluate(ReadsFirstPixel(), pictures([0], [0]), pictures([1], [1]), 1)


def test_a_model_that_gives_nan_is_reported():
    with pytest.raises(AdvrBDError, match="output is NaN or infinite"):
        evaluate(ReadsFirstPixel(float("nan")), pictures([0], [0]))


def test_detection_by_hand():
    poisoned = torch.tensor([True, True, False, False, False, False])
    verdicts = torch.tensor([True, False, True, False, False, False])
    scores = torch.tensor([0.9, 0.3, 0.5, 0.2, 0.1, 0.0])
    assert judge_detection(poisoned, verdicts, scores) == Detection(tpr=0.5, fpr=0.25, auroc=7 / 8)
    assert judge_detection(poisoned & False, verdicts, scores) == Detection(tpr=None, fpr=2 / 6, auroc=None)
