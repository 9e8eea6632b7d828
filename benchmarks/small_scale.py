"""What the benchmarks share: the data and the models of ``advrbd reproduce --scale small``."""

from __future__ import annotations

from pathlib import Path

TARGET_LABEL, POISON_RATIO = 1, 0.05
WORK = "out/benchmark"
MODEL = "resnet_narrow"


def load(data: str, samples: int, seed: int):
    """(train, test) image sets of a folder with train and test; the training set is a stratified draw of ``samples``."""
    from advrbd_plugin.data import load_folder

    parts = []
    for part, count in (("train", samples), ("test", None)):
        place = Path(data) / part
        place = place if place.exists() else place.with_suffix(".zip")
        names = parts[0].class_names if parts else None
        parts.append(load_folder(place, samples=count, seed=seed, class_names=names).image_set)
    return parts


def model_for(image_set):
    """Builds a freshly initialised network for these images."""
    from advrbd_plugin.report import ModelDescription

    return ModelDescription.for_images(MODEL, image_set).build
