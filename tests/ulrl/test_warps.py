import pytest
import torch
from torch import nn

from advrbd_plugin.attacks import make_attack
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.ulrl import ULRL, ULRLConfig
from advrbd_plugin.ulrl.adversary import Adversary
from advrbd_plugin.ulrl.relearning import relearn
from advrbd_plugin.ulrl.warps import field_norm, random_fields, warp

SIDE = 8


def shift(x, y):
    """The field of one control point's worth everywhere: each pixel is taken from (x, y) pixels away."""
    return torch.tensor([x, y]).view(1, 2, 1, 1).expand(1, 2, 3, 3).contiguous()


def test_a_field_of_zeros_changes_nothing_and_a_whole_pixel_shifts():
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(warp(images, shift(0.0, 0.0)), images, atol=1e-5)
    shifted = warp(images, shift(1.0, 0.0))
    assert torch.allclose(shifted[..., :-1], images[..., 1:], atol=1e-5)
    assert torch.allclose(shifted[..., -1], images[..., -1], atol=1e-5)  # beyond the border lies the border
    assert torch.allclose(warp(images, shift(0.0, -2.0))[..., 2:, :], images[..., :-2, :], atol=1e-5)


def test_each_image_can_have_a_field_of_its_own():
    images = torch.rand(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    both = warp(images, torch.cat([shift(0.0, 0.0), shift(1.0, 0.0)]))
    assert torch.allclose(both[0], images[0], atol=1e-5)
    assert torch.allclose(both[1], warp(images[1:], shift(1.0, 0.0))[0])


def test_the_norm_is_that_of_components_of_one_size():
    assert float(torch.full((2, 5, 5), 0.7).norm()) == pytest.approx(field_norm(0.7, 5))
    fields = random_fields(200, 5, 0.7, seed=3)
    assert float(fields.square().mean().sqrt()) == pytest.approx(0.7, rel=0.05)
    assert torch.equal(fields, random_fields(200, 5, 0.7, seed=3))


def test_fields_of_wanet_s_kind_are_among_them():
    """WaNet's own field, seen at its control points, moves pixels as WaNet does."""
    attack = make_attack("wanet", target_label=1, strength=1.0, control_points=4)
    smooth = torch.linspace(0, 255, 32).view(1, 1, 1, 32).expand(1, 1, 32, 32).byte()
    grid = attack._grid(smooth)
    y, x = torch.meshgrid(*(torch.linspace(-1, 1, 32).double(),) * 2, indexing="ij")
    moved = (grid - torch.stack([x, y], dim=-1)) * 31 / 2  # in pixels
    corners = moved[:, [0, 31]][:, :, [0, 31]].permute(0, 3, 1, 2)
    assert 0.05 < float(corners.abs().mean()) < 1.5
    points = moved.permute(0, 3, 1, 2)
    field = nn.functional.interpolate(points, size=(6, 6), mode="bilinear", align_corners=True).float()
    ours = warp(smooth.float(), field)
    theirs = attack.trigger(smooth).float()
    assert (ours - theirs)[..., 2:-2, 2:-2].abs().mean() < 0.35 * (smooth.float() - theirs)[
        ..., 2:-2, 2:-2
    ].abs().mean()


class Warped(nn.Module):
    """Tells three labels by their brightness, and sees label 2 wherever stripes have lost their sharpness."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(2, 3)
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[-1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]))
            self.head.bias.copy_(torch.tensor([0.0, 6.0, 0.0]))

    def forward(self, images):
        brightness = 60 * (images.mean(dim=(1, 2, 3)) - 0.5)
        sharpness = (images[..., 1:] - images[..., :-1]).abs().mean(dim=(1, 2, 3))
        return self.head(torch.stack([brightness, 400 * (0.17 - sharpness).clamp_min(0)], dim=1))


@pytest.fixture
def striped_set():
    """Twelve images of stripes a pixel wide, of three brightnesses."""
    labels = torch.arange(12) % 3
    stripes = torch.tensor([-0.1, 0.1]).repeat(SIDE // 2).expand(12, 3, SIDE, SIDE)
    images = ((0.3 + 0.2 * labels).view(-1, 1, 1, 1) + stripes) * 255
    return ImageSet(images.round().byte(), labels, ("dark", "grey", "bright"))


def test_a_label_that_warps_lead_to_is_found_and_the_model_resists_them_afterwards(striped_set):
    config = ULRLConfig(
        batch_size=12,
        crop_padding=0,
        attraction=False,
        patterns=False,
        warp_points=3,
        mixed_precision=False,
        relearn_steps=40,
        relearn_learning_rate=0.1,
        unlearn_epochs=1,
    )
    model = Warped()
    inputs = striped_set.images.float() / 255
    assert torch.equal(model(inputs).argmax(1), striped_set.labels)
    result = ULRL(config).repair(model, striped_set)
    assert result.attacked_labels == (2,)
    assert float(result.evidence["warp"][2]) > 0.5
    assert "warps" in result.seconds
    warped = warp(inputs, 0.3 * torch.ones(1, 2, 3, 3))
    others = striped_set.labels != 2

    @torch.no_grad()
    def target_probability(model):
        return float(model(warped)[others].softmax(1)[:, 2].mean())

    assert target_probability(model) > 0.9
    assert target_probability(result.model) < 0.7  # over eight seeds 0.09 to 0.44


def test_relearning_follows_known_warps(striped_set):
    config = ULRLConfig(batch_size=12, crop_padding=0, relearn_steps=3, warp_points=3, mixed_precision=False)
    known = random_fields(2, 3, 0.5, seed=0)
    states = [
        relearn(
            Warped(), striped_set, (), config, adversaries=(Adversary((2,), warped=True, known=each),)
        ).model.head.weight
        for each in (None, known, known)
    ]
    assert not torch.equal(states[0], states[1]) and torch.equal(states[1], states[2])


def test_warps_are_searched_beside_another_finding(striped_set):
    """At a threshold of 0 attraction suspects labels; the search by warps runs all the same."""
    config = ULRLConfig(
        batch_size=12,
        crop_padding=0,
        attraction_threshold=0.0,
        attraction_steps=1,
        patterns=False,
        warp_points=3,
        mixed_precision=False,
        relearn_steps=40,
        relearn_learning_rate=0.1,
        unlearn_epochs=1,
    )
    model = Warped()
    result = ULRL(config).repair(model, striped_set)
    assert list(result.evidence) == ["attraction", "warp"] and 2 in result.attacked_labels
    warped = warp(striped_set.images.float() / 255, 0.3 * torch.ones(1, 2, 3, 3))[striped_set.labels != 2]
    with torch.no_grad():
        assert model(warped).softmax(1)[:, 2].mean() > 0.9
        assert result.model(warped).softmax(1)[:, 2].mean() < 0.7  # over eight seeds 0.05 to 0.49
