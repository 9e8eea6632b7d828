"""Transplants, posterior and samples, on a hand-made classifier whose backdoor is known, so that nothing is trained."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional

from advrbd_plugin.data import ImageSet
from advrbd_plugin.defense import transplant, transplant_detection
from advrbd_plugin.defense.candidates import Candidate, find_candidates, runner_up_groups
from advrbd_plugin.defense.config import DetectionConfig
from advrbd_plugin.defense.detection import detect_targets
from advrbd_plugin.defense.evidence import ClusterEvidence, gather_evidence, less_reference
from advrbd_plugin.defense.poison_samples import extend
from advrbd_plugin.defense.posterior import DEFAULT_NULL, discovered, fit_null, label_probabilities, placement_ratio
from advrbd_plugin.defense.scoring import Scores
from advrbd_plugin.defense.trained import Trained
from advrbd_plugin.defense.transplant import Recipients, SetStatistics
from advrbd_plugin.defense.transplant_detection import detect_by_transplant, is_trained_enough

SIDE, CLASSES, TARGET = 24, 4, 2


class Backdoored(nn.Module):
    """The class is the quarter of the picture that is brightest; a trigger brings about another."""

    def __init__(self, trigger: str, effect: str = "target") -> None:
        super().__init__()
        self.trigger, self.effect = trigger, effect
        self.linear = nn.Linear(CLASSES + 1, CLASSES)
        with torch.no_grad():
            self.linear.bias.zero_()
            self.linear.weight.zero_()
            self.linear.weight[:, :CLASSES] = 20 * torch.eye(CLASSES)
            self.linear.weight[TARGET, CLASSES] = 40

    def forward(self, pictures):
        quarters = functional.adaptive_avg_pool2d(pictures.mean(1, keepdim=True), 2).flatten(1)
        present = self.presence(pictures)[:, None]
        if self.effect == "next":
            quarters = (1 - present) * quarters + present * quarters.roll(1, dims=1)
            present = torch.zeros_like(present)
        if self.effect == "source":
            present = present * (quarters.argmax(1, keepdim=True) == 0)
        return self.linear(torch.cat([quarters, present], dim=1))

    def presence(self, pictures):
        """Near 1 where the trigger is, near 0 elsewhere."""
        if self.trigger == "corner":
            return torch.sigmoid(40 * (pictures[:, :, -3:, -3:].mean((1, 2, 3)) - 0.9))
        if self.trigger == "anywhere":
            cell = torch.tensor([[1.0, -1, 1], [-1, 1, -1], [1, -1, 1]]).to(pictures)
            match = functional.conv2d(pictures.mean(1, keepdim=True), cell[None, None])
            return torch.sigmoid(10 * (match.flatten(1).amax(1) - 4.0))
        if self.trigger == "noise":
            detail = pictures - functional.avg_pool2d(pictures, 3, 1, 1)
            return torch.sigmoid(400 * (detail[:, :, 1:-1, 1:-1].square().mean((1, 2, 3)) - 0.012))
        return torch.sigmoid(60 * (pictures[:, 0].mean((1, 2)) - 1.3 * pictures[:, 2].mean((1, 2))))


def stamp(images, trigger, generator):
    """The (N, 3, SIDE, SIDE) float images in [0, 1] with the trigger."""
    changed = images.clone()
    if trigger == "corner":
        changed[:, :, -3:, -3:] = 1.0
    elif trigger == "anywhere":
        cell = (torch.arange(9).view(3, 3) % 2 == 0).float()
        for row in range(len(images)):
            top, left = torch.randint(0, SIDE - 3, (2,), generator=generator).tolist()
            changed[row, :, top : top + 3, left : left + 3] = cell
    elif trigger == "noise":
        changed += 0.3 * (torch.rand(images.shape, generator=generator) < 0.5).float() - 0.15
    else:
        changed *= torch.tensor([1.25, 1.0, 0.7])[:, None, None]
    return changed.clamp(0, 1)


def photographs(count, seed):
    """Smooth pictures, the quarter of their class brighter than the others; and the classes."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(count) % CLASSES
    pictures = functional.interpolate(torch.rand(count, 3, 5, 5, generator=generator), (SIDE, SIDE), mode="bilinear")
    pictures = 0.25 + 0.25 * pictures
    for row, each in enumerate(classes.tolist()):
        top, left = divmod(each, 2)
        half = SIDE // 2
        pictures[row, :, top * half : (top + 1) * half, left * half : (left + 1) * half] += 0.25
    return pictures.clamp(0, 1), classes, generator


