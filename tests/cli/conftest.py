"""A defense that is done at once, so that the command line can be tested by itself, and small image folders."""

from __future__ import annotations

import io
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from advrbd_plugin.cli import main
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.defense.identification import Verdicts
from advrbd_plugin.defense.result import AdvrBDResult, AdvrBDScan


class InstantAdvrBD:
    """Takes the interface of ``AdvrBD`` and calls every tenth sample poisoned."""

    failure: BaseException | None = None
    stores = True
    finds = True

    def __init__(self, make_model, config=None, *, device=None, work_dir=None, progress=None):
        self.make_model, self.config, self.work_dir, self.progress = make_model, config, work_dir, progress

    def fit(self, train_set: ImageSet):
        return self._run(train_set, {"train": 2, "retrain": 1})

    def scan(self, train_set: ImageSet):
        found = vars(self._run(train_set, {"train": 2}))
        return AdvrBDScan(**{each.name: found[each.name] for each in fields(AdvrBDScan)})

    def _run(self, train_set: ImageSet, stages: dict[str, int]):
        if self.stores:
            (self.work_dir / "checkpoint").write_text("half way")
        self.progress.plan(stages)
        for stage, steps in stages.items():
            self.progress.start(stage)
            for _ in range(steps):
                self.progress.advance(1.0, loss=0.5)
            self.progress.finish()
        if self.failure is not None:
            raise self.failure
        poisoned = (torch.arange(len(train_set)) % 10 == 0) & self.finds
        torch.manual_seed(0)
        return AdvrBDResult(
            model=self.make_model().eval(),
            backdoored_model=self.make_model().eval(),
            verdicts=Verdicts(
                poisoned=poisoned,
                score=0.25 + 0.5 * poisoned.float(),
                suggested_label=train_set.labels.clone(),
                uncertain=torch.zeros_like(poisoned),
                mislabelled=torch.zeros_like(poisoned),
            ),
            suspected_classes=(1,) if self.finds else (),
            findings=(),
            evidence=(),
            fit=1.0,
            trained_enough=True,
            curves={"train": [{"loss": 1.0}, {"loss": 0.5}]},
            seconds={"train": 0.1},
            config=self.config.for_samples(len(train_set)),
            is_retrained=True,
            rounds=1,
            remark="",
        )


@pytest.fixture
def defense(monkeypatch):
    """Puts :class:`InstantAdvrBD` in the place of the real one, and leaves the drawing of pictures to other tests."""
    import advrbd_plugin.defense.pipeline
    from advrbd_plugin.report import demonstration, output

    defense = type("Defense", (InstantAdvrBD,), {})
    monkeypatch.setattr(advrbd_plugin.defense.pipeline, "AdvrBD", defense)
    monkeypatch.setattr(output, "overview_png", lambda record: b"picture")
    monkeypatch.setattr(output, "report_html", lambda *_: "page")
    monkeypatch.setattr(demonstration, "demonstration_png", lambda record, truth: b"picture")
    return defense


def png(value: int, size: int = 8) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(value).integers(0, 256, (size, size, 3), np.uint8)
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def images(tmp_path) -> Path:
    """Two classes of twelve images."""
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(12):
            (tmp_path / "images" / name / f"{index:02d}.png").write_bytes(png(index))
    return tmp_path / "images"


@pytest.fixture
def fails(capsys):
    """Runs a command that must fail: returns its one line; checks status, stream and that there is no traceback."""

    def run(*arguments: object, status: int = 2) -> str:
        capsys.readouterr()  # what earlier commands of the same test said
        assert main([str(argument) for argument in arguments]) == status
        captured = capsys.readouterr()
        lines = captured.err.strip().splitlines()
        errors = [line for line in lines if line.startswith("advrbd: error: ")]
        assert len(errors) == 1 and lines[-1] == errors[0], captured.err
        assert "Traceback" not in captured.err and captured.out == ""
        return errors[0].removeprefix("advrbd: error: ")

    return run
