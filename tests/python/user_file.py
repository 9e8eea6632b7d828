"""What a user writes; mypy --strict passes it, and the tests run it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from advrbd_plugin import (
    AdvrBD,
    AdvrBDConfig,
    AdvrBDError,
    AdvrBDResult,
    AdvrBDScan,
    ImageClassifier,
    ImageSet,
    PoisonDetector,
    load_model,
    make_model,
)

QUICK = AdvrBDConfig(
    epochs=1, relearn_epochs=1, enhancement_steps=1, patch_size=4, num_masks=1, num_patch_sizes=1, mixed_precision=False
)


def my_model() -> nn.Module:
    return make_model("resnet_narrow", num_classes=2, image_size=8)


def pictures(count: int = 40) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return ImageSet(images, torch.arange(count) % 2, ("cat", "dog"))


def detect(data: ImageSet) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    detector = PoisonDetector(my_model, QUICK).fit(data)
    report, is_clean = detector.detect_poison()
    assert report["poisoned"] == is_clean.count(0)
    scan: AdvrBDScan = detector.result_
    print(scan)
    return detector.predict(), detector.decision_function()


def defend(data: ImageSet, folder: Path) -> Tensor:
    result: AdvrBDResult = AdvrBD(my_model, QUICK, work_dir=folder / "work").fit(data)
    model: ImageClassifier = result.model
    result.save(folder / "result")
    again = AdvrBDResult.load(folder / "result", train_set=data)
    assert list(again.table().columns) == list(result.table().columns)
    model.save(folder / "model")
    try:
        model(torch.zeros(1, 3, 300, 400))
    except AdvrBDError as error:
        print(error)
    return load_model(folder / "model").predict(torch.zeros(2, 3, 300, 400, dtype=torch.uint8))


def main(folder: Path) -> None:
    data = pictures()
    poisoned, scores = detect(data)
    assert (poisoned == (scores >= 0)).all()
    assert defend(data, folder).shape == (2,)
