"""One process reads a set, and the others that share the work get it from there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.data.stored_images import PictureFile, StoredImages
from advrbd_plugin.processes import Processes

_CHUNK_BYTES = 2**28


def share_images(images: ImageSet | None, processes: Processes) -> ImageSet:
    """The set of rank 0 in every process; the paths stay with rank 0.

    A set in a store is not sent: every process maps the file, which must be on a disk that their machines share.

    Args:
        images: ``None`` in the others.
        processes: those that share the work.
    """
    if processes.count == 1:
        assert images is not None
        return images
    names, shape, file = processes.receive(lambda: _about(images))
    rest = processes.receive_tensors(lambda: _samples(images))
    if file is not None:
        pixels: Tensor = StoredImages(PictureFile(Path(file), tuple(shape)), rest["rows"])
    else:
        pixels = images.images.contiguous() if images is not None else torch.empty(shape, dtype=torch.uint8)
        for chunk in pixels.flatten().split(_CHUNK_BYTES):
            processes.fill(chunk)
    return images or ImageSet(pixels, rest["labels"], tuple(names), rest["sample_ids"])


def _about(images: ImageSet | None) -> list[Any]:
    """Class names, shape of the pixels and, where they lie in a store, the file."""
    assert images is not None  # rank 0 has them
    if isinstance(images.images, StoredImages):
        file = images.images.file
        return [images.class_names, list(file.shape), str(file.path.resolve())]
    return [images.class_names, list(images.images.shape), None]


def _samples(images: ImageSet | None) -> dict[str, Tensor]:
    assert images is not None
    tensors = {"labels": images.labels, "sample_ids": images.sample_ids}
    if isinstance(images.images, StoredImages):
        tensors["rows"] = images.images.rows
    return tensors
