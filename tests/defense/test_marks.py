"""Pictures that carry the same mark, found from a cluster that holds some of them."""

import pytest
import torch

from advrbd_plugin.defense.candidates import Candidate
from advrbd_plugin.defense.marks import marked_candidates, unmarked_rests
from advrbd_plugin.defense.transplant import SetStatistics

COUNT, MARKED = 600, 50


def pictures(strength, seed=0):
    """Smooth pictures of two labels, and which of label 0 carry a blended pattern of the given strength."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(COUNT, 3, 6, 6, generator=generator)
    shown = torch.nn.functional.interpolate(coarse, size=(24, 24), mode="bilinear")
    shown += 0.05 * torch.randn(shown.shape, generator=generator)
    labels = torch.arange(COUNT) % 2
    carries = (labels == 0) & (torch.arange(COUNT) < 2 * MARKED)
    pattern = torch.rand(3, 24, 24, generator=generator)
    shown[carries] = (1 - strength) * shown[carries] + strength * pattern
    return (255 * shown.clamp(0, 1)).byte(), labels, carries


def half_pure(carries, labels):
    """A cluster of label 0, half of which carries the mark, and one that does not hold any of it."""
    some, others = carries.nonzero().flatten()[: MARKED // 2], ((labels == 0) & ~carries).nonzero().flatten()
    return [
        Candidate(0, torch.cat([some, others[: MARKED // 2]]).sort().values, "learning"),
        Candidate(0, others[-100:], "mixture"),
    ]


def test_all_that_carry_the_mark_are_found_from_a_few():
    images, labels, carries = pictures(strength=0.3)
    found = marked_candidates(images, labels, half_pure(carries, labels), SetStatistics.of(images))
    assert [each.source for each in found] == ["mark"] and found[0].label == 0
    members = torch.zeros(COUNT, dtype=torch.bool)
    members[found[0].members] = True
    assert members[carries].float().mean() > 0.95 and carries[members].float().mean() > 0.95


@pytest.mark.parametrize("seed", range(3))
def test_pictures_without_a_mark_are_not_parted(seed):
    images, labels, carries = pictures(strength=0.0, seed=seed)
    assert marked_candidates(images, labels, half_pure(carries, labels), SetStatistics.of(images)) == []


def test_a_cluster_that_is_known_is_not_named_twice():
    images, labels, carries = pictures(strength=0.3)
    whole = Candidate(0, carries.nonzero().flatten(), "mixture")
    assert marked_candidates(images, labels, [whole], SetStatistics.of(images)) == []


def test_the_rest_of_a_label_is_what_has_no_mark():
    labels = torch.arange(60) % 2
    marked = [Candidate(0, torch.arange(0, 20, 2), "mark"), Candidate(1, torch.arange(1, 50, 2), "mark")]
    (rest,) = unmarked_rests(labels, [*marked, Candidate(0, torch.arange(0, 4, 2), "mixture")])
    assert rest.source == "unmarked" and rest.label == 0  # five are left of label 1: too few
    assert rest.members.tolist() == list(range(20, 60, 2))
