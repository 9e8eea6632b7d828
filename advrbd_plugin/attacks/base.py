"""The base classes of all attacks, and a poisoned set with its ground truth."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.data.selection import draw
from advrbd_plugin.errors import AdvrBDError

_CHUNK = 2**23  # pixel values processed at once: 64 MiB in float64, for a set of any size


@dataclass(frozen=True, eq=False)
class PoisonedSet:
    """A data set after an attack with its ground truth. Only reports and tests may read the truth, no defense.

    Attributes:
        image_set: the poisoned set, which the victim trains on; ids, paths and order are those of the clean set.
        poisoned: (N,) bool, the samples that carry the trigger and the target label.
        covers: (N,) bool, the samples that carry the trigger, or a variant of it, with their true label.
        true_labels: (N,) int64, the labels before the attack.
        attack: the attack's name.
        target_label: the target class, or ``None`` if there was no attack.
        parameters: the attack's settings and the seed, ready for JSON.
    """

    image_set: ImageSet
    poisoned: Tensor
    covers: Tensor
    true_labels: Tensor
    attack: str
    target_label: int | None
    parameters: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """A backdoor attack on a set of images; each subclass is one attack.

    Attributes:
        target_label: the target class: the prediction that the trigger is to cause.
        poison_ratio: the share of the *whole* training set that is poisoned, in [0, 1).
    """

    name: ClassVar[str]

    target_label: int = 1
    poison_ratio: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.poison_ratio < 1:
            raise AdvrBDError(f"poison_ratio must be in [0, 1), got {self.poison_ratio}")
        if self.target_label < 0:
            raise AdvrBDError(f"target_label must not be negative, got {self.target_label}")

    @abstractmethod
    def trigger(self, images: Tensor) -> Tensor:
        """Add the trigger as used at test time: (N, C, H, W) uint8 to a new tensor of the same shape."""

    def training_trigger(self, images: Tensor, sample_ids: Tensor, *, seed: int) -> Tensor:
        """Add the trigger as used in the training set; the default is :meth:`trigger`.

        Args:
            images: (N, C, H, W) uint8.
            sample_ids: (N,) int64; everything random derives from (seed, sample id).

        Returns:
            (N, C, H, W) uint8.
        """
        return self.trigger(images)

    def candidates(self, labels: Tensor) -> Tensor:
        """(N,) bool: the samples that may be poisoned; by default all outside the target class."""
        return labels != self.target_label

    def victims(self, labels: Tensor) -> Tensor:
        """(N,) bool: the test images that ASR counts; by default all outside the target class."""
        return labels != self.target_label

    def poison(self, image_set: ImageSet, *, seed: int = 0) -> PoisonedSet:
        """Poison ``poison_ratio`` of the set: :meth:`candidates` drawn by (seed, sample id).

        Raises:
            AdvrBDError: the set has no such label, or too few candidates.
        """
        self._check_labels(image_set)
        chosen = self._draw(image_set, self.candidates(image_set.labels), "poison", "poison_ratio", seed)
        images, labels = image_set.images.clone(), image_set.labels.clone()
        _change(images, image_set.sample_ids, chosen, partial(self.training_trigger, seed=seed))
        labels[chosen] = self.target_label
        poisoned = torch.zeros(len(image_set), dtype=torch.bool)
        poisoned[chosen] = True
        return PoisonedSet(
            image_set=ImageSet(images, labels, image_set.class_names, image_set.sample_ids, image_set.paths),
            poisoned=poisoned,
            covers=torch.zeros_like(poisoned),
            true_labels=image_set.labels.clone(),
            attack=self.name,
            target_label=self.target_label,
            parameters=asdict(self) | {"seed": seed},
        )

    def triggered_test_set(self, image_set: ImageSet) -> ImageSet:
        """Add the trigger to the :meth:`victims` among test images; they keep their *true* labels, for ASR and RA."""
        self._check_labels(image_set)
        victims = image_set.subset(self.victims(image_set.labels))
        images = victims.images.clone()
        _change(images, victims.sample_ids, torch.arange(len(victims)), lambda some, _: self.trigger(some))
        return ImageSet(images, victims.labels, victims.class_names, victims.sample_ids, victims.paths)

    def _draw(self, image_set: ImageSet, candidates: Tensor, verb: str, key: str, seed: int) -> Tensor:
        """Draw the share ``key`` of the *whole* set from ``candidates`` (N,) bool; return positions."""
        positions = candidates.nonzero().flatten()
        count = round(getattr(self, key) * len(image_set))
        if count > len(positions):
            raise AdvrBDError(
                f"{self.name} can {verb} {len(positions)} of these {len(image_set)} images, but {key} "
                f"{getattr(self, key)} asks for {count}: use at most {len(positions) / len(image_set):.4f}"
            )
        return positions[draw(image_set.sample_ids[positions], count, seed=seed, purpose=f"{verb}/{self.name}")]

    def _check_labels(self, image_set: ImageSet) -> None:
        self._check_label(image_set, "target_label")

    def _check_label(self, image_set: ImageSet, key: str) -> None:
        label = getattr(self, key)
        if label >= image_set.num_classes:
            raise AdvrBDError(f"{key} must be in [0, {image_set.num_classes - 1}], got {label}")


@dataclass(frozen=True, kw_only=True)
class CoverAttack(Attack):
    """An attack that also adds the trigger, or a variant of it, to samples that keep their true label.

    Such covers (WaNet's noise mode, TaCT's cover images, the adaptive attacks' regularization samples) teach the
    model not to predict the target class for a part or a variant of the trigger.

    Attributes:
        cover_rate: the share of the *whole* training set that becomes covers, in [0, 1); no cover is poisoned.
    """

    cover_rate: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.cover_rate < 1:
            raise AdvrBDError(f"cover_rate must be in [0, 1), got {self.cover_rate}")

    def cover_candidates(self, labels: Tensor) -> Tensor:
        """(N,) bool: the samples that may become covers if they are not poisoned; by default all."""
        return torch.ones_like(labels, dtype=torch.bool)

    def cover_trigger(self, images: Tensor, sample_ids: Tensor, *, seed: int) -> Tensor:
        """Add the trigger of covers; the default is :meth:`training_trigger`."""
        return self.training_trigger(images, sample_ids, seed=seed)

    def poison(self, image_set: ImageSet, *, seed: int = 0) -> PoisonedSet:
        """As :meth:`Attack.poison`, with covers drawn from the samples that were not poisoned."""
        result = super().poison(image_set, seed=seed)
        candidates = self.cover_candidates(image_set.labels) & ~result.poisoned
        chosen = self._draw(image_set, candidates, "cover", "cover_rate", seed)
        _change(result.image_set.images, image_set.sample_ids, chosen, partial(self.cover_trigger, seed=seed))
        result.covers[chosen] = True
        return result


def _change(images: Tensor, sample_ids: Tensor, chosen: Tensor, make: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Replace the chosen images by ``make(images, sample_ids)``, a bounded number at a time."""
    if len(chosen) == 0:
        return
    for some in torch.split(chosen, max(1, _CHUNK // images[0].numel())):
        images[some] = make(images[some], sample_ids[some])


def no_attack(image_set: ImageSet) -> PoisonedSet:
    """The unpoisoned set as a :class:`PoisonedSet`; a defense must leave it alone."""
    nothing = torch.zeros(len(image_set), dtype=torch.bool)
    return PoisonedSet(image_set, nothing, nothing.clone(), image_set.labels.clone(), "none", None, {})
