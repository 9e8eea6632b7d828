"""From a cluster to all of a label's poison, where the trigger alone does not tell the samples apart."""

import pytest
import torch
from torch import nn

from advrbd_plugin.defense.poison_samples import LabelSamples, extend
from advrbd_plugin.defense.transplant import Recipients, SetStatistics

COUNT, POISON = 600, 120


class Blind(nn.Module):
    """Has not learned the trigger: taking it out changes nothing."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, 2)

    def forward(self, pictures):
        return self.linear(torch.ones(len(pictures), 1))


@pytest.fixture(scope="module")
def label():
    """A faint square on a fifth of a label's noisy pictures, and how early the network learned each of them."""
    generator = torch.Generator().manual_seed(0)
    pictures = (0.5 + 0.1 * torch.randn(COUNT, 1, 12, 12, generator=generator)).clamp(0, 1)
    pictures[:POISON, :, -3:, -3:] += 0.07
    features = torch.randn(COUNT, 5, generator=generator)
    learned = 1.5 + torch.randn(COUNT, generator=generator)
    learned[:POISON] -= 3
    return pictures, features, learned


def wrong(label, learned):
    """How many of the samples the extension gets wrong, from a cluster that is two thirds poison."""
    pictures, features, _ = label
    images = (255 * pictures).round().byte()
    samples = LabelSamples(1, pictures, features, torch.ones(COUNT, dtype=torch.bool), torch.zeros(COUNT), learned)
    cluster = torch.zeros(COUNT, dtype=torch.bool)
    cluster[:80] = cluster[POISON : POISON + 40] = True
    others = Recipients(pictures[:10], torch.zeros(10, dtype=torch.int64))
    found = extend(Blind().eval(), samples, cluster, SetStatistics.of(images), others)
    return int(((found.probability > 0.5) != (torch.arange(COUNT) < POISON)).sum())


def test_what_the_network_learned_late_tells_poison_apart_beside_a_faint_trigger(label):
    assert wrong(label, label[2]) < 0.5 * wrong(label, None)


def test_labels_that_were_kept_are_not_held_against_the_samples(label):
    """A clean-label attack: when a sample was learned says nothing, and does next to no harm."""
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(1))
    assert wrong(label, label[2][order]) <= wrong(label, None) + 0.02 * COUNT