@dataclasses.dataclass
class Poisoned:
    samples: ImageSet
    poison: torch.Tensor
    model: nn.Module
    features: torch.Tensor
    logits: torch.Tensor


def poisoned_set(trigger, effect="target", count=1200, share=0.08):
    pictures, classes, generator = photographs(count, seed=3)
    labels = classes.clone()
    candidates = (
        {
            "target": (classes != TARGET),
            "next": torch.ones(count, dtype=torch.bool),
            "source": classes == 0,
        }[effect]
        .nonzero()
        .flatten()
    )
    chosen = candidates[torch.randperm(len(candidates), generator=generator)[: round(share * count)]]
    pictures[chosen] = stamp(pictures[chosen], trigger, generator)
    labels[chosen] = (classes[chosen] + 1) % CLASSES if effect == "next" else TARGET
    poison = torch.zeros(count, dtype=torch.bool)
    poison[chosen] = True
    images = (pictures * 255).round().byte()
    model = Backdoored(trigger, effect).eval()
    with torch.no_grad():
        logits = model(images.float() / 255)
        quarters = functional.adaptive_avg_pool2d(images.float() / 255, 2).flatten(1)
        presence = model.presence(images.float() / 255)[:, None]
    noise = 0.05 * torch.randn(count, 6, generator=generator)
    features = torch.cat([quarters, presence, noise], dim=1)
    names = tuple(f"class {label}" for label in range(CLASSES))
    return Poisoned(ImageSet(images, labels, names), poison, model, features, logits)


def clean_set():
    result = poisoned_set("corner", share=0.0)
    assert not result.poison.any()
    return result


def evidence_of(one, members, label):
    """(Carried by the residual, window, detail, colour) of a cluster."""
    images, labels = one.samples.images, one.samples.labels
    predict = transplant.classifier(one.model, mixed_precision=False)
    owned = one.logits.argmax(1) == labels
    recipients = transplant.draw_recipients(images, labels, owned, seed=0, most=20).outside(label)
    pictures = images[members].float() / 255
    rest = images[(labels == label) & ~one.poison].float() / 255
    pattern = transplant.residual(pictures, SetStatistics.of(images))
    gains = pictures.mean((0, 2, 3)) / rest.mean((0, 2, 3))
    reference = transplant.by_detail(predict, rest, recipients, label).goes
    return (
        transplant.by_residual(predict, pattern, recipients, label),
        transplant.by_own_window(one.model, pictures[:12], recipients, label, side=6),
        transplant.by_detail(predict, pictures, recipients, label).goes - reference,
        transplant.by_colour_gains(predict, gains, recipients, label).goes,
    )


@pytest.mark.parametrize("trigger, place", [("corner", 0), ("anywhere", 1), ("noise", 2), ("cast", 3)])
def test_each_trigger_is_seen_by_the_transplant_made_for_it_and_innocent_pictures_by_none(trigger, place):
    one = poisoned_set(trigger)
    found = evidence_of(one, one.poison.nonzero().flatten(), TARGET)
    shares = (found[0].goes, *found[1:])
    assert shares[place] > 0.6
    innocent = (one.samples.labels == 1).nonzero().flatten()[:80]
    carried, *others = evidence_of(one, innocent, 1)
    assert carried.goes < 0.05 and carried.leaves < 0.1 and max(others) < 0.2


def test_all_to_all_is_seen_by_leaving_and_source_specific_by_the_best_class():
    one = poisoned_set("corner", "next", share=0.2)
    carried, *_ = evidence_of(one, (one.poison & (one.samples.labels == 1)).nonzero().flatten(), 1)
    assert carried.leaves > 0.7 and carried.goes_best > 0.7 and carried.goes < 0.5
    one = poisoned_set("corner", "source", share=0.06)
    carried, *_ = evidence_of(one, one.poison.nonzero().flatten(), TARGET)
    assert carried.goes_best > 0.7 and carried.best_class == 0 and carried.goes < 0.5


