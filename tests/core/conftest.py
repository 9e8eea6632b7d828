"""A small poisoned set that trains in seconds, and a network for it."""

from __future__ import annotations

import pytest

from advrbd_plugin.attacks import make_attack
from advrbd_plugin.config import AdvrBDConfig
from advrbd_plugin.data import load_digits
from advrbd_plugin.models import make_model


@pytest.fixture(scope="session")
def digits():
    """(train, test) of scikit-learn's digits."""
    return load_digits(seed=0)


@pytest.fixture(scope="session")
def poisoned_digits(digits):
    return make_attack("badnets", target_label=1, poison_ratio=0.05).poison(digits[0], seed=0)


@pytest.fixture
def make_digits_model():
    return lambda: make_model("resnet_narrow", num_classes=10, in_channels=1, image_size=16)


@pytest.fixture
def quick_config():
    """Few epochs: enough to go through every stage, not to learn well."""
    return AdvrBDConfig(
        epochs=2, relearn_epochs=1, enhancement_steps=3, crop_padding=1, flip=False, patch_size=8, num_masks=2
    )
