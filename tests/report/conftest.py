"""A finished run that nobody had to wait for: made-up images, scores and curves, a one-layer model."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from advrbd_plugin.data import ImageSet
from advrbd_plugin.report import ModelDescription, OutputFolder, RunRecord


class FakeConfig(SimpleNamespace):
    def to_mapping(self):
        return dict(vars(self))


@pytest.fixture
def record() -> RunRecord:
    """A run of its own for a test that changes it."""
    return make_record()


@pytest.fixture(scope="session")
def written(tmp_path_factory) -> Path:
    """The folder that such a run wrote, to be read only."""
    out = OutputFolder(tmp_path_factory.mktemp("run") / "out")
    assert os.listdir(out.path) == [".advrbd-work"]
    out.write(make_record(), truth={"asr": float("nan")}, more={"more.bin": b"1"})
    return out.path


def make_record() -> RunRecord:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 4
    images = ImageSet(
        images=torch.randint(0, 256, (120, 3, 16, 16), dtype=torch.uint8, generator=generator),
        labels=labels,
        class_names=("=cmd()", "<b>bee</b>", "cat", "d\x1b[31mog"),
        paths=tuple(f"c{int(label)}/<i>{index}</i>.png" for index, label in enumerate(labels)),
    )
    poisoned = (labels == 1) & (torch.arange(120) % 3 == 0)
    score = torch.rand(120, generator=generator) + 2 * poisoned
    verdicts = SimpleNamespace(poisoned=poisoned, score=score, suggested_label=torch.where(poisoned, 2, labels))
    rows = [{"epoch": float(step), "loss": 2 / (step + 1), "accuracy": 1 - 1 / (step + 2)} for step in range(8)]
    evidence = [{"label": 0, "gain": 0.25}, {"label": 1, "gain": 0.75}]
    result = SimpleNamespace(
        model=nn.Sequential(nn.Flatten(), nn.Linear(768, 4)),
        backdoored_model=nn.Sequential(nn.Flatten(), nn.Linear(768, 4)),
        verdicts=verdicts,
        suspected_classes=(1,),
        curves={"train": rows, "enhance": [{"loss": float("nan"), "kept": 0.4}], "nothing": [], "detection": evidence},
        seconds={"train": 61.5, "enhance": 3.25},
        config=FakeConfig(preset="robust", seed=7, epsilon=32 / 255),
    )
    return RunRecord(
        data="my <images>",
        image_set=images,
        result=result,
        model=ModelDescription.for_images("resnet_narrow", images),
        left_out=(("c1/broken\n.png", "not an image"),),
        notes=("1 of 120 images were resized to 16x16 pixels.",),
    )
