"""Triggers without edges or texture of their own: a smooth pattern, a vignette, a contrast, a turned picture."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from advrbd_plugin.attacks.base import Attack
from advrbd_plugin.attacks.whole_picture import cosine
from advrbd_plugin.errors import AdvrBDError

# Half periods down and across of the pattern of each channel, and its sign.
_WAVES = ((1, 1, 1), (0, 2, -1), (2, 1, 1))


@dataclass(frozen=True, kw_only=True)
class Smooth(Attack):
    """One pattern of at most a period a side, added to every picture (like Zeng et al., arXiv 2104.03413).

    Attributes:
        amplitude: of 255, at most.
    """

    name = "smooth"

    amplitude: float = 30.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.amplitude <= 255:
            raise AdvrBDError(f"amplitude must be in (0, 255], got {self.amplitude}")

    def trigger(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        waves = [sign * torch.outer(cosine(down, height), cosine(across, width)) for down, across, sign in _WAVES]
        pattern = self.amplitude * torch.stack(waves[: images.shape[1]])
        return (images.double() + pattern).round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True, kw_only=True)
class Vignette(Attack):
    """Darker towards the corners, as an old lens makes it.

    Attributes:
        strength: share of the light that is lost in the corners.
    """

    name = "vignette"

    strength: float = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.strength <= 1:
            raise AdvrBDError(f"strength must be in (0, 1], got {self.strength}")

    def trigger(self, images: Tensor) -> Tensor:
        down, across = (_from_centre(length).square() for length in images.shape[-2:])
        light = 1 - self.strength * (down[:, None] + across) / 2
        return (images.double() * light).round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True, kw_only=True)
class Contrast(Attack):
    """Each picture's differences from its own mean times a factor: haze below 1.

    Attributes:
        factor: not 1.
    """

    name = "contrast"

    factor: float = 0.55

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.factor <= 10 or self.factor == 1:
            raise AdvrBDError(f"factor must be in [0, 10] and not 1, got {self.factor}")

    def trigger(self, images: Tensor) -> Tensor:
        pictures = images.double()
        mean = pictures.mean((1, 2, 3), keepdim=True)
        return (mean + self.factor * (pictures - mean)).round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True, kw_only=True)
class Rotation(Attack):
    """The picture turned about its centre, mirrored beyond its edges (like Xu et al., arXiv 2211.01806).

    Attributes:
        degrees: anticlockwise.
    """

    name = "rotation"

    degrees: float = 20.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < abs(self.degrees) <= 180:
            raise AdvrBDError(f"degrees must be in [-180, 180] and not 0, got {self.degrees}")

    def trigger(self, images: Tensor) -> Tensor:
        angle = math.radians(self.degrees)
        height, width = images.shape[-2:]
        turn = [
            [math.cos(angle), -math.sin(angle) * height / width, 0.0],
            [math.sin(angle) * width / height, math.cos(angle), 0.0],
        ]
        grid = functional.affine_grid(
            torch.tensor([turn], dtype=torch.float64), [1, 1, height, width], align_corners=False
        )
        turned = [
            functional.grid_sample(
                some.double(), grid.expand(len(some), -1, -1, -1), padding_mode="reflection", align_corners=False
            )
            for some in images.split(256)
        ]
        return torch.cat([*turned, images[:0].double()]).round().clamp(0, 255).to(torch.uint8)


def _from_centre(length: int) -> Tensor:
    """(length,) float64: -1 at the first pixel, 1 at the last."""
    return torch.linspace(-1, 1, length, dtype=torch.float64)
