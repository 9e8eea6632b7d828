"""MNIST in the form that BackdoorBench's architectures take: three channels of 32 x 32 pixels.

The toolbox lists MNIST with one channel of 28 x 28. But its networks need three channels, its triggers are in colour,
and some networks halve an image five times.
"""

from __future__ import annotations

from typing import Any

SHAPE = (32, 32, 3)
MEAN = STD = (0.5, 0.5, 0.5)


class InColour:
    """Gives the grey images of a dataset of (image, label) pairs three equal channels."""

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self.targets = [int(label) for label in dataset.targets]
        self.classes = list(dataset.classes)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, position: int) -> tuple[Any, int]:
        picture, label = self._dataset[position]
        return picture.convert("RGB"), label
