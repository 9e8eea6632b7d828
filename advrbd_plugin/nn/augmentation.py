"""Random crops and flips that depend on (seed, sample id, epoch) and on nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from advrbd_plugin.randomness import derive_seed, uniform_integers

if TYPE_CHECKING:
    from advrbd_plugin.nn.training import TrainingOptions


def augment(images: Tensor, sample_ids: Tensor, options: TrainingOptions, epoch: int) -> Tensor:
    """Crop and mirror a batch as (seed, sample id, epoch) say: the same image gets the same treatment in any batch.

    Args:
        images: (N, C, H, W) uint8.
        sample_ids: (N,) int64 on the same device.

    Returns:
        (N, C, H, W) uint8, the same bits on every device.
    """
    height, width, device = *images.shape[-2:], images.device
    flipped = torch.zeros(len(images), dtype=torch.bool, device=device)
    if options.flip:
        flipped = uniform_integers(sample_ids, 2, derive_seed(options.seed, "flip", epoch))[:, 0] == 1
    padding = options.crop_padding
    offsets = torch.zeros(len(images), 2, dtype=torch.int64, device=device)
    if padding:
        offsets = uniform_integers(sample_ids, 2 * padding + 1, derive_seed(options.seed, "crop", epoch))
        images = functional.pad(images, (padding, padding, padding, padding))
    rows = offsets[:, :1] + torch.arange(height, device=device)
    columns = torch.arange(width, device=device).expand(len(images), width)
    columns = offsets[:, 1:] + torch.where(flipped[:, None], columns.flip(1), columns)
    channels_last = images.permute(0, 2, 3, 1)
    sample = torch.arange(len(images), device=device)[:, None, None]
    return channels_last[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
