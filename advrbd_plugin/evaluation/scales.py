"""The sizes of the evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from advrbd_plugin.evaluation.cell import STRESS


@dataclass(frozen=True)
class Scale:
    """Attributes:
    samples: how many training images are drawn, each class in proportion; ``None`` takes all.
    model: the network where none is asked for; the paper's tables name ResNet-18.
    datasets: those that the tables are made on.
    settings: what every training changes in the presets of AdvrBD.
    """

    samples: int | None
    model: str
    datasets: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)


SCALES: dict[str, Scale] = {
    "small": Scale(10_000, "resnet_narrow", ("cifar10",), {"epochs": 20}),
    "full": Scale(
        None,
        "resnet18",
        ("imagenette", "cifar10", "cifar100", "tiny_imagenet"),
        {"epochs": 60, "batch_size": 128},
    ),
}

STRESS_SAMPLES = 10_000
STRESS_SCALE = Scale(STRESS_SAMPLES, "resnet_narrow", ("cifar10",))
"""That of the stress suite, whose cells name their own number of samples; AdvrBD's default decides on the epochs."""


def find_scale(name: str) -> Scale:
    """The scale of a cell."""
    return STRESS_SCALE if name == STRESS else SCALES[name]
