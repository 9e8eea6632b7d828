"""Trigger pictures: drawn by formula, so free of other people's rights, or the user's own."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from advrbd_plugin import limits
from advrbd_plugin.errors import AdvrBDError, OutOfMemory, is_out_of_memory, out_of_memory
from advrbd_plugin.plain import one_reason

_CANVAS = 256  # pixels a side, divided down to the size asked for


def blend_picture(height: int, width: int, *, channels: int = 3) -> Tensor:
    """Draw a kite over striped hills: large shapes, strong colours and fine stripes show at any size.

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


def flower_picture(side: int) -> Tensor:
    """Draw six orange petals round a dark blue eye on a transparent background.

    Returns:
        (4, side, side) float64: red, green and blue in [0, 255], then opacity in [0, 1].
    """
    x, y = _centred()
    radius, angle = torch.hypot(x, y), torch.atan2(y, x)
    petals = radius < 0.62 + 0.36 * torch.cos(6 * angle)
    colours = torch.stack([torch.full_like(x, 250), 90 + 120 * radius.clamp(max=1), 20 + 20 * y])
    eye = (radius < 0.34)[None]
    colours = torch.where(eye, torch.tensor([30.0, 30.0, 140.0], dtype=x.dtype)[:, None, None], colours)
    return _shrink(colours, petals | (radius < 0.45), side)


def star_picture(side: int) -> Tensor:
    """Draw a pale blue four-pointed star on opaque darker blue; returns what :func:`flower_picture` does."""
    x, y = _centred()
    star = (x.abs().sqrt() + y.abs().sqrt() < 1.05)[None]
    pale, dark = (torch.tensor(colour, dtype=x.dtype)[:, None, None] for colour in ([215.0, 240, 255], [60.0, 90, 220]))
    return _shrink(torch.where(star, pale, dark), torch.ones_like(x, dtype=torch.bool), side)


def rings_picture(side: int) -> Tensor:
    """Draw opaque square rings of red, green and violet; returns what :func:`flower_picture` does."""
    x, y = _centred()
    colours = torch.tensor([[220, 40, 50], [40, 190, 80], [130, 50, 190]], dtype=x.dtype)
    ring = (torch.maximum(x.abs(), y.abs()) * 4).floor().long() % 3
    return _shrink(colours[ring].permute(2, 0, 1), torch.ones_like(x, dtype=torch.bool), side)


def checkers_picture(side: int) -> Tensor:
    """Draw an opaque 3x3 checkerboard with white corners; returns what :func:`flower_picture` does."""
    x, y = _centred()
    white = (((x + 1) * 1.5).floor() + ((y + 1) * 1.5).floor()) % 2 == 0
    return _shrink(255.0 * white.double().expand(3, -1, -1), torch.ones_like(white), side)


def overlay(images: Tensor, picture: Tensor, opacity: Tensor | float) -> Tensor:
    """Mix images x and a picture k: (1 - opacity) x + opacity k, rounded.

    Args:
        images: (N, C, H, W) uint8.
        picture: k, in [0, 255], broadcast to the images.
        opacity: in [0, 1], broadcast to the images.

    Returns:
        (N, C, H, W) uint8.
    """
    mixed = (1 - opacity) * images.double() + opacity * picture
    return mixed.round().clamp(0, 255).byte()


def load_picture(path: str | Path, height: int, width: int, *, channels: int = 3) -> Tensor:
    """The user's own picture, resized: (channels, height, width) float64 in [0, 255].

    Raises:
        AdvrBDError: the file is missing or not an image.
    """
    return _load(path, height, width, "RGB" if channels == 3 else "L")


def load_patch(path: str | Path, side: int) -> Tensor:
    """The user's own picture as a square patch; what it has of transparency is kept.

    Returns:
        (4, side, side) float64: red, green and blue in [0, 255], then opacity in [0, 1].

    Raises:
        AdvrBDError: the file is missing or not an image.
    """
    patch = _load(path, side, side, "RGBA")
    patch[3] /= 255
    return patch


def _load(path: str | Path, height: int, width: int, mode: str) -> Tensor:
    import numpy as np
    from PIL import Image

    from advrbd_plugin.data.decoding import UnreadableImage, decode, open_picture, to_8_bits
    from advrbd_plugin.data.sources import read_regular_file

    try:
        content = read_regular_file(path, limit=limits.MAX_FILE_BYTES)
        with open_picture(content) as opened:
            image: Image.Image = opened
            deep = decode(content, (height, width)) if image.mode.startswith("I") else None
            if deep is not None and deep.depth is not None:
                image = Image.fromarray(to_8_bits(deep.pixels, *deep.depth))
            image = image.convert(mode).resize((width, height), Image.Resampling.BICUBIC)
            pixels = torch.from_numpy(np.array(image, dtype=np.float64))
    except OutOfMemory:
        raise
    except Exception as error:  # a damaged file makes Pillow's decoders raise nearly anything
        if is_out_of_memory(error):
            raise out_of_memory(f"reading the trigger picture {path}") from error
        reason = str(error) if isinstance(error, UnreadableImage) else one_reason(error)
        raise AdvrBDError(f"the trigger picture {path} cannot be read as an image: {reason}") from error
    return pixels.reshape(height, width, -1).permute(2, 0, 1)


def _centred() -> tuple[Tensor, Tensor]:
    """x and y of each canvas point, in [-1, 1]."""
    position = (torch.arange(_CANVAS, dtype=torch.float64) + 0.5) / _CANVAS * 2 - 1
    y, x = torch.meshgrid(position, position, indexing="ij")
    return x, y


def _shrink(colours: Tensor, shape: Tensor, side: int) -> Tensor:
    """Scale the canvas to a patch; colours are averaged over the shape alone, so its edge takes none from outside."""
    opacity = F.adaptive_avg_pool2d(shape.double()[None], side)
    mean = F.adaptive_avg_pool2d(colours * shape, side) / opacity.clamp(min=1e-9)
    return torch.cat([mean, opacity])
