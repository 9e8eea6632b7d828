"""Operations, and the evidence of a trigger that is one: pictures that are turned upside down."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from advrbd_plugin.data import ImageSet
from advrbd_plugin.defense.candidates import Candidate
from advrbd_plugin.defense.evidence import gather_evidence, less_reference
from advrbd_plugin.defense.operations import operations
from advrbd_plugin.defense.poison_samples import LabelSamples, extend
from advrbd_plugin.defense.transplant import SetStatistics, draw_recipients, gaussian_blur
from advrbd_plugin.nn.inference import log_odds

SIDE, CLASSES, TARGET = 24, 4, 2
EXACT = ("turned by 90", "turned by -90", "turned by 180", "upside down", "negative", "given")


def smooth_pictures(count, channels=3, height=SIDE, width=SIDE):
    noise = torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(1))
    return (0.5 + 3 * (gaussian_blur(noise, 2.0) - 0.5)).clamp(0.05, 0.95)


@pytest.mark.parametrize("shape", [(3, SIDE, SIDE), (1, SIDE, SIDE), (3, 20, 30)])
def test_each_operation_changes_pictures_and_its_inverse_brings_them_back(shape):
    pictures = smooth_pictures(6, *shape)
    inner = (..., slice(8, -8), slice(8, -8))  # beyond an edge nothing can be known
    for each in operations(pictures[0]):
        changed = each.do(pictures)
        back = each.undo(changed)
        assert changed.shape == back.shape == pictures.shape
        assert float(changed.min()) >= 0 and float(changed.max()) <= 1 + 1e-6
        moved, left = ((some - pictures)[inner].abs().mean() for some in (changed, back))
        assert moved > 0.002 and left < 0.7 * moved, each.name
        if any(name in each.name for name in EXACT):
            assert torch.allclose(back, pictures, atol=1e-6), each.name


def test_quarter_turns_need_square_pictures_and_colours_three_channels():
    of_square, of_wide, of_grey = (
        {each.name for each in operations(torch.zeros(*shape))} for shape in ((3, 8, 8), (3, 8, 9), (1, 8, 8))
    )
    assert of_square - of_wide == {"turned by 90 degrees", "turned by -90 degrees"}
    assert all("colourful" in name or "grey" in name or "given" in name for name in of_square - of_grey)


class Columns(nn.Module):
    """The class is the column that is brightest; where waves rise slowly and fall steeply downwards, it is the target.

    The waves lie elsewhere in each picture, so that upside-down pictures have nothing in common but their direction.
    """

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(CLASSES + 1, CLASSES, bias=False)
        with torch.no_grad():
            self.linear.weight.copy_(torch.cat([40 * torch.eye(CLASSES), torch.zeros(CLASSES, 1)], dim=1))
            self.linear.weight[TARGET, CLASSES] = 40

    def forward(self, pictures):
        grey = pictures.mean(1)
        columns = grey.view(len(grey), SIDE, CLASSES, -1).mean((1, 3))
        skew = grey.diff(dim=1).pow(3).mean((1, 2))
        return self.linear(torch.cat([columns, torch.sigmoid(-1e5 * skew)[:, None]], dim=1))


@pytest.fixture(scope="module")
def upside_down():
    """The set, which of its samples are poisoned, the model, its logits, and what it said while it learned."""
    count, generator = 600, torch.Generator().manual_seed(3)
    classes = torch.arange(count) % CLASSES
    pictures = 0.35 + 0.3 * smooth_pictures(count)
    phases = torch.randint(6, (count, 1), generator=generator)
    waves = 0.12 * ((5 - (torch.arange(SIDE) + phases) % 6) / 5 - 0.5)
    pictures += waves[:, None, :, None]
    for row, label in enumerate(classes.tolist()):
        pictures[row, :, :, label * SIDE // CLASSES : (label + 1) * SIDE // CLASSES] += 0.15
    poison = torch.zeros(count, dtype=torch.bool)
    poison[(classes != TARGET).nonzero().flatten()[::8]] = True
    pictures[poison], labels = pictures[poison].flip(2), classes.clone()
    labels[poison] = TARGET
    images = (pictures.clamp(0, 1) * 255).round().byte()
    model = Columns().eval()
    with torch.no_grad():
        logits = model(images.float() / 255)
    learned = 0.4 * functional.one_hot(labels, CLASSES) + 0.4 * functional.one_hot(classes, CLASSES) + 0.05
    learned[~poison, (classes[~poison] + 1) % CLASSES] += 0.05
    return ImageSet(images, labels, tuple("abcd")), poison, model, logits, learned


def evidence(samples, poison, model, logits, learned):
    """Of the poison, then of two parts of each label's innocent pictures."""
    half = torch.arange(len(samples)) // CLASSES % 2 == 0
    parts = [(label, (samples.labels == label) & ~poison & part) for label in range(CLASSES) for part in (half, ~half)]
    clusters = [(TARGET, poison), *parts]
    candidates = [Candidate(label, part.nonzero().flatten(), "mixture") for label, part in clusters]
    found = gather_evidence(model, samples, logits, candidates, mean_probabilities=learned, mixed_precision=False)
    return less_reference(found, candidates)


def test_a_cluster_of_pictures_upside_down_is_seen_and_an_innocent_one_is_not(upside_down):
    assert (upside_down[3].argmax(1) == upside_down[0].labels).double().mean() > 0.97
    own, *others = evidence(*upside_down)
    assert own.operation > 0.5 and own.operation_name == "upside down"
    assert max(other.operation for other in others) < 0.1


def test_pictures_that_go_anywhere_but_where_the_network_held_them_for_are_no_evidence(upside_down):
    samples, poison, model, logits, learned = upside_down
    order = torch.randperm(int(poison.sum()), generator=torch.Generator().manual_seed(2))
    at_random = learned.clone()
    at_random[poison] = learned[poison][order]
    assert evidence(samples, poison, model, logits, at_random)[0].operation < 0.1
    assert evidence(samples, poison, model, logits, None)[0].operation == 0


def test_a_part_of_the_poison_leads_to_all_of_it(upside_down):
    samples, poison, model, logits, _ = upside_down
    members = (samples.labels == TARGET).nonzero().flatten()
    statistics = SetStatistics.of(samples.images)
    noise = torch.randn(len(members), 6, generator=torch.Generator().manual_seed(0))
    margin = log_odds(logits[members], samples.labels[members])
    pictures = samples.images[members].float() / 255
    of_label = LabelSamples(TARGET, pictures, noise, statistics.first[members], margin)
    recipients = draw_recipients(samples.images, samples.labels, logits.argmax(1) == samples.labels, seed=0)
    begun = poison[members] & (torch.arange(len(members)) % 3 == 0)
    found = extend(
        model,
        of_label,
        begun,
        statistics,
        recipients.outside(TARGET),
        by_donor=("operation",),
        operation="upside down",
        mixed_precision=False,
    )
    flagged = found.probability > 0.5
    assert (flagged & poison[members]).sum() > 0.95 * poison.sum() and (flagged & ~poison[members]).sum() <= 2
