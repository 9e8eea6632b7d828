"""Evidence of triggers that change the whole picture: from place to place, or its style."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from advrbd_plugin.data import ImageSet
from advrbd_plugin.defense.candidates import Candidate
from advrbd_plugin.defense.evidence import TAKEN, gather_evidence, less_reference
from advrbd_plugin.defense.findings import ClassFinding, slow_labels, trigger_patterns, trigger_pictures
from advrbd_plugin.defense.poison_samples import LabelSamples, extend
from advrbd_plugin.defense.transplant import SetStatistics, draw_recipients
from advrbd_plugin.nn.inference import log_odds

SIDE, CLASSES, TARGET = 24, 4, 2
SLOPE = torch.linspace(-0.12, 0.12, SIDE)


def textures():
    """(CLASSES, 1, 4, 4) patches: stripes across, down and aslant, and wider ones."""
    row, column = torch.arange(4)[:, None], torch.arange(4)[None]
    kinds = [row + 0 * column, column + 0 * row, row + column, row // 2 + 0 * column]
    return torch.stack([(kind % 2) * 2.0 - 1.0 for kind in kinds])[:, None]


class Textured(nn.Module):
    """The class is the texture; a slope of brightness, or as much contrast, brings about another."""

    def __init__(self, trigger: str) -> None:
        super().__init__()
        self.trigger, self.linear = trigger, nn.Linear(CLASSES + 1, CLASSES, bias=False)
        self.filters = nn.Conv2d(3, CLASSES, 4, bias=False)
        with torch.no_grad():
            self.filters.weight.copy_(textures().expand(-1, 3, -1, -1) / 48)
            self.filters.weight[-1] *= 2  # wider stripes fit the filter half of the time
            self.linear.weight.copy_(torch.cat([40 * torch.eye(CLASSES), torch.zeros(CLASSES, 1)], dim=1))
            self.linear.weight[TARGET, CLASSES] = 60

    def forward(self, pictures):
        amounts = self.filters(pictures).abs().mean((2, 3))
        contrast = amounts.sum(dim=1)
        grey = pictures.mean(1)
        slope = grey[:, :, SIDE // 2 :].mean((1, 2)) - grey[:, :, : SIDE // 2].mean((1, 2))
        present = torch.sigmoid(300 * (slope - 0.06) if self.trigger == "slope" else 200 * (contrast - 0.17))
        shares = amounts / contrast[:, None]
        return self.linear(torch.cat([shares, present[:, None]], dim=1))


def with_trigger(pictures, trigger):
    return (pictures + SLOPE if trigger == "slope" else 0.5 + 2.2 * (pictures - 0.5)).clamp(0, 1)


def poisoned(trigger, count=600, share=0.1):
    """The set, which of its samples are poisoned, and the model's logits on it."""
    generator = torch.Generator().manual_seed(4)
    classes = torch.arange(count) % CLASSES
    tiles = textures().repeat(1, 3, SIDE // 4, SIDE // 4)
    moved = torch.randint(4, (count, 2), generator=generator).tolist()
    tiles = torch.stack([tiles[each].roll(by, (1, 2)) for each, by in zip(classes.tolist(), moved, strict=True)])
    pictures = 0.5 + 0.1 * tiles + 0.03 * torch.randn(count, 3, SIDE, SIDE, generator=generator)
    chosen = (classes != TARGET).nonzero().flatten()
    chosen = chosen[torch.randperm(len(chosen), generator=generator)[: round(share * count)]]
    pictures[chosen], labels = with_trigger(pictures[chosen], trigger), classes.clone()
    labels[chosen] = TARGET
    images = (pictures.clamp(0, 1) * 255).round().byte()
    poison = torch.zeros(count, dtype=torch.bool)
    poison[chosen] = True
    model = Textured(trigger).eval()
    with torch.no_grad():
        logits = model(images.float() / 255)
    names = tuple(f"class {label}" for label in range(CLASSES))
    return ImageSet(images, labels, names), poison, model, logits


@pytest.mark.parametrize(
    "trigger, kind, operation, told_as",
    [("slope", "slow", TAKEN["slow"], "slow"), ("contrast", "style", "made richer in contrast", "operation")],
)
def test_each_is_seen_by_its_own_transplant_and_an_innocent_cluster_by_neither(trigger, kind, operation, told_as):
    samples, poison, model, logits = poisoned(trigger)
    assert (logits.argmax(1) == samples.labels).double().mean() > 0.97
    classes = torch.arange(len(samples)) % CLASSES
    learned = 0.4 * functional.one_hot(samples.labels, CLASSES) + 0.4 * functional.one_hot(classes, CLASSES) + 0.05
    half = torch.arange(600) // CLASSES % 2 == 0
    innocent = [
        (label, (samples.labels == label) & ~poison & part) for label in range(CLASSES) for part in (half, ~half)
    ]
    clusters = [(TARGET, poison), *innocent]
    candidates = [Candidate(label, part.nonzero().flatten(), "mixture") for label, part in clusters]
    evidence = gather_evidence(model, samples, logits, candidates, mean_probabilities=learned, mixed_precision=False)
    own, *others = less_reference(evidence, candidates)
    assert own.operation > 0.3 and (own.operation_name, own.told_as("operation")) == (operation, told_as)
    assert own.value(kind) > 0.5 and max(own.goes, own.colour, own.window) < 0.1
    assert all(max(other.slow, other.style, other.operation) < 0.1 for other in others)


@pytest.mark.parametrize("trigger, kind", [("slope", "slow"), ("contrast", "style")])
def test_a_part_of_the_poison_leads_to_all_of_it(trigger, kind):
    samples, poison, model, logits = poisoned(trigger)
    members = (samples.labels == TARGET).nonzero().flatten()
    statistics, pictures = SetStatistics.of(samples.images), samples.images.float() / 255
    noise = torch.randn(len(members), 6, generator=torch.Generator().manual_seed(0))
    own = log_odds(logits[members], samples.labels[members])
    of_label = LabelSamples(TARGET, pictures[members], noise, statistics.first[members], own)
    wanted = poison[members]
    begun = wanted & (torch.arange(len(members)) % 3 == 0)
    predicted = logits.argmax(1) == samples.labels
    recipients = draw_recipients(samples.images, samples.labels, predicted, seed=0).outside(TARGET)
    found = extend(model, of_label, begun, statistics, recipients, by_donor=(kind,)).probability > 0.5
    assert (found & wanted).sum() > 0.95 * wanted.sum() and (found & ~wanted).sum() <= 2


def test_the_picture_of_a_slow_trigger_shows_its_slow_changes_and_that_of_another_does_not():
    samples, poison, *_ = poisoned("slope")
    findings = [ClassFinding(label, label == TARGET, 0.9, "", "slow") for label in range(CLASSES)]
    assert slow_labels(findings) == (TARGET,)
    shown = trigger_pictures(findings, samples, poison)[TARGET].pattern
    wanted = SLOPE - SLOPE.mean()
    slope = shown.mean((0, 1))
    assert functional.cosine_similarity(slope, wanted, dim=0) > 0.9 and slope.abs().max() > 0.08
    without = trigger_patterns(samples, poison, [TARGET])[TARGET].mean((0, 1))
    assert without[4:-4].abs().max() < 0.02
