"""The ablation of the partition rate as a plot (Fig. 7), and a cell's curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from advrbd_plugin.evaluation.cell import POISON_RATIO, Cell
from advrbd_plugin.evaluation.grid import EIGHT_ATTACKS, PARTITION_RATES
from advrbd_plugin.evaluation.result import Result
from advrbd_plugin.evaluation.scales import SCALES
from advrbd_plugin.report.evaluation.measured import Measured
from advrbd_plugin.report.evaluation.paper_tables import ATTACK_TITLES
from advrbd_plugin.report.figures import CLEAN_COLOUR, POISONED_COLOUR, draw_curves, encode, make_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COVER_COLOUR = "#b8860b"
# How the methods that have a partition rate are drawn, and named behind the attack.
_LINES = {"advrbd": ("o-", ""), "advrbd-paper": ("s--", ", paper's algorithms")}


def ablation_svg(scale: str, measured: Measured) -> bytes | None:
    """ACC and ASR against the partition rate, a line for each attack: AdvrBD's whole, the paper's algorithms' dashed.
    ``None`` where nothing was measured.
    """
    series = {
        (attack, method): points
        for attack, method in product(EIGHT_ATTACKS, _LINES)
        if (points := _ablation(scale, measured, attack, method))
    }
    if not series:
        return None
    figure = make_figure(10, 3.6)
    for axes, name, place in zip(figure.subplots(1, 2), ("ACC", "ASR"), (1, 2), strict=True):
        for (attack, method), points in series.items():
            rates, values = [point[0] for point in points], [100 * point[place] for point in points]
            style, words = _LINES[method]
            colour = f"C{EIGHT_ATTACKS.index(attack)}"
            axes.plot(rates, values, style, color=colour, label=ATTACK_TITLES[attack] + words)
        axes.set_xlabel("partition rate")
        axes.set_ylabel(f"{name}, %")
        axes.set_ylim(-3, 103)
    axes.legend(frameon=False, fontsize=8)
    return encode(figure, "svg")


def _ablation(scale: str, measured: Measured, attack: str, method: str) -> list[tuple[float, float, float]]:
    """(partition rate, ACC, ASR) of the cells that were measured."""
    cell = Cell(scale, "cifar10", SCALES[scale].model, attack, POISON_RATIO, measured.first_seed, method)
    points = []
    for rate in PARTITION_RATES:
        acc, asr = (measured.figure(replace(cell, partition_rate=rate), name) for name in ("acc", "asr"))
        if acc is not None and asr is not None:
            points.append((rate, acc, asr))
    return points


def curves_svg(result: Result) -> bytes:
    """A cell's curves, histograms of its scores by the truth, and counts of flagged and trusted samples."""
    figure = make_figure(12, 6)
    upper, lower = np.asarray(figure.subfigures(2, 1), dtype=object)
    draw_curves(upper, result.content.get("curves", {}))
    left, right = lower.subplots(1, 2, width_ratios=(3, 2))
    samples = result.content.get("samples", {})
    _draw_scores(left, samples.get("scores"))
    _draw_counts(right, samples.get("counts", {}))
    return encode(figure, "svg")


def _draw_scores(axes: Axes, scores: dict[str, Sequence[float]] | None) -> None:
    axes.set_title("Scores of the training samples, by the truth", loc="left")
    if scores is None:
        axes.text(0.02, 0.5, "This method gives no scores.", transform=axes.transAxes)
        return
    edges = np.asarray(scores["edges"])
    for kind, colour in (("clean", CLEAN_COLOUR), ("covers", _COVER_COLOUR), ("poisoned", POISONED_COLOUR)):
        count = sum(scores[kind])
        if count:
            axes.stairs(scores[kind], edges, fill=True, color=colour, alpha=0.6, label=f"{kind} ({count:,})")
    axes.set_yscale("symlog", linthresh=10)
    axes.set_xlabel("score (higher: more suspicious)")
    axes.legend(frameon=False, fontsize=8)


def _draw_counts(axes: Axes, counts: dict[str, dict[str, int]]) -> None:
    """How many of the poisoned, cover and clean samples were called poisoned or trusted."""
    axes.axis("off")
    words = {"flagged": "called poisoned", "trusted": "in D_c"}
    lines = ["Where they went:"]
    for kind, found in counts.items():
        if not found["all"]:
            continue
        parts = [f"{found[name]:,} {words[name]}" for name in words if name in found]
        lines.append(f"{kind}: {found['all']:,}" + (f", of them {' and '.join(parts)}" if parts else ""))
    axes.text(0, 0.95, "\n".join(lines), va="top", transform=axes.transAxes)
