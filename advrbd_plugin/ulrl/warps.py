"""Smooth warps of the whole image, for triggers that move pixels and add nothing to them. (Ours.)

WaNet's trigger (arXiv 2102.10369) shifts every pixel by less than one along a smooth field, the same for all images. No
small additive pattern does the same, but the field has few parameters, so gradient descent finds it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def warp(images: Tensor, fields: Tensor) -> Tensor:
    """Sample each pixel from a displaced place.

    Args:
        images: (N, C, H, W) float.
        fields: (N, 2, points, points) or (1, 2, points, points) float, displacements (x, y) in pixels at control points
            spread evenly over the image; bicubic interpolation between them.

    Returns:
        (N, C, H, W), bilinear samples; the border is repeated outside the image.
    """
    height, width = images.shape[-2:]
    shift = functional.interpolate(fields, size=(height, width), mode="bicubic", align_corners=True)
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, height, device=images.device),
        torch.linspace(-1, 1, width, device=images.device),
        indexing="ij",
    )
    pixel = fields.new_tensor([2 / max(1, width - 1), 2 / max(1, height - 1)])
    grid = torch.stack([x, y], dim=-1) + shift.permute(0, 2, 3, 1) * pixel
    grid = grid.expand(len(images), -1, -1, -1)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=True)


def field_norm(size: float, points: int) -> float:
    """The Euclidean norm of a field of ``points`` x ``points`` whose displacements have root mean square ``size``."""
    return size * math.sqrt(2 * points**2)


def random_fields(count: int, points: int, size: float, seed: int) -> Tensor:
    """Draw (count, 2, points, points) float32 displacements in pixels, normal with standard deviation ``size``."""
    generator = torch.Generator().manual_seed(seed)
    return size * torch.randn(count, 2, points, points, generator=generator)
