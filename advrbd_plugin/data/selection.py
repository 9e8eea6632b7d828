"""Choosing samples by lot, each sample's lot depending on the seed and its own id alone."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor


def lots(sample_ids: Tensor, *, seed: int, purpose: str) -> Tensor:
    """A uniform random number for each sample, a function of (seed, purpose, sample id) and nothing else.

    Args:
        sample_ids: (N,) int64.
        seed: any integer.
        purpose: what is drawn; two purposes with one seed are independent.

    Returns:
        (N,) int64, uniform over 63 bits (SplitMix64's finaliser over a keyed counter; Steele et al. 2014).
    """
    key = int.from_bytes(hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest(), "little")
    state = sample_ids.cpu().numpy().astype(np.uint64)
    with np.errstate(over="ignore"):
        for _ in range(2):  # two rounds: neighbouring ids must not give related lots
            state = (state ^ np.uint64(key)) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return torch.from_numpy((state >> np.uint64(1)).astype(np.int64))


def draw(sample_ids: Tensor, count: int, *, seed: int, purpose: str) -> Tensor:
    """The positions of ``count`` samples drawn without replacement, in ascending order.

    A sample's chance to be drawn does not depend on where it stands: reorder the set and the same ids are drawn.

    Args:
        sample_ids: (N,) int64.
        count: how many, in [0, N].

    Returns:
        (count,) int64 positions in ``sample_ids``.
    """
    if not 0 <= count <= len(sample_ids):
        raise ValueError(f"count must be in [0, {len(sample_ids)}], got {count}")
    order = torch.argsort(lots(sample_ids, seed=seed, purpose=purpose), stable=True)
    return order[:count].sort().values


def draw_stratified(sample_ids: Tensor, labels: Tensor, count: int, *, seed: int) -> Tensor:
    """The positions of ``count`` samples, each class in proportion (largest remainders), in ascending order.

    Args:
        sample_ids: (N,) int64.
        labels: (N,) int64, not negative.
        count: how many, in [0, N].

    Returns:
        (count,) int64 positions in ``sample_ids``.
    """
    if not 0 <= count <= len(sample_ids):
        raise ValueError(f"count must be in [0, {len(sample_ids)}], got {count}")
    if count == 0:
        return torch.zeros(0, dtype=torch.int64)
    exact = torch.bincount(labels).double() * count / len(labels)
    shares = exact.floor().long()
    by_remainder = torch.argsort(exact - shares, descending=True, stable=True)
    shares[by_remainder[: count - int(shares.sum())]] += 1
    chosen = []
    for label, share in enumerate(shares.tolist()):
        members = (labels == label).nonzero().flatten()
        chosen.append(members[draw(sample_ids[members], share, seed=seed, purpose="subset")])
    return torch.cat(chosen).sort().values
