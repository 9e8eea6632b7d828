"""A set in a store goes through every stage a batch at a time, to the verdicts that it gets in memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from advrbd_plugin import cache
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.data.store import Picture, fill_store
from advrbd_plugin.data.stored_images import PictureFile
from advrbd_plugin.defense import findings, transplant
from advrbd_plugin.defense.config import AdvrBDConfig
from advrbd_plugin.defense.detection import Detection, LabelEvidence
from advrbd_plugin.defense.pipeline import AdvrBD
from advrbd_plugin.defense.transplant import SetStatistics
from advrbd_plugin.nn import description
from advrbd_plugin.nn.description import channel_statistics
from advrbd_plugin.nn.features import layered_features
from advrbd_plugin.nn.inference import EVALUATION_BATCH_SIZE

COUNT = 3 * EVALUATION_BATCH_SIZE


def make_model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 2))


def suspect(trained, samples, scores, config, on_batch=None) -> Detection:
    """Suspects class 1 and a third of its samples, so that all stages run."""
    features, _ = layered_features(trained.model, samples.images, on_batch=on_batch)
    probability = ((samples.labels == 1) & (samples.sample_ids % 3 == 0)).float()
    evidence = tuple(LabelEvidence(label, 750, 2.0, 2.0, 0.3, suspected=label == 1) for label in range(2))
    # Too little trained to judge labels: what it learned in a few steps shall decide nothing.
    return Detection(probability, features[:, 0].contiguous(), evidence, trained_enough=False)


def defend(samples: ImageSet):
    config = AdvrBDConfig(
        epochs=1,
        relearn_epochs=1,
        batch_size=250,
        enhancement_steps=2,
        crop_padding=1,
        patch_size=2,
        num_masks=1,
        num_patch_sizes=1,
    )
    return AdvrBD(make_model, config, device="cpu", detector=suspect).fit(samples)


@pytest.mark.parametrize("mixed", [True, False])
def test_no_stage_reads_more_than_a_batch_at_once(tmp_path, monkeypatch, mixed):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (COUNT, 1, 4, 4), dtype=torch.uint8, generator=generator)
    ids = torch.randperm(2 * COUNT, generator=generator)[:COUNT] if mixed else torch.arange(COUNT)
    in_memory = ImageSet(pixels, torch.arange(COUNT) % 2, ("a", "b"), ids)
    pictures = (Picture(pixels[each], each % 2, int(ids[each])) for each in range(COUNT))
    stored = fill_store(tmp_path / "store", pictures, ("a", "b"))
    read: list[int] = []
    original = PictureFile.read
    monkeypatch.setattr(PictureFile, "read", lambda self, rows: (read.append(len(rows)), original(self, rows))[1])
    monkeypatch.setattr(cache, "_PIECE_BYTES", 16 * 100)
    monkeypatch.setattr(description, "_COUNTED_AT_ONCE", 100)
    monkeypatch.setattr(transplant, "_PIECE_BYTES", 16 * 100)
    monkeypatch.setattr(findings, "_SHOWN", 100)  # pictures that a pattern is taken from
    found = defend(stored)
    assert channel_statistics(stored.images) == channel_statistics(in_memory.images)
    ours, theirs = SetStatistics.of(stored.images), SetStatistics.of(in_memory.images)
    assert torch.equal(ours.first, theirs.first) and torch.equal(ours.spectrum, theirs.spectrum)
    assert max(read) == EVALUATION_BATCH_SIZE
    assert set(found.curves) >= {"training", "retraining", "relearning"} and found.verdicts.poisoned.any()
    expected = defend(in_memory)
    for name in ("poisoned", "score", "uncertain", "suggested_label"):
        assert torch.equal(getattr(found.verdicts, name), getattr(expected.verdicts, name))
