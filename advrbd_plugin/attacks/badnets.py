"""BadNets: a small patch of one colour in a corner (Gu, Dolan-Gavitt and Garg, arXiv 1708.06733, section 4)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from advrbd_plugin.attacks.base import Attack
from advrbd_plugin.errors import AdvrBDError


@dataclass(frozen=True, kw_only=True)
class BadNets(Attack):
    """A white square in the bottom right corner; poisoned samples are relabelled (all-to-one).

    Attributes:
        patch_size: side of the square in pixels.
        value: its grey level in all channels, 0 to 255.
    """

    name = "badnets"

    patch_size: int = 3
    value: int = 255

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patch_size < 1:
            raise AdvrBDError(f"patch_size must be at least 1, got {self.patch_size}")
        if not 0 <= self.value <= 255:
            raise AdvrBDError(f"value must be in [0, 255], got {self.value}")

    def trigger(self, images: Tensor) -> Tensor:
        if self.patch_size > min(images.shape[-2:]):
            raise AdvrBDError(f"patch_size must be in [1, {min(images.shape[-2:])}], got {self.patch_size}")
        triggered = images.clone()
        triggered[:, :, -self.patch_size :, -self.patch_size :] = self.value
        return triggered
