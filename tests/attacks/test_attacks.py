"""Each attack against its paper, pixel by pixel and label by label."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from advrbd_plugin.attacks import ATTACKS, make_attack, no_attack
from advrbd_plugin.attacks.picture import blend_picture
from advrbd_plugin.cli.demo import ATTACK_NAMES
from advrbd_plugin.data import ImageSet
from advrbd_plugin.errors import AdvrBDError

COVERS = {"wanet": 20, "tact": 4, "adaptive_blend": 4, "adaptive_patch": 4}  # Table I: 5%, and 1% of 400


def test_the_command_line_offers_every_attack():
    assert (*ATTACKS, "none") == ATTACK_NAMES


@pytest.mark.parametrize("name", ATTACKS)
def test_truth_record(clean, name):
    before = clean.images.clone()
    result = make_attack(name, target_label=2).poison(clean, seed=5)
    assert int(result.poisoned.sum()) == 20  # 5% of the whole set
    assert int(result.covers.sum()) == COVERS.get(name, 0)
    assert not (result.covers & result.poisoned).any()
    assert torch.equal(result.true_labels, clean.labels)
    changed = (result.image_set.images != clean.images).flatten(1).any(dim=1)
    assert torch.equal(changed, result.poisoned | result.covers)
    assert (result.image_set.labels[result.poisoned] == 2).all()
    assert torch.equal(result.image_set.labels[~result.poisoned], clean.labels[~result.poisoned])
    assert torch.equal(result.image_set.sample_ids, clean.sample_ids)
    assert torch.equal(clean.images, before)
    assert result.parameters["seed"] == 5 and result.target_label == 2 and result.attack == name
    json.dumps(result.parameters)


@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "sig"])
def test_dirty_label_attacks_take_other_classes(clean, name):
    result = make_attack(name, target_label=2).poison(clean)
    assert (result.true_labels[result.poisoned] != 2).all()


def test_sig_is_clean_label(clean):
    result = make_attack("sig", target_label=2).poison(clean)
    assert (result.true_labels[result.poisoned] == 2).all()
    assert torch.equal(result.image_set.labels, clean.labels)


@pytest.mark.parametrize("name", ATTACKS)
def test_everything_derives_from_seed_and_sample_id(clean, name):
    attack = make_attack(name)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(1))
    result, shuffled = attack.poison(clean), attack.poison(clean.subset(order))
    assert torch.equal(shuffled.poisoned, result.poisoned[order])
    assert torch.equal(shuffled.covers, result.covers[order])
    assert torch.equal(shuffled.image_set.images, result.image_set.images[order])
    another = attack.poison(clean, seed=1)
    assert not torch.equal(another.poisoned, result.poisoned)
    assert not result.covers.any() or not torch.equal(another.covers, result.covers)


@pytest.mark.parametrize("name", ATTACKS)
def test_what_a_sample_gets_does_not_depend_on_how_many_are_done_at_once(clean, name, monkeypatch):
    attack = make_attack(name)
    result, triggered = attack.poison(clean), attack.triggered_test_set(clean)
    monkeypatch.setattr("advrbd_plugin.attacks.base._CHUNK", 7 * clean.images[0].numel())
    assert torch.equal(attack.poison(clean).image_set.images, result.image_set.images)
    assert torch.equal(attack.triggered_test_set(clean).images, triggered.images)


@pytest.mark.parametrize("name", ATTACKS)
def test_triggered_test_set_has_true_labels_and_no_target_class(clean, name):
    attack = make_attack(name, target_label=1)
    triggered = attack.triggered_test_set(clean)
    victims = clean.subset(clean.labels == 0 if name == "tact" else clean.labels != 1)
    assert len(triggered) == (100 if name == "tact" else 300) and torch.equal(triggered.labels, victims.labels)
    assert torch.equal(triggered.images, attack.trigger(victims.images))


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 16, 16), (3, 33, 20), (3, 64, 64)])
def test_grey_images_and_other_sizes(name, shape):
    images = torch.randint(0, 256, (40, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    image_set = ImageSet(images, torch.arange(40) % 2, ("cat", "dog"))
    # With two classes TaCT has no third for covers.
    parameters = {"cover_rate": 0.0} if name == "tact" else {}
    result = make_attack(name, **parameters).poison(image_set)
    changed = (result.image_set.images != images).flatten(1).any(dim=1)
    assert torch.equal(changed, result.poisoned | result.covers) and int(result.poisoned.sum()) == 2
    assert len(make_attack(name).triggered_test_set(image_set)) == 20


@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_is_poisoned_at_ratio_zero(clean, name):
    rates = {"cover_rate": 0.0} if name in COVERS else {}
    result = make_attack(name, poison_ratio=0.0, **rates).poison(clean)
    assert torch.equal(result.image_set.images, clean.images) and not result.poisoned.any()


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
    assert picture.shape == (3, 32, 32) and float(picture.min()) >= 0 and float(picture.max()) <= 255
    assert float(picture.std()) > 50
    assert torch.equal(picture, blend_picture(32, 32))


def test_no_attack_changes_nothing(clean):
    result = no_attack(clean)
    assert result.image_set is clean and not result.poisoned.any() and result.target_label is None


@pytest.mark.parametrize(
    ("name", "parameters", "expected"),
    [
        ("wanted", {}, "attack must be one of badnets, blend, .*, got 'wanted'"),
        ("badnets", {"alpha": 0.5}, "badnets takes .*patch_size.*, got alpha"),
        ("blend", {"alpha": "0.2"}, "blend: a parameter has the wrong type in alpha='0.2'"),
        ("badnets", {"poison_ratio": 1.5}, r"poison_ratio must be in \[0, 1\), got 1.5"),
        ("badnets", {"patch_size": 0}, "patch_size must be at least 1"),
        ("badnets", {"patch_size": 13}, r"patch_size must be in \[1, 12\], got 13"),
        ("badnets", {"target_label": 4}, r"target_label must be in \[0, 3\], got 4"),
        ("blend", {"alpha": 0.0}, r"alpha must be in \(0, 1\]"),
        ("sig", {"frequency": 8.0}, "frequency 8.0 vanishes on images 16 pixels wide"),
        ("sig", {"poison_ratio": 0.3}, "sig can poison 100 of these 400 images, .* asks for 120: use at most 0.2500"),
        ("wanet", {"cover_rate": 1.0}, r"cover_rate must be in \[0, 1\), got 1.0"),
        ("wanet", {"cover_rate": 0.96}, "wanet can cover 380 of .* asks for 384: use at most 0.9500"),
        ("wanet", {"strength": 0.0}, "strength must be positive, got 0.0"),
        ("wanet", {"control_points": 1}, "control_points must be at least 2, got 1"),
        ("wanet", {"control_points": 13}, "wanet needs images of at least 13 pixels a side, got 12x16"),
        ("physicalba", {"trigger_size": 13}, r"trigger_size must be in \[1, 12\], got 13"),
        ("physicalba", {"trigger_size": 0}, "trigger_size must be at least 1, got 0"),
        ("physicalba", {"scale": (1.0, 0.8)}, r"scale must be two positive numbers, .* got \[1.0, 0.8\]"),
        ("physicalba", {"rotation": -1.0}, r"rotation must be in \[0, 180\], got -1.0"),
        ("tact", {"source_label": 1}, "source_label must differ from target_label, got 1 for both"),
        ("tact", {"source_label": 4}, r"source_label must be in \[0, 3\], got 4"),
        ("tact", {"source_label": -1}, "source_label must not be negative, got -1"),
        ("tact", {"cover_labels": (0, 2)}, r"cover_labels must hold neither source_label 0 .* got \[0, 2\]"),
        ("tact", {"cover_labels": (4,)}, r"cover_labels must be in \[0, 3\], got 4"),
        ("tact", {"cover_rate": 0.6}, "tact can cover 200 of these 400 images, but cover_rate 0.6 asks for 240"),
        ("adaptive_blend", {"pieces": 8}, "pieces must be a square number such as 4, 9 or 16, got 8"),
        ("adaptive_blend", {"mask_rate": 0.99}, r"mask_rate must be in \[0, 1\) and leave at least one piece"),
        ("adaptive_blend", {"test_alpha": 2.0}, r"test_alpha must be in \(0, 1\], got 2.0"),
        ("adaptive_blend", {"pieces": 169}, "adaptive_blend needs images of at least 13 pixels a side, got 12x16"),
        ("adaptive_patch", {"opacities": (0.5, 0.5)}, r"opacities must be four numbers in \(0, 1\], got \[0.5, 0.5\]"),
        ("adaptive_patch", {"test_opacity": 0.0}, r"test_opacity must be in \(0, 1\], got 0.0"),
    ],
)
def test_bad_parameters_are_named(clean, name, parameters, expected):
    with pytest.raises(AdvrBDError, match=expected):
        make_attack(name, **parameters).poison(clean)
