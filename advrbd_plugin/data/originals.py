"""Pictures that lie in arrays, as picture files: for whoever wants a set's pictures as they are, not at one size."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.data.reading import Listing, LoadedImages, Visit, visited
from advrbd_plugin.data.sources import HEAD_BYTES, Source


class PixelSource(Source):
    """Pictures as the PNG files that hold exactly their pixels.

    Args:
        where: what they come from.
        names: of the files.
        pixels: the (H, W, 1 or 3) uint8 pixels of the picture at a place.
    """

    def __init__(self, where: str, names: Sequence[str], pixels: Callable[[int], np.ndarray]) -> None:
        super().__init__(Path(where), (), ())
        self.files = list(names)
        self._places = {name: place for place, name in enumerate(names)}
        self._pixels = pixels

    def read(self, path: str) -> bytes:
        return png_bytes(self._pixels(self._places[path]))

    def head(self, path: str) -> bytes:
        return self.read(path)[:HEAD_BYTES]

    def size(self, path: str) -> int:
        return len(self.read(path))


def png_bytes(pixels: np.ndarray) -> bytes:
    """A PNG file of (H, W, 1 or 3) uint8 pixels, grey or RGB."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def list_pixels(labels: Tensor, sample_ids: Tensor, class_names: tuple[str, ...]) -> Listing:
    """A listing of pictures that have no names but their ids: ``000042.png``."""
    numbers = sample_ids.tolist()
    width = max(6, len(str(max(numbers, default=0))))
    return Listing([f"{number:0{width}d}.png" for number in numbers], labels, sample_ids, class_names)


def hand_over(visit: Visit, where: str, image_set: ImageSet) -> LoadedImages:
    """Give a set that lies in memory to ``visit``, its pictures as PNG files."""
    listing = list_pixels(image_set.labels, image_set.sample_ids, image_set.class_names)

    def pixels(place: int) -> np.ndarray:
        return np.ascontiguousarray(torch.as_tensor(image_set.images[place]).permute(1, 2, 0).numpy())

    with PixelSource(where, listing.paths, pixels) as source:
        visit(source, listing)
    return visited(listing)
