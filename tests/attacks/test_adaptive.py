"""Adaptive-Blend and Adaptive-Patch: training samples and covers show a part of what a test image shows."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from advrbd_plugin.attacks import make_attack
from advrbd_plugin.attacks.picture import blend_picture, checkers_picture, flower_picture, rings_picture, star_picture

IDS = torch.arange(400)


def grey(count: int, side: int = 32) -> torch.Tensor:
    return torch.full((count, 3, side, side), 128, dtype=torch.uint8)


def test_blend_shows_half_of_sixteen_pieces_each_sample_its_own():
    triggered = make_attack("adaptive_blend").training_trigger(grey(400), IDS, seed=0)
    whole = make_attack("blend").trigger(grey(1))
    assert ((triggered == 128) | (triggered == whole)).all()
    pieces = (triggered != 128).any(dim=1).unfold(1, 8, 8).unfold(2, 8, 8).flatten(3).any(dim=3).flatten(1)
    assert (pieces.sum(dim=1) == 8).all()
    assert len(pieces.unique(dim=0)) > 380  # of 12,870 possible halves
    assert float(pieces.double().mean(dim=0).min()) > 0.4 and float(pieces.double().mean(dim=0).max()) < 0.6


def test_blend_shows_all_of_it_at_test_time():
    expected = (0.8 * grey(1).double() + 0.2 * blend_picture(32, 32)).round()
    assert torch.equal(make_attack("adaptive_blend").trigger(grey(1)).double(), expected)
    stronger = make_attack("adaptive_blend", alpha=0.15, test_alpha=0.3)
    assert torch.equal(stronger.trigger(grey(1)), make_attack("blend", alpha=0.3).trigger(grey(1)))
    partial = stronger.training_trigger(grey(9), IDS[:9], seed=0)
    assert ((partial == 128) | (partial == make_attack("blend", alpha=0.15).trigger(grey(1)))).all()


def test_pieces_cover_images_that_do_not_divide_evenly():
    attack = make_attack("adaptive_blend", pieces=9, mask_rate=0.0)
    images = torch.full((2, 1, 13, 20), 128, dtype=torch.uint8)
    assert torch.equal(attack.training_trigger(images, IDS[:2], seed=0), attack.trigger(images))


def test_blend_takes_the_users_picture(tmp_path):
    Image.fromarray(np.full((5, 5, 3), (255, 0, 128), np.uint8)).save(tmp_path / "own.png")
    triggered = make_attack("adaptive_blend", picture=str(tmp_path / "own.png")).trigger(grey(1))
    assert triggered[0, :, 9, 9].tolist() == [153, 102, 128]


def test_covers_of_both_carry_parts_and_keep_labels_of_all_classes(clean):
    for name in ("adaptive_blend", "adaptive_patch"):
        attack = make_attack(name, cover_rate=0.2)
        result = attack.poison(clean)
        covers = result.covers
        expected = attack.training_trigger(clean.images[covers], clean.sample_ids[covers], seed=0)
        assert torch.equal(result.image_set.images[covers], expected)
        assert set(result.image_set.labels[covers].tolist()) == {0, 1, 2, 3}


def place(patch: torch.Tensor, opacity: float, top: int, left: int, image: torch.Tensor) -> None:
    """Blend a (4, side, side) patch into a (3, 32, 32) float64 image."""
    side = patch.shape[-1]
    window = image[:, top : top + side, left : left + side]
    window += opacity * patch[3] * (patch[:3] - window)


def four_patches() -> list[torch.Tensor]:
    """A grey image with each of the four training patches: sides, places and opacities of the paper's code."""
    star, flower, checkers, rings = (grey(1)[0].double() for _ in range(4))
    place(star_picture(5), 0.5, 27, 27, star)
    place(flower_picture(13), 0.2, 1, 18, flower)
    for top in (0, 29):
        for left in (0, 29):
            place(checkers_picture(3), 0.5, top, left, checkers)
    place(rings_picture(8), 0.3, 21, 21, rings)
    return [image.round().byte() for image in (star, flower, checkers, rings)]


def test_patch_shows_one_of_four_faint_patches():
    triggered = make_attack("adaptive_patch").training_trigger(grey(400), IDS, seed=0)
    counts = [int((triggered == patch).flatten(1).all(dim=1).sum()) for patch in four_patches()]
    assert sum(counts) == 400 and min(counts) > 70


def test_patch_shows_two_opaque_ones_at_test_time():
    expected = grey(1)[0].double()
    for left in (0, 27):
        place(star_picture(5), 1, 27, left, expected)
    expected = expected.round()
    for top in (0, 29):
        for left in (0, 29):
            place(checkers_picture(3), 1, top, left, expected)
    assert torch.equal(make_attack("adaptive_patch").trigger(grey(1))[0].double(), expected.round())


def test_patch_cuts_the_users_picture_into_quarters(tmp_path):
    Image.fromarray(np.full((6, 6, 3), 255, np.uint8)).save(tmp_path / "own.png")
    attack = make_attack("adaptive_patch", picture=str(tmp_path / "own.png"), opacities=(1, 1, 1, 1))
    triggered = attack.training_trigger(grey(400), IDS, seed=0)
    areas = (triggered == 255).all(dim=1).flatten(1).sum(dim=1)
    assert set(areas.tolist()) == {49, 42, 36}  # 13 = 7 + 6
    assert len(triggered.flatten(1).unique(dim=0)) == 4
    whole = attack.trigger(grey(1))
    assert (whole[:, :, 1:14, 18:31] == 255).all() and int((whole == 255).sum()) == 3 * 169


def test_drawn_patches_are_fixed_and_opaque_where_they_are_drawn():
    for draw in (star_picture, flower_picture, checkers_picture, rings_picture):
        patch = draw(13)
        assert patch.shape == (4, 13, 13) and torch.equal(patch, draw(13))
        assert float(patch[:3].min()) >= 0 and float(patch[:3].max()) <= 255
        assert float(patch[3].min()) >= 0 and float(patch[3].max()) == 1
        assert float(patch[:3, patch[3] > 0.5].std()) > 30  # something to see
    assert not torch.equal(flower_picture(13)[3], torch.ones(13, 13))  # the petals alone
