"""What a network sees in an image, and its log-odds."""

import pytest
import torch

from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.nn.features import layered_features, penultimate_features
from advrbd_plugin.nn.inference import log_odds
from advrbd_plugin.nn.models import make_model


def test_features_are_what_the_last_linear_layer_gets(poisoned_digits, make_digits_model):
    model, images = make_digits_model(), poisoned_digits.image_set.images[:7]
    features, logits = penultimate_features(model, images, mixed_precision=False)
    torch.testing.assert_close(model[1][-1](features), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("network", ["resnet_narrow", "resnet18", "preactresnet18", "mobilenet_v2"])
def test_layered_features_add_two_earlier_layers(network):
    torch.manual_seed(0)
    model = make_model(network, num_classes=3).eval()
    images = torch.randint(0, 256, (9, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batches = []
    together, logits = layered_features(model, images, mixed_precision=False, on_batch=batches.append)
    last, same_logits = penultimate_features(model, images, mixed_precision=False)
    torch.testing.assert_close(logits, same_logits)
    assert sum(batches) == 9 and len(together) == 9 and together.shape[1] > last.shape[1]
    spread = last.std(dim=0, correction=0).mean()
    torch.testing.assert_close(together[:, -last.shape[1] :], (last - last.mean(dim=0)) / spread, rtol=1e-3, atol=1e-3)
    assert not any(module._forward_hooks for module in model.modules())


def test_layered_features_are_the_pooled_maps_of_the_stages_before_the_last():
    torch.manual_seed(0)
    model = make_model("resnet_narrow", num_classes=3).eval()
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    together, _ = layered_features(model, images, mixed_precision=False)
    with torch.no_grad():
        second = model[1][:5](model[0](images.float() / 255)).mean(dim=(2, 3))
    expected = (second - second.mean(dim=0)) / second.std(dim=0, correction=0).mean()
    assert together.shape[1] == 32 + 64 + 128
    torch.testing.assert_close(together[:, :32], expected, rtol=1e-3, atol=1e-3)


def test_a_model_without_feature_maps_gives_its_last_features_alone():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
    together, _ = layered_features(model, torch.zeros(4, 3, 2, 2, dtype=torch.uint8))
    assert together.shape == (4, 5)


def test_features_need_a_linear_layer():
    with pytest.raises(AdvrBDError, match="no linear layer"):
        penultimate_features(torch.nn.Conv2d(1, 2, 1), torch.zeros(1, 1, 4, 4, dtype=torch.uint8))


def test_log_odds_stay_exact_where_probabilities_round_to_one():
    logits = torch.tensor([[100.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(log_odds(logits, torch.tensor([0, 1])), torch.tensor([100 - 0.693147, -0.693147]))
