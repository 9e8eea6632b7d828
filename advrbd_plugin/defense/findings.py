"""What was found about a class, in numbers, words and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.defense.transplant import SetStatistics, residual, slow_residual


@dataclass(frozen=True)
class Window:
    """A square part of a picture, in pixels.

    Attributes:
        top, left: its upper left pixel.
        side: its height and width.

    Examples:
        >>> corner = Window(top=28, left=28, side=3)
        >>> corner.top + corner.side
        31
    """

    top: int
    left: int
    side: int


@dataclass(frozen=True, eq=False)
class ClassFinding:
    """What was found about one class.

    Attributes:
        label: the class.
        suspected: whether it is held to be a target of an attack.
        probability: that some of its samples carry a trigger, as far as the evidence goes.
        sentence: what was found and how sure it is, for a person.
        kind: the evidence that speaks loudest, a name of :data:`advrbd_plugin.defense.evidence.EVIDENCE` or
            ``misplacement``; empty where nothing was found.
        share: value of that evidence, from 0 to 1.
        round: number of the model that gave it away: 1 for the model trained on everything, 2 for the first clean one.
        pattern: (C, H, W) float32 in pixel scale, what its poisoned samples have in common less what all pictures have;
            ``None`` where the class is not suspected.
        window: the part of the picture where most of the pattern is; ``None`` where it is spread over the picture.

    Examples:
        >>> finding = ClassFinding(1, True, 0.98, "24 samples carry the same white square", window=Window(28, 28, 3))
        >>> ClassFinding.from_json(finding.to_json()).window
        Window(top=28, left=28, side=3)
    """

    label: int
    suspected: bool
    probability: float
    sentence: str
    kind: str = ""
    share: float = 0.0
    round: int = 1
    pattern: Tensor | None = field(default=None, repr=False)
    window: Window | None = None

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> ClassFinding:
        """What :meth:`to_json` gave, without the pattern."""
        window = stored["window"]
        return cls(**stored | {"window": None if window is None else Window(*window)})

    def to_json(self) -> dict[str, Any]:
        """Everything but the pattern, ready for JSON."""
        window = None if self.window is None else [self.window.top, self.window.left, self.window.side]
        return {
            "label": self.label,
            "suspected": self.suspected,
            "probability": self.probability,
            "sentence": self.sentence,
            "kind": self.kind,
            "share": self.share,
            "round": self.round,
            "window": window,
        }


def trigger_pictures(findings: Sequence[ClassFinding], samples: ImageSet, poisoned: Tensor) -> tuple[ClassFinding, ...]:
    """The findings, with pattern and window of each suspected class as its poisoned samples show them in the end.

    Args:
        samples: the training set.
        poisoned: (N,) bool, in its order.
    """
    suspected = [each.label for each in findings if each.suspected]
    patterns = trigger_patterns(samples, poisoned, suspected, slow=slow_labels(findings))
    return tuple(
        replace(each, pattern=patterns[each.label], window=best_window(patterns[each.label]))
        if each.label in patterns
        else each
        for each in findings
    )


def slow_labels(findings: Sequence[ClassFinding]) -> tuple[int, ...]:
    """The suspected classes whose trigger changes slowly from place to place."""
    return tuple(each.label for each in findings if each.suspected and each.kind == "slow")


def trigger_patterns(
    samples: ImageSet, poisoned: Tensor, labels: Sequence[int], *, slow: Sequence[int] = ()
) -> dict[int, Tensor]:
    """Label -> (C, H, W) float32 in pixel scale, what its poisoned samples have in common.

    Args:
        samples: the training set.
        poisoned: (N,) bool, in its order.
        labels: those that are asked about; one without poisoned samples is missing in the result.
        slow: those of which slow changes belong to the pattern, see :func:`slow_labels`; elsewhere they are the
            content's.
    """
    if not len(labels):
        return {}
    statistics, patterns = SetStatistics.of(samples.images), {}
    for label in labels:
        shown = (poisoned & (samples.labels == label) & statistics.first).nonzero().flatten()[:_SHOWN]
        if len(shown):
            pictures = samples.images[shown].float() / 255
            patterns[label] = residual(pictures, statistics)
            if label in slow:
                patterns[label] += slow_residual(pictures, statistics)
    return patterns


_SHOWN = 2000  # poisoned samples of a class that its pattern is taken from
_WINDOW_SHARE = 0.6  # of the pattern's energy that a window must hold
_WINDOW_PART = 3  # the side of the largest window is the picture's divided by this


def best_window(pattern: Tensor) -> Window | None:
    """The smallest square that holds most of a (C, H, W) pattern's energy; ``None`` if a third of a side is too small.

    The window shows a person where to look. It plays no part in a verdict.
    """
    energy = pattern.double().square().sum(dim=0)
    whole = float(energy.sum())
    if whole <= 0:
        return None
    height, width = energy.shape
    sums = torch.zeros(height + 1, width + 1, dtype=torch.float64)
    sums[1:, 1:] = energy.cumsum(0).cumsum(1)
    for side in range(1, max(2, min(height, width) // _WINDOW_PART + 1)):
        held = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
        place = int(held.argmax())
        if float(held.flatten()[place]) >= _WINDOW_SHARE * whole:
            return Window(place // held.shape[1], place % held.shape[1], side)
    return None
