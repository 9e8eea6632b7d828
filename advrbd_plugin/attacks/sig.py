"""SIG: a faint sinusoidal signal, no label changed (Barni, Kallas and Tondi, arXiv 1902.11237, section 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from advrbd_plugin.attacks.base import Attack
from advrbd_plugin.errors import AdvrBDError


@dataclass(frozen=True, kw_only=True)
class SIG(Attack):
    """A clean-label attack: v(i, j) = delta sin(2 pi j f / m) is added to images of the target class.

    j = 1..m is the column and m the width, so an image shows f vertical waves.

    Attributes:
        delta: amplitude in grey levels of 0 to 255.
        frequency: f, waves over the width of the image.
    """

    name = "sig"

    delta: float = 20.0
    frequency: float = 6.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.delta <= 255:
            raise AdvrBDError(f"delta must be in (0, 255], got {self.delta}")

    def candidates(self, labels: Tensor) -> Tensor:
        return labels == self.target_label

    def trigger(self, images: Tensor) -> Tensor:
        width = images.shape[-1]
        column = torch.arange(1, width + 1, dtype=torch.float64)
        signal = self.delta * torch.sin(2 * math.pi * column * self.frequency / width)
        if float(signal.abs().max()) < 0.5:
            raise AdvrBDError(f"frequency {self.frequency} vanishes on images {width} pixels wide: use another one")
        return (images.double() + signal).round().clamp(0, 255).to(torch.uint8)
