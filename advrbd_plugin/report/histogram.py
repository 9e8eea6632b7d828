"""The distribution of the probabilities as a drawing whose colours come from the page's style."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from advrbd_plugin.report.record import VERDICTS

_BINS = 20
_WIDTH, _HEIGHT = 500, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 78, 24, 12, 52


def histogram_svg(score: Tensor, codes: Tensor) -> str:
    """How many pictures have which probability, by verdict, as an ``<svg>`` element; counts on a logarithmic axis.

    Args:
        score: (N,) float, probabilities; what is not finite is left out.
        codes: (N,) int64, places in :data:`VERDICTS`.
    """
    usable = torch.isfinite(score)
    bins = (score[usable].double().clamp(0, 1) * _BINS).long().clamp(max=_BINS - 1)
    counts = torch.bincount(codes[usable] * _BINS + bins, minlength=len(VERDICTS) * _BINS).view(-1, _BINS)
    most = max(10, int(counts.max()))
    top = 10 ** math.ceil(math.log10(most))
    parts = [*_axes(top), *_bars(counts, top)]
    said = ", ".join(f"{int(row.sum()):,} {name}" for name, row in zip(VERDICTS, counts, strict=True))
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" class="chart" '
        f'aria-label="Pictures by their probability of being poisoned: {said}">' + "".join(parts) + "</svg>"
    )


def _y(count: float, top: float) -> float:
    """Height of a count: the logarithm of one more, so that none is at the bottom."""
    return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * math.log1p(count) / math.log1p(top)


def _x(share: float) -> float:
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * share


def _bars(counts: Tensor, top: float) -> list[str]:
    """One bar beside the other for each verdict that a bin has."""
    parts = []
    for place in range(_BINS):
        present = [code for code in range(len(VERDICTS)) if int(counts[code, place])]
        width = (_x(1 / _BINS) - _x(0) - 3) / max(1, len(present))
        for number, code in enumerate(present):
            height = _y(int(counts[code, place]), top)
            parts.append(
                f'<rect class="bar {VERDICTS[code]}" x="{_x(place / _BINS) + 1.5 + number * width:.1f}" '
                f'y="{height:.1f}" width="{width:.1f}" height="{_HEIGHT - _BOTTOM - height:.1f}"/>'
            )
    return parts


def _axes(top: float) -> list[str]:
    bottom = _HEIGHT - _BOTTOM
    parts = []
    ticks = [0, *(10**power for power in range(round(math.log10(top)) + 1))]
    for count in ticks:
        height = _y(count, top)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{height:.1f}" y2="{height:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{height + 5:.1f}" text-anchor="end">{count:,}</text>')
    for tenth in range(0, 11, 2):
        parts.append(f'<text x="{_x(tenth / 10):.1f}" y="{bottom + 20}" text-anchor="middle">{10 * tenth}%</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(
        f'<text x="{middle:.0f}" y="{_HEIGHT - 6}" text-anchor="middle">probability that the picture is poisoned</text>'
    )
    parts.append(
        f'<text transform="translate(15 {(bottom + _TOP) / 2:.0f}) rotate(-90)" text-anchor="middle">'
        "pictures (logarithmic)</text>"
    )
    return parts
