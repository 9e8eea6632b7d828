"""SCAn on features made by hand, and SCAnFT on a model whose backdoor is known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from advrbd_plugin.baselines import ScanConfig, SCAnFTConfig, scan, scanft
from advrbd_plugin.baselines.covariances import estimate_covariances
from advrbd_plugin.baselines.groups import find_split
from advrbd_plugin.baselines.scan import anomaly_index
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.errors import AdvrBDError

LABELS, PER_LABEL, SIZE = 10, 60, 6


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def identities():
    return 3 * normal(LABELS, SIZE, seed=0)


def samples(seed, *, per_label=PER_LABEL):
    """Features about the labels' identities, with a variation that differs between the directions."""
    labels = torch.arange(LABELS).repeat_interleave(per_label)
    spread = torch.tensor([0.5, 1.0, 1.5, 0.5, 1.0, 0.7], dtype=torch.float64)
    return identities()[labels] + spread * normal(len(labels), SIZE, seed=seed), labels


def planted(seed, *, label=4, source=7, count=15):
    """The same with ``count`` samples of one label that look like another label's."""
    features, labels = samples(seed)
    poisoned = torch.zeros(len(labels), dtype=torch.bool)
    poisoned[(labels == label).nonzero().flatten()[:count]] = True
    features[poisoned] += identities()[source] - identities()[label]
    return features, labels, poisoned


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_label_with_two_groups_is_suspected_and_its_smaller_group_is_found(seed):
    features, labels, poisoned = planted(seed)
    clean, clean_labels = samples(100 + seed, per_label=10)
    found = scan(features, labels, clean, clean_labels, num_classes=LABELS)
    assert found.suspected_classes == (4,)
    assert float(found.poisoned[poisoned].double().mean()) > 0.95
    assert float(found.poisoned[~poisoned].double().mean()) < 0.01
    assert torch.equal(found.poisoned, found.score > 0.5)


def test_more_poison_than_clean_samples_is_still_poison():
    features, labels, poisoned = planted(1, count=40)
    clean, clean_labels = samples(101, per_label=10)
    found = scan(features, labels, clean, clean_labels, num_classes=LABELS)
    assert found.suspected_classes == (4,)
    assert float(found.poisoned[poisoned].double().mean()) > 0.95


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_labels_of_one_group_are_not_suspected(seed):
    features, labels = samples(seed)
    clean, clean_labels = samples(100 + seed, per_label=10)
    found = scan(features, labels, clean, clean_labels, num_classes=LABELS)
    assert found.suspected_classes == () and not bool(found.poisoned.any()) and float(found.score.max()) == 0


def test_the_covariances_are_estimated():
    features, labels = samples(5, per_label=400)
    found = estimate_covariances(features, labels, iterations=100, tolerance=1e-5, ridge=0.0)
    spread = torch.tensor([0.5, 1.0, 1.5, 0.5, 1.0, 0.7], dtype=torch.float64)
    torch.testing.assert_close(found.variation, torch.diag(spread.square()), atol=0.1, rtol=0.1)
    centred = identities() - identities().mean(dim=0)
    torch.testing.assert_close(found.identity, centred.T @ centred / LABELS, atol=0.5, rtol=0.05)


def test_the_split_is_measured_in_the_shared_covariance():
    """Wide but meaningless in one direction, narrow but split in the other."""
    wide = torch.linspace(-10, 10, 40, dtype=torch.float64)
    narrow = torch.where(torch.arange(40) % 4 == 0, 1.0, -1.0).double()
    features = torch.stack([wide, narrow], dim=1)
    precision = torch.diag(torch.tensor([0.01, 100.0], dtype=torch.float64))
    second = find_split(features, precision, starts=4, iterations=100).second
    assert set(second.nonzero().flatten().tolist()) in (set(range(0, 40, 4)), set(range(40)) - set(range(0, 40, 4)))


