"""Which clusters belong elsewhere, on predictions whose right answer is known."""

from dataclasses import replace

import pytest
import torch

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.defense.confirmation import confirm, leave_out
from advrbd_plugin.defense.detection import Detection
from advrbd_plugin.defense.findings import ClassFinding
from advrbd_plugin.defense.splits import LabelEvidence

COUNT = 300


def a_set(per_class=100):
    labels = torch.arange(3).repeat_interleave(per_class)
    return ImageSet(torch.zeros(len(labels), 1, 4, 4, dtype=torch.uint8), labels, ("a", "b", "c"))


def unconfirmed(samples, label=1, share=0.3):
    """Clusters of ``label`` stand apart: its first samples."""
    members = (samples.labels == label).nonzero().flatten()
    probability = torch.zeros(len(samples))
    probability[members[: int(share * len(members))]] = 0.9
    evidence = tuple(LabelEvidence(each, 100, 2.0, 5.0, share, separate=each == label) for each in range(3))
    findings = tuple(ClassFinding(each, False, 0.0, "") for each in range(3))
    return Detection(probability, probability, evidence, findings, unconfirmed_classes=(label,))


def says(labels, sure=0.8):
    """Probabilities of a model that is ``sure`` of the labels given."""
    rest = (1 - sure) / 2
    return torch.full((len(labels), 3), rest).scatter(1, labels[:, None], sure)


def test_a_tenth_of_each_class_is_left_out_beside_the_suspicious_cluster():
    samples = a_set()
    detection = unconfirmed(samples)
    left_out = leave_out(samples, detection, seed=3)
    assert torch.equal(left_out.suspicious, detection.poison_probability > 0.5)
    assert not (left_out.controls & left_out.suspicious).any()
    assert torch.bincount(samples.labels[left_out.controls]).tolist() == [10, 10, 10]
    assert len(left_out.kept) == COUNT - 30 - 30
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(0))
    moved = replace(detection, poison_probability=detection.poison_probability[order])
    shuffled = leave_out(samples.subset(order), moved, seed=3)
    assert torch.equal(shuffled.controls, left_out.controls[order])
    assert not torch.equal(leave_out(samples, detection, seed=4).controls, left_out.controls)


@pytest.mark.parametrize(("shows", "suspected"), [(0, True), (1, False)], ids=["another class", "its own class"])
def test_a_cluster_is_confirmed_where_it_shows_another_class(shows, suspected):
    samples = a_set()
    detection = unconfirmed(samples)
    shown = torch.where(detection.poison_probability > 0.5, shows, samples.labels)
    found = confirm(says(shown), samples, detection, leave_out(samples, detection, seed=0))
    assert found.suspected_classes == ((1,) if suspected else ()) and found.evidence[1].rejected == (not suspected)
    assert found.findings[1].kind == "misplacement" and "30 of its pictures stand apart" in found.findings[1].sentence
    assert found.findings[1].share == pytest.approx(float(suspected), abs=0.01)
    assert (found.poison_probability > 0.5).any() == suspected


def test_a_style_that_sends_some_astray_and_as_many_home_is_no_attack():
    samples = a_set()
    detection = unconfirmed(samples)
    suspicious = detection.poison_probability > 0.5
    astray = suspicious & (torch.arange(COUNT) % 2 == 0)
    found = confirm(
        says(torch.where(astray, 0, samples.labels)), samples, detection, leave_out(samples, detection, seed=0)
    )
    assert found.suspected_classes == () and found.findings[1].share == pytest.approx(0.5, abs=0.1)


def test_a_model_that_knows_no_class_confirms_nothing():
    samples = a_set()
    detection = unconfirmed(samples)
    left_out = leave_out(samples, detection, seed=0)
    found = confirm(says(torch.full((COUNT,), 2)), samples, detection, left_out)
    assert found.suspected_classes == () and found.unconfirmed_classes == ()
