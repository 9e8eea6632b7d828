"""A search over stock patterns: waves of every frequency and small squares at every place, added to images. (Ours.)

Gradient descent (:mod:`advrbd_plugin.ulrl.attraction`) misses a faint wave, whose gradient vanishes near the clean
image, and a trigger that works on one class alone. So every pattern is tried. A clean model also predicts some label
for whole families of patterns (fine waves look like fur, say); a backdoored model reacts to one pattern of its kind.
What counts is therefore the excess of the best pattern over the others of its kind.
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
# The quantile of all patterns of a kind that the best one is compared with. A clean model reacts alike to a whole band
# of wave frequencies; it hardly reacts to squares, but a trigger square may work at more than one place.
_REFERENCE_QUANTILE = {"wave": 0.95, "square": 0.5}
# In each half of the samples. The verdict on squares depends on fewer classes, so it takes more images of each.
_SAMPLES_PER_CLASS = {"wave": 2, "square": 5}
_SQUARES_PER_SIDE = 10
_COUNTED_CLASSES = 3
_STRONGEST = 4


@dataclass(frozen=True, eq=False)
class PatternSearch:
    """Attributes:
    excess: (num_classes,) float32 in [-1, 1], how much more the best pattern raises the probability of the label than
        the reference quantile of all patterns of its kind; the mean over the three source classes with the largest
        rise, in the worse half of the samples. Higher is more suspicious.
    patterns: (num_classes, P, 1, H, W) float32 in pixel scale, the P strongest for each label.
    """

    excess: Tensor
    patterns: Tensor


def stock_patterns(kind: str, size: tuple[int, int], config: ULRLConfig) -> Callable[[], Iterator[Tensor]]:
    """Return a generator function of all patterns of ``kind``, one of :data:`KINDS`, for ``size`` (height, width)."""
    if kind == "wave":
        return partial(waves, *size, highest=config.pattern_waves, amplitude=config.pattern_amplitude)
    return partial(squares, *size)


def waves(height: int, width: int, *, highest: int, amplitude: float) -> Iterator[Tensor]:
    """Yield (1, H, W) sines of every whole frequency up to ``highest`` in both directions, in two phases each."""
    rows, columns = torch.arange(height).view(-1, 1) / height, torch.arange(width).view(1, -1) / width
    for across in range(highest + 1):
        for down in range(-highest if across else 1, highest + 1):
            for phase in _PHASES:
                turns = across * columns + down * rows + phase
                yield amplitude * torch.sin(2 * math.pi * turns)[None]


def squares(height: int, width: int) -> Iterator[Tensor]:
    """Yield (1, H, W) white and black squares at every place of a grid, the far edges included."""
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
    """Measure how much each pattern raises the probability of each label, on all source classes or on few.

    The effect of a pattern on a class is the smaller of its effects on two halves of the class's samples, so that a fit
    to single images does not count.

    Args:
        model: from (N, C, H, W) float images in pixel scale [0, 1] to (N, num_classes) logits, in eval mode.
        clean_set: clean samples of every label; a few of each are used.
        kind: one of :data:`KINDS`.
        config: gives the patterns and the precision.
        on_batch: called with the number of images processed.
    """
    device = next(model.parameters()).device
    halves = _halves(clean_set, _SAMPLES_PER_CLASS[kind])
    images = as_input(torch.cat([half.images for half in halves]), device)
    before = _probabilities(model, images, config.mixed_precision)
    counted = min(_COUNTED_CLASSES, clean_set.num_classes - 1)
    patterns = stock_patterns(kind, clean_set.image_size, config)
    rows = []
    for pattern in patterns():
        rises = _probabilities(model, (images + pattern.to(device)).clamp(0, 1), config.mixed_precision) - before
        by_half = zip(halves, rises.split_with_sizes([len(half) for half in halves]), strict=True)
        by_class = torch.stack([_class_means(half, rise) for half, rise in by_half]).amin(dim=0)
        rows.append(by_class.topk(counted, dim=0).values.mean(dim=0))
        if on_batch is not None:
            on_batch(len(images))
    effects = torch.stack(rows)
    strongest = effects.topk(min(_STRONGEST, len(effects)), dim=0).indices.T
    return PatternSearch(
        excess=effects.amax(dim=0) - effects.quantile(_REFERENCE_QUANTILE[kind], dim=0),
        patterns=_numbered(patterns(), strongest),
    )


def planned_images(clean_set: ImageSet, kind: str, config: ULRLConfig) -> int:
    """Number of images that :func:`search_patterns` processes."""
    patterns = sum(1 for _ in stock_patterns(kind, clean_set.image_size, config)())
    return patterns * sum(len(half) for half in _halves(clean_set, _SAMPLES_PER_CLASS[kind]))


def _numbered(patterns: Iterator[Tensor], numbers: Tensor) -> Tensor:
    """Pick patterns by ``numbers`` (num_classes, P), their places in the iterator: (num_classes, P, 1, H, W)."""
    wanted = set(numbers.flatten().tolist())
    picked = {number: pattern for number, pattern in enumerate(patterns) if number in wanted}
    flat = torch.stack([picked[number] for number in numbers.flatten().tolist()])
    return flat.view(*numbers.shape, *flat.shape[1:])


def _halves(clean_set: ImageSet, per_class: int) -> tuple[ImageSet, ImageSet]:
    """Two disjoint sets of a few samples of each class; a class with one sample has it in both."""
    halves: tuple[list[Tensor], list[Tensor]] = ([], [])
    for label in range(clean_set.num_classes):
        members = (clean_set.labels == label).nonzero().flatten()
        for start, half in enumerate(halves):
            half.append(members[min(start, len(members) - 1) :: 2][:per_class])
    first, second = (clean_set.subset(torch.cat(half)) for half in halves)
    return first, second


def _class_means(samples: ImageSet, values: Tensor) -> Tensor:
    """Mean (N, num_classes) ``values`` over each class: (num_classes, num_classes) with a zero diagonal."""
    means = torch.stack([values[samples.labels == label].mean(dim=0) for label in range(samples.num_classes)])
    return means.fill_diagonal_(0)


@torch.no_grad()
def _probabilities(model: nn.Module, inputs: Tensor, mixed_precision: bool) -> Tensor:
    with autocast(inputs.device, mixed_precision):
        logits: Tensor = model(inputs)
    return logits.float().softmax(dim=1).cpu()


def _places(length: int, side: int) -> list[int]:
    return sorted({*range(0, length - side + 1, side), length - side})
