"""The stress sets: what each structure does to images and labels, and the truth that is kept about it."""

from __future__ import annotations

import pytest
import torch

from advrbd_plugin.attacks import BadNets
from advrbd_plugin.attacks.smooth import Contrast
from advrbd_plugin.data import ImageSet
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.evaluation import stress_sets as sets
from advrbd_plugin.evaluation.stress_suite import LATE_PARTS, STRUCTURES, make_stress_set


def hazy_class(image_set, label, **settings):
    return sets.restyled_class(image_set, label, Contrast().trigger, **settings)


RESTYLED = (sets.grey_class, sets.jpeg_class, sets.warm_class, sets.watermarked_class, hazy_class)


def noise(count: int, classes: int, seed: int) -> ImageSet:
    images = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    names = tuple(f"class {label}" for label in range(classes))
    return ImageSet(images, torch.arange(count) % classes, names, torch.arange(count) * 3 + 1)


@pytest.fixture(scope="module")
def train():
    return noise(500, 10, 0)


@pytest.fixture(scope="module")
def test_set():
    return noise(200, 10, 1)


def test_composite_merges_and_drops(train):
    merged = sets.composite(train, [[3, 1], [0]])
    assert merged.class_names == ("class 3+class 1", "class 0") and merged.class_counts().tolist() == [100, 50]
    with pytest.raises(AdvrBDError, match="at most once"):
        sets.composite(train, [[3, 1], [1]])


def test_minor_content_is_a_small_part_of_a_label(train):
    mixed = sets.with_minor_content(train, label=4, minor=7, share=0.2, seed=0)
    assert mixed.num_classes == 9 and mixed.class_counts()[4] == 60 and len(mixed) == 460


def test_long_tail_falls_from_all_to_the_ratio(train):
    counts = sets.long_tail(train, ratio=0.1, seed=0).class_counts().sort().values.tolist()
    assert counts[0] == 5 and counts[-1] == 50 and counts == sorted(counts)


@pytest.mark.parametrize("restyle", RESTYLED)
def test_restyling_changes_a_share_of_one_class(train, restyle):
    changed = (restyle(train, 2, share=0.4, seed=0).images != train.images).flatten(1).any(dim=1)
    assert int(changed.sum()) == 20 and (train.labels[changed] == 2).all()


def test_grey_pictures_have_one_channel_thrice(train):
    grey = sets.grey_class(train, 2).images[train.labels == 2]
    assert torch.equal(grey[:, 0], grey[:, 1]) and torch.equal(grey[:, 0], grey[:, 2])


def test_several_attackers_share_no_sample(train, test_set):
    stress = sets.benign(train, test_set)
    for target, value in ((0, 255), (1, 0)):
        stress = sets.attacked(stress, BadNets(target_label=target, value=value, poison_ratio=0.1), seed=target)
    first, second = stress.triggers
    assert not (first.poisoned & second.poisoned).any()
    assert torch.equal(first.poisoned | second.poisoned, stress.poisoned)
    assert (stress.train.labels[second.poisoned] == 1).all() and (second.goals == 1).all()
    assert (stress.train.images[first.poisoned][:, :, -3:, -3:] == 255).all()
    assert torch.equal(stress.true_labels, train.labels)
    assert second.success(second.goals) == 1.0 and second.success(second.triggered.labels) == 0.0


def test_all_to_all_moves_each_class_to_the_next(train, test_set):
    stress = sets.all_to_all(sets.benign(train, test_set), BadNets(poison_ratio=0.2), seed=0)
    assert int(stress.poisoned.sum()) == 100
    assert torch.equal(stress.train.labels[stress.poisoned], (train.labels[stress.poisoned] + 1) % 10)
    assert torch.equal(stress.triggers[0].goals, (test_set.labels + 1) % 10)


def test_untargeted_gives_wrong_labels_of_many_kinds(train, test_set):
    stress = sets.untargeted(sets.benign(train, test_set), BadNets(poison_ratio=0.4), seed=0)
    given, true = stress.train.labels[stress.poisoned], train.labels[stress.poisoned]
    assert (given != true).all() and len(((given - true) % 10).unique()) == 9
    assert stress.triggers[0].goals is None
    assert stress.triggers[0].success(test_set.labels) == 0.0


def test_label_noise_spares_the_poison(train, test_set):
    stress = sets.attacked(sets.benign(train, test_set), BadNets(poison_ratio=0.2), seed=0)
    noisy = sets.label_noise(stress, rate=0.25, seed=0)
    wrong = noisy.train.labels != stress.train.labels
    assert torch.equal(wrong, noisy.mislabelled) and int(wrong.sum()) == 100 and not (wrong & noisy.poisoned).any()


def test_duplicates_come_behind_with_ids_of_their_own(train, test_set):
    stress = sets.duplicates(sets.benign(train, test_set), rate=0.2, copies=20, seed=0)
    assert len(stress.train) == 600 and len(stress.true_labels) == 600 and len(stress.poisoned) == 600
    copies = stress.train.images[500:].flatten(1)
    assert len(copies.unique(dim=0)) == 5


@pytest.mark.parametrize(
    "name",
    ["clean-s0", *(f"{part}-s0" for part in (*STRUCTURES, *LATE_PARTS)), "composite+wave-s3", "badnets%5+frame%5-s1"],
)
def test_the_suite_makes_a_set_that_depends_on_ids_alone(train, test_set, name):
    stress = make_stress_set(name, train, test_set)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(1))
    again = make_stress_set(name, train.subset(order), test_set)
    assert torch.equal(again.train.by_id().images, stress.train.by_id().images) or "duplicates" in name
    assert len(stress.train) == len(stress.poisoned) == len(stress.mislabelled) == len(stress.true_labels)
    assert stress.train.class_names == stress.test.class_names


def test_an_unknown_name_is_refused(train, test_set):
    with pytest.raises(AdvrBDError, match="like composite"):
        make_stress_set("Composite", train, test_set)
    with pytest.raises(AdvrBDError, match="must be one of"):
        make_stress_set("nothing-s1", train, test_set)
