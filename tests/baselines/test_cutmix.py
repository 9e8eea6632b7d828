"""CutMix: the box and the weights of the labels by hand, and that a training depends on the seed alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from advrbd_plugin.baselines import CutMixConfig, train_cutmix
from advrbd_plugin.baselines.cutmix import box, mix_batch
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.errors import AdvrBDError


@pytest.mark.parametrize(
    ("share", "centre", "edges"),
    [
        (0.75, (4, 4), (2, 6, 2, 6)),  # half the side of 8 pixels, round the middle
        (0.75, (0, 7), (0, 2, 5, 8)),  # cut off at the top and at the right
        (1.0, (4, 4), (4, 4, 4, 4)),  # nothing is cut out
        (0.0, (4, 4), (0, 8, 0, 8)),  # everything is
    ],
)
def test_the_box(share, centre, edges):
    assert box(share, centre, 8, 8) == edges


def test_the_box_of_a_picture_that_is_no_square():
    assert box(0.75, (4, 8), 8, 16) == (2, 6, 4, 12)


def plain(count, *, size=8):
    """Pictures of one brightness each, so that a pixel tells which picture it comes from."""
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(count, 3, size, size).contiguous()
    return images, torch.arange(count) % 3, torch.arange(count) + 100


@pytest.mark.parametrize("epoch", range(5))
def test_labels_weigh_what_their_pictures_fill(epoch):
    images, labels, ids = plain(12)
    mixed, targets = mix_batch(images, labels, ids, epoch, config=CutMixConfig(), num_classes=3)
    for row in range(12):
        expected = torch.zeros(3)
        for pixel in mixed[row, 0].flatten().tolist():
            expected[pixel % 3] += 1 / 64
        torch.testing.assert_close(targets[row], expected)
    assert torch.equal(mixed[:, 0], mixed[:, 2])


def test_mixing_follows_seed_epoch_and_samples():
    images, labels, ids = plain(12)

    def mixed(epoch=0, seed=0):
        return mix_batch(images, labels, ids, epoch, config=CutMixConfig(seed=seed), num_classes=3)[0]

    assert torch.equal(mixed(), mixed())
    assert len({tuple(mixed(epoch=epoch).flatten().tolist()) for epoch in range(4)}) > 1
    assert len({tuple(mixed(seed=seed).flatten().tolist()) for seed in range(4)}) > 1


def test_probability_zero_mixes_nothing():
    images, labels, ids = plain(6)
    same, targets = mix_batch(images, labels, ids, 0, config=CutMixConfig(probability=0.0), num_classes=3)
    assert torch.equal(same, images) and torch.equal(targets.argmax(1), labels) and bool((targets.sum(1) == 1).all())


def small_set():
    images = torch.randint(0, 256, (24, 3, 8, 8), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    return ImageSet(images, torch.arange(24) % 2, ("a", "b"))


def small_model():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 2))


QUICK = CutMixConfig(epochs=2, batch_size=8, learning_rate=0.05)


def test_the_same_seed_gives_the_same_model():
    def weights(seed):
        return train_cutmix(
            small_set(), make_model=small_model, config=QUICK.replace(start="scratch", seed=seed), device="cpu"
        ).model[1].weight  # fmt: skip

    assert torch.equal(weights(0), weights(0)) and not torch.equal(weights(0), weights(1))


def test_a_repair_starts_from_the_attacked_model_and_does_not_change_it():
    attacked = small_model()
    before = attacked[1].weight.detach().clone()
    result = train_cutmix(small_set(), attacked_model=attacked, config=QUICK.replace(learning_rate=1e-8), device="cpu")
    assert torch.equal(attacked[1].weight, before)
    torch.testing.assert_close(result.model[1].weight, before, atol=1e-5, rtol=0)
    assert [row["epoch"] for row in result.rows] == [1, 2] and not result.model.training


def test_a_finished_training_is_loaded(tmp_path):
    attacked = small_model()
    first, second = (
        train_cutmix(small_set(), attacked_model=attacked, config=QUICK, device="cpu", work_dir=tmp_path)
        for _ in range(2)
    )
    assert torch.equal(first.model[1].weight, second.model[1].weight) and first.rows == second.rows
    assert [path.name.split("-")[0] for path in tmp_path.iterdir()] == ["cutmix"]  # nothing unfinished
    assert "unfinished" not in next(tmp_path.iterdir()).name


def test_a_model_with_other_outputs_is_refused():
    with pytest.raises(AdvrBDError, match=r"gives outputs of shape \(1, 3\) for one picture; 2 classes need \(1, 2\)"):
        train_cutmix(small_set(), attacked_model=nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), device="cpu")


def test_what_start_needs_must_be_given():
    with pytest.raises(AdvrBDError, match="needs the attacked model"):
        train_cutmix(small_set(), make_model=small_model)
    with pytest.raises(AdvrBDError, match="needs make_model"):
        train_cutmix(small_set(), attacked_model=small_model(), config=CutMixConfig.preset("scratch"))


def test_the_presets():
    assert CutMixConfig.preset("repair") == CutMixConfig()
    assert CutMixConfig.preset("scratch") == CutMixConfig(start="scratch")
