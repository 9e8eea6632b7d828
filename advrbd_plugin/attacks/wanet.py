"""WaNet: a small, smooth warp as the trigger (Nguyen and Tran, arXiv 2102.10369, section 3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from advrbd_plugin.attacks.base import CoverAttack
from advrbd_plugin.attacks.patch import check_size
from advrbd_plugin.attacks.sampling import uniform
from advrbd_plugin.errors import AdvrBDError


@dataclass(frozen=True, kw_only=True)
class WaNet(CoverAttack):
    """One warping field warps all images; covers ("noise mode") are also warped by noise of their own.

    The field is drawn at k x k control points, uniform in [-1, 1], divided by its mean size, brought to the image's
    size by bicubic interpolation, and moves a pixel by strength / 2 of it (strength / side in the coordinates of
    -1 to 1 that sampling uses). The noise of a cover is uniform in half a pixel either way, drawn for each pixel.

    The paper warps within each training batch. Here the stored set is warped once, so the attacker need not control
    the training.

    Attributes:
        strength: s of the paper.
        control_points: k of the paper.
        warp_seed: the field derives from it alone, so training and test images are warped alike.
    """

    name = "wanet"

    cover_rate: float = 0.05
    strength: float = 0.5
    control_points: int = 4
    warp_seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.strength > 0:
            raise AdvrBDError(f"strength must be positive, got {self.strength}")
        if self.control_points < 2:
            raise AdvrBDError(f"control_points must be at least 2, got {self.control_points}")

    def trigger(self, images: Tensor) -> Tensor:
        return _sample(images, self._grid(images))

    def cover_trigger(self, images: Tensor, sample_ids: Tensor, *, seed: int) -> Tensor:
        count, height, width = len(images), *images.shape[-2:]
        noise = uniform(sample_ids, 2 * height * width, seed=seed, purpose="wanet/noise")
        noise = (2 * noise - 1).reshape(count, height, width, 2)
        return _sample(images, self._grid(images) + noise / _sides(images))

    def _grid(self, images: Tensor) -> Tensor:
        """(1, H, W, 2): the place (x, y) in [-1, 1] that each pixel is sampled from."""
        check_size(images, self.control_points, self.name)
        height, width = images.shape[-2:]
        points = self.control_points
        field = uniform(torch.arange(points**2), 2, seed=self.warp_seed, purpose="wanet/field") * 2 - 1
        field = (field / field.abs().mean()).T.reshape(1, 2, points, points)
        field = F.interpolate(field, size=(height, width), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
        y, x = torch.meshgrid(*(torch.linspace(-1, 1, side).double() for side in (height, width)), indexing="ij")
        return torch.stack([x, y], dim=-1) + self.strength * field / _sides(images)


def _sides(images: Tensor) -> Tensor:
    """(2,) float64: width and height."""
    return torch.tensor([images.shape[-1], images.shape[-2]], dtype=torch.float64)


def _sample(images: Tensor, grid: Tensor) -> Tensor:
    grid = grid.clamp(-1, 1).expand(len(images), -1, -1, -1)
    return F.grid_sample(images.double(), grid, align_corners=True).round().clamp(0, 255).byte()
