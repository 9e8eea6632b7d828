"""The order and the batches in which a network sees its samples."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from advrbd_plugin.randomness import derive_seed, shuffled


def batches_of(order: Tensor, batch_size: int) -> list[Tensor]:
    """``order`` in batches; a sample that would be left alone joins the batch before, since batch normalisation has
    nothing to normalise one sample by.

    Args:
        order: (N,) int64.
    """
    batches = list(order.split(batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def count_batches(samples: int, batch_size: int) -> int:
    """How many :func:`batches_of` makes of so many samples."""
    return len(batches_of(torch.arange(samples), batch_size))


def endless_batches(indices: Tensor, sample_ids: Tensor, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Batches of ``indices``, shuffled anew for each pass; a batch never exceeds the whole."""
    passes = 0
    while True:
        order = indices[shuffled(sample_ids[indices], derive_seed(seed, passes))]
        for batch in order.split(min(batch_size, len(order))):
            if len(batch) == min(batch_size, len(order)):
                yield batch
        passes += 1
