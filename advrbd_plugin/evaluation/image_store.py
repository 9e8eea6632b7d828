"""Data sets decoded once for all cells, since decoding takes longer than an epoch of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from advrbd_plugin.cache import StageStore, digest
from advrbd_plugin.data import DATASETS, ImageSet, load_dataset
from advrbd_plugin.data.datasets import PARTS, find_dataset

_VERSION = 2  # of what is stored, and of how a data set is found


def load_images(name: str, root: str, samples: int | None, seed: int, work: str) -> tuple[ImageSet, ImageSet]:
    """(train, test) as :func:`load_dataset` gives them, loaded from the folder ``work`` if they were decoded before.

    Raises:
        AdvrBDError: as :func:`load_dataset`.
    """
    state = _state_of_the_zips(name, root)
    store, key = StageStore(Path(work) / "images"), digest(_VERSION, name, samples, seed if samples else None, state)
    stored = store.load(name, key) if state else None
    if stored is not None:
        train, test = (_from_store(part, *stored) for part in PARTS)
        return train, test
    train, test = (loaded.image_set for loaded in load_dataset(name, root, samples=samples, seed=seed))
    if state:
        store.save(name, key, *_to_store((train, test)))
    return train, test


def _from_store(part: str, tensors: dict[str, Any], rest: dict[str, Any]) -> ImageSet:
    images, labels, sample_ids = (tensors[f"{part}.{field}"] for field in ("images", "labels", "sample_ids"))
    return ImageSet(images, labels, tuple(rest["class_names"]), sample_ids, rest["paths"][part])


def _to_store(sets: tuple[ImageSet, ImageSet]) -> tuple[dict[str, Any], dict[str, Any]]:
    tensors = {
        f"{part}.{field}": getattr(images, field)
        for part, images in zip(PARTS, sets, strict=True)
        for field in ("images", "labels", "sample_ids")
    }
    paths = {part: images.paths for part, images in zip(PARTS, sets, strict=True)}
    return tensors, {"class_names": sets[0].class_names, "paths": paths}


def _state_of_the_zips(name: str, root: str) -> list[Any]:
    """Name, size and time of the zips that are read; empty for folders, which hold too many files to look at."""
    found = find_dataset(name, root) if name in DATASETS else None
    states = [(path, path.stat()) for path in (found.zips if found else ())]
    return [[str(path.resolve()), status.st_size, status.st_mtime_ns] for path, status in states]
