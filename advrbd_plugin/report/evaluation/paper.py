"""The figures of the AdvrBD paper (arXiv 2405.12719, Tables II to VII), as printed there.

``paper_figures.csv`` holds them in percent. Averages are the printed ones; a few are not the mean of their column
(Table III, ABL on Imagenette; Table V).
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib import resources

AVERAGE = "average"
_MODEL = "resnet18"  # the paper's default network


@dataclass(frozen=True)
class PaperFigure:
    """ACC and ASR as fractions."""

    acc: float
    asr: float


def paper_figure(
    table: str, attack: str, method: str, *, dataset: str = "cifar10", model: str | None = None, ratio: float = 0.05
) -> PaperFigure | None:
    """What the paper's ``table`` has for a cell, ``None`` if it has nothing.

    Args:
        table: ``II`` to ``VII``.
        attack: an attack's name, ``none``, or ``average``.
        method: as in the grid.
        model: the network, where the table has several; the paper's ResNet-18 otherwise.
        ratio: the poison ratio; not looked at for the attack ``none``.
    """
    ratio = 0.0 if attack == "none" else ratio
    return _figures().get((table, dataset, model or _MODEL, attack, ratio, method))


@cache
def _figures() -> dict[tuple[str, str, str, str, float, str], PaperFigure]:
    place = resources.files("advrbd_plugin.report.evaluation").joinpath("paper_figures.csv")
    found = {}
    for row in csv.DictReader(place.read_text(encoding="utf-8").splitlines()):
        key = (row["table"], row["dataset"], row["model"], row["attack"], float(row["poison_ratio"]), row["method"])
        found[key] = PaperFigure(float(row["acc"]) / 100, float(row["asr"]) / 100)
    return found
