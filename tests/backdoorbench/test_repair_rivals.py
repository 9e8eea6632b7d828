"""benchmarks/repair_rivals.py: a record is that of one set and one model, not of a name alone."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from advrbd_plugin.attacks import make_attack
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.nn.models import make_model

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def rivals(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec = importlib.util.spec_from_file_location("repair_rivals", BENCHMARKS / "repair_rivals.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def images(count, seed):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(count) % 3, ("airplane", "car", "bird"))


def test_another_model_or_set_has_a_record_of_its_own(rivals, tmp_path, monkeypatch):
    now = {"weights": 0, "alpha": 0.2}

    def model(name, arguments, samples):
        torch.manual_seed(now["weights"])
        return make_model("resnet_narrow", num_classes=3).eval()

    monkeypatch.setattr(rivals, "load", lambda data, samples, seed: [images(20, 1), images(6, 2)])
    monkeypatch.setattr(rivals, "backdoored_model", model)
    monkeypatch.setattr(rivals, "attack_of", lambda *_: make_attack("blend", poison_ratio=0.1, alpha=now["alpha"]))
    arguments = argparse.Namespace(
        data="", samples=20, test_samples=6, seed=0, poison_ratio=0.05, attack_settings=[], epochs=None
    )
    first, again = (rivals.record_of("blend", arguments, tmp_path) for _ in range(2))
    now["weights"] = 1
    retrained = rivals.record_of("blend", arguments, tmp_path)
    now["alpha"] = 0.3
    other_trigger = rivals.record_of("blend", arguments, tmp_path)
    names = {first, retrained, other_trigger}
    assert first == again and len(names) == 3 and all(name.startswith("repair-blend-20-6-0-") for name in names)
    assert {path.name for path in (tmp_path / "record").iterdir()} == names
