"""Two clusters of a class, on features whose right answer is known."""

import pytest
import torch

from advrbd_plugin.defense.clusters import Shares, discriminate, held_out_gain, sharpen, whiten
from advrbd_plugin.defense.splits import split_classes
from advrbd_plugin.nn.inference import runner_up_classes


def clusters(poison_share, shift, seed=0, count=600, dims=24):
    """Features of one label: a broad cluster, and a share of it moved by ``shift``; ranks that only hint at which."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, dims, generator=generator) * torch.linspace(3, 0.2, dims)
    poisoned = torch.rand(count, generator=generator) < poison_share
    features[poisoned, 5] += shift
    consistency = torch.randn(count, generator=generator) + 1.5 * poisoned
    return features, poisoned, consistency.argsort().argsort() / (count - 1)


def answers(labels, poisoned, num_classes):
    """Logits of a model that gives every sample its label; a trigger's samples have runner_up of every kind."""
    generator = torch.Generator().manual_seed(11)
    logits = torch.zeros(len(labels), num_classes)
    logits[torch.arange(len(labels)), (labels + 1) % num_classes] = 1.0
    varied = (labels + torch.randint(1, num_classes, labels.shape, generator=generator)) % num_classes
    logits[poisoned.nonzero().flatten(), varied[poisoned]] = 2.0
    logits[torch.arange(len(labels)), labels] = 5.0
    return logits


def detect_one(features, poisoned, ranks, gain):
    """One label of six, all of whose samples are given."""
    labels = torch.zeros(len(features), dtype=torch.int64)
    return split_classes(features, answers(labels, poisoned, 6), labels, ranks, gain=gain)


def test_the_clusters_of_an_attacked_label_stand_apart_and_those_of_an_easy_one_do_not():
    attacked, poisoned, attacked_rank = clusters(0.3, 25.0)
    clean, none, clean_rank = clusters(0.0, 0.0, seed=1)
    labels = torch.cat([torch.zeros(600), torch.ones(600)]).long()
    # Label 1's samples are all more consistent than label 0's: ease alone must not suffice.
    consistency = torch.cat([attacked_rank / 2, 0.5 + clean_rank / 2])
    logits = answers(labels, torch.cat([poisoned, none]), 3)
    found = split_classes(torch.cat([attacked, clean]), logits, labels, consistency, gain=0.15)
    assert found.separate_classes == (0,)
    assert found.evidence[0].gain > 0.8 > 0.1 > found.evidence[1].gain
    assert (found.evidence[2].samples, found.evidence[2].separate) == (0, False)
    flagged = found.probability[:600] > 0.5
    assert (flagged == poisoned).float().mean() > 0.99


def test_the_poison_probability_never_falls_with_the_projection():
    features, poisoned, rank = clusters(0.3, 12.0)
    found = detect_one(features, poisoned, rank, gain=0.0)
    by_projection = found.probability[found.projection.argsort()]
    assert (by_projection.diff() >= 0).all() and by_projection[-1] > 0.99


def test_too_few_samples_are_not_judged():
    features, poisoned, rank = clusters(0.3, 25.0, count=30)
    assert detect_one(features, poisoned, rank, gain=0.0).separate_classes == ()


def test_the_start_that_splits_best_counts():
    features, poisoned, rank = clusters(0.3, 12.0)
    misleading = torch.rand(600, generator=torch.Generator().manual_seed(3))
    found = detect_one(features, poisoned, torch.stack([misleading, rank, misleading.flip(0)]), gain=0.15)
    assert found.separate_classes == (0,)
    assert ((found.probability > 0.5) == poisoned).float().mean() > 0.98


