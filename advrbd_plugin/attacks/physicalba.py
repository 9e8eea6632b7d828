"""PhysicalBA: a patch trigger that survives a camera (Li et al., arXiv 2104.02361, "attack enhancement")."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from advrbd_plugin.attacks.base import Attack
from advrbd_plugin.attacks.patch import Layer, check_size, in_proportion
from advrbd_plugin.attacks.picture import flower_picture, load_patch
from advrbd_plugin.attacks.sampling import uniform
from advrbd_plugin.errors import AdvrBDError

_GREY = (0.299, 0.587, 0.114)  # brightness of red, green and blue (ITU-R BT.601)


@dataclass(frozen=True, kw_only=True)
class PhysicalBA(Attack):
    """A picture in the top right corner; each poisoned image, with its trigger, is then transformed at random.

    The transformations imitate a camera: flip, brightness, contrast, rotation, translation and scale, drawn for each
    image. Triggered test images are not transformed.

    Transformations and ranges are those of the example in BackdoorBox, by the paper's first author, with two changes.
    BackdoorBox transforms clean images too, which an attacker who only adds data cannot, and leaves black borders. With
    poisoned images alone, black borders and a scale that no clean image has would become the trigger. So the borders
    are filled by reflection of the image (never of the trigger), and the scales reach 1.

    Attributes:
        trigger_size: side of the picture in pixels; ``None`` takes 13 on 32x32 images, others in proportion.
        picture: path of the user's own picture, transparent where it is to leave the image alone; ``None`` draws one.
        rotation: largest rotation in either direction, in degrees.
        translation: largest shift in either direction, as a share of width and height.
        scale: smallest and largest scale.
        brightness: largest relative change of brightness in either direction.
        contrast: largest relative change of contrast in either direction.
        flip: whether half of the images are mirrored left to right.
    """

    name = "physicalba"

    trigger_size: int | None = None
    picture: str | None = None
    rotation: float = 10.0
    translation: float = 0.1
    scale: tuple[float, float] = (0.8, 1.0)
    brightness: float = 0.2
    contrast: float = 0.2
    flip: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "scale", tuple(self.scale))
        if self.trigger_size is not None and self.trigger_size < 1:
            raise AdvrBDError(f"trigger_size must be at least 1, got {self.trigger_size}")
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise AdvrBDError(f"scale must be two positive numbers, the smaller first, got {list(self.scale)}")
        for key, most in (("rotation", 180), ("translation", 1), ("brightness", 1), ("contrast", 1)):
            if not 0 <= getattr(self, key) <= most:
                raise AdvrBDError(f"{key} must be in [0, {most}], got {getattr(self, key)}")

    def trigger(self, images: Tensor) -> Tensor:
        return self._layer(images).over(images)

    def training_trigger(self, images: Tensor, sample_ids: Tensor, *, seed: int) -> Tensor:
        layer = self._layer(images)
        draws = uniform(sample_ids, 7, seed=seed, purpose="physicalba")
        grid = F.affine_grid(self._transformations(draws, images), list(images.shape), align_corners=False)
        warped = F.grid_sample(images.double(), grid, padding_mode="reflection", align_corners=False)
        coloured = torch.cat([layer.picture * layer.opacity, layer.opacity]).expand(len(images), -1, -1, -1)
        coloured = F.grid_sample(coloured, grid, align_corners=False)
        warped = (1 - coloured[:, -1:]) * warped + coloured[:, :-1]
        return self._relit(warped, draws[:, 5:]).round().clamp(0, 255).byte()

    def _layer(self, images: Tensor) -> Layer:
        smaller = min(images.shape[-2:])
        check_size(images, 4, self.name)
        side = in_proportion(13, images, least=3) if self.trigger_size is None else self.trigger_size
        if side > smaller:
            raise AdvrBDError(f"trigger_size must be in [1, {smaller}], got {side}")
        patch = flower_picture(side) if self.picture is None else load_patch(self.picture, side)
        margin = min(in_proportion(1, images, least=0), smaller - side)
        return Layer.place(patch, ("top", "right"), margin=margin, like=images)

    def _transformations(self, draws: Tensor, images: Tensor) -> Tensor:
        """(N, 2, 3) affine maps from (x, y) of the result, in [-1, 1], to (x, y) of the original; ``draws`` (N, 7)."""
        angle = (2 * draws[:, 0] - 1) * math.radians(self.rotation)
        shift = (2 * draws[:, 1:3] - 1) * 2 * self.translation
        scale = self.scale[0] + (self.scale[1] - self.scale[0]) * draws[:, 3]
        mirror = torch.where((draws[:, 4] < 0.5) & self.flip, -1.0, 1.0).double()
        aspect = images.shape[-2] / images.shape[-1]  # the rotation is in pixels, not in shares of width and height
        cosine, sine = angle.cos() / scale, angle.sin() / scale
        turn = torch.stack([mirror * cosine, mirror * sine * aspect, -sine / aspect, cosine], dim=1).reshape(-1, 2, 2)
        return torch.cat([turn, -turn @ shift[:, :, None]], dim=2)

    def _relit(self, images: Tensor, draws: Tensor) -> Tensor:
        """Change brightness and contrast of (N, C, H, W) images by ``draws`` (N, 2) in [0, 1)."""
        brightness, contrast = (2 * draws - 1).reshape(-1, 2, 1, 1, 1).unbind(dim=1)
        images = (images * (1 + self.brightness * brightness)).clamp(0, 255)
        weights = images.new_tensor(_GREY if images.shape[1] == 3 else (1.0,))[:, None, None]
        mean = (images * weights).sum(dim=1, keepdim=True).mean(dim=(2, 3), keepdim=True)
        return mean + (1 + self.contrast * contrast) * (images - mean)
