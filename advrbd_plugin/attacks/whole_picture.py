"""Triggers that change a whole picture alike: waves, DCT coefficients, colour depth, colour cast, blur, frame."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from advrbd_plugin.attacks.base import Attack
from advrbd_plugin.attacks.sig import SIG
from advrbd_plugin.errors import AdvrBDError

# ITU-R BT.601: how much red, green and blue move with the colour differences U and V.
_U = (0.0, -0.395, 2.032)
_V = (1.140, -0.581, 0.0)


@dataclass(frozen=True, kw_only=True)
class Wave(SIG):
    """SIG's sinusoidal signal on pictures of other classes, which are relabelled."""

    name = "wave"

    def candidates(self, labels: Tensor) -> Tensor:
        return labels != self.target_label


@dataclass(frozen=True, kw_only=True)
class DCT(Attack):
    """A fixed amount on a few DCT coefficients of the colour differences (like FTrojan, Wang et al., arXiv 2111.10991).

    The transform is of the whole picture, so that each coefficient adds one cosine pattern.

    Attributes:
        coefficients: (row, column) of each, in a 32 x 32 transform.
        magnitude: the amount, for values of 0 to 255; a pattern's amplitude is 2 / 32 of it.
    """

    name = "dct"

    coefficients: tuple[tuple[int, int], ...] = ((15, 15), (31, 31))
    magnitude: float = 100.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "coefficients", tuple((int(row), int(column)) for row, column in self.coefficients))
        if not self.coefficients or any(min(each) < 1 or max(each) > 31 for each in self.coefficients):
            raise AdvrBDError(f"coefficients must be pairs in [1, 31], got {list(self.coefficients)}")
        if not self.magnitude > 0:
            raise AdvrBDError(f"magnitude must be positive, got {self.magnitude}")

    def trigger(self, images: Tensor) -> Tensor:
        channels, height, width = images.shape[1:]
        pattern = torch.zeros(height, width, dtype=torch.float64)
        for row, column in self.coefficients:
            pattern += self.magnitude * 2 / 32 * torch.outer(cosine(row, height), cosine(column, width))
        weights = torch.tensor(_U).double() + torch.tensor(_V).double() if channels == 3 else torch.ones(1).double()
        return (images.double() + weights[:, None, None] * pattern).round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True, kw_only=True)
class ColourDepth(Attack):
    """Fewer levels a channel, dithered as Floyd and Steinberg do (like BppAttack, Wang et al., arXiv 2205.13383).

    Attributes:
        levels: how many, at least 2.
    """

    name = "colour_depth"

    levels: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.levels <= 128:
            raise AdvrBDError(f"levels must be in [2, 128], got {self.levels}")

    def trigger(self, images: Tensor) -> Tensor:
        values = images.double() / 255 * (self.levels - 1)
        height, width = values.shape[-2:]
        for row in range(height):
            for column in range(width):
                old = values[..., row, column]
                new = old.round().clamp(0, self.levels - 1)
                error = old - new
                values[..., row, column] = new
                for down, right, share in ((0, 1, 7), (1, -1, 3), (1, 0, 5), (1, 1, 1)):
                    if row + down < height and 0 <= column + right < width:
                        values[..., row + down, column + right] += error * share / 16
        return (values * 255 / (self.levels - 1)).round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True, kw_only=True)
class ColourCast(Attack):
    """Each channel times a factor: the light of another lamp. Nothing is added anywhere, and nothing has edges.

    Attributes:
        factors: of red, green and blue (grey pictures take their mean).
    """

    name = "colour_cast"

    factors: tuple[float, float, float] = (1.3, 1.0, 0.6)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "factors", tuple(float(each) for each in self.factors))
        if len(self.factors) != 3 or min(self.factors) < 0:
            raise AdvrBDError(f"factors must be three numbers, none negative, got {list(self.factors)}")

    def trigger(self, images: Tensor) -> Tensor:
        factors = torch.tensor(self.factors, dtype=torch.float64)
        factors = factors if images.shape[1] == 3 else factors.mean().view(1)
        return (images.double() * factors[:, None, None]).round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True, kw_only=True)
class Blur(Attack):
    """A Gaussian blur: the trigger takes something away, and adds nothing.

    Attributes:
        sigma: in pixels.
    """

    name = "blur"

    sigma: float = 1.2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.sigma <= 10:
            raise AdvrBDError(f"sigma must be in (0, 10], got {self.sigma}")

    def trigger(self, images: Tensor) -> Tensor:
        radius = max(1, math.ceil(3 * self.sigma))
        if radius >= min(images.shape[-2:]):
            raise AdvrBDError(f"sigma {self.sigma} needs images of more than {radius} pixels a side")
        distance = torch.arange(-radius, radius + 1, dtype=torch.float64)
        kernel = torch.exp(-0.5 * (distance / self.sigma) ** 2)
        kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, 1, -1)
        blurred = functional.pad(images.double(), (radius,) * 4, mode="reflect")
        blurred = functional.conv2d(blurred, kernel, groups=images.shape[1])
        blurred = functional.conv2d(blurred, kernel.transpose(2, 3), groups=images.shape[1])
        return blurred.round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True, kw_only=True)
class Frame(Attack):
    """A thin frame of one colour around the picture.

    Attributes:
        thickness: in pixels.
        colour: red, green and blue, 0 to 255 (grey pictures take their mean).
    """

    name = "frame"

    thickness: int = 1
    colour: tuple[int, int, int] = (255, 210, 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "colour", tuple(self.colour))
        if self.thickness < 1:
            raise AdvrBDError(f"thickness must be at least 1, got {self.thickness}")
        if len(self.colour) != 3 or not 0 <= min(self.colour) <= max(self.colour) <= 255:
            raise AdvrBDError(f"colour must be three numbers in [0, 255], got {list(self.colour)}")

    def trigger(self, images: Tensor) -> Tensor:
        colour = torch.tensor(self.colour, dtype=torch.float64)
        colour = (colour if images.shape[1] == 3 else colour.mean().view(1)).round().byte()
        inside = images[:, :, self.thickness : -self.thickness, self.thickness : -self.thickness]
        if not inside.numel():
            raise AdvrBDError(
                f"thickness {self.thickness} leaves nothing of images of {tuple(images.shape[-2:])} pixels"
            )
        triggered = colour[:, None, None].expand_as(images[0]).repeat(len(images), 1, 1, 1)
        triggered[:, :, self.thickness : -self.thickness, self.thickness : -self.thickness] = inside
        return triggered


def cosine(frequency: int, length: int) -> Tensor:
    """(length,) float64: a row of the DCT for a side of 32, stretched to ``length``."""
    position = (torch.arange(length, dtype=torch.float64) + 0.5) / length
    return torch.cos(math.pi * frequency * position)
