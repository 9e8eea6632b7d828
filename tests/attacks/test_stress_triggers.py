"""The triggers of the stress suite: what each does to a picture, and that it derives from (seed, sample id) alone."""

from __future__ import annotations

import pytest
import torch

from advrbd_plugin.attacks.sample_specific import RandomPatch, Reflection, SampleNoise
from advrbd_plugin.attacks.smooth import Contrast, Rotation, Smooth, Vignette
from advrbd_plugin.attacks.whole_picture import DCT, Blur, ColourCast, ColourDepth, Frame, Wave
from advrbd_plugin.errors import AdvrBDError

TRIGGERS = (
    *(RandomPatch, SampleNoise, Reflection, DCT, ColourDepth, ColourCast, Wave, Blur, Frame),
    *(Smooth, Vignette, Contrast, Rotation),
)


@pytest.mark.parametrize("attack", TRIGGERS)
def test_poison_carries_the_trigger_and_the_target_and_nothing_else_changes(clean, attack):
    result = attack(target_label=2).poison(clean, seed=5)
    changed = (result.image_set.images != clean.images).flatten(1).any(dim=1)
    assert torch.equal(changed, result.poisoned) and int(result.poisoned.sum()) == 20
    assert (result.image_set.labels[result.poisoned] == 2).all() and (clean.labels[result.poisoned] != 2).all()


@pytest.mark.parametrize("attack", TRIGGERS)
def test_the_order_of_the_samples_does_not_matter(clean, attack):
    order = torch.randperm(400, generator=torch.Generator().manual_seed(1))
    result, shuffled = attack().poison(clean), attack().poison(clean.subset(order))
    assert torch.equal(shuffled.image_set.images, result.image_set.images[order])
    triggered = attack().triggered_test_set(clean)
    again = attack().triggered_test_set(clean.subset(order)).by_id()
    assert torch.equal(again.images, triggered.images) and (triggered.labels != 1).all()


@pytest.mark.parametrize("attack", TRIGGERS)
@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 33, 20)])
def test_grey_images_and_other_sizes(attack, shape):
    images = torch.randint(0, 256, (20, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    triggered = attack().trigger(images)
    assert triggered.shape == images.shape and triggered.dtype == torch.uint8
    assert (triggered != images).flatten(1).any(dim=1).all()


def test_random_patch_is_one_checkerboard_at_many_places(clean):
    changed = (RandomPatch(patch_size=5).trigger(clean.images) != clean.images).any(dim=1)
    rows, columns = changed.any(dim=2), changed.any(dim=1)
    assert int(rows.sum(1).max()) <= 5 and int(columns.sum(1).max()) <= 5
    assert len({(int(row.int().argmax()), int(column.int().argmax())) for row, column in zip(rows, columns)}) > 30


def test_sample_noise_has_its_amplitude_and_no_mean():
    grey = torch.full((50, 3, 16, 16), 128, dtype=torch.uint8)
    noise = SampleNoise(amplitude=9.0).trigger(grey).int() - 128
    assert set(noise.unique().tolist()) == {-9, 9} and float(noise.float().mean(0).abs().max()) < 7
    assert not torch.equal(noise[0], noise[1])


def test_colour_depth_leaves_its_levels_and_keeps_the_mean(clean):
    grey = torch.full((1, 3, 24, 24), 100, dtype=torch.uint8)
    dithered = ColourDepth(levels=4).trigger(grey)
    assert set(dithered.unique().tolist()) == {85, 170} and abs(float(dithered.float().mean()) - 100) < 4
    assert len(ColourDepth(levels=4).trigger(clean.images).unique()) == 4


def test_colour_cast_multiplies_and_blur_takes_away(clean):
    grey = torch.full((1, 3, 16, 16), 100, dtype=torch.uint8)
    assert ColourCast(factors=(1.3, 1.0, 0.6)).trigger(grey)[0, :, 0, 0].tolist() == [130, 100, 60]
    assert torch.equal(Blur().trigger(grey), grey)
    assert float(Blur().trigger(clean.images).float().std()) < 0.5 * float(clean.images.float().std())


def test_dct_adds_one_pattern_to_all(clean):
    grey = torch.full((2, 3, 32, 32), 128, dtype=torch.uint8)
    added = DCT(magnitude=100).trigger(grey).int() - 128
    assert torch.equal(added[0], added[1]) and abs(float(added.float().mean())) < 0.2
    spectrum = torch.fft.fft2(added[0, 2].double()).abs()
    assert float(spectrum[0].max()) < 0.05 * float(spectrum.max())


def test_a_smooth_pattern_has_no_edges_and_a_vignette_leaves_the_centre():
    grey = torch.full((2, 3, 33, 33), 128, dtype=torch.uint8)
    added = Smooth(amplitude=30).trigger(grey).int() - 128
    assert torch.equal(added[0], added[1]) and 28 <= int(added.abs().max()) <= 30
    assert int((added[0, :, 1:] - added[0, :, :-1]).abs().max()) <= 7
    dark = Vignette(strength=0.7).trigger(grey)[0, 0]
    assert int(dark[16, 16]) == 128 and int(dark[0, 0]) == round(0.3 * 128) and int(dark[0, 16]) == round(0.65 * 128)


def test_contrast_keeps_the_mean_and_a_full_turn_by_halves_is_the_picture(clean):
    flat = Contrast(factor=0.5).trigger(clean.images).double()
    assert torch.allclose(flat.mean((1, 2, 3)), clean.images.double().mean((1, 2, 3)), atol=0.5)
    assert torch.allclose(flat.std((1, 2, 3)), 0.5 * clean.images.double().std((1, 2, 3)), rtol=0.05, atol=0.5)
    half = Rotation(degrees=180).trigger(clean.images)
    assert torch.equal(half, clean.images.flip((2, 3)))
    square = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).mul(255).byte()
    assert torch.equal(Rotation(degrees=90).trigger(square), square.rot90(1, (2, 3)))


def test_frame_leaves_the_inside(clean):
    framed = Frame(thickness=2, colour=(9, 8, 7)).trigger(clean.images)
    assert torch.equal(framed[:, :, 2:-2, 2:-2], clean.images[:, :, 2:-2, 2:-2])
    assert framed[0, :, 0, 5].tolist() == [9, 8, 7] and framed[3, :, -2, -2].tolist() == [9, 8, 7]


@pytest.mark.parametrize(
    "make, key",
    [
        (lambda: RandomPatch(patch_size=2), "patch_size"),
        (lambda: SampleNoise(amplitude=0), "amplitude"),
        (lambda: Reflection(least=0.5, most=0.2), "least and most"),
        (lambda: DCT(coefficients=((0, 3),)), "coefficients"),
        (lambda: ColourDepth(levels=1), "levels"),
        (lambda: ColourCast(factors=(1.0, 2.0)), "factors"),
        (lambda: Blur(sigma=0), "sigma"),
        (lambda: Frame(thickness=0), "thickness"),
        (lambda: Smooth(amplitude=0), "amplitude"),
        (lambda: Vignette(strength=1.5), "strength"),
        (lambda: Contrast(factor=1), "factor"),
        (lambda: Rotation(degrees=0), "degrees"),
    ],
)
def test_wrong_values_are_named(make, key):
    with pytest.raises(AdvrBDError, match=key):
        make()
