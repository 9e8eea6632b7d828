"""Writing one image of a set as a PNG file."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from torch import Tensor


def write_png(path: Path, image: Tensor) -> None:
    """Write a (C, H, W) uint8 image, C 1 or 3, as PNG, whatever the suffix of ``path``; make its folder.

    Raises:
        OSError: the disk is full or the place cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = image.permute(1, 2, 0).contiguous().numpy()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(path, format="PNG")
