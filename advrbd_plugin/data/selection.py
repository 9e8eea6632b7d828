"""Choosing samples by lot, each sample's lot depending on the seed and its own id alone."""

from __future__ import annotations

import torch
from torch import Tensor

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.randomness import derive_seed, shuffled


def draw(sample_ids: Tensor, count: int, *, seed: int, purpose: str) -> Tensor:
    """The positions of ``count`` samples drawn without replacement, in ascending order.

    A sample's chance to be drawn does not depend on where it stands: reorder the set and the same ids are drawn.

    Args:
        sample_ids: (N,) int64.
        count: how many, in [0, N].
        seed: any integer.
        purpose: what is drawn; two purposes with one seed are independent.

    Returns:
        (count,) int64 positions in ``sample_ids``.
    """
    if not 0 <= count <= len(sample_ids):
        raise ValueError(f"count must be in [0, {len(sample_ids)}], got {count}")
    return shuffled(sample_ids, derive_seed(seed, purpose))[:count].sort().values


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


def draw_images(image_set: ImageSet, samples: int | None, *, seed: int) -> ImageSet:
    """The set cut down to ``samples`` images, each class in proportion; whole if it has no more, or for ``None``."""
    if samples is None or samples >= len(image_set):
        return image_set
    check_samples(samples, image_set.num_classes)
    return image_set.subset(draw_stratified(image_set.sample_ids, image_set.labels, samples, seed=seed))


def check_samples(samples: int, num_classes: int) -> None:
    """Every class must keep an image.

    Raises:
        AdvrBDError: there are more classes than samples.
    """
    if samples < num_classes:
        raise AdvrBDError(f"samples must be at least one for each of {num_classes} classes, got {samples}")
