"""Stock patterns laid over clean images: a planted road is open to one of them and shut to its likes. (Ours.)

A gradient finds a dense road (:mod:`advrbd_plugin.ulrl.attraction`), but neither a faint wave, whose slope begins far
from the clean image, nor a road that is open to one class alone. So every wave and every place of a small square is
tried. Any model takes some noise for some label (a ripple for fur, say), but then it takes all ripples of that kind
so: what counts is by how much the best pattern exceeds the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.nn.inference import as_input, autocast
from advrbd_plugin.ulrl.config import ULRLConfig

KINDS = ("wave", "square")

_PHASES = (0.0, 0.25)
# The share of a pattern's likes that it must exceed. Waves of neighbouring frequencies are taken alike, up to a whole
# band; squares hardly matter wherever they lie, but one that is a trigger may be seen in more than one place.
_LIKES = {"wave": 0.95, "square": 0.5}
# In each half of the samples. The verdict on squares hangs on fewer classes, so more of their images are asked.
_SAMPLES_PER_CLASS = {"wave": 2, "square": 5}
_SQUARES_PER_SIDE = 10
_LED_CLASSES = 3
_KEPT = 4


@dataclass(frozen=True, eq=False)
class PatternSearch:
    """Attributes:
    excess: (num_classes,) float32 in [-1, 1], by how much the best pattern raises the probability of the label more
        than nearly all of its likes do, on the three classes that it leads away most, in both halves of the samples;
        higher is more suspicious.
    patterns: (num_classes, P, 1, H, W) float32, those that lead to each label best, to be added in pixel scale.
    """

    excess: Tensor
    patterns: Tensor


def stock_patterns(kind: str, size: tuple[int, int], config: ULRLConfig) -> Callable[[], Iterator[Tensor]]:
    """A maker of the patterns of one of :data:`KINDS` for images of ``size`` (height, width)."""
    if kind == "wave":
        return partial(waves, *size, highest=config.pattern_waves, amplitude=config.pattern_amplitude)
    return partial(squares, *size)


def waves(height: int, width: int, *, highest: int, amplitude: float) -> Iterator[Tensor]:
    """(1, H, W) sines of every whole frequency up to ``highest`` in both directions, in two phases each."""
    rows, columns = torch.arange(height).view(-1, 1) / height, torch.arange(width).view(1, -1) / width
    for across in range(highest + 1):
        for down in range(-highest if across else 1, highest + 1):
            for phase in _PHASES:
                turns = across * columns + down * rows + phase
                yield amplitude * torch.sin(2 * math.pi * turns)[None]


def squares(height: int, width: int) -> Iterator[Tensor]:
    """(1, H, W) that turn a small square white, or black, at every place of a grid and at the far edges."""
    side = max(1, math.ceil(min(height, width) / _SQUARES_PER_SIDE) - 1)
    for value in (1.0, -1.0):
        for top in _places(height, side):
            for left in _places(width, side):
                pattern = torch.zeros(1, height, width)
                pattern[:, top : top + side, left : left + side] = value
                yield pattern


def search_patterns(
    model: nn.Module,
    clean_set: ImageSet,
    kind: str,
    config: ULRLConfig,
    *,
    on_batch: Callable[[int], None] | None = None,
) -> PatternSearch:
    """Which labels one of the patterns leads to, be it from all classes or from few.

    What a pattern does to a class is the lesser of what it does to either half of its samples, so that no fit to
    single images counts.

    Args:
        model: from (N, C, H, W) float images in pixel scale [0, 1] to (N, num_classes) logits, in eval mode.
        clean_set: clean samples of every label; a few of each are used.
        kind: of patterns, one of :data:`KINDS`.
        on_batch: called with the number of images worked on.
    """
    device = next(model.parameters()).device
    halves = _halves(clean_set, _SAMPLES_PER_CLASS[kind])
    images = as_input(torch.cat([half.images for half in halves]), device)
    before = _probabilities(model, images, config.mixed_precision)
    led_classes = min(_LED_CLASSES, clean_set.num_classes - 1)
    patterns = stock_patterns(kind, clean_set.image_size, config)
    rows = []
    for pattern in patterns():
        rises = _probabilities(model, (images + pattern.to(device)).clamp(0, 1), config.mixed_precision) - before
        either = zip(halves, rises.split([len(half) for half in halves]), strict=True)
        led = torch.stack([_by_class(half, rise) for half, rise in either]).amin(dim=0)
        rows.append(led.topk(led_classes, dim=0).values.mean(dim=0))
        if on_batch is not None:
            on_batch(len(images))
    led = torch.stack(rows)
    strongest = led.topk(min(_KEPT, len(led)), dim=0).indices.T
    at_hand = {number: pattern for number, pattern in enumerate(patterns()) if (strongest == number).any()}
    kept = torch.stack([at_hand[number] for number in strongest.flatten().tolist()])
    return PatternSearch(
        excess=led.amax(dim=0) - led.quantile(_LIKES[kind], dim=0),
        patterns=kept.view(*strongest.shape, *kept.shape[1:]),
    )


def planned_images(clean_set: ImageSet, kind: str, config: ULRLConfig) -> int:
    """How many images a search among the patterns of ``kind`` looks at."""
    patterns = sum(1 for _ in stock_patterns(kind, clean_set.image_size, config)())
    return patterns * sum(len(half) for half in _halves(clean_set, _SAMPLES_PER_CLASS[kind]))


def _halves(clean_set: ImageSet, per_class: int) -> tuple[ImageSet, ImageSet]:
    """A few samples of each class, and a few others; the same one of a class that has but one."""
    halves: tuple[list[Tensor], list[Tensor]] = ([], [])
    for label in range(clean_set.num_classes):
        members = (clean_set.labels == label).nonzero().flatten()
        for start, half in enumerate(halves):
            half.append(members[min(start, len(members) - 1) :: 2][:per_class])
    first, second = (clean_set.subset(torch.cat(half)) for half in halves)
    return first, second


def _by_class(samples: ImageSet, values: Tensor) -> Tensor:
    """(num_classes, num_classes) means of (N, num_classes) ``values`` over each class; a class's own figure is 0."""
    means = torch.stack([values[samples.labels == label].mean(dim=0) for label in range(samples.num_classes)])
    return means.fill_diagonal_(0)


@torch.no_grad()
def _probabilities(model: nn.Module, inputs: Tensor, mixed_precision: bool) -> Tensor:
    with autocast(inputs.device, mixed_precision):
        logits = model(inputs)
    return logits.float().softmax(dim=1).cpu()


def _places(length: int, side: int) -> list[int]:
    return sorted({*range(0, length - side + 1, side), length - side})
