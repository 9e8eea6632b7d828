"""What every attack is: a trigger, a choice of samples, and the truth about both."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.data.selection import draw
from advrbd_plugin.errors import AdvrBDError


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
        """The images with the trigger: (N, C, H, W) uint8 to a new tensor of the same shape."""

    def candidates(self, labels: Tensor) -> Tensor:
        """(N,) bool: which samples may be poisoned. Unless an attack says otherwise, all outside the target class."""
        return labels != self.target_label

    def poison(self, image_set: ImageSet, *, seed: int = 0) -> PoisonedSet:
        """Poison ``poison_ratio`` of the set, drawn by (seed, sample id) from the candidates.

        Raises:
            AdvrBDError: the target label is not one of the set's, or there are too few candidates.
        """
        self._check_target(image_set)
        candidates = self.candidates(image_set.labels).nonzero().flatten()
        count = round(self.poison_ratio * len(image_set))
        if count > len(candidates):
            raise AdvrBDError(
                f"{self.name} can poison {len(candidates)} of these {len(image_set)} images, but poison_ratio "
                f"{self.poison_ratio} asks for {count}: use at most {len(candidates) / len(image_set):.4f}"
            )
        chosen = candidates[draw(image_set.sample_ids[candidates], count, seed=seed, purpose=f"poison/{self.name}")]
        images, labels = image_set.images.clone(), image_set.labels.clone()
        images[chosen] = self.trigger(image_set.images[chosen])
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
        """The test images of all other classes with the trigger and their *true* labels, for ASR and RA."""
        self._check_target(image_set)
        others = image_set.subset(image_set.labels != self.target_label)
        return ImageSet(
            self.trigger(others.images), others.labels, others.class_names, others.sample_ids, others.paths
        )

    def _check_target(self, image_set: ImageSet) -> None:
        if self.target_label >= image_set.num_classes:
            raise AdvrBDError(f"target_label must be in [0, {image_set.num_classes - 1}], got {self.target_label}")


def no_attack(image_set: ImageSet) -> PoisonedSet:
    """The set as it is, with a truth record that says so: what a defense must leave alone."""
    nothing = torch.zeros(len(image_set), dtype=torch.bool)
    return PoisonedSet(image_set, nothing, nothing.clone(), image_set.labels.clone(), "none", None, {})