def test_the_cluster_with_the_more_varied_runner_up_classes_is_the_suspicious_one():
    features, poisoned, _ = clusters(0.3, 25.0)
    inverted = torch.rand(600, generator=torch.Generator().manual_seed(5)) + 2.0 * (~poisoned)
    found = detect_one(features, poisoned, inverted, gain=0.15)
    assert ((found.probability > 0.5) == poisoned).float().mean() > 0.98
    assert found.evidence[0].share == pytest.approx(float(poisoned.float().mean()), abs=0.02)
    assert found.evidence[0].entropy_gap > 1.0
    undecided = detect_one(features, torch.zeros_like(poisoned), inverted, gain=0.15)
    assert ((undecided.probability > 0.5) == ~poisoned).float().mean() > 0.98  # by its ranks, where runner_up are alike


def test_poison_that_comes_from_one_class_is_not_taken_for_the_clean_cluster():
    features, poisoned, rank = clusters(0.3, 25.0)
    generator = torch.Generator().manual_seed(7)
    common = torch.where(poisoned, 3, 1)
    often = torch.rand(600, generator=generator) < torch.where(poisoned, 0.72, 0.42)
    runner_up = torch.where(often, common, torch.randint(1, 6, (600,), generator=generator))
    logits = torch.zeros(600, 6).scatter(1, runner_up[:, None], 1.0)
    logits[:, 0] = 5.0
    found = split_classes(features, logits, torch.zeros(600, dtype=torch.int64), rank, gain=0.15)
    assert -0.7 < found.evidence[0].entropy_gap < -0.3
    assert ((found.probability > 0.5) == poisoned).float().mean() > 0.98


def test_a_small_part_stands_apart():
    features, poisoned, _ = clusters(0.06, 25.0)
    rank = (torch.rand(600, generator=torch.Generator().manual_seed(7)) + 0.3 * poisoned).argsort().argsort() / 599
    found = detect_one(features, poisoned, rank, gain=0.15)
    assert found.separate_classes == (0,) and found.evidence[0].share == pytest.approx(0.06, abs=0.02)
    assert ((found.probability > 0.5) == poisoned).float().mean() > 0.98


def test_few_samples_need_a_larger_gain():
    features, poisoned, rank = clusters(0.35, 15.0, count=90)
    found = detect_one(features, poisoned, rank, gain=0.15)
    assert 0.15 < found.evidence[0].gain < 0.48 and found.separate_classes == ()
    features, poisoned, rank = clusters(0.35, 10.0)
    found = detect_one(features, poisoned, rank, gain=0.15)
    assert 0.2 < found.evidence[0].gain < 0.48 and found.separate_classes == (0,)


@pytest.mark.parametrize(
    ("distance", "not_predicted", "separate"),
    [
        *[(8.25, "none", ()), (8.25, "poisoned", (0,)), (8.25, "all", ())],
        (8.0, "poisoned", ()),  # a gain of 0.05, as 600 samples may have by chance
    ],
)
def test_samples_not_predicted_as_their_class_need_hardly_a_gain_unless_the_rest_is_not_either(
    distance, not_predicted, separate
):
    features, poisoned, rank = clusters(0.35, distance)
    logits = answers(torch.zeros(600, dtype=torch.int64), poisoned, 6)
    lost = {"none": torch.zeros_like(poisoned), "poisoned": poisoned, "all": torch.ones_like(poisoned)}[not_predicted]
    logits[lost, 0] = 0.0
    found = split_classes(features, logits, torch.zeros(600, dtype=torch.int64), rank, gain=0.15)
    assert 0.04 < found.evidence[0].gain < 0.1 and found.separate_classes == separate


@pytest.mark.parametrize("seed", range(3))
def test_a_gain_counts_only_on_held_out_samples(seed):
    generator = torch.Generator().manual_seed(seed)
    whitened, ranks = whiten(torch.randn(200, 60, generator=generator)), torch.rand(200, generator=generator)
    shares = Shares(first=(0.3, 0.15), later=(0.4, 0.2))
    fitted = sharpen(whitened, discriminate(whitened, ranks, shares))
    assert fitted.gain > 0 > held_out_gain(whitened, ranks, shares)


def test_runner_up_classes_leave_the_label_out():
    logits = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [0.0, 0.0, 9.0]])
    assert runner_up_classes(logits, torch.tensor([0, 1, 1])).tolist() == [1, 0, 2]
