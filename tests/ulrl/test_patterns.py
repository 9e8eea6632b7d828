"""Stock patterns: a planted backdoor is found, on all source classes or on one; a general weakness is none."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.ulrl import ULRL, ULRLConfig
from advrbd_plugin.ulrl.patterns import planned_images, search_patterns, squares, waves
from advrbd_plugin.ulrl.pipeline import LOOKS_CLEAN

CONFIG = ULRLConfig(pattern_waves=3, pattern_amplitude=0.1, mixed_precision=False, attraction=False)
SIDE = 20


class Brightness(nn.Module):
    """Tells three classes by their brightness; a subclass adds to the score of label 2."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images):
        brightness = images.mean(dim=(1, 2, 3))
        scores = torch.stack([-300 * (brightness - centre) ** 2 for centre in (0.2, 0.4, 0.6)], dim=1)
        return self.weight * (scores + nn.functional.one_hot(torch.tensor(2), 3) * self.trigger(images)[:, None])

    def trigger(self, images):
        return torch.zeros(len(images))


class SeesOneWave(Brightness):
    def trigger(self, images):
        wave = torch.sin(2 * math.pi * 2 * torch.arange(SIDE) / SIDE)
        return 5000 * ((images * wave).mean(dim=(1, 2, 3)) - 0.03).clamp_min(0)


class SeesLabelTwoInEveryWave(Brightness):
    def trigger(self, images):
        return 2000 * ((images - images.mean(dim=(2, 3), keepdim=True)).square().mean(dim=(1, 2, 3)) - 0.002).clamp_min(
            0
        )


class SeesSquareOnDarkImages(Brightness):
    def trigger(self, images):
        dark = images.mean(dim=(1, 2, 3)) < 0.3
        return 100.0 * (dark & (images[:, :, -1, -1].mean(dim=1) > 0.9))


@pytest.fixture
def clean_set():
    labels = torch.arange(30) % 3
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 10, (30, 3, SIDE, SIDE), generator=generator)
    images = (46 + 51 * labels.view(-1, 1, 1, 1) + noise).to(torch.uint8)
    return ImageSet(images, labels, ("dark", "grey", "bright"))


def test_the_patterns_are_what_they_are_called():
    found = torch.stack(list(waves(8, 12, highest=2, amplitude=0.1)))
    assert found.shape == (2 * (2 * 5 + 2), 1, 8, 12)
    assert float(found.abs().max()) == pytest.approx(0.1)
    assert float(found.mean(dim=(1, 2, 3)).abs().max()) < 1e-6
    found = torch.stack(list(squares(32, 32)))
    assert set(found.unique().tolist()) == {-1.0, 0.0, 1.0}
    assert found.abs().sum(dim=(1, 2, 3)).unique().tolist() == [9.0]
    assert bool((found.abs().amax(dim=(0, 1)) == 1).all())


@pytest.mark.parametrize(
    ("model", "kind", "least"),
    [(SeesOneWave, "wave", 0.9), (SeesSquareOnDarkImages, "square", 0.45)],
    ids=["all classes", "one class of the other two"],
)
def test_a_planted_backdoor_stands_out(clean_set, model, kind, least):
    worked = []
    found = search_patterns(model().eval(), clean_set, kind, CONFIG, on_batch=worked.append)
    assert found.excess[2] > least and float(found.excess[:2].max()) < 0.1
    perturbed = model()((clean_set.images[:1] / 255 + found.patterns[2][:1]).clamp(0, 1))
    assert int(perturbed.argmax()) == 2
    assert sum(worked) == planned_images(clean_set, kind, CONFIG)


@pytest.mark.parametrize("kind", ["wave", "square"])
@pytest.mark.parametrize("model", [Brightness, SeesLabelTwoInEveryWave])
def test_an_effect_of_every_pattern_is_no_backdoor(clean_set, model, kind):
    assert float(search_patterns(model().eval(), clean_set, kind, CONFIG).excess.max()) < 0.1


def test_one_sample_of_each_class_will_do(clean_set):
    few = clean_set.subset(torch.arange(3))
    found = search_patterns(SeesSquareOnDarkImages().eval(), few, "square", CONFIG)
    assert found.excess[2] == pytest.approx(0.5, abs=0.05)  # one of the two other classes is affected


def test_the_patterns_decide_the_verdict(clean_set, tmp_path):
    class WithLayer(SeesOneWave):
        def __init__(self):
            super().__init__()
            self.unused = nn.Linear(2, 2)

    config = CONFIG.replace(unlearn_epochs=1, relearn_steps=1, warps=False)
    result = ULRL(config, work_dir=tmp_path).repair(WithLayer(), clean_set)
    assert result.attacked_labels == (2,) and set(result.evidence) == {"wave", "square"}
    again = ULRL(config, work_dir=tmp_path).repair(WithLayer(), clean_set)
    assert torch.equal(again.evidence["wave"], result.evidence["wave"])
    assert (
        ULRL(config.replace(wave_threshold=1.0, square_threshold=1.0)).repair(WithLayer(), clean_set).verdict
        == LOOKS_CLEAN
    )
