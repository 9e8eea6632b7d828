"""ULRL as a defense of BackdoorBench: which samples it asks for, and what it hands to the result files."""

from __future__ import annotations

import argparse
from importlib.resources import files

import pytest
import torch
from torch import nn

from advrbd_plugin.backdoorbench import ulrl
from advrbd_plugin.backdoorbench.ulrl import ULRLMethods
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.ulrl import CleanSamples, ULRLConfig

QUICK = ["--unlearn_epochs", "1", "--relearn_steps", "2", "--attraction_steps", "1", "--patterns", "false"]
CONFIG = files("advrbd_plugin").joinpath("configs", "backdoorbench", "ulrl", "cifar10.yaml")


def make(*options):
    parser = argparse.ArgumentParser()
    ULRLMethods.add_arguments(parser)
    return ULRLMethods(parser.parse_args(["--yaml_path", str(CONFIG), "--device", "cpu", *options]))


@pytest.fixture
def clean_set():
    images = torch.randint(0, 255, (12, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return ImageSet(images, torch.arange(12) % 3, ("a", "b", "c"))


@pytest.fixture
def attacked(monkeypatch, tmp_path):
    """A method's surroundings without a record: a small model, and a folder for unfinished work."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    monkeypatch.setattr(ULRLMethods, "attacked_model", lambda self: model)
    monkeypatch.setattr(ULRLMethods, "work_dir", tmp_path)
    return model


def run(methods, train_set):
    methods.set_devices()
    return methods.run(train_set)


def test_the_toolbox_s_options_reach_the_repair():
    methods = make("--random_seed", "7", "--ratio", "0.05", "--batch_size", "32", "--lr", "0.1")
    assert (methods.config.seed, methods.config.batch_size) == (7, 32)
    assert float(methods.args.ratio) == 0.05 and methods.settings.unused == ("lr",)
    assert make().config == ULRLConfig() and float(make().args.ratio) == 0.01
    assert make("--preset", "paper").config == ULRLConfig.preset("paper")
    with pytest.raises(AdvrBDError, match="unlearn_accuracy must be a number in"):
        make("--unlearn_accuracy", "3")


def test_the_training_set_is_asked_for_only_where_clean_samples_come_from_it():
    assert not make().uses_training_set
    assert make("--clean_from_poisoned").uses_training_set


def test_a_repair_with_clean_samples(attacked, clean_set, monkeypatch):
    monkeypatch.setattr(ULRLMethods, "clean_samples", lambda self: clean_set)
    outcome = run(make(*QUICK, "--attraction_threshold", "0", "--attraction_radius", "5"), None)
    assert outcome.backdoored_model is attacked and outcome.verdicts is None
    assert outcome.suspected_classes and outcome.notes["verdict"] == "suspicious neurons found"
    assert (outcome.notes["clean_samples"], outcome.notes["clean_from_poisoned"]) == (12, False)
    assert len(outcome.epochs) == 2 and {"loss", "accuracy"} <= set(outcome.epochs[0])
    assert not torch.equal(outcome.model[-1].weight, attacked[-1].weight)


def test_a_model_that_looks_clean_comes_back_as_it_was(attacked, clean_set, monkeypatch):
    monkeypatch.setattr(ULRLMethods, "clean_samples", lambda self: clean_set)
    outcome = run(make(*QUICK, "--attraction_threshold", "1", "--warps", "false"), None)
    assert outcome.notes["verdict"] == "looks clean" and outcome.epochs == [] and outcome.suspected_classes == ()
    assert torch.equal(outcome.model[-1].weight, attacked[-1].weight)


@pytest.mark.parametrize("suspected", [(2,), ()])
def test_a_repair_without_clean_samples(attacked, clean_set, monkeypatch, suspected):
    suspects = clean_set.subset(torch.tensor([2, 5])) if suspected else None
    picked = CleanSamples(clean_set, suspects, suspected)
    monkeypatch.setattr(ulrl, "clean_from_poisoned", lambda *_, **__: picked)
    outcome = run(make(*QUICK, "--clean_from_poisoned", "--attraction_threshold", "0"), clean_set)
    assert outcome.suspected_classes == suspected and outcome.notes["clean_from_poisoned"]
    # The detection replaces the search, even if it suspects no class.
    assert "attraction" not in outcome.seconds
    assert outcome.notes["verdict"] == ("suspicious neurons found" if suspected else "looks clean")
