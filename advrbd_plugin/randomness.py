"""Random numbers that depend on (seed, purpose, sample id) and on nothing else.

Everything here is drawn from the counter-based generator :func:`advrbd_plugin.ops.philox_uniform`, so the order of
samples, the batch size, the worker and the device never change what a sample gets.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from advrbd_plugin import ops

_SORT_KEY_RANGE = 2**31 - 1


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A seed in [0, 2**63) for one purpose, for instance ``derive_seed(0, "crop", epoch)``."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def uniform_integers(sample_ids: Tensor, high: int, seed: int) -> Tensor:
    """Two independent integers in [0, high) for each sample.

    Args:
        sample_ids: (N,) int64.
        high: number of values, in [1, 2**31).
        seed: usually from :func:`derive_seed`.

    Returns:
        (N, 2) int64.
    """
    return ops.philox_uniform(sample_ids, high, seed=seed)


def shuffled(sample_ids: Tensor, seed: int) -> Tensor:
    """Indices that shuffle ``sample_ids``: the same samples come in the same order however they were stored.

    Args:
        sample_ids: (N,) int64, unique.

    Returns:
        (N,) int64 permutation.
    """
    keys = uniform_integers(sample_ids, _SORT_KEY_RANGE, seed)
    by_id = torch.argsort(sample_ids)
    for column in (1, 0):
        by_id = by_id[torch.argsort(keys[by_id, column], stable=True)]
    return by_id
