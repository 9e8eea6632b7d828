"""The networks by name."""

import pytest
import torch

from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.nn.models import make_model


@pytest.mark.parametrize("name", ["resnet_narrow", "resnet18", "resnet34", "preactresnet18", "mobilenet_v2"])
@pytest.mark.parametrize(("channels", "size"), [(1, 16), (3, 32), (3, 96)])
def test_every_model_takes_every_kind_of_image(name, channels, size):
    model = make_model(name, num_classes=7, in_channels=channels, image_size=size, mean=[0.4] * channels).eval()
    with torch.no_grad():
        assert model(torch.rand(2, channels, size, size)).shape == (2, 7)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [({"name": "vgg"}, "model must be one of"), ({"name": "resnet18", "mean": [0.5]}, "mean must have one value")],
)
def test_unknown_models_are_refused(arguments, line):
    with pytest.raises(AdvrBDError, match=line):
        make_model(**{"num_classes": 2} | arguments)
