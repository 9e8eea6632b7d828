"""The picture that Blend mixes in: drawn here by formula, so that it is anybody's to use, or the user's own."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from advrbd_plugin.errors import AdvrBDError

_CANVAS = 256  # pixels a side, divided down to the size asked for


def blend_picture(height: int, width: int, *, channels: int = 3) -> Tensor:
    """A kite over striped hills: large shapes, strong colours, fine stripes, so that it shows at any size.

    Returns:
        (channels, height, width) float64 in [0, 255]; one channel holds the mean of the three.
    """
    position = (torch.arange(_CANVAS, dtype=torch.float64) + 0.5) / _CANVAS
    y, x = torch.meshgrid(position, position, indexing="ij")
    canvas = torch.stack([40 + 60 * y, 120 + 100 * y, 255 - 60 * y])  # a sky, paler towards the ground

    def paint(where: Tensor, red: int, green: int, blue: int) -> None:
        canvas[:, where] = torch.tensor([red, green, blue], dtype=torch.float64)[:, None]

    kite = (x - 0.55).abs() / 0.30 + (y - 0.33).abs() / 0.30
    for ring, colour in ((1.0, (250, 40, 60)), (0.72, (255, 230, 40)), (0.42, (30, 30, 110))):
        paint(kite < ring, *colour)
    paint(((x - 0.55).abs() < 0.012) & ((y - 0.33).abs() < 0.30), 255, 255, 255)
    tail = 0.55 + 0.06 * torch.sin(18 * y)
    paint(((x - tail).abs() < 0.025) & (y > 0.62), 250, 250, 250)
    hills = 0.80 + 0.07 * torch.sin(7 * x + 0.6)
    paint(y > hills, 20, 130, 50)
    paint((y > hills) & (((x + y) * 8).floor() % 2 == 0), 240, 200, 60)
    paint((x - 0.14) ** 2 + (y - 0.16) ** 2 < 0.10**2, 255, 250, 210)
    picture = F.adaptive_avg_pool2d(canvas, (height, width))
    return picture if channels == 3 else picture.mean(dim=0, keepdim=True)


def load_picture(path: str | Path, height: int, width: int, *, channels: int = 3) -> Tensor:
    """The user's own picture, resized: (channels, height, width) float64 in [0, 255].

    Raises:
        AdvrBDError: the file is missing or not an image.
    """
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path) as image:
            image = image.convert("RGB" if channels == 3 else "L").resize((width, height), Image.Resampling.BICUBIC)
            pixels = torch.from_numpy(np.array(image, dtype=np.float64))
    except Exception as error:
        raise AdvrBDError(f"the trigger picture {path} cannot be read as an image: {error}") from error
    return pixels.reshape(height, width, channels).permute(2, 0, 1)
