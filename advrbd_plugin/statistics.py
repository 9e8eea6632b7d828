"""Estimates that a few outliers do not move."""

from __future__ import annotations

from torch import Tensor

NORMAL_MAD = 1.4826
"""The standard deviation of a normal distribution over its median absolute deviation."""


def median_and_deviation(values: Tensor) -> tuple[Tensor, Tensor]:
    """The median, and the standard deviation estimated from the median absolute deviation (MAD).

    Args:
        values: (N,) float, at least one.

    Returns:
        Two scalars of the same dtype; the deviation is 0 where more than half of the values are equal.
    """
    median = values.quantile(0.5)
    return median, NORMAL_MAD * (values - median).abs().quantile(0.5)
