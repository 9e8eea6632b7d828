"""Patch triggers: squares in the corners of an image, scaled with its size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from advrbd_plugin.attacks.picture import overlay
from advrbd_plugin.errors import AdvrBDError

Corner = tuple[Literal["top", "bottom"], Literal["left", "right"]]
_REFERENCE_SIDE = 32  # the papers give sides and margins in pixels of 32x32 images


@dataclass(frozen=True, eq=False)
class Layer:
    """A patch trigger as a layer over a whole image.

    Attributes:
        picture: (C, H, W) float64 in [0, 255].
        opacity: (1, H, W) float64 in [0, 1], 0 outside the trigger.
    """

    picture: Tensor
    opacity: Tensor

    def over(self, images: Tensor, opacity: float = 1.0) -> Tensor:
        """Lay this layer, its opacity times ``opacity``, over (N, C, H, W) uint8 images."""
        return overlay(images, self.picture, opacity * self.opacity)

    @classmethod
    def place(cls, patch: Tensor, *corners: Corner, margin: int, like: Tensor) -> Layer:
        """Place ``patch`` in one or more corners, ``margin`` pixels from the edges.

        Args:
            patch: (4, side, side) float64: red, green, blue, opacity.
            like: (N, C, H, W), images of the layer's size; with one channel, the mean of the colours is used.
        """
        channels, height, width = like.shape[1:]
        side = patch.shape[-1]
        colours = patch[:3] if channels == 3 else patch[:3].mean(dim=0, keepdim=True)
        layer = cls(torch.zeros(channels, height, width).double(), torch.zeros(1, height, width).double())
        for vertical, horizontal in corners:
            top = margin if vertical == "top" else height - margin - side
            left = margin if horizontal == "left" else width - margin - side
            layer.picture[:, top : top + side, left : left + side] = colours
            layer.opacity[:, top : top + side, left : left + side] = patch[3]
        return layer


def in_proportion(pixels: int, images: Tensor, *, least: int) -> int:
    """Scale a length in ``pixels`` of a 32x32 image to images (N, C, H, W), by their smaller side."""
    return max(least, round(pixels * min(images.shape[-2:]) / _REFERENCE_SIDE))


def check_size(images: Tensor, least: int, attack: str) -> None:
    """Raise AdvrBDError if the images are smaller than ``least`` pixels in height or width."""
    height, width = images.shape[-2:]
    if min(height, width) < least:
        raise AdvrBDError(f"{attack} needs images of at least {least} pixels a side, got {height}x{width}")
