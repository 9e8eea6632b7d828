"""Blend: a whole picture mixed in faintly (Chen et al., arXiv 1712.05526, section 5, "blended injection")."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from advrbd_plugin.attacks.base import Attack
from advrbd_plugin.attacks.picture import blend_picture, load_picture, overlay
from advrbd_plugin.errors import AdvrBDError


@dataclass(frozen=True, kw_only=True)
class Blend(Attack):
    """x becomes (1 - alpha) x + alpha k for one picture k; poisoned samples are relabelled (all-to-one).

    Attributes:
        alpha: opacity of the picture, in (0, 1].
        picture: path of the user's picture k; ``None`` takes :func:`~advrbd_plugin.attacks.picture.blend_picture`.
    """

    name = "blend"

    alpha: float = 0.2
    picture: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.alpha <= 1:
            raise AdvrBDError(f"alpha must be in (0, 1], got {self.alpha}")

    def trigger(self, images: Tensor) -> Tensor:
        return overlay(images, self._picture_for(images), self.alpha)

    def _picture_for(self, images: Tensor) -> Tensor:
        """(C, H, W) float64, of the images' size."""
        channels, height, width = images.shape[1:]
        if self.picture is None:
            return blend_picture(height, width, channels=channels)
        return load_picture(self.picture, height, width, channels=channels)
