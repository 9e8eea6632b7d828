"""What every attack is: a trigger, a choice of samples, and the truth about both."""

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

_CHUNK = 2**23  # pixel values worked on at once: 64 MiB in float64, whatever the size of the set


@dataclass(frozen=True, eq=False)
class PoisonedSet:
    """A data set after an attack, and the truth about it, which only a report may read.

    Attributes:
        image_set: what the victim is given; ids, paths and order are those of the set before the attack.
        poisoned: (N,) bool, the samples that carry the trigger and the target label.
        covers: (N,) bool, the samples that carry (something like) the trigger and keep their true label.
        true_labels: (N,) int64, the labels before the attack.
        attack: the attack's name.
        target_label: the label that the trigger is to bring about, or ``None`` if there was no attack.
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
    """A backdoor attack on a set of images; the subclasses say which.

    Attributes:
        target_label: the label that a triggered image is to be given.
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
        """The images with the trigger as it is shown to the victim's model: (N, C, H, W) uint8 to a new tensor."""

    def training_trigger(self, images: Tensor, sample_ids: Tensor, *, seed: int) -> Tensor:
        """The images with the trigger as the training set is given it; unless an attack says otherwise, the same.

        Args:
            images: (N, C, H, W) uint8.
            sample_ids: (N,) int64; what differs between images derives from (seed, sample id).
        """
        return self.trigger(images)

    def candidates(self, labels: Tensor) -> Tensor:
        """(N,) bool: which samples may be poisoned. Unless an attack says otherwise, all outside the target class."""
        return labels != self.target_label

    def victims(self, labels: Tensor) -> Tensor:
        """(N,) bool: which test images the trigger is to work on; their share sent to the target is the ASR."""
        return labels != self.target_label

    def poison(self, image_set: ImageSet, *, seed: int = 0) -> PoisonedSet:
        """Poison ``poison_ratio`` of the set, drawn by (seed, sample id) from the candidates.

        Raises:
            AdvrBDError: a label is not one of the set's, or there are too few candidates.
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
        """The :meth:`victims` among the test images with the trigger and their *true* labels, for ASR and RA."""
        self._check_labels(image_set)
        victims = image_set.subset(self.victims(image_set.labels))
        images = victims.images.clone()
        _change(images, victims.sample_ids, torch.arange(len(victims)), lambda some, _: self.trigger(some))
        return ImageSet(images, victims.labels, victims.class_names, victims.sample_ids, victims.paths)

    def _draw(self, image_set: ImageSet, candidates: Tensor, verb: str, key: str, seed: int) -> Tensor:
        """The positions of a share (the value of ``key``) of the *whole* set, drawn among ``candidates``."""
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
    """An attack that also shows the trigger, or something like it, on samples that keep their true label.

    Such covers (WaNet's noise mode, TaCT's cover images, the adaptive attacks' regularization samples) teach the
    model that the trigger alone, or a part of it, is no reason to predict the target.

    Attributes:
        cover_rate: the share of the *whole* training set that are covers, in [0, 1); no cover is poisoned.
    """

    cover_rate: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.cover_rate < 1:
            raise AdvrBDError(f"cover_rate must be in [0, 1), got {self.cover_rate}")

    def cover_candidates(self, labels: Tensor) -> Tensor:
        """(N,) bool: which may be covers, if not poisoned. Unless an attack says otherwise, samples of any class."""
        return torch.ones_like(labels, dtype=torch.bool)

    def cover_trigger(self, images: Tensor, sample_ids: Tensor, *, seed: int) -> Tensor:
        """What covers are given: the :meth:`training_trigger`, unless an attack says otherwise."""
        return self.training_trigger(images, sample_ids, seed=seed)

    def poison(self, image_set: ImageSet, *, seed: int = 0) -> PoisonedSet:
        """As :meth:`Attack.poison`, with covers drawn among the samples that were not poisoned."""
        result = super().poison(image_set, seed=seed)
        candidates = self.cover_candidates(image_set.labels) & ~result.poisoned
        chosen = self._draw(image_set, candidates, "cover", "cover_rate", seed)
        _change(result.image_set.images, image_set.sample_ids, chosen, partial(self.cover_trigger, seed=seed))
        result.covers[chosen] = True
        return result


def _change(images: Tensor, sample_ids: Tensor, chosen: Tensor, make: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Put ``make(images, sample_ids)`` in the place of the chosen images, a bounded number at a time."""
    if len(chosen) == 0:
        return
    for some in chosen.split(max(1, _CHUNK // images[0].numel())):
        images[some] = make(images[some], sample_ids[some])


def no_attack(image_set: ImageSet) -> PoisonedSet:
    """The set as it is, with a truth record that says so: what a defense must leave alone."""
    nothing = torch.zeros(len(image_set), dtype=torch.bool)
    return PoisonedSet(image_set, nothing, nothing.clone(), image_set.labels.clone(), "none", None, {})
