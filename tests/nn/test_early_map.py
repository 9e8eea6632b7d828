"""The early feature map: where it is, its moments, and what the model says once it is changed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from advrbd_plugin.nn.early_map import EarlyMap, Moments
from advrbd_plugin.nn.models import make_model


def pictures(count=6, side=16):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


class Twice(nn.Module):
    """One ReLU serves two places of the first resolution and one of the second."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 5, 3, padding=1)
        self.halve, self.last, self.relu = nn.Conv2d(5, 8, 3, 2, 1), nn.Linear(8, 4), nn.ReLU()

    def forward(self, x):
        self.early = self.relu(self.second(self.relu(self.first(x))))
        return self.last(self.relu(self.halve(self.early)).mean((2, 3)))


def early_of(model):
    return EarlyMap(model, pictures(1), mixed_precision=False)


def test_the_map_is_the_last_of_the_first_resolution_even_where_one_module_serves_several_places():
    model = Twice().eval()
    early = early_of(model)
    seen = []
    early.logits(pictures(), lambda maps: seen.append(maps) or maps)
    with torch.no_grad():
        model(pictures())
    assert len(seen) == 1 and torch.allclose(seen[0], model.early, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet_narrow", "resnet18", "preactresnet18", "mobilenet_v2"])
def test_networks_have_one_and_say_the_same_where_it_is_left_as_it_is(name):
    model = make_model(name, num_classes=4).eval()
    early = early_of(model)
    assert early.exists
    with torch.no_grad():
        assert torch.allclose(early.logits(pictures(), lambda maps: maps), model(pictures()), atol=1e-5)
    assert not any(module._forward_hooks for module in model.modules())


def test_moments_are_those_of_all_pictures_and_turn_one_style_into_another():
    model = Twice().eval()
    early, dark, bright = early_of(model), pictures() * 0.3, pictures()
    with torch.no_grad():
        model(bright)
    found, wanted = early.moments(bright), model.early
    assert torch.allclose(found.mean, wanted.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(found.spread, wanted.std((0, 2, 3), correction=0), atol=1e-5)
    each = early.moments_of_each(bright)
    assert torch.allclose(each[:, :5], wanted.mean((2, 3)), atol=1e-5) and each.shape == (6, 10)
    turned, change = [], early.moments(dark).turned_into(found)
    early.logits(dark, lambda maps: turned.append(change(maps)) or maps)
    alive = early.moments(dark).spread > 1e-3  # a channel that is 0 everywhere has nothing to be turned
    assert alive.sum() >= 2
    assert torch.allclose(turned[0].mean((0, 2, 3))[alive], found.mean[alive], atol=1e-4)
    assert torch.allclose(turned[0].std((0, 2, 3), correction=0)[alive], found.spread[alive], atol=1e-4)


def test_a_changed_map_changes_the_answer_and_a_later_one_is_as_before():
    early, nothing = early_of(Twice()), lambda maps: maps * 0
    before = early.predict(pictures())
    assert len(early.logits(pictures(), nothing).unique(dim=0)) == 1
    assert torch.equal(early.predict(pictures()), before)
    assert early.predict(pictures(0)).shape == (0,)


def test_a_model_without_maps_has_none_and_a_channel_without_spread_divides_by_none():
    assert not early_of(nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4))).exists
    flat = Moments(torch.zeros(2), torch.full((2,), 1e-5))
    assert torch.isfinite(flat.turned_into(Moments(torch.ones(2), torch.ones(2)))(torch.zeros(1, 2, 3, 3))).all()
