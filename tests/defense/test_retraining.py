"""What a retrained model says of the verdicts that it was trained by."""

from dataclasses import replace

import pytest
import torch

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.defense.identification import Verdicts
from advrbd_plugin.defense.retraining import (
    abstain_on_disagreement,
    relabel,
    relearned_samples,
    trusted_samples,
    without_pattern,
)
from advrbd_plugin.errors import AdvrBDError

NAMES = ("a", "b", "c")


class Colour(torch.nn.Module):
    """Classifies by which channel is brightest."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(10.0))

    def forward(self, images):
        return self.scale * images.mean((2, 3))


def coloured(*channels):
    images = torch.zeros(len(channels), 3, 4, 4, dtype=torch.uint8)
    images[torch.arange(len(channels)), torch.tensor(channels)] = 255
    return images


def verdicts_for(poisoned, labels):
    poisoned = torch.tensor(poisoned)
    return Verdicts.without_errors(poisoned, poisoned.float(), labels.clone(), torch.zeros_like(poisoned))


def shown(labels, *channels):
    return ImageSet(coloured(*channels), labels, NAMES)


def test_relabelling_excludes_a_label_that_the_attack_gave():
    """Two of three show another class: the third, which still looks like the target, must not keep it."""
    labels = torch.tensor([1, 1, 1, 0])
    images = coloured(0, 2, 1, 0)
    images[2, 2] = 100
    found = relabel(Colour(), ImageSet(images, labels, NAMES), verdicts_for([True, True, True, False], labels))
    assert found.suggested_label.tolist() == [0, 2, 2, 0]


def test_relabelling_lets_a_clean_label_attacks_labels_stand():
    labels = torch.tensor([1, 1, 1])
    found = relabel(Colour(), shown(labels, 1, 1, 0), verdicts_for([True, True, True], labels))
    assert found.suggested_label.tolist() == [1, 1, 0]


def test_relabelling_looks_under_the_trigger():
    """The trigger, a red haze, hides the colour of every picture from the model."""
    labels, haze = torch.tensor([0, 0, 1]), torch.zeros(3, 4, 4)
    haze[0] = 0.8
    images = coloured(1, 2, 1) // 2
    images[:2] += (255 * haze).byte()
    samples, verdicts = ImageSet(images, labels, NAMES), verdicts_for([True, True, False], labels)
    hidden, seen = (relabel(Colour(), samples, verdicts, patterns=each).suggested_label for each in ({}, {0: haze}))
    assert hidden.tolist() == [0, 0, 1]
    assert seen.tolist() == [1, 2, 1]


def test_taking_a_pattern_out_stays_within_the_pixels_range():
    images = torch.tensor([10, 200], dtype=torch.uint8).view(1, 1, 1, 2)
    pattern = torch.tensor([0.2, -0.8]).view(1, 1, 2)
    assert without_pattern(images, pattern).flatten().tolist() == [0, 255]
    assert without_pattern(images[:0], pattern).shape == (0, 1, 1, 2)


def test_poison_that_keeps_its_label_is_not_learned_again():
    labels = torch.tensor([1, 1, 0, 0])
    verdicts = verdicts_for([True, True, False, False], labels)
    verdicts = replace(
        verdicts, suggested_label=torch.tensor([1, 2, 0, 0]), uncertain=torch.tensor([False] * 3 + [True])
    )
    ours, papers = (relearned_samples(labels, verdicts, poison_that_keeps_its_label=each) for each in (False, True))
    assert ours.tolist() == [1, 2]
    assert papers.tolist() == [0, 1, 2]


def test_disagreement_makes_samples_of_suspected_classes_uncertain():
    labels = torch.tensor([1, 1, 0])
    verdicts = verdicts_for([False] * 3, labels)
    found = abstain_on_disagreement(Colour(), shown(labels, 0, 1, 2), verdicts, (1,))
    assert found.uncertain.tolist() == [True, False, False]
    assert verdicts.uncertain.tolist() == [False, False, False]


def test_nothing_left_to_train_on_is_said():
    labels = torch.tensor([0, 1])
    with pytest.raises(AdvrBDError, match="2 of 2 samples were called poisoned"):
        trusted_samples(verdicts_for([True, True], labels))
