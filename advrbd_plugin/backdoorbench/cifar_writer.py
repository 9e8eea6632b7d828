"""Images in the on-disk layout of CIFAR-10 and CIFAR-100, as torchvision and BackdoorBench read it."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy

from advrbd_plugin.data.cifar import CIFAR10, CIFAR100, CifarFormat
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.files import workspace_for, write_bytes

LAYOUTS: dict[str, CifarFormat] = {"cifar10": CIFAR10, "cifar100": CIFAR100}


def write_cifar(root: Path, dataset: str, train: ImageSet, test: ImageSet, *, overwrite: bool = False) -> None:
    """Write both parts into ``root``, in the sets' order, completely or not at all.

    The checksums are not the originals'.

    Args:
        dataset: ``cifar10`` or ``cifar100``.
        train, test: of 3x32x32 images.
        overwrite: replace an existing folder, once the new one is finished.

    Raises:
        AdvrBDError: the dataset is another one, or images have another size.
        StorageError: the disk is full, the folder exists or cannot be written.
    """
    if dataset not in LAYOUTS:
        raise AdvrBDError(f"only {' and '.join(LAYOUTS)} can be written, got {dataset}")
    for images in (train, test):
        if tuple(images.images.shape[1:]) != (3, 32, 32):
            raise AdvrBDError(f"{dataset}'s images are 3x32x32, got {'x'.join(map(str, images.images.shape[1:]))}")
    layout = LAYOUTS[dataset]
    with workspace_for(root / layout.folder) as workspace:
        folder = workspace / layout.folder
        for part, images in (("train", train), ("test", test)):
            _write_part(folder, layout, layout.parts[part], images)
        write_bytes(folder / layout.meta, pickle.dumps({layout.names_key: list(train.class_names)}))
        if overwrite and os.path.lexists(root / layout.folder):
            os.replace(root / layout.folder, workspace / "old")  # which goes with the workspace
        os.replace(folder, root / layout.folder)


def _write_part(folder: Path, layout: CifarFormat, names: tuple[str, ...], images: ImageSet) -> None:
    pixels = images.images.reshape(len(images), -1).numpy()
    labels = images.labels.numpy()
    batches = zip(names, numpy.array_split(pixels, len(names)), numpy.array_split(labels, len(names)), strict=True)
    for name, batch, batch_labels in batches:
        content = {"data": numpy.ascontiguousarray(batch), layout.labels_key: batch_labels.tolist()}
        write_bytes(folder / name, pickle.dumps(content))
