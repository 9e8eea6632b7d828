"""PhysicalBA: the picture in its place at test time, each poisoned image transformed by itself within the ranges."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image

from advrbd_plugin.attacks import make_attack
from advrbd_plugin.attacks.picture import flower_picture

STILL = {"rotation": 0.0, "translation": 0.0, "scale": (1.0, 1.0), "brightness": 0.0, "contrast": 0.0, "flip": False}
IDS = torch.arange(200)


def dark(count: int, side: int = 32) -> torch.Tensor:
    return torch.zeros(count, 3, side, side, dtype=torch.uint8)


def save_square(path, colour) -> str:
    Image.fromarray(np.full((5, 5, len(colour)), colour, np.uint8)).save(path)
    return str(path)


def test_the_flower_lies_in_the_top_right_corner_and_its_surroundings_stay(clean):
    images = torch.full((1, 3, 32, 32), 90, dtype=torch.uint8)
    triggered = make_attack("physicalba").trigger(images)
    flower = flower_picture(13)
    expected = ((1 - flower[3]) * 90 + flower[3] * flower[:3]).round()
    assert torch.equal(triggered[0, :, 1:14, 18:31].double(), expected)
    triggered[:, :, 1:14, 18:31] = 90
    assert torch.equal(triggered, images)
    assert float(flower[3, 0, 0]) == 0 and float(flower[3, 6, 6]) == 1


def test_without_transformations_training_shows_the_test_trigger(clean):
    attack = make_attack("physicalba", **STILL)
    triggered = attack.training_trigger(clean.images, clean.sample_ids, seed=0)
    difference = triggered.int() - attack.trigger(clean.images).int()
    assert int(difference.abs().max()) <= 1 and float((difference != 0).float().mean()) < 0.01  # halves, rounded


def test_each_poisoned_image_is_transformed_by_itself():
    triggered = make_attack("physicalba").training_trigger(dark(200), IDS, seed=0)
    assert len(triggered.flatten(1).unique(dim=0)) == 200
    again = make_attack("physicalba").training_trigger(dark(3), IDS[5:8], seed=0)
    assert torch.equal(again, triggered[5:8])
    assert not torch.equal(make_attack("physicalba").training_trigger(dark(200), IDS, seed=1), triggered)


def centres(images: torch.Tensor) -> torch.Tensor:
    """(N, 2): (row, column) of the trigger's centre, in pixels from the middle of the image."""
    weight = images.double().sum(dim=1)
    rows, columns = (torch.arange(side, dtype=torch.float64) - (side - 1) / 2 for side in images.shape[-2:])
    mass = weight.sum(dim=(1, 2))
    return torch.stack([(weight.sum(2) * rows).sum(1) / mass, (weight.sum(1) * columns).sum(1) / mass], dim=1)


def test_flip_shift_turn_and_scale_do_what_they_say(tmp_path):
    white = save_square(tmp_path / "white.png", (255, 255, 255))
    place = {"picture": white, "trigger_size": 8}
    still = centres(make_attack("physicalba", **place).trigger(dark(1)))[0]

    def moved(**changes):
        attack = make_attack("physicalba", **place, **STILL | changes)
        return centres(attack.training_trigger(dark(200), IDS, seed=0))

    flipped = moved(flip=True)
    mirrored = flipped[:, 1] < 0
    assert 70 < int(mirrored.sum()) < 130
    assert torch.allclose(flipped.abs(), still.abs().expand(200, 2), atol=1e-6)

    shifted = moved(translation=0.02) - still  # of 32 pixels, so 0.64 at most, not reaching the edge
    assert 0.5 < float(shifted.abs().max()) <= 0.64 + 0.02
    assert (shifted.amin(dim=0) < -0.5).all() and (shifted.amax(dim=0) > 0.5).all()

    turned = moved(rotation=5.0)
    angle = torch.atan2(turned[:, 0], turned[:, 1]) - math.atan2(still[0], still[1])
    assert 4 < math.degrees(float(angle.abs().max())) < 5.1
    assert torch.allclose(turned.norm(dim=1), still.norm().expand(200), atol=0.1)

    scaled = moved(scale=(0.5, 0.8)).norm(dim=1) / still.norm()
    assert 0.49 < float(scaled.min()) < 0.55 and 0.75 < float(scaled.max()) < 0.81


def test_a_turn_is_one_in_pixels_on_images_that_are_not_square(tmp_path):
    white = save_square(tmp_path / "white.png", (255, 255, 255))
    images = torch.zeros(200, 1, 32, 96, dtype=torch.uint8)
    attack = make_attack("physicalba", picture=white, trigger_size=8, **STILL | {"rotation": 8.0})
    still = centres(attack.trigger(images[:1]))[0]
    triggered = attack.training_trigger(images, IDS, seed=0)
    whole = (triggered.double().sum(dim=(1, 2, 3)) / 255 - 64).abs() < 0.5  # the others were turned out of the image
    assert 50 < int(whole.sum()) < 200
    turned = centres(triggered[whole])
    assert torch.allclose(turned.norm(dim=1), still.norm().expand(len(turned)), atol=0.1)
    assert float((turned[:, 0] - still[0]).max()) > 4  # pixels: the turn is a real one


def test_light_changes_within_its_ranges():
    grey = torch.full((200, 3, 32, 32), 100, dtype=torch.uint8)
    bright = make_attack("physicalba", **STILL | {"brightness": 0.2}).training_trigger(grey, IDS, seed=0)
    corner = bright[:, 0, -1, 0]
    assert 80 <= int(corner.min()) < 84 and 116 < int(corner.max()) <= 120
    half = grey.clone()
    half[:, :, 16:] = 200
    attack = make_attack("physicalba", trigger_size=1, **STILL | {"contrast": 0.2})
    contrast = attack.training_trigger(half, IDS, seed=0)
    span = contrast[:, 0, -1, 0].double() - contrast[:, 0, 0, 0].double()
    assert 79 <= float(span.min()) < 84 and 116 < float(span.max()) <= 121


def test_the_border_shows_the_image_and_never_the_trigger_twice(tmp_path):
    white = save_square(tmp_path / "white.png", (255, 255, 255))
    attack = make_attack("physicalba", picture=white, trigger_size=3, **STILL | {"scale": (0.5, 0.5)})
    grey = torch.full((1, 3, 32, 32), 100, dtype=torch.uint8)
    shrunk = attack.training_trigger(grey, IDS[:1], seed=0)
    assert int(shrunk.min()) == 100  # no black border
    assert abs(float((shrunk.double() - 100).sum() / 3 / 155) - 9 / 4) < 0.1  # one square of half the side


def test_a_users_picture_keeps_its_transparency(tmp_path):
    own = save_square(tmp_path / "own.png", (200, 100, 0, 51))
    triggered = make_attack("physicalba", picture=own).trigger(dark(1))
    assert triggered[0, :, 5, 25].tolist() == [40, 20, 0]
    assert make_attack("physicalba", picture=own).trigger(dark(1)[:, :1])[0, 0, 5, 25] == 20
