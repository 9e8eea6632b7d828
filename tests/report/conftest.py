"""A finished run that nobody had to wait for: made-up images, scores and curves, a one-layer model."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from advrbd_plugin.data import ImageSet
from advrbd_plugin.defense.config import AdvrBDConfig
from advrbd_plugin.defense.findings import ClassFinding, Window
from advrbd_plugin.defense.identification import Verdicts
from advrbd_plugin.defense.result import AdvrBDResult, AdvrBDScan
from advrbd_plugin.report import ModelDescription, OutputFolder, RunRecord


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
    """120 pictures in four classes with hostile names; ten of the second class are poisoned, one is mislabelled."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 4
    images = ImageSet(
        images=torch.randint(0, 256, (120, 3, 16, 16), dtype=torch.uint8, generator=generator),
        labels=labels,
        class_names=("=cmd()", "<b>bee</b>", "cat", "d\x1b[31mog"),
        paths=tuple(f"c{int(label)}/<i>{index}</i>.png" for index, label in enumerate(labels)),
    )
    poisoned = (labels == 1) & (torch.arange(120) % 3 == 0)
    uncertain, mislabelled = torch.zeros_like(poisoned), torch.zeros_like(poisoned)
    uncertain[5] = mislabelled[2] = True
    score = 0.01 * torch.rand(120, generator=generator) + 0.9 * poisoned
    score[5] = 0.45
    suggested = torch.where(poisoned, 2, labels)
    suggested[2] = 0
    pattern = torch.zeros(3, 16, 16)
    pattern[:, 1:4, 2:5] = 0.4
    rows = [{"epoch": float(step), "loss": 2 / (step + 1), "accuracy": 1 - 1 / (step + 2)} for step in range(8)]
    result = AdvrBDResult(
        model=nn.Sequential(nn.Flatten(), nn.Linear(768, 4)),
        backdoored_model=nn.Sequential(nn.Flatten(), nn.Linear(768, 4)),
        verdicts=Verdicts(poisoned, score, suggested, uncertain=uncertain, mislabelled=mislabelled),
        suspected_classes=(1,),
        findings=(
            ClassFinding(0, False, 0.02, "=cmd(): nothing"),
            ClassFinding(1, True, 0.996, "<b>bee</b>: they share a square", "goes", 0.9, 1, pattern, Window(1, 2, 3)),
            ClassFinding(2, False, 0.01, "cat: nothing"),
            ClassFinding(3, False, 0.01, "dog: nothing"),
        ),
        evidence=(),
        fit=0.93,
        trained_enough=True,
        curves={"train": rows, "enhance": [{"loss": float("nan"), "kept": 0.4}], "nothing": []},
        seconds={"train": 61.5, "enhance": 3.25},
        config=AdvrBDConfig(seed=7),
        is_retrained=True,
        rounds=2,
        remark="The model of round 2 is returned: nothing more was found in it.",
    )
    return RunRecord(
        data="my <images>",
        image_set=images,
        result=result,
        model=ModelDescription.for_images("resnet_narrow", images),
        left_out=(("c1/broken\n.png", "not an image"),),
        notes=("1 of 120 images were resized to 16x16 pixels.",),
    )


def as_scan(record: RunRecord) -> RunRecord:
    """The same as far as a scan knows it."""
    known = {each.name: getattr(record.result, each.name) for each in fields(AdvrBDScan)}
    return replace(record, result=AdvrBDScan(**known))
