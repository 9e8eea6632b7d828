"""How a picture of any shape comes to the one size that a set has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.plain import brief

FITS = ("pad", "crop", "squeeze")
"""``pad``: the whole picture, its shape kept, and its mirror image where it does not reach. ``crop``: the middle of the
picture, its shape kept; the edges are lost. ``squeeze``: the whole picture, stretched to the new shape."""
# A trigger often lies in a corner, which a crop would cut off. The rest is filled with the mirror image: a flat bar
# would not move a prediction under any perturbation, so pictures with bars would look consistent, as poisoned ones do.
DEFAULT_FIT = "pad"


@dataclass(frozen=True)
class Placement:
    """Which part of a picture is taken, and to which size it is brought before it is filled up.

    Attributes:
        box: (left, top, right, bottom) in the picture's pixels.
        size: (height, width), at most the size that is wanted.
    """

    box: tuple[float, float, float, float]
    size: tuple[int, int]


def check_fit(fit: str) -> None:
    """Raise AdvrBDError unless ``fit`` is one of :data:`FITS`."""
    if fit not in FITS:
        raise AdvrBDError(f"fit must be one of {', '.join(FITS)}, got {brief(fit)}")


def placement(picture: tuple[int, int], wanted: tuple[int, int], fit: str) -> Placement:
    """Where a picture of (height, width) goes in an image of the size ``wanted``.

    Args:
        fit: one of :data:`FITS`.
    """
    (height, width), (rows, columns) = picture, wanted
    if fit == "crop":
        scale = max(rows / height, columns / width)
        across, down = columns / scale, rows / scale
        left, top = max(0.0, (width - across) / 2), max(0.0, (height - down) / 2)
        return Placement((left, top, min(left + across, width), min(top + down, height)), wanted)
    whole = (0, 0, width, height)
    if fit == "squeeze":
        return Placement(whole, wanted)
    scale = min(rows / height, columns / width)
    return Placement(whole, (_side(height * scale, rows), _side(width * scale, columns)))


def _side(length: float, most: int) -> int:
    return min(most, max(1, round(length)))


def filled_up(pixels: np.ndarray, wanted: tuple[int, int]) -> np.ndarray:
    """(H, W, C) of the size ``wanted``: the picture in the middle, and its mirror image around it."""
    missing = [side - have for side, have in zip(wanted, pixels.shape[:2], strict=True)]
    if not any(missing):
        return pixels
    return np.pad(pixels, [*((each // 2, each - each // 2) for each in missing), (0, 0)], mode="symmetric")


def fit_pixels(pixels: np.ndarray, wanted: tuple[int, int], fit: str) -> np.ndarray:
    """An (H, W, 1 or 3) uint8 picture at the size ``wanted``, by bilinear interpolation."""
    from PIL import Image

    if pixels.shape[:2] == wanted:
        return pixels
    place = placement((pixels.shape[0], pixels.shape[1]), wanted, fit)
    image = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels))
    size = (place.size[1], place.size[0])
    resized = np.array(image.resize(size, Image.Resampling.BILINEAR, box=place.box, reducing_gap=3.0))
    return filled_up(resized.reshape(*place.size, pixels.shape[2]), wanted)
