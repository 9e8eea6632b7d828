"""WaNet: the warp moves pixels by the paper's amounts and is the same for all; covers add noise of their own."""

from __future__ import annotations

import torch

from advrbd_plugin.attacks import make_attack
from advrbd_plugin.data import ImageSet


def ramps(height: int, width: int) -> torch.Tensor:
    """(2, 1, H, W): brightness 4 per column, and 4 per row, so that a warp shows where each pixel came from."""
    columns = (4 * torch.arange(width)).expand(height, width)
    rows = (4 * torch.arange(height))[:, None].expand(height, width)
    return torch.stack([columns, rows])[:, None].to(torch.uint8)


def shifts(warped: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """How far, in pixels, the middle of a ramp was moved; the edge is held by the border."""
    return (warped.double() - images.double())[..., 2:-2, 2:-2] / 4


def test_displacement_is_half_the_strength_times_a_field_of_mean_size_one():
    images = ramps(64, 64)
    moved = shifts(make_attack("wanet", strength=0.5).trigger(images), images)
    # 16 control points of mean |field| 1, interpolated: about 0.25 pixels on average, never more than 4 in field units.
    assert 0.08 < float(moved.abs().mean()) < 0.4 and 0.25 < float(moved.abs().max()) < 1.0
    doubled = shifts(make_attack("wanet", strength=1.0).trigger(images), images)
    assert float((doubled - 2 * moved).abs().max()) <= 0.5  # rounding to a grey level is a quarter of a pixel, twice


def test_the_field_is_smooth_and_the_same_for_all_images():
    images = ramps(64, 64)
    moved = shifts(make_attack("wanet", strength=4.0).trigger(images), images)
    assert float(moved.abs().max()) > 3  # pixels, and yet neighbours are moved alike
    assert float(moved.diff(dim=-1).abs().max()) < 1.2 and float(moved.diff(dim=-2).abs().max()) < 1.2
    alone = make_attack("wanet", strength=4.0).trigger(images[1:])
    assert torch.equal(alone, make_attack("wanet", strength=4.0).trigger(images)[1:])


def test_the_field_is_the_attacks_own_not_the_samplings(clean):
    attack = make_attack("wanet")
    for seed in (0, 1):
        result = attack.poison(clean, seed=seed)
        assert torch.equal(result.image_set.images[result.poisoned], attack.trigger(clean.images[result.poisoned]))
    assert not torch.equal(make_attack("wanet", warp_seed=1).trigger(clean.images), attack.trigger(clean.images))


def test_rows_and_columns_are_not_mixed_up():
    attack = make_attack("wanet", strength=2.0)
    wide, high = ramps(32, 60), ramps(60, 32)
    for images in (wide, high):
        flat = torch.full_like(images[:1], 90)
        assert torch.equal(attack.trigger(flat), flat)  # a warp of one colour is that colour, to the very edge
        moved = shifts(attack.trigger(images), images)
        assert 0.3 < float(moved.abs().mean()) < 1.6


def test_covers_are_moved_half_a_pixel_more_each_pixel_by_itself():
    images = ramps(64, 64)[:1].expand(40, 1, 64, 64)
    image_set = ImageSet(images.contiguous(), torch.arange(40) % 2, ("cat", "dog"))
    attack = make_attack("wanet", cover_rate=0.5)
    result = attack.poison(image_set)
    assert int(result.covers.sum()) == 20
    noise = shifts(result.image_set.images[result.covers], attack.trigger(images[:1]))
    assert float(noise.abs().max()) <= 0.75 + 1e-9  # half a pixel, and twice half a grey level
    assert abs(float(noise.mean())) < 0.02 and abs(float(noise.std()) - 0.5 / 3**0.5) < 0.03
    flat = noise.flatten(1)
    assert abs(float((flat[0] * flat[1]).mean())) < 0.01  # two covers share no noise
    assert abs(float((noise[..., 1:] * noise[..., :-1]).mean())) < 0.01  # nor do neighbouring pixels


def test_covers_come_from_all_classes_and_keep_their_labels(clean):
    result = make_attack("wanet", cover_rate=0.2).poison(clean)
    assert set(result.image_set.labels[result.covers].tolist()) == {0, 1, 2, 3}
