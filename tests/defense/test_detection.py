"""How transplants and splits make one detection, and what of it is taught, on made-up findings."""

from dataclasses import replace

import pytest
import torch

from advrbd_plugin.defense.candidates import Candidate
from advrbd_plugin.defense.detection import Detection, combine
from advrbd_plugin.defense.evidence import ClusterEvidence, less_reference
from advrbd_plugin.defense.findings import ClassFinding, Window, best_window
from advrbd_plugin.defense.posterior import undecided
from advrbd_plugin.defense.splits import ClassSplits, LabelEvidence
from advrbd_plugin.defense.transplant_detection import TransplantDetection

LABELS = torch.arange(4).repeat_interleave(10)


def splits(*separations):
    """Classes whose clusters stand apart by ``separations``; each class's first three samples are suspicious."""
    first_three = (torch.arange(40) % 10 < 3).float()
    evidence = tuple(
        LabelEvidence(label, 10, 1.0, separation, 0.3, separate=separation > 3)
        for label, separation in enumerate(separations)
    )
    return ClassSplits(0.9 * first_three, first_three, evidence)


def transplants(*suspected, kind="goes"):
    """Transplants that suspect these classes; the last two samples of each carry the trigger."""
    carries = torch.isin(LABELS, torch.tensor(suspected, dtype=torch.int64)) & (torch.arange(40) % 10 > 7)
    findings = tuple(ClassFinding(label, label in suspected, float(label in suspected), "", kind) for label in range(4))
    return TransplantDetection(carries.float(), carries.float(), findings)


def test_transplants_decide_and_only_clusters_far_apart_are_left_to_confirm():
    found = combine(LABELS, splits(2.5, 3.3, 6.0, 6.0), transplants(3), fit=0.9, strong_separation=4.0)
    assert found.suspected_classes == (3,) and found.unconfirmed_classes == (2,)
    assert [each.rejected for each in found.evidence] == [False, True, True, False]
    flagged = (found.poison_probability > 0.5).nonzero().flatten().tolist()
    assert flagged == [20, 21, 22, 38, 39]
    assert torch.equal(found.projection[:30], splits(1, 1, 1, 1).projection[:30])


def test_what_the_transplants_are_undecided_of_is_left_to_confirm_with_its_samples():
    found = replace(transplants(3), undecided=(1,), poison_probability=transplants(1, 3).poison_probability)
    both = combine(LABELS, splits(2.5, 6.0, 2.5, 2.5), found, fit=0.9, strong_separation=4.0)
    assert both.suspected_classes == (3,) and both.unconfirmed_classes == (1,)
    assert (both.poison_probability > 0.5).nonzero().flatten().tolist() == [
        18,
        19,
        38,
        39,
    ]  # not the split's of class 1
    sure = ClassFinding(1, True, 0.9, "elsewhere", "misplacement")
    assert both.settle(LABELS, {1: sure}).suspected_classes == (1, 3)
    cleared = both.settle(LABELS, {1: replace(sure, suspected=False)})
    assert cleared.suspected_classes == (3,) and cleared.unconfirmed_classes == ()
    assert (cleared.poison_probability > 0.5).nonzero().flatten().tolist() == [38, 39]


def test_a_label_is_undecided_from_one_half_on():
    assert undecided({0: 0.97, 1: 0.94, 2: 0.51, 3: 0.5, 4: 0.1}, suspected=(0,)) == (1, 2)


def test_a_detection_survives_being_stored():
    found = combine(LABELS, splits(2.5, 3.3, 6.0, 6.0), transplants(3), fit=0.9, strong_separation=4.0)
    again = Detection.from_stored(*found.to_stored())
    assert again.evidence == found.evidence and again.unconfirmed_classes == (2,) and again.fit == 0.9
    assert [each.to_json() for each in again.findings] == [each.to_json() for each in found.findings]
    assert torch.equal(again.poison_probability, found.poison_probability)


@pytest.mark.parametrize(("kind", "taught"), [("goes", (3,)), ("window", (3,)), ("leaves", ())])
def test_a_trigger_that_merely_drives_pictures_away_is_not_taught(kind, taught):
    found = combine(LABELS, splits(2.5, 2.5, 2.5, 2.5), transplants(3, kind=kind), fit=0.9, strong_separation=4.0)
    assert found.suspected_classes == (3,) and found.teachable.suspected_classes == taught


def clusters(*values, label=0):
    """Components of one label, of ten pictures each, with this much evidence."""
    candidates = [Candidate(label, torch.arange(10) + 10 * number, "mixture") for number in range(len(values))]
    return [ClusterEvidence(label, 10, "mixture", value, value, value) for value in values], candidates


def test_evidence_is_what_a_cluster_has_beyond_the_rest_of_its_label():
    assert [each.goes for each in less_reference(*clusters(0.9, 0.1, 0.0))] == pytest.approx([0.9, 0.1, 0.0])
    # Where all components act in other pictures, as strokes of digits do, none stands out.
    assert [each.goes for each in less_reference(*clusters(0.9, 0.8, 0.8))] == pytest.approx([0.1, 0.0, 0.0])


def test_a_cluster_that_is_all_of_its_label_has_no_evidence():
    assert less_reference(*clusters(0.9))[0].goes == 0.0


def test_components_that_lie_within_a_cluster_are_no_reference_for_it():
    evidence, candidates = clusters(0.9, 0.2)
    both = Candidate(0, torch.arange(20), "discriminant")
    found = less_reference([*evidence, ClusterEvidence(0, 20, "discriminant", 0.7, 0.7, 0.7)], [*candidates, both])
    assert [each.goes for each in found] == pytest.approx([0.7, 0.0, 0.0])


def test_what_has_no_mark_is_a_reference_and_a_mark_is_none():
    evidence, candidates = clusters(0.4, 0.5)  # poison is most of the label, and in both components
    marked = [
        ClusterEvidence(0, 14, source, value, value, value) for source, value in [("mark", 0.6), ("unmarked", 0.1)]
    ]
    parts = [Candidate(0, torch.arange(14), "mark"), Candidate(0, torch.arange(14, 20), "unmarked")]
    found = [each.goes for each in less_reference([*evidence, marked[0]], [*candidates, parts[0]])]
    assert found == pytest.approx([0.0, 0.1, 0.1])
    found = [each.goes for each in less_reference([*evidence, *marked], [*candidates, *parts])]
    assert found[:3] == pytest.approx([0.3, 0.1, 0.5])  # the unmarked rest lies within the second component


def test_the_window_is_where_the_pattern_is():
    pattern = 0.01 * torch.ones(3, 24, 24)
    pattern[:, 4:8, 15:19] = 0.8
    assert best_window(pattern) in (Window(4, 15, 4), Window(4, 15, 3), Window(5, 15, 3), Window(4, 16, 3))
    assert best_window(torch.ones(3, 24, 24)) is None and best_window(torch.zeros(1, 8, 8)) is None
