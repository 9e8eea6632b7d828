"""TaCT: one class is attacked, covers of others keep their labels, and success is measured on that class."""

from __future__ import annotations

import torch

from advrbd_plugin.attacks import make_attack


def test_only_the_source_class_is_poisoned(clean):
    result = make_attack("tact").poison(clean)
    assert result.parameters["source_label"] == 0 and result.parameters["target_label"] == 1  # Table I
    assert (result.true_labels[result.poisoned] == 0).all()
    assert (result.image_set.labels[result.poisoned] == 1).all()


def test_covers_come_from_neither_source_nor_target(clean):
    result = make_attack("tact", cover_rate=0.1).poison(clean)
    assert int(result.covers.sum()) == 40 and set(result.true_labels[result.covers].tolist()) == {2, 3}
    chosen = make_attack("tact", cover_rate=0.1, cover_labels=[3]).poison(clean)
    assert set(chosen.true_labels[chosen.covers].tolist()) == {3}
    assert torch.equal(chosen.image_set.labels[chosen.covers], chosen.true_labels[chosen.covers])


def test_poison_and_covers_carry_the_same_white_square(clean):
    result = make_attack("tact").poison(clean)
    for marked in (result.poisoned, result.covers):
        images = result.image_set.images[marked]
        assert (images[:, :, -3:, -3:] == 255).all()
        images[:, :, -3:, -3:] = clean.images[marked][:, :, -3:, -3:]
        assert torch.equal(images, clean.images[marked])


def test_the_triggered_test_set_is_the_source_class(clean):
    triggered = make_attack("tact", source_label=2).triggered_test_set(clean)
    assert len(triggered) == 100 and (triggered.labels == 2).all()
    assert (triggered.images[:, :, -3:, -3:] == 255).all()


def test_the_source_makes_way_for_the_target():
    assert make_attack("tact", target_label=0).source_label == 1
    assert make_attack("tact", target_label=3).source_label == 0
