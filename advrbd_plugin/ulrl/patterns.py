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
from advrbd_plugin.training import as_input, autocast
from advrbd_plugin.ulrl.config import ULRLConfig

KINDS = ("wave", "square")

_PHASES = (0.0, 0.25)
# The share of a pattern's likes that it must exceed. Waves of neighbouring frequencies are taken alike, up to a whole
# band; squares hardly matter wherever they lie, but one that is a trigger may be seen in more than one place.
_LIKES = {"wave": 0.95, "square": 0.5}
_SAMPLES_PER_CLASS = 5
_SQUARES_PER_SIDE = 10
# From so many images of a class in each half on, it is asked whether a road is open to this class alone.
_MIN_SAMPLES = 4
_KEPT = 4


@dataclass(frozen=True, eq=False)
class PatternSearch:
    """Attributes:
    excess: (num_classes,) float32 in [-1, 1], by how much the best pattern raises the probability of the label more
        than nearly all of its likes do, the smaller of both halves of the samples; higher is more suspicious.
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
    """Which labels one of the patterns leads to, from all classes or from one.

    The best pattern is found on every second sample and judged on the rest.

    Args:
        model: from (N, C, H, W) float images in pixel scale [0, 1] to (N, num_classes) logits, in eval mode.
        clean_set: clean samples of every label; a few of each are used.
        kind: of patterns, one of :data:`KINDS`.
        on_batch: called with the number of images worked on.
    """
    device, mixed_precision = next(model.parameters()).device, config.mixed_precision
    candidates = stock_patterns(kind, clean_set.image_size, config)
    found_on, judged_on = _halves(clean_set)

    def rises(half: _Half, patterns: Iterator[Tensor]) -> Tensor:
        images = as_input(half.images, device)
        before = _probabilities(model, images, mixed_precision)
        rows = []
        for pattern in patterns:
            after = _probabilities(model, (images + pattern.to(device)).clamp(0, 1), mixed_precision)
            rows.append(half.by_source(after - before))
            if on_batch is not None:
                on_batch(len(images))
        return torch.stack(rows)

    found = rises(found_on, candidates())
    likes = found.quantile(_LIKES[kind], dim=0)
    best = found.argmax(dim=0)
    needed = set(best.flatten().tolist())
    order = {number: place for place, number in enumerate(sorted(needed))}
    judged = rises(judged_on, (pattern for number, pattern in enumerate(candidates()) if number in needed))
    places = torch.tensor([order[number] for number in best.flatten().tolist()]).view(1, *best.shape)
    excess = torch.minimum(found.amax(dim=0), judged.gather(0, places)[0]) - likes
    excess[:-1][torch.tensor(found_on.too_few) | torch.tensor(judged_on.too_few)] = -1.0
    excess, group = excess.max(dim=0)
    strongest = found.gather(1, group.expand(len(found), 1, -1))[:, 0].topk(min(_KEPT, len(found)), dim=0).indices
    at_hand = {number: pattern for number, pattern in enumerate(candidates()) if (strongest == number).any()}
    patterns = torch.stack([at_hand[number] for number in strongest.T.flatten().tolist()])
    return PatternSearch(excess, patterns.view(clean_set.num_classes, -1, *patterns.shape[1:]))


@dataclass(frozen=True, eq=False)
class _Half:
    images: Tensor
    labels: Tensor
    num_classes: int

    @property
    def too_few(self) -> list[bool]:
        """For each class whether it has too few images to stand alone."""
        return (torch.bincount(self.labels, minlength=self.num_classes) < _MIN_SAMPLES).tolist()

    def by_source(self, values: Tensor) -> Tensor:
        """Mean of (N, num_classes) over the images of each class, and over those of all classes but the label's own.

        Returns:
            (num_classes + 1, num_classes); a class's figure for itself, or without images, is 0.
        """
        sources = torch.zeros(self.num_classes, self.num_classes)
        for source in range(self.num_classes):
            members = self.labels == source
            if members.any():
                sources[source] = values[members].mean(dim=0)
        sources.fill_diagonal_(0)
        present = torch.bincount(self.labels, minlength=self.num_classes) > 0
        others = (present.sum() - present.float()).clamp_min(1)
        return torch.cat([sources, (sources.sum(dim=0) / others)[None]])


def planned_images(clean_set: ImageSet, kind: str, config: ULRLConfig) -> int:
    """How many images a search among the patterns of ``kind`` looks at, apart from judging the best ones."""
    patterns = sum(1 for _ in stock_patterns(kind, clean_set.image_size, config)())
    return patterns * len(_halves(clean_set)[0].images)


def _halves(clean_set: ImageSet) -> tuple[_Half, _Half]:
    """A few samples of each class, and a few others; the same ones of a class that has but one."""
    halves: tuple[list[Tensor], list[Tensor]] = ([], [])
    for label in range(clean_set.num_classes):
        members = (clean_set.labels == label).nonzero().flatten()
        for start, half in enumerate(halves):
            half.append(members[min(start, len(members) - 1) :: 2][:_SAMPLES_PER_CLASS])
    first, second = (clean_set.subset(torch.cat(half)) for half in halves)
    return tuple(_Half(half.images, half.labels, clean_set.num_classes) for half in (first, second))


@torch.no_grad()
def _probabilities(model: nn.Module, inputs: Tensor, mixed_precision: bool) -> Tensor:
    with autocast(inputs.device, mixed_precision):
        logits = model(inputs)
    return logits.float().softmax(dim=1).cpu()


def _places(length: int, side: int) -> list[int]:
    return sorted({*range(0, length - side + 1, side), length - side})
