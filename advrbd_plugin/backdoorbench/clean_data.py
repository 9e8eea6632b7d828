"""A record's clean images, written into the checkout in the layout that the toolbox reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from advrbd_plugin.backdoorbench.cifar_writer import LAYOUTS, write_cifar
from advrbd_plugin.backdoorbench.folder_writer import FOLDER_LAYOUTS, write_folders
from advrbd_plugin.cache import digest
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.errors import AdvrBDError, StorageError

WRITTEN = (*LAYOUTS, *FOLDER_LAYOUTS)


def order_read(dataset: str, labels: Tensor) -> Tensor:
    """The order in which the toolbox will read samples with these labels: unchanged, or class by class.

    Args:
        dataset: as the toolbox names it.
        labels: (N,) int64.

    Returns:
        (N,) int64, positions in ``labels`` in the order of reading; each class keeps its order.

    Raises:
        AdvrBDError: the images of this dataset cannot be written.
    """
    if dataset not in WRITTEN:
        raise AdvrBDError(
            f"the clean images of {dataset} cannot be written, only those of {', '.join(WRITTEN)}: put the dataset "
            "into the checkout and pass data_path"
        )
    return labels.argsort(stable=True) if dataset in FOLDER_LAYOUTS else torch.arange(len(labels))


def write_clean_data(checkout: Path, dataset: str, train: ImageSet, test: ImageSet) -> str:
    """Write ``data/advrbd/...``, once for all records on these images; return its path as records store it.

    Args:
        dataset: one of :data:`WRITTEN`.
        train, test: in the order of :func:`order_read`.

    Raises:
        AdvrBDError: the dataset's layout cannot hold these sets.
        StorageError: the disk is full or the place cannot be written.
    """
    content = digest(train.images, train.labels, test.images, test.labels, list(train.class_names))
    path = f"data/advrbd/{dataset}-{content[:16]}"
    root = checkout / path
    write: Callable[[Path, str, ImageSet, ImageSet], None]
    # The folder appears in one move, so it is complete if it exists.
    place, write = (root / LAYOUTS[dataset].folder, write_cifar) if dataset in LAYOUTS else (root, write_folders)
    if not place.is_dir():
        try:
            write(root, dataset, train, test)
        except StorageError:
            if not place.is_dir():  # else another process wrote the same images first
                raise
    return f"./{path}"
