"""Each attack against its paper, pixel by pixel and label by label."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from advrbd_plugin.attacks import ATTACKS, make_attack, no_attack
from advrbd_plugin.attacks.picture import blend_picture
from advrbd_plugin.data import ImageSet
from advrbd_plugin.errors import AdvrBDError


@pytest.fixture(scope="module")
def clean():
    generator = torch.Generator().manual_seed(0)
    return ImageSet(
        images=torch.randint(0, 256, (400, 3, 12, 16), dtype=torch.uint8, generator=generator),
        labels=torch.arange(400) % 4,
        class_names=("ant", "bee", "cat", "dog"),
        sample_ids=torch.arange(400) * 7 + 3,
    )


@pytest.mark.parametrize("name", ATTACKS)
def test_truth_record(clean, name):
    before = clean.images.clone()
    result = make_attack(name, target_label=2).poison(clean, seed=5)
    assert int(result.poisoned.sum()) == 20  # 5% of the whole set
    assert not result.covers.any()
    assert torch.equal(result.true_labels, clean.labels)
    changed = (result.image_set.images != clean.images).flatten(1).any(dim=1)
    assert torch.equal(changed, result.poisoned)
    assert (result.image_set.labels[result.poisoned] == 2).all()
    assert torch.equal(result.image_set.labels[~result.poisoned], clean.labels[~result.poisoned])
    assert torch.equal(result.image_set.sample_ids, clean.sample_ids)
    assert torch.equal(clean.images, before)
    assert result.parameters["seed"] == 5 and result.target_label == 2 and result.attack == name


@pytest.mark.parametrize("name", ["badnets", "blend"])
def test_dirty_label_attacks_take_other_classes(clean, name):
    result = make_attack(name, target_label=2).poison(clean)
    assert (result.true_labels[result.poisoned] != 2).all()


def test_sig_is_clean_label(clean):
    result = make_attack("sig", target_label=2).poison(clean)
    assert (result.true_labels[result.poisoned] == 2).all()
    assert torch.equal(result.image_set.labels, clean.labels)


@pytest.mark.parametrize("name", ATTACKS)
def test_the_choice_derives_from_seed_and_sample_id(clean, name):
    attack = make_attack(name)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(1))
    assert torch.equal(attack.poison(clean.subset(order)).poisoned, attack.poison(clean).poisoned[order])
    assert not torch.equal(attack.poison(clean, seed=1).poisoned, attack.poison(clean).poisoned)


@pytest.mark.parametrize("name", ATTACKS)
def test_triggered_test_set_has_true_labels_and_no_target_class(clean, name):
    attack = make_attack(name, target_label=1)
    triggered = attack.triggered_test_set(clean)
    others = clean.subset(clean.labels != 1)
    assert len(triggered) == 300 and torch.equal(triggered.labels, others.labels)
    assert torch.equal(triggered.images, attack.trigger(others.images))


def test_badnets_is_a_white_square_in_the_bottom_right_corner(clean):
    triggered = make_attack("badnets").trigger(clean.images)
    assert (triggered[:, :, 9:, 13:] == 255).all()
    triggered[:, :, 9:, 13:] = clean.images[:, :, 9:, 13:]
    assert torch.equal(triggered, clean.images)


def test_blend_mixes_a_fifth_of_the_picture(clean):
    picture = blend_picture(12, 16)
    triggered = make_attack("blend").trigger(clean.images)
    expected = 0.8 * clean.images.double() + 0.2 * picture
    assert float((triggered.double() - expected).abs().max()) <= 0.5
    assert make_attack("blend").trigger(clean.images[:, :1]).shape == (400, 1, 12, 16)


def test_blend_takes_the_users_picture(clean, tmp_path):
    path = tmp_path / "own.png"
    Image.fromarray(np.full((5, 5, 3), (200, 100, 0), np.uint8)).save(path)
    black = torch.zeros(1, 3, 12, 16, dtype=torch.uint8)
    triggered = make_attack("blend", picture=str(path)).trigger(black)
    assert triggered[0, :, 3, 3].tolist() == [40, 20, 0]
    with pytest.raises(AdvrBDError, match="cannot be read as an image"):
        make_attack("blend", picture=str(tmp_path / "none.png")).trigger(black)


def test_sig_is_a_horizontal_sinusoid(clean):
    grey = torch.full((1, 3, 4, 32), 128, dtype=torch.uint8)
    triggered = make_attack("sig").trigger(grey)
    for column in (0, 1, 7, 31):
        expected = round(128 + 20 * math.sin(2 * math.pi * (column + 1) * 6 / 32))
        assert (triggered[..., column] == expected).all()
    assert int(make_attack("sig").trigger(torch.full_like(grey, 250)).max()) == 255  # clipped, not wrapped round


def test_the_drawn_picture_is_fixed_and_full_of_contrast():
    picture = blend_picture(32, 32)
    assert picture.shape == (3, 32, 32) and 0 <= float(picture.min()) and float(picture.max()) <= 255
    assert float(picture.std()) > 50
    assert torch.equal(picture, blend_picture(32, 32))


def test_no_attack_changes_nothing(clean):
    result = no_attack(clean)
    assert result.image_set is clean and not result.poisoned.any() and result.target_label is None


@pytest.mark.parametrize(
    ("name", "parameters", "expected"),
    [
        ("wanted", {}, "attack must be one of badnets, blend, sig, got 'wanted'"),
        ("badnets", {"alpha": 0.5}, "badnets takes"),
        ("badnets", {"poison_ratio": 1.5}, r"poison_ratio must be in \[0, 1\), got 1.5"),
        ("badnets", {"patch_size": 0}, "patch_size must be at least 1"),
        ("badnets", {"patch_size": 13}, r"patch_size must be in \[1, 12\], got 13"),
        ("badnets", {"target_label": 4}, r"target_label must be in \[0, 3\], got 4"),
        ("blend", {"alpha": 0.0}, r"alpha must be in \(0, 1\]"),
        ("sig", {"frequency": 8.0}, "frequency 8.0 vanishes on images 16 pixels wide"),
        ("sig", {"poison_ratio": 0.3}, "asks for 120: use at most 0.2500"),
    ],
)
def test_bad_parameters_are_named(clean, name, parameters, expected):
    with pytest.raises(AdvrBDError, match=expected):
        make_attack(name, **parameters).poison(clean)
