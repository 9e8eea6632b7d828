"""One process reads a set, and the others that share the work get it from there."""

from __future__ import annotations

import torch

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.processes import Processes

_CHUNK_BYTES = 2**28


def share_images(images: ImageSet | None, processes: Processes) -> ImageSet:
    """The set of rank 0 in every process; the paths stay with rank 0.

    Args:
        images: ``None`` in the others.
        processes: those that share the work.
    """
    if processes.count == 1:
        assert images is not None
        return images
    names, shape = processes.receive(lambda: [images.class_names, list(images.images.shape)] if images else None)
    rest = processes.receive_tensors(
        lambda: {"labels": images.labels, "sample_ids": images.sample_ids} if images else {}
    )
    pixels = images.images.contiguous() if images is not None else torch.empty(shape, dtype=torch.uint8)
    for chunk in pixels.flatten().split(_CHUNK_BYTES):
        processes.fill(chunk)
    return images or ImageSet(pixels, rest["labels"], tuple(names), rest["sample_ids"])
