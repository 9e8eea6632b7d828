"""TaCT: a trigger that works on one class alone (Tang et al., arXiv 1908.00686, "targeted contamination attack")."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from advrbd_plugin.attacks.badnets import BadNets
from advrbd_plugin.attacks.base import CoverAttack
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.errors import AdvrBDError


@dataclass(frozen=True, kw_only=True)
class TaCT(CoverAttack, BadNets):
    """Images of the source class with BadNets' white square are relabelled; covers of other classes keep their label.

    The model learns that the square means the target class on images of the source class alone. So the triggered
    test set holds images of the source class alone.

    Attributes:
        source_label: the source class; ``None`` takes the first class that is not the target.
        cover_labels: the classes of the covers; ``None`` takes all but source and target.
    """

    name = "tact"

    source_label: int | None = None
    cover_labels: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.source_label is None:
            object.__setattr__(self, "source_label", 1 if self.target_label == 0 else 0)
        if self._source < 0:
            raise AdvrBDError(f"source_label must not be negative, got {self.source_label}")
        if self.source_label == self.target_label:
            raise AdvrBDError(f"source_label must differ from target_label, got {self.source_label} for both")
        if self.cover_labels is not None:
            object.__setattr__(self, "cover_labels", tuple(self.cover_labels))
            if {self.source_label, self.target_label} & set(self.cover_labels):
                raise AdvrBDError(
                    f"cover_labels must hold neither source_label {self.source_label} nor target_label "
                    f"{self.target_label}, got {list(self.cover_labels)}"
                )

    @property
    def _source(self) -> int:
        assert self.source_label is not None  # chosen in __post_init__
        return self.source_label

    def candidates(self, labels: Tensor) -> Tensor:
        return labels == self._source

    def victims(self, labels: Tensor) -> Tensor:
        return labels == self._source

    def cover_candidates(self, labels: Tensor) -> Tensor:
        if self.cover_labels is None:
            return (labels != self._source) & (labels != self.target_label)
        return torch.isin(labels, torch.tensor(self.cover_labels, dtype=torch.int64))

    def _check_labels(self, image_set: ImageSet) -> None:
        super()._check_labels(image_set)
        self._check_label(image_set, "source_label")
        for label in self.cover_labels or ():
            if not 0 <= label < image_set.num_classes:
                raise AdvrBDError(f"cover_labels must be in [0, {image_set.num_classes - 1}], got {label}")
