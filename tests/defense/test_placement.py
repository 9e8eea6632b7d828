"""Where samples belong by what a network says of them, on made-up probabilities."""

import pytest
import torch

from advrbd_plugin.defense.placement import belonging, one_way_ratios

CLASSES, PER_CLASS = 5, 200


def test_a_sample_belongs_where_it_is_as_likely_as_controls_are():
    labels, controls = torch.tensor([0, 1, 2, 0]), torch.tensor([True, True, True, False])
    probabilities = torch.tensor([[0.8, 0.1, 0.1], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6], [0.1, 0.7, 0.2]])
    assert belonging(probabilities, labels, controls).tolist() == [0, 1, 2, 1]
    assert belonging(torch.full((4, 3), 1 / 3), labels, torch.zeros(4, dtype=torch.bool)).tolist() == [-1] * 4


def said(moves, seed=0):
    """Mean probabilities and labels: all look like their label, but of ``(label, other, count)`` so many like other."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(CLASSES).repeat_interleave(PER_CLASS)
    shown = labels.clone()
    for label, other, count in moves:
        alike = ((labels == label) & (shown == label)).nonzero().flatten()[:count]
        shown[alike] = other
    logits = torch.randn(len(labels), CLASSES, generator=generator)
    logits[torch.arange(len(labels)), shown] += 4
    return logits.softmax(dim=1), labels


def test_a_label_that_took_pictures_from_others_stands_out():
    ratios = one_way_ratios(*said([(2, other, 15) for other in (0, 1, 3, 4)]))
    assert ratios[2] > 3.5 and max(ratios[[0, 1, 3, 4]]) < 1.5


@pytest.mark.parametrize(
    "moves",
    [[], [(0, 1, 40), (1, 0, 40)], [(a, b, 8) for a in range(CLASSES) for b in range(CLASSES) if a != b]],
    ids=["none", "alike", "noise"],
)
def test_what_is_confused_both_ways_does_not(moves):
    assert 0.5 < min(one_way_ratios(*said(moves))) <= max(one_way_ratios(*said(moves))) < 2


def test_a_handful_of_pictures_of_a_small_class_says_nothing():
    probabilities, labels = said([(2, other, 2) for other in (0, 1, 3, 4)])
    small = torch.arange(len(labels)) % PER_CLASS < 20
    assert max(one_way_ratios(probabilities[small], labels[small])) < 2


def test_a_label_without_samples_has_a_ratio():
    probabilities, labels = said([])
    kept = labels != 3
    assert torch.isfinite(one_way_ratios(probabilities[kept], labels[kept])).all()
