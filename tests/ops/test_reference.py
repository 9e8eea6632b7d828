"""The meaning of the ops, by tables worked by hand and by published values."""

import math

import pytest
import torch

from advrbd_plugin.ops import reference


def words(*values: int) -> list[torch.Tensor]:
    return [torch.tensor([value]) for value in values]


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        # Known answers published with Random123 (kat_vectors, philox4x32 10).
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_words(counter, key, expected):
    assert tuple(int(word) for word in reference.philox4x32_10(words(*counter), key)) == expected


def test_origin_is_the_scaled_philox_word():
    # Seed 0, sample 0, mask 0: words 0x6627E8D5, 0xE169C58D. Of 3 positions: 0.399 * 3 -> 1, 0.880 * 3 -> 2.
    origins = reference.patch_origins(torch.tensor([0]), 4, 4, 2)
    assert origins.tolist() == [[[1, 2]]]


def test_uniform_integers_are_scaled_philox_words():
    # The same words: 0.399 * 10 -> 3, 0.880 * 10 -> 8.
    assert reference.philox_uniform(torch.tensor([0]), 10).tolist() == [[3, 8]]


def test_perturb_of_a_4x4_image_by_hand():
    images = torch.tensor([[0.0, 0.1, 0.2, 0.3], [0.4, 0.5, 0.6, 0.7], [0.8, 0.9, 1.0, 0.9], [0.5, 0.5, 0.5, 0.5]])
    grad = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, -2.0, 3.0], [1.0, 1.0, 5.0, -0.1], [1.0, 1.0, 0.0, math.nan]])
    # The patch of side 2 at row 1, column 2 (test above): 0.6 - 0.25, 0.7 + 0.25, 1.0 + 0.25 clamped, 0.9 - 0.25.
    expected = images.clone()
    expected[1:3, 2:4] = torch.tensor([[0.35, 0.95], [1.0, 0.65]])
    perturbed = reference.perturb(images[None, None], grad[None, None], epsilon=[0.25], patch_size=2)
    torch.testing.assert_close(perturbed[0, 0, 0], expected)


def test_sign_of_zero_and_of_nan_make_no_step():
    images = torch.full((1, 1, 2, 2), 0.5)
    images[0, 0, 1, 1] = math.nan
    grad = torch.tensor([[[[0.0, math.nan], [-0.0, 1.0]]]])
    perturbed = reference.perturb(images, grad, epsilon=[0.25], patch_size=2)[0]
    torch.testing.assert_close(perturbed, images, rtol=0, atol=0, equal_nan=True)


def test_kl_divergence_by_hand():
    logits = torch.tensor([[0.75, 0.25]]).log()
    perturbed = torch.tensor([[[0.5, 0.5]], [[0.75, 0.25]]]).log() + 3.0
    expected = [[0.75 * math.log(1.5) + 0.25 * math.log(0.5)], [0.0]]
    torch.testing.assert_close(reference.kl_divergence(logits, perturbed), torch.tensor(expected))


def test_origins_cover_all_positions_evenly():
    origins = reference.patch_origins(torch.arange(20_000), 7, 9, 4, 2, seed=3)
    counts = torch.bincount(origins[..., 0].flatten() * 6 + origins[..., 1].flatten(), minlength=24)
    expected = 40_000 / 24
    chi_square = ((counts - expected) ** 2 / expected).sum().item()
    assert chi_square < 49.7  # 23 degrees of freedom, one in a thousand
    assert counts.shape == (24,)


@pytest.mark.parametrize("seed", [1 << 32, 1 << 63, -1])
def test_every_bit_of_seed_and_sample_id_counts(seed):
    ids = torch.arange(64)
    base = reference.patch_origins(ids, 32, 32, 8)
    assert not torch.equal(base, reference.patch_origins(ids, 32, 32, 8, seed=seed))
    assert not torch.equal(base, reference.patch_origins(ids + (1 << 40), 32, 32, 8))


def test_the_arithmetic_of_the_kernels_is_that_of_the_reference():
    arithmetic = pytest.importorskip("advrbd_plugin._C", reason="a build in place makes this module: pip install -e .")
    for sample_id, seed in ((0, 0), (2**40 + 7, 11), (-1, 2**63)):
        key = seed & 0xFFFFFFFF, seed >> 32
        counter = words(sample_id & 0xFFFFFFFF, sample_id >> 32 & 0xFFFFFFFF, 3, 0)
        expected = tuple(int(word) for word in reference.philox4x32_10(counter, key))
        assert arithmetic.philox(seed, sample_id, 3) == expected
        origins = reference.patch_origins(torch.tensor([sample_id]), 9, 12, 5, 4, seed - 2**64 if seed >> 63 else seed)
        assert arithmetic.patch_origin(seed, sample_id, 3, 5, 8) == tuple(origins[3, 0].tolist())
    assert arithmetic.sign_step(0.5, -2.0, 0.25) == 0.25
    assert arithmetic.sign_step(0.9, 2.0, 0.25) == 1.0
    assert arithmetic.sign_step(0.5, math.nan, 0.25) == 0.5
    with pytest.raises(ValueError, match="rows and columns must be at least 1"):
        arithmetic.patch_origin(0, 0, 0, 0, 5)