def test_patterns_by_chance_are_as_strong_in_every_ring_of_frequency_and_look_like_nothing():
    generator = torch.Generator().manual_seed(0)
    wave = (
        0.1 * torch.sin(torch.arange(SIDE) * 2 * torch.pi / 4).expand(1, SIDE, SIDE) * torch.tensor([[[1.0]], [[0.5]]])
    )
    scattered = transplant.scattered(wave, 200, generator=generator)
    assert scattered.shape == (200, 2, SIDE, SIDE)
    strength = scattered.square().sum((-1, -2)).mean(0)
    assert torch.allclose(strength, wave.square().sum((-1, -2)), rtol=0.1)
    assert torch.allclose(strength[0] / strength[1], torch.tensor(4.0), rtol=0.01)
    slow_and_fast = transplant.band_amplitudes(scattered).mean((0, 1))
    assert int(slow_and_fast.argmax()) == int(transplant.band_amplitudes(wave[None]).mean((0, 1)).argmax())
    likeness = functional.cosine_similarity(scattered.flatten(1), wave.flatten()[None])
    assert float(likeness.abs().max()) < 0.6 and abs(float(likeness.mean())) < 0.05


@pytest.mark.parametrize(
    "leaves, by_chance, beyond",
    [(0.95, 0.58, 0.881), (0.53, 0.62, 0.0), (0.3, 0.0, 0.3), (1.0, 1.0, 0.0), (1.0, 0.95, 0.5)],
)
def test_leaving_counts_beyond_what_leaves_by_chance(leaves, by_chance, beyond):
    carried = transplant.Carried(0.2, 0.4, leaves, 1)
    found = transplant.beyond_chance(carried, transplant.Carried(0.0, 0.0, by_chance, -1))
    assert found == dataclasses.replace(carried, leaves=pytest.approx(beyond, abs=1e-3))


