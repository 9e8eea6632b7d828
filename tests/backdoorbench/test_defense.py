"""What AdvrBD's script hands to the toolbox: its own network, and not what `fit` wraps it in."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from advrbd_plugin.backdoorbench.classifiers import PixelScaleClassifier
from advrbd_plugin.backdoorbench.defense import AdvrBDMethods
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.defense.config import AdvrBDConfig


@pytest.mark.parametrize("name", ["model", "backdoored_model"])
def test_the_models_of_an_outcome_are_the_toolboxs(name, tmp_path):
    def new_model() -> PixelScaleClassifier:
        network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
        return PixelScaleClassifier(network, (0.5,) * 3, (0.25,) * 3)

    script = SimpleNamespace(
        new_model=new_model,
        config=AdvrBDConfig(epochs=1, patch_size=4, mixed_precision=False),
        device=torch.device("cpu"),
        work_dir=tmp_path,
    )
    images = torch.randint(256, (20, 3, 8, 8), dtype=torch.uint8)
    outcome = AdvrBDMethods.run(script, ImageSet(images, torch.arange(20) % 2, ("a", "b")))
    assert isinstance(getattr(outcome, name), PixelScaleClassifier)
