"""The label-consistent attack's images: how far they may move, that they do, and what is said when they cannot."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from advrbd_plugin.backdoorbench.label_consistent import push_away, write_images
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.models import make_model


def test_images_move_away_from_their_labels_within_epsilon():
    torch.manual_seed(0)
    model = make_model("resnet_narrow", num_classes=3, image_size=8).eval()
    images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    labels = torch.tensor([0, 1, 2, 0, 1])
    pushed = push_away(model, images, labels, epsilon=8 / 255, step_size=2 / 255, steps=6, batch_size=2)
    assert pushed.shape == images.shape and pushed.dtype == torch.uint8
    assert 0 < (pushed.int() - images.int()).abs().max() <= 8
    with torch.no_grad():
        before, after = (functional.cross_entropy(model(part.float() / 255), labels) for part in (images, pushed))
    assert after > before


@pytest.mark.parametrize(
    "changes, said",
    [
        ({}, "holds no clean_model.pth: train a clean model first"),
        ({"steps": 0}, "--steps at least 1"),
        ({"epsilon": 2.0}, r"--epsilon and --step_size must be in \(0, 255\]"),
    ],
)
def test_mistakes(fake_checkout, changes, said):
    with pytest.raises(AdvrBDError, match=said):
        write_images(fake_checkout, "prototype", **changes)
