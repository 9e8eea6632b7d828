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


def test_a_tenth_of_the_other_classes_pictures_get_the_trigger_and_keep_their_labels():
    images, labels = inoculate({1: CORNER})
    changed = images[:, 0, 0, 0] == 255
    assert torch.equal(labels, LABELS)
    assert not changed[LABELS == 1].any()
    assert 0.07 < changed[LABELS != 1].double().mean() < 0.13
    assert (images.flatten(1)[:, 1:] == 100).all()


def test_each_attacked_class_has_its_trigger_in_the_others_pictures():
    images, _ = inoculate({0: CORNER, 2: -CORNER})
    bright, dark = images[:, 0, 0, 0] == 255, images[:, 0, 0, 0] == 0
    assert bright.any() and dark.any()
    assert not bright[LABELS == 0].any() and not dark[LABELS == 2].any()
    assert (bright & (LABELS == 2)).any() and (dark & (LABELS == 0)).any()


def test_the_lot_depends_on_the_sample_and_the_epoch_and_not_on_the_batch():
    whole, _ = inoculate({1: CORNER})
    part, _ = inoculate({1: CORNER}, rows=slice(700, 900))
    assert torch.equal(part, whole[700:900])
    assert not torch.equal(inoculate({1: CORNER}, epoch=1)[0], whole)
    assert not torch.equal(inoculate({1: CORNER}, seed=1)[0], whole)
