from __future__ import annotations

import pytest
import torch

from advrbd_plugin.data import ImageSet


@pytest.fixture(scope="module")
def clean():
    """400 images of noise, 12 pixels high and 16 wide, in four classes."""
    generator = torch.Generator().manual_seed(0)
    return ImageSet(
        images=torch.randint(0, 256, (400, 3, 12, 16), dtype=torch.uint8, generator=generator),
        labels=torch.arange(400) % 4,
        class_names=("ant", "bee", "cat", "dog"),
        sample_ids=torch.arange(400) * 7 + 3,
    )
