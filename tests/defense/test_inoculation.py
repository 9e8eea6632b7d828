"""Triggers put into clean pictures while the clean model learns again."""

import torch

from advrbd_plugin.defense.inoculation import Inoculation

LABELS = torch.tensor([0, 1, 2]).repeat(1000)
IDS = torch.arange(3000)
PICTURES = torch.full((3000, 1, 2, 2), 100, dtype=torch.uint8)
CORNER = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])


def inoculate(patterns, *, epoch=0, seed=0, rows=slice(None)):
    mix = Inoculation(patterns, seed, torch.device("cpu"))
    return mix(PICTURES[rows], LABELS[rows], IDS[rows], epoch)


def test_a_tenth_of_each_classes_pictures_get_the_trigger_and_keep_their_labels():
    images, labels = inoculate({1: CORNER})
    changed = images[:, 0, 0, 0] == 255
    assert torch.equal(labels, LABELS)
    for label in range(3):
        assert 0.06 < changed[label == LABELS].double().mean() < 0.14
    assert (images.flatten(1)[:, 1:] == 100).all()


def test_several_triggers_share_the_pictures():
    images, _ = inoculate({0: CORNER, 2: -CORNER})
    bright, dark = images[:, 0, 0, 0] == 255, images[:, 0, 0, 0] == 0
    assert 0.03 < bright.double().mean() < 0.07 and 0.03 < dark.double().mean() < 0.07


def test_the_lot_depends_on_the_sample_and_the_epoch_and_not_on_the_batch():
    whole, _ = inoculate({1: CORNER})
    part, _ = inoculate({1: CORNER}, rows=slice(700, 900))
    assert torch.equal(part, whole[700:900])
    assert not torch.equal(inoculate({1: CORNER}, epoch=1)[0], whole)
    assert not torch.equal(inoculate({1: CORNER}, seed=1)[0], whole)