def test_anomaly_by_hand():
    statistic = torch.tensor([1.0, 2.0, 3.0, 4.0, 103.0, 7.0], dtype=torch.float64)
    tested = torch.tensor([True, True, True, True, True, False])
    index = anomaly_index(statistic, tested)  # median 3, median deviation 1
    assert float(index[4]) == pytest.approx(100 / 1.4826) and float(index[0]) == pytest.approx(-2 / 1.4826)
    assert float(index[5]) == -torch.inf


def test_too_few_clean_samples_are_refused():
    features, labels = samples(1)
    with pytest.raises(AdvrBDError, match="at least two of each of two labels, got 3 of 3 labels"):
        scan(features, labels, features[:3], torch.tensor([0, 1, 2]), num_classes=LABELS)


class Reader(nn.Module):
    """Takes six brightnesses as features and answers with the nearest identity, whatever the picture's size."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(SIZE, LABELS)
        with torch.no_grad():
            self.linear.weight.copy_(identities())
            self.linear.bias.copy_(-identities().square().sum(dim=1) / 2)

    def forward(self, images):
        return 0.1 * self.linear((images.flatten(1)[:, :SIZE] - 0.5) * 40)


def as_images(features, labels):
    pixels = ((features / 40 + 0.5) * 255).round().clamp(0, 255).byte()
    images = torch.zeros(len(labels), 1, 2, 3, dtype=torch.uint8)
    images.view(len(labels), -1)[:] = pixels
    return ImageSet(images, labels, tuple(str(label) for label in range(LABELS)))


QUICK = SCAnFTConfig(
    unlearn_learning_rate=2.0,
    unlearn_epochs=5,
    crop_padding=0,
    flip=False,
    epochs=1,
    learning_rate=1e-4,
    mixed_precision=False,
)


def test_scanft_unlearns_what_it_finds_and_leaves_the_attacked_model_alone():
    features, labels, poisoned = planted(1)
    clean, clean_labels = samples(101, per_label=10)
    attacked = Reader()
    with torch.no_grad():  # the model calls everything that looks like label 7 label 4
        attacked.linear.bias[4] += (identities()[7] - identities()[4]).square().sum() / 2 + 20
    before = attacked.linear.bias.detach().clone()
    train_set = as_images(features, labels)
    result = scanft(attacked, train_set, as_images(clean, clean_labels), config=QUICK)
    assert result.detection.suspected_classes == (4,)
    assert float(result.verdicts.poisoned[poisoned].double().mean()) > 0.9
    assert torch.equal(attacked.linear.bias, before) and set(result.curves) == {"unlearning", "fine-tuning"}
    rows = result.curves["unlearning"]
    assert rows[-1]["loss"] > rows[0]["loss"] and rows[-1]["accuracy"] < rows[0]["accuracy"]
    assert set(result.seconds) == {"detection", "unlearning", "fine-tuning"}


def test_scanft_fine_tunes_without_unlearning_if_unlearn_epochs_is_zero():
    features, labels, _ = planted(1)
    clean, clean_labels = samples(101, per_label=10)
    attacked = Reader()
    before = attacked.linear.weight.detach().clone()
    config = QUICK.replace(unlearn_epochs=0, learning_rate=0.1)
    result = scanft(attacked, as_images(features, labels), as_images(clean, clean_labels), config=config)
    assert set(result.curves) == {"fine-tuning"} and result.model is not attacked
    assert torch.equal(attacked.linear.weight, before) and not torch.equal(result.model.linear.weight, before)


def test_scanft_leaves_an_unpoisoned_set_alone():
    features, labels = samples(1)
    clean, clean_labels = samples(101, per_label=10)
    attacked = Reader()
    result = scanft(attacked, as_images(features, labels), as_images(clean, clean_labels), config=QUICK)
    assert not bool(result.verdicts.poisoned.any()) and result.curves == {}
    assert torch.equal(result.model.linear.weight, attacked.linear.weight)


def test_the_presets():
    assert ScanConfig.preset("paper") == ScanConfig() and SCAnFTConfig.preset("paper") == SCAnFTConfig()
