"""Random numbers for triggers that differ between images; each depends on (seed, purpose, sample id) alone."""

from __future__ import annotations

import torch
from torch import Tensor

from advrbd_plugin import ops
from advrbd_plugin.randomness import derive_seed

_VALUES = 2**31 - 1
_PAIRS_AT_ONCE = 4096  # as many as patch_origins draws for a sample and seed


def uniform(sample_ids: Tensor, count: int, *, seed: int, purpose: str) -> Tensor:
    """Draw ``count`` independent numbers for each sample.

    Args:
        sample_ids: (N,) int64.
        count: numbers per sample, at least 1.
        seed: any integer.
        purpose: names the use; numbers for two purposes are independent of each other.

    Returns:
        (N, count) float64, uniform in [0, 1).
    """
    pairs = (count + 1) // 2
    blocks = []
    for start in range(0, pairs, _PAIRS_AT_ONCE):
        size = min(_PAIRS_AT_ONCE, pairs - start)
        block_seed = derive_seed(seed, purpose, start)
        blocks.append(ops.patch_origins(sample_ids, _VALUES, 1, num_masks=size, seed=block_seed))
    numbers = torch.cat(blocks).permute(1, 0, 2).reshape(len(sample_ids), 2 * pairs)[:, :count]
    return numbers.double() / _VALUES
