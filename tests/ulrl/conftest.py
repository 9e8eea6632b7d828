"""A small network, a handful of clean samples, and settings that go through every stage in a second."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.ulrl import ULRLConfig


@pytest.fixture
def clean_set():
    """Twelve images of three classes, which their brightness tells apart."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(12) % 3
    images = torch.randint(0, 40, (12, 3, 8, 8), generator=generator, dtype=torch.uint8)
    images += (80 * labels).to(torch.uint8).view(-1, 1, 1, 1)
    return ImageSet(images, labels, ("dark", "grey", "bright"))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    ).eval()


@pytest.fixture
def quick_config():
    return ULRLConfig(
        batch_size=4,
        crop_padding=1,
        unlearn_epochs=2,
        unlearn_accuracy=0.0,
        attraction_steps=2,
        relearn_epochs=2,
        adversary_count=2,
        mixed_precision=False,
    )
