"""How the defense did where the poisoned samples are known: figures and a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from advrbd_plugin.attacks import PoisonedSet
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.evaluation.metrics import Detection, Performance
from advrbd_plugin.report.figures import (
    CLEAN_COLOUR,
    POISONED_COLOUR,
    TILE_HEIGHT,
    draw_histogram,
    draw_tile,
    encode,
    frame_tiles,
    make_figure,
    shorten,
)
from advrbd_plugin.report.record import RunRecord
from advrbd_plugin.table import percentage

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

_EXAMPLES = 12


@dataclass(frozen=True)
class Demonstration:
    """Attributes:
    before: the clean images that were then poisoned, in the same order.
    poisoned: what the defense was given, and the truth.
    undefended: the model trained on everything.
    defended: the clean model.
    detection: the verdicts against the truth.
    """

    before: ImageSet
    poisoned: PoisonedSet
    undefended: Performance
    defended: Performance
    detection: Detection

    def to_mapping(self) -> dict[str, Any]:
        """All figures as fractions, ready for JSON."""
        return {
            "attack": self.poisoned.attack,
            "attack_parameters": self.poisoned.parameters,
            "poisoned": int(self.poisoned.poisoned.sum()),
            "undefended": asdict(self.undefended),
            "defended": asdict(self.defended),
            "detection": asdict(self.detection),
        }


def outcome_table(truth: Mapping[str, Any]) -> dict[str, Any]:
    """The outcome as texts: ``attack``, ``columns`` and ``rows`` of (name, values).

    Args:
        truth: what :meth:`Demonstration.to_mapping` gives, and ``summary.json`` has under that name.
    """
    detection = truth["detection"]
    auroc = "-" if detection["auroc"] is None else f"{detection['auroc']:.3f}"
    found = (percentage(detection["tpr"]), percentage(detection["fpr"]), auroc)
    return {
        "attack": truth["attack"],
        "columns": ("ACC", "ASR", "RA", "TPR", "FPR", "AUROC"),
        "rows": (
            ("undefended", (*_performance_texts(truth["undefended"]), "", "", "")),
            ("AdvrBD", (*_performance_texts(truth["defended"]), *found)),
        ),
    }


def demonstration_png(record: RunRecord, demonstration: Demonstration) -> bytes:
    """Poisoned images beside what they were, the outcome as bars, and the scores by the truth."""
    figure = make_figure(12, 8)
    attack = demonstration.poisoned.attack
    figure.suptitle(f"AdvrBD against {attack}" if attack != "none" else "AdvrBD on a clean set", x=0.02, ha="left")
    top, bottom = figure.subfigures(2, 1, height_ratios=(3.2, 2.4), squeeze=False).ravel()
    _draw_examples(top, record, demonstration)
    bars, scores = bottom.subplots(1, 2)
    _draw_bars(bars, demonstration)
    _draw_scores(scores, record, demonstration)
    return encode(figure, "png")


def _draw_examples(figure: SubFigure, record: RunRecord, demonstration: Demonstration) -> None:
    """Three rows: before, as poisoned, and the difference made visible."""
    truth = demonstration.poisoned
    poisoned = truth.poisoned.nonzero().flatten()
    if not len(poisoned):
        figure.text(0.02, 0.5, "Nothing was poisoned.")
        return
    spread = torch.linspace(0, len(poisoned) - 1, min(_EXAMPLES, len(poisoned))).round().long()  # over all classes
    chosen = poisoned[spread].tolist()
    axes = figure.subplots()
    axes.axis("off")
    names, verdicts = record.image_set.class_names, record.result.verdicts
    for column, index in enumerate(chosen):
        original, image = demonstration.before.images[index], truth.image_set.images[index]
        difference = (image.int() - original.int()).abs()
        visible = (difference * 255 // max(1, int(difference.max()))).to(torch.uint8)
        true, given = names[int(truth.true_labels[index])], names[int(truth.image_set.labels[index])]
        found = bool(verdicts.poisoned[index])
        draw_tile(axes, original, 0, column, shorten(true, 12))
        draw_tile(axes, image, 1, column, f"\u2192 {shorten(given, 11)}")
        verdict, colour = ("found", CLEAN_COLOUR) if found else ("missed", POISONED_COLOUR)
        draw_tile(axes, visible, 2, column, verdict, colour)
    for row, name in enumerate(("true label", "given label", "difference")):
        axes.text(-0.15, TILE_HEIGHT * row + 0.5, name, rotation=90, ha="right", va="center", fontsize=8)
    frame_tiles(axes, rows=3, columns=_EXAMPLES)


def _draw_bars(axes: Axes, demonstration: Demonstration) -> None:
    groups = [name for name in ("acc", "asr", "ra") if getattr(demonstration.defended, name) is not None]
    places = np.arange(len(groups))
    for offset, performance, colour, name in (
        (-0.2, demonstration.undefended, "#9aa5ad", "undefended"),
        (0.2, demonstration.defended, CLEAN_COLOUR, "AdvrBD"),
    ):
        values = [100 * getattr(performance, group) for group in groups]
        bars = axes.bar(places + offset, values, 0.38, color=colour, label=name)
        axes.bar_label(bars, fmt="%.1f", fontsize=8)
    axes.set_xticks(places, [_GROUP_NAMES[group] for group in groups])
    axes.set_ylim(0, 125)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("% of test images")
    axes.legend(frameon=False, loc="upper right", ncols=2)


_GROUP_NAMES = {"acc": "clean accuracy", "asr": "attack success rate\n(lower is better)", "ra": "robust accuracy"}


def _draw_scores(axes: Axes, record: RunRecord, demonstration: Demonstration) -> None:
    draw_histogram(axes, record.result.verdicts.score, demonstration.poisoned.poisoned, ("clean", "poisoned"))
    axes.set_title("Scores of clean and poisoned samples (unknown to AdvrBD)", loc="left", fontsize=10)


def _performance_texts(performance: Mapping[str, float | None]) -> tuple[str, ...]:
    return tuple(percentage(performance[name]) for name in ("acc", "asr", "ra"))
