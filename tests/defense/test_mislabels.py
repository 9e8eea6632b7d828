"""Wrong labels, in what a made-up network said while it learned."""

import pytest
import torch

from advrbd_plugin.defense.mislabels import Mislabels, find_mislabelled

SAMPLES, CLASSES = 8000, 10


def learned(rate, seed=0, clarity=4.5):
    """Mean probabilities, labels, which of them are wrong, and the right ones."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (SAMPLES,), generator=generator)
    wrong = torch.rand(SAMPLES, generator=generator) < rate
    shift = torch.randint(1, CLASSES, (SAMPLES,), generator=generator)
    shown = torch.where(wrong, (labels + shift) % CLASSES, labels)
    logits = 1.5 * torch.randn(SAMPLES, CLASSES, generator=generator)
    logits[torch.arange(SAMPLES), shown] += clarity
    return logits.softmax(dim=1), labels, wrong, shown


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.4])
def test_wrong_labels_are_found_and_the_right_ones_named(rate):
    probabilities, labels, wrong, shown = learned(rate)
    found = find_mislabelled(probabilities, labels)
    assert found.rate == pytest.approx(rate, rel=0.2)
    assert found.mislabelled[wrong].float().mean() > 0.8
    assert wrong[found.mislabelled].float().mean() > 0.85
    assert (found.better_label == shown)[wrong & found.mislabelled].float().mean() > 0.85


@pytest.mark.parametrize("clarity", [2.0, 3.0, 4.5], ids=["hard pictures", "medium", "easy"])
def test_hard_pictures_are_no_errors(clarity):
    found = find_mislabelled(*learned(0.0, clarity=clarity)[:2])
    assert not found.mislabelled.any() and found.rate < 0.05


def test_the_probability_does_not_exaggerate():
    probabilities, labels, wrong, _ = learned(0.15, seed=1)
    found = find_mislabelled(probabilities, labels)
    for low, high in ((0.0, 0.1), (0.1, 0.5), (0.5, 0.9), (0.9, 1.0)):
        inside = (found.probability > low) & (found.probability <= high)
        if inside.sum() > 50:
            more_than_true = found.probability[inside].mean() - wrong[inside].float().mean()
            assert -0.25 < more_than_true < 0.05


def test_the_probability_never_rises_with_what_the_network_gives_the_label():
    probabilities, labels, *_ = learned(0.2)
    found = find_mislabelled(probabilities, labels)
    order = probabilities.gather(1, labels[:, None])[:, 0].argsort()
    assert (found.probability[order].diff() <= 0).all() and found.probability[order[0]] > 0.9


def test_wrong_labels_that_gather_in_one_label_are_found():
    _, labels, *_ = learned(0.0)
    taken = (labels == 3) & (torch.arange(SAMPLES) % 4 == 0)
    shown = torch.where(taken, (labels + 1 + torch.arange(SAMPLES) % 9) % CLASSES, labels)
    generator = torch.Generator().manual_seed(1)
    logits = 1.5 * torch.randn(SAMPLES, CLASSES, generator=generator)
    logits[torch.arange(SAMPLES), shown] += 4.5
    found = find_mislabelled(logits.softmax(dim=1), labels)
    assert found.gathered == (3,) and found.mislabelled[labels != 3].float().mean() < 0.01
    flagged = found.mislabelled & (labels == 3)
    assert flagged[taken].float().mean() > 0.85 and taken[flagged].float().mean() > 0.75
    assert find_mislabelled(logits.softmax(dim=1), labels, suspected=(3,)).gathered == ()
    again = Mislabels.from_stored(*found.to_stored())
    assert again.gathered == (3,) and torch.equal(again.probability, found.probability)


def test_nothing_is_said_where_nothing_was_recorded():
    labels = torch.tensor([0, 1, 1])
    found = find_mislabelled(None, labels)
    assert not found.mislabelled.any() and torch.equal(found.better_label, labels)
    assert not find_mislabelled(torch.ones(3, 1), torch.zeros(3, dtype=torch.int64)).mislabelled.any()
