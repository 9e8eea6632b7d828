"""One cell of a grid: one method on one backdoored model, and where its result lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

UNDEFENDED = "none"
NO_ATTACK = "none"
TARGET_LABEL = 1
POISON_RATIO = 0.05
STRESS = "stress"


@dataclass(frozen=True)
class Cell:
    """Attributes:
    scale: a key of :data:`advrbd_plugin.evaluation.scales.SCALES`, or ``stress`` for the stress suite.
    dataset: a key of :data:`advrbd_plugin.data.DATASETS`.
    model: a key of :data:`advrbd_plugin.nn.models.MODELS`.
    attack: a key of :data:`advrbd_plugin.attacks.ATTACKS`, or ``none``; in the stress suite a set's name without seed.
    poison_ratio: share of the training set that is poisoned; 0 for the attack ``none`` and in the stress suite.
    seed: of the draw of the samples, the attack and the training.
    method: a key of :data:`advrbd_plugin.evaluation.methods.METHODS`.
    partition_rate: AdvrBD's alpha, where it is not the method's own.
    samples: how many training images are drawn, where that is not the scale's own number.
    """

    scale: str
    dataset: str
    model: str
    attack: str
    poison_ratio: float
    seed: int
    method: str
    partition_rate: float | None = None
    samples: int | None = None

    @property
    def prerequisite(self) -> Cell:
        """The cell that trains the backdoored model which this one defends."""
        return replace(self, method=UNDEFENDED, partition_rate=None)

    @property
    def is_prerequisite(self) -> bool:
        return self.method == UNDEFENDED

    @property
    def name(self) -> str:
        """For people: ``cifar10/resnet_narrow/badnets-0.05-seed0/advrbd``."""
        rate = "" if self.partition_rate is None else f"-alpha{self.partition_rate:g}"
        return f"{self.setting}/{self.method}{rate}"

    @property
    def file_name(self) -> str:
        """The same in one piece, for files that belong to it."""
        return f"{self.scale}-{self.name.replace('/', '-')}"

    @property
    def setting(self) -> str:
        """What all methods on one backdoored model have in common."""
        if self.scale == STRESS:
            return f"{self.dataset}/{self.model}/{self.set_name}-n{self.samples}"
        return f"{self.dataset}/{self.model}/{self.attack}-{self.poison_ratio:g}-seed{self.seed}"

    @property
    def set_name(self) -> str:
        """In the stress suite: the set as :func:`advrbd_plugin.evaluation.stress_suite.make_stress_set` knows it."""
        return f"{self.attack}-s{self.seed}"

    @property
    def path(self) -> Path:
        """Its result, below the results' folder."""
        return Path(self.scale) / f"{self.name}.json"

    def to_mapping(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Cell:
        """The cell that :meth:`to_mapping` described; raises TypeError for anything else."""
        return cls(**values)