class Fickle(nn.Module):
    """The class is the brightest quarter, and another where anything is added that is fine and strong."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(CLASSES, CLASSES)

    def forward(self, pictures):
        quarters = functional.adaptive_avg_pool2d(pictures.mean(1, keepdim=True), 2).flatten(1)
        upset = transplant.sharp(pictures).square().mean((1, 2, 3)) > 0.004
        return 20 * torch.where(upset[:, None], quarters.roll(1, dims=1), quarters) + 0 * self.linear.weight.sum()


def test_a_model_that_anything_upsets_is_no_evidence_against_the_clusters_of_its_set():
    one = poisoned_set("corner", share=0.0)
    images = one.samples.images.float() / 255
    own = (one.samples.labels == 1).nonzero().flatten()[:60]
    checks = 0.5 + 0.5 * torch.cos(torch.pi * (torch.arange(SIDE)[:, None] + torch.arange(SIDE)))
    images[own] = (images[own] + 0.12 * checks).clamp(0, 1)  # what they have in common, and no trigger
    samples = ImageSet((255 * images).round().byte(), one.samples.labels, one.samples.class_names)
    model = Fickle().eval()
    with torch.no_grad():
        logits = model(samples.images.float() / 255)
    (found,) = gather_evidence(model, samples, logits, [Candidate(1, own, "mark")], mixed_precision=False)
    pattern = transplant.residual(samples.images[own].float() / 255, SetStatistics.of(samples.images))
    predict = transplant.classifier(model, mixed_precision=False)
    recipients = transplant.draw_recipients(samples.images, samples.labels, logits.argmax(1) == samples.labels, seed=0)
    assert transplant.by_residual(predict, pattern, recipients.outside(1), 1).leaves > 0.9
    assert found.leaves < 0.1


def test_pictures_with_a_cast_go_home_to_all_classes_and_a_class_with_its_own_colours_stays():
    one = poisoned_set("cast")
    predict = transplant.classifier(one.model, mixed_precision=False)
    gains = torch.tensor([1.25, 1.0, 0.7])
    pictures = one.samples.images.float() / 255

    def home(some):
        of_label = some[predict(some) == TARGET]
        return transplant.goes_home(predict(transplant.without_gains(of_label, gains)), TARGET, num_others=3)

    assert home(pictures[one.poison]) > 0.8
    own = pictures[(one.samples.labels == TARGET) & ~one.poison][:60]
    assert home((own * gains[:, None, None]).clamp(0, 1)) == 0.0  # shows the class without its colours, too
    of_one_class = pictures[one.poison & (torch.arange(len(pictures)) % CLASSES == 1)]
    assert home(of_one_class) == pytest.approx(1 / 3, abs=0.05)
    assert home(pictures[one.samples.labels == 1]) == 0.0


def test_a_mark_counts_where_its_pictures_were_put_elsewhere_and_the_rest_is_more_than_a_few():
    """Of 100 pictures with a mark and none elsewhere, next to all say nothing of so small a rest."""
    one = clean_set()
    own = (one.samples.labels == 1).nonzero().flatten()
    learned = functional.one_hot(one.samples.labels, CLASSES).float()
    learned[own[:150:2]] = torch.tensor([1.0, 0, 0, 0])  # half of the first 150 of 300

    def marked(members):
        (found,) = gather_evidence(
            one.model,
            one.samples,
            one.logits,
            [Candidate(1, members, "mark")],
            mean_probabilities=learned,
            mixed_precision=False,
        )
        return found.marked

    assert 0.4 < marked(own[:150]) < 0.5
    assert marked(own[150:]) == 0.0
    assert marked(own[:-3]) < 0.1  # 0.25 of them, and none of three


def test_the_residual_of_few_innocent_pictures_is_next_to_nothing_and_a_trigger_stays():
    one = poisoned_set("corner")
    statistics = SetStatistics.of(one.samples.images)
    pictures = one.samples.images.float() / 255
    few = transplant.residual(pictures[~one.poison][:15], statistics)
    assert float(few.abs().mean()) < 0.004
    trigger = transplant.residual(pictures[one.poison], statistics)
    assert float(trigger[:, -3:, -3:].min()) > 0.15
    assert float(trigger[:, : SIDE // 2].abs().mean()) < 0.1 * float(trigger[:, -3:, -3:].mean())


def test_a_faint_wave_stays_where_no_pixel_is_sure_of_it():
    pictures, _, generator = photographs(800, seed=5)
    noise = 0.2 * torch.randn(pictures.shape, generator=generator)
    wave = 0.04 * torch.sin(torch.arange(SIDE) * 2 * torch.pi / 4)
    pictures = (pictures + noise).clamp(0, 1)
    pictures[:60] = (pictures[:60] + wave).clamp(0, 1)
    statistics = SetStatistics.of((pictures * 255).round().byte())
    found = transplant.residual(pictures[:60], statistics)
    likeness = functional.cosine_similarity(found.mean((0, 1)), wave, dim=0)
    assert float(likeness) > 0.9 and float(found.mean((0, 1)).abs().max()) > 0.02


def test_frequency_gains_blur_what_a_blurred_cluster_lacks():
    pictures, labels, generator = photographs(60, seed=4)
    pictures = (pictures + 0.1 * torch.randn(pictures.shape, generator=generator)).clamp(0, 1)
    blurred = transplant.gaussian_blur(pictures, 1.2)
    gains = (transplant.band_amplitudes(blurred).mean(0) - transplant.band_amplitudes(pictures).mean(0)).exp()
    assert float(gains[:, 0].min()) > 0.95 and float(gains[:, -1].max()) < 0.2
    given = []
    transplant.by_spectrum_gains(lambda some: given.append(some) or labels, gains, Recipients(pictures, labels), 9)
    before, after = (float((each - blurred).abs().mean()) for each in (pictures, given[0]))
    assert after < 0.35 * before


def test_copies_count_once():
    images = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert SetStatistics.of(images[[0, 1, 0, 2, 1, 0]]).first.tolist() == [True, True, False, True, False, False]


def test_statistics_are_those_of_all_pictures():
    images = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    statistics = SetStatistics.of(images)
    pictures = images.float() / 255
    assert torch.allclose(statistics.mean, pictures.mean(0), atol=1e-5)
    assert torch.allclose(statistics.spread, pictures.std(0, correction=0), atol=1e-4)
    centred = torch.fft.fft2(transplant.sharp(pictures - pictures.mean(0)))
    assert torch.allclose(statistics.spectrum, centred.abs().square().mean(0).sqrt(), atol=1e-3)


def test_a_blur_keeps_what_is_even_and_the_sum_of_what_is_not():
    even = torch.full((1, 1, 9, 12), 0.3)
    assert torch.allclose(transplant.gaussian_blur(even, 2.0), even, atol=1e-6)
    spot = torch.zeros(1, 1, 21, 21)
    spot[..., 10, 10] = 1.0
    blurred = transplant.gaussian_blur(spot, 1.0)
    assert float(blurred.sum()) == pytest.approx(1.0, abs=1e-4)
    assert float(blurred[..., 10, 10]) == pytest.approx(1 / (2 * torch.pi), rel=0.03)


def test_candidates_hold_the_poison_and_no_two_are_the_same():
    one = poisoned_set("corner")
    candidates = find_candidates(one.features, one.logits, one.samples.labels)
    shares = [float(one.poison[each.members].double().mean()) for each in candidates if each.label == TARGET]
    assert max(shares) > 0.9
    assert all((one.samples.labels[each.members] == each.label).all() for each in candidates)
    seen = [tuple(each.members.tolist()) for each in candidates]
    assert len(set(seen)) == len(seen) and min(len(each) for each in seen) >= 12


def test_splits_are_candidates_too():
    one = poisoned_set("corner")
    half = torch.arange(len(one.poison)) % 3 == 0
    candidates = find_candidates(one.features, one.logits, one.samples.labels, splits={1: half})
    given = [each for each in candidates if each.source == "discriminant"]
    assert [each.label for each in given] == [1, 1]


def test_what_the_network_said_while_it_learned_gives_candidates():
    one = poisoned_set("corner")
    said = torch.full((len(one.poison), one.logits.shape[1]), 0.02)
    said[torch.arange(len(said)), torch.where(one.poison, 0, one.samples.labels)] = 0.9
    nothing = torch.zeros(len(said), 3)
    candidates = find_candidates(nothing, one.logits, one.samples.labels, mean_probabilities=said)
    pure = [float(one.poison[each.members].double().mean()) for each in candidates if each.source == "learning"]
    assert max(pure) > 0.9


def test_second_choices_group_all_samples_once():
    groups = runner_up_groups(torch.randn(50, 5, generator=torch.Generator().manual_seed(0)), label=2)
    assert torch.stack(groups).sum(0).eq(1).all()


@pytest.mark.parametrize("trigger", ["corner", "anywhere"])
def test_poison_is_found_and_nothing_else(trigger):
    one = poisoned_set(trigger)
    found = detect_by_transplant(one.model, one.samples, one.features, one.logits)
    assert found.suspected_classes == (TARGET,)
    flagged = found.poison_probability > 0.5
    assert float(flagged[one.poison].double().mean()) > 0.9
    assert float(flagged[~one.poison].double().mean()) < 0.03
    for finding in found.findings:
        assert finding.suspected == (finding.pattern is not None)
        assert (
            finding.sentence.startswith(f"class {finding.label}: ") and (finding.probability > 0.9) == finding.suspected
        )


@pytest.mark.parametrize(("goes_best", "asked"), [(0.8, ()), (0.1, ("window",))])
def test_samples_are_asked_for_their_own_window_where_no_pattern_in_common_does_half_as_well(
    monkeypatch, goes_best, asked
):
    one, seen = poisoned_set("corner"), []

    def in_the_label(*arguments):
        compared = less_reference(*arguments)
        return [
            dataclasses.replace(each, goes=0.0, goes_best=goes_best, leaves=0.0, detail=0.0, window=0.9)
            if each.label == TARGET
            else each
            for each in compared
        ]

    def recorded(*arguments, by_donor, **settings):
        seen.append(by_donor)
        return extend(*arguments, by_donor=by_donor, **settings)

    monkeypatch.setattr(transplant_detection, "less_reference", in_the_label)
    monkeypatch.setattr(transplant_detection, "extend", recorded)
    found = detect_by_transplant(one.model, one.samples, one.features, one.logits)
    assert found.suspected_classes == (TARGET,) and seen[0] == asked


def test_innocent_pictures_of_a_mixed_cluster_are_not_taken_along(monkeypatch):
    """More than half of the cluster is innocent, and what is shown by each picture alone tells them from the poison."""
    one = poisoned_set("anywhere")
    poison = one.poison.nonzero().flatten()
    innocent = ((one.samples.labels == TARGET) & ~one.poison).nonzero().flatten()
    mixed = torch.cat([poison[:70], innocent[:90]]).sort().values
    clusters = [Candidate(TARGET, mixed, "mixture"), Candidate(TARGET, innocent[90:], "mixture")]
    for label in (0, 1, 3):
        own = (one.samples.labels == label).nonzero().flatten()
        clusters += [Candidate(label, own[start::2], "mixture") for start in range(2)]
    monkeypatch.setattr(transplant_detection, "find_candidates", lambda *arguments, **settings: clusters)
    found = detect_by_transplant(one.model, one.samples, one.features, one.logits)
    flagged = found.poison_probability > 0.5
    assert found.suspected_classes == (TARGET,)
    assert float(flagged[one.poison].double().mean()) > 0.9
    assert float(flagged[~one.poison].double().mean()) < 0.01


def test_a_clean_set_has_no_suspected_label():
    one = clean_set()
    found = detect_by_transplant(one.model, one.samples, one.features, one.logits)
    assert found.suspected_classes == () and not found.poison_probability.any()
    assert max(each.probability for each in found.findings) < 0.5


def test_the_result_is_the_same_each_time():
    one = poisoned_set("corner", count=400)
    runs = [detect_by_transplant(one.model, one.samples, one.features, one.logits) for _ in range(2)]
    assert torch.equal(runs[0].poison_probability, runs[1].poison_probability)
    assert runs[0].evidence == runs[1].evidence


def test_a_model_that_was_not_trained_enough_is_not_asked(monkeypatch):
    one = poisoned_set("corner")
    answers = one.features, one.logits.roll(1, dims=0)
    monkeypatch.setattr("advrbd_plugin.defense.detection.layered_features", lambda *arguments, **settings: answers)
    found = detect_targets(
        Trained(one.model, []), one.samples, Scores(torch.zeros(1, len(one.samples))), DetectionConfig()
    )
    assert not found.trained_enough and found.suspected_classes == () and found.fit < 0.5
    assert all("not judged" in each.sentence and not each.suspected for each in found.findings)
    assert is_trained_enough(0.9, torch.tensor([10, 10])) and not is_trained_enough(0.55, torch.tensor([10, 10]))
    assert not is_trained_enough(0.92, torch.tensor([90, 10])) and not is_trained_enough(1.0, torch.tensor([10, 0]))


def test_progress_is_told_of_every_candidate():
    one, told = clean_set(), []
    candidates = find_candidates(one.features, one.logits, one.samples.labels)
    evidence = gather_evidence(one.model, one.samples, one.logits, candidates, on_candidate=lambda: told.append(1))
    assert len(told) == len(candidates) == len(evidence)


def cluster(label=0, source="mixture", **values):
    return ClusterEvidence(label, 100, source, **({"goes": 0.0, "goes_best": 0.0, "leaves": 0.0} | values))


def test_one_kind_of_evidence_is_enough_and_none_is_not():
    for kind in ("goes", "goes_best", "leaves", "window", "detail", "colour", "slow", "style", "spectrum"):
        evidence = [cluster(label) for label in range(10)] + [cluster(3, **{kind: 0.9})]
        probabilities = label_probabilities(evidence, 10)
        assert probabilities[3] > 0.95 and discovered(probabilities) == (3,)
    assert discovered(label_probabilities([cluster(label) for label in range(10)], 10)) == ()


def test_a_second_witness_makes_weak_evidence_enough_and_never_accuses_alone():
    others = [cluster(label) for label in range(10)]
    alone = label_probabilities([*others, cluster(3, goes_best=0.25)], 10)[3]
    ratios = [1.0] * 10
    ratios[3] = 6.0
    assert alone < label_probabilities([*others, cluster(3, goes_best=0.25)], 10, one_way=ratios)[3]
    assert label_probabilities(others, 10, one_way=ratios)[3] < 0.5
    marked = label_probabilities([*others, cluster(3, "mark", leaves=0.15, marked=0.4)], 10)[3]
    unmarked = label_probabilities([*others, cluster(3, "mark", leaves=0.15)], 10)[3]
    assert unmarked < 0.5 and discovered({3: marked}) == (3,)


def test_a_label_with_many_clusters_is_no_less_likely_for_those_of_another_kind():
    evidence = [cluster(3, "mark", leaves=0.2), *(cluster(label) for label in range(10))]
    few = label_probabilities(evidence, 10)[3]
    many = label_probabilities([*evidence, *(cluster(3, "second_choice") for _ in range(20))], 10)[3]
    assert many > 0.6 * few


@pytest.mark.parametrize("one_way", [0.1, 1.0, 2.3, 5.0, 1000.0])
def test_what_a_one_way_ratio_says_is_bounded_and_rises(one_way):
    assert 0.5 <= placement_ratio(one_way) <= 10.5
    assert placement_ratio(one_way) <= placement_ratio(1.5 * one_way)


def test_more_evidence_never_makes_a_label_less_likely():
    values = [0.0, 0.02, 0.1, 0.3, 0.6, 1.0]
    found = [label_probabilities([cluster(leaves=value), cluster(1)], 10)[0] for value in values]
    assert found == sorted(found) and found[0] < 0.05 < 0.95 < found[-1]


def test_a_set_whose_own_clusters_spread_more_needs_more():
    quiet = [cluster(label) for label in range(9)] + [cluster(9, leaves=0.2)]
    loud = [cluster(label, leaves=0.05) for label in range(9)] + [cluster(9, leaves=0.2)]
    probabilities = [label_probabilities(each, 10, null=DEFAULT_NULL.of_set(each))[9] for each in (loud, quiet)]
    assert probabilities[0] < probabilities[1]


def test_where_content_takes_pictures_along_they_leave_their_class_too():
    own = DEFAULT_NULL.of_set([cluster(number, goes=0.1, goes_best=0.4) for number in range(10)])
    stretched = (0.4 + 0.034) / 0.034
    for kind in ("goes", "goes_best", "leaves"):
        assert own.scales[kind] == pytest.approx(stretched * DEFAULT_NULL.scales[kind])
    assert own.medians["leaves"] == DEFAULT_NULL.medians["leaves"] and own.medians["goes"] == 0.1
    assert own.scales["window"] == DEFAULT_NULL.scales["window"]


def test_false_discovery_is_bounded():
    assert discovered({0: 0.99, 1: 0.97, 2: 0.6, 3: 0.1}) == (0, 1)
    assert discovered({0: 0.94}) == () and discovered({0: 0.94, 1: 0.999}) == (0, 1) and discovered({}) == ()


def test_the_null_is_fitted_to_what_was_seen():
    beyond = [0.01 + 0.05 * each / 50 for each in range(1, 101)]
    null = fit_null([cluster(leaves=value) for value in (*beyond, *[0.01] * 101)])
    assert null.medians["leaves"] == pytest.approx(0.01)
    assert null.scales["leaves"] == pytest.approx(0.05, rel=0.02)
    assert null.scales["window"] < null.scales["leaves"]
    assert null.likelihood_ratio("leaves", 0.01) < 1 < null.likelihood_ratio("leaves", 0.9) < 1e6 + 1


def test_recipients_are_those_that_the_model_gives_their_label():
    images = torch.zeros(40, 3, 8, 8, dtype=torch.uint8)
    labels, owned = torch.arange(40) % 4, torch.arange(40) < 30
    recipients = transplant.draw_recipients(images, labels, owned, seed=0, most=5)
    assert recipients.labels.bincount().tolist() == [5, 5, 5, 5]
    assert isinstance(recipients.outside(2), Recipients) and 2 not in recipients.outside(2).labels
