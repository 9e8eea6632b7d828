"""Which samples of an untrusted set are taken as clean; the scores are stand-ins here."""

from __future__ import annotations

import pytest
import torch

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.defense.detection import Detection
from advrbd_plugin.defense.scoring import Scores
from advrbd_plugin.defense.splits import LabelEvidence
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.ulrl import clean_from_poisoned, clean_samples


@pytest.fixture
def untrusted():
    """Twenty images of two labels; of label 1 the last five are to be found poisoned."""
    images = torch.arange(20, dtype=torch.uint8).view(20, 1, 1, 1).expand(20, 3, 8, 8).contiguous()
    return ImageSet(images, torch.arange(20) // 10, ("zero", "one"))


@pytest.fixture
def scores(monkeypatch):
    """Lets label 1 be suspected, samples 15 to 19 being suspicious, and high positions be consistent."""
    poison_probability = torch.zeros(20)
    poison_probability[15:] = 0.99
    evidence = tuple(LabelEvidence(label, 10, 1.0, 2.0, 0.5, suspected=label == 1) for label in range(2))
    found = {"poison_probability": poison_probability, "evidence": evidence}

    def detect_targets(trained, samples, scores, config, on_batch):
        return Detection(found["poison_probability"], torch.arange(20.0), found["evidence"])

    monkeypatch.setattr(clean_samples, "score_samples", lambda *_, **__: Scores((torch.arange(20.0) / 19)[None]))
    monkeypatch.setattr(clean_samples, "detect_targets", detect_targets)
    return found


def test_samples_come_balanced_from_the_less_suspicious_half(untrusted, scores):
    picked = clean_from_poisoned(None, untrusted, 4)
    assert picked.suspected_classes == (1,)
    assert picked.clean_set.class_counts().tolist() == [2, 2]
    chosen = picked.clean_set.sample_ids.tolist()
    assert all(sample < 5 or 10 <= sample < 12 for sample in chosen)  # half of 10, and half of the 5 trusted
    assert picked.suspect_set.sample_ids.tolist() == [15, 16, 17, 18, 19]


def test_the_rarest_label_bounds_how_many_are_taken(untrusted, scores):
    assert clean_from_poisoned(None, untrusted, 100).clean_set.class_counts().tolist() == [2, 2]


def test_without_a_suspected_class_no_sample_is_suspicious(untrusted, scores):
    scores["poison_probability"] = torch.zeros(20)
    scores["evidence"] = ()
    picked = clean_from_poisoned(None, untrusted, 4)
    assert (picked.suspected_classes, picked.suspect_set) == ((), None)


def test_a_label_without_a_trusted_sample_is_named(untrusted, scores):
    scores["poison_probability"] = torch.where(untrusted.labels == 1, 1.0, 0.0)
    with pytest.raises(AdvrBDError, match="no sample of the class 'one' can be trusted"):
        clean_from_poisoned(None, untrusted, 4)


def test_the_order_of_the_untrusted_samples_does_not_matter(untrusted, scores):
    one = clean_from_poisoned(None, untrusted, 4)
    other = clean_from_poisoned(None, untrusted.subset(torch.arange(19, -1, -1)), 4)
    assert torch.equal(one.clean_set.sample_ids, other.clean_set.sample_ids)
    assert torch.equal(one.clean_set.images, other.clean_set.images)
    assert torch.equal(one.suspect_set.sample_ids, other.suspect_set.sample_ids)
