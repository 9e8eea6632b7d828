"""The pictures of a report: histogram of the scores, curves of the training, the most suspicious images."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from advrbd_plugin.files import finite
from advrbd_plugin.report.record import RunRecord, surest
from advrbd_plugin.report.text import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CLEAN_COLOUR = "#2a6f97"
POISONED_COLOUR = "#d1495b"
_GREYS = ("#2a6f97", "#d1495b", "#3f7d4e", "#b8860b", "#6a4c93", "#555555")
_MAX_PANELS = 6
# What the rows of a curve are numbered by.
_COUNTERS = ("epoch", "round", "step")
_THUMBNAILS = 24
_LABEL_LENGTH = 14
TILE_WIDTH, TILE_HEIGHT = 1.1, 1.4  # an image is 1 wide and 1 high


def overview_png(record: RunRecord) -> bytes:
    """One picture of a whole run: scores, verdicts by class, curves, and the most suspicious images."""
    figure = make_figure(12, 10)
    figure.suptitle(_headline(record), x=0.02, ha="left", fontsize=14, fontweight="bold")
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=(3, 3, 3.2), squeeze=False).ravel()
    left, right = top.subplots(1, 2)
    draw_scores(left, record)
    draw_classes(right, record)
    draw_curves(middle, record.result.curves)
    _draw_thumbnails(bottom, record)
    return encode(figure, "png")


def curves_svgs(record: RunRecord) -> dict[str, bytes]:
    """A drawing for each stage that has curves, by its name."""
    drawings = {}
    for stage, rows in _curves(record.result.curves):
        figure = make_figure(5, 3.2)
        _draw_stage(figure.subplots(), stage, rows)
        figure.draw_without_rendering()  # the second layout, when saved, knows how wide the figures at the axes are
        drawings[stage] = encode(figure, "svg")
    return drawings


def as_rgb(image: Tensor) -> np.ndarray:
    """(C, H, W) uint8 with one or three channels as (H, W, 3) for display."""
    return image.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()


def draw_scores(axes: Axes, record: RunRecord) -> None:
    """Histogram of the scores of flagged samples and of the others."""
    verdicts = record.result.verdicts
    draw_histogram(axes, verdicts.score, verdicts.poisoned, ("others", "called poisoned"))
    axes.set_title("Probabilities of all pictures", loc="left")


def draw_histogram(axes: Axes, score: Tensor, poisoned: Tensor, names: tuple[str, str]) -> None:
    """Scores in two colours: (N,) float ``score``, (N,) bool ``poisoned``, the names of clean and of poisoned."""
    from matplotlib.ticker import FuncFormatter, PercentFormatter

    usable = torch.isfinite(score)
    values, flags = score[usable].double().numpy(), poisoned[usable].numpy()
    low, high = (values.min(), values.max()) if len(values) else (0.0, 1.0)
    bins = np.linspace(low, high if high > low else low + 1, 61)
    tallest = 0.0
    for flag, colour, name in ((False, CLEAN_COLOUR, names[0]), (True, POISONED_COLOUR, names[1])):
        chosen = values[flags == flag]
        heights, _, _ = axes.hist(
            chosen, bins=bins.tolist(), color=colour, alpha=0.75, label=f"{name} ({len(chosen):,})"
        )
        tallest = max(tallest, float(np.max(heights)))
    if tallest > 50:  # else a few poisoned samples beside thousands of clean ones would not be seen
        axes.set_yscale("symlog", linthresh=10)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("probability that the picture is poisoned")
    axes.set_ylabel("pictures")
    axes.legend(frameon=False)


def draw_classes(axes: Axes, record: RunRecord, limit: int = 20) -> None:
    """Samples and flagged samples of each class; the ``limit`` classes with the most flagged."""
    image_set, verdicts = record.image_set, record.result.verdicts
    flagged = torch.bincount(image_set.labels[verdicts.poisoned], minlength=image_set.num_classes)
    totals = image_set.class_counts()
    shown = torch.argsort(flagged, descending=True, stable=True)[:limit].sort().values.tolist()
    names = [shorten(image_set.class_names[label]) for label in shown]
    places = np.arange(len(shown))
    axes.barh(places, [int(totals[label]) for label in shown], color="#c3d0d9", label="all")
    axes.barh(places, [int(flagged[label]) for label in shown], color=POISONED_COLOUR, label="called poisoned")
    axes.set_yticks(places, names, parse_math=False)
    axes.invert_yaxis()
    for tick, label in zip(axes.get_yticklabels(), shown, strict=True):
        if label in record.result.suspected_classes:
            tick.set_color(POISONED_COLOUR)
            tick.set_fontweight("bold")
    axes.set_xlabel("pictures")
    axes.set_title("Classes" + (" (suspected: red)" if record.result.suspected_classes else ""), loc="left")
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 0.98), ncols=2, fontsize=8)


def draw_curves(figure: Figure, curves: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """One small panel for each stage; shares have the left scale, other figures the right one."""
    stages = _curves(curves)
    if not stages:
        figure.text(0.02, 0.5, "No curves were recorded.")
        return
    for axes, (stage, rows) in zip(np.atleast_1d(figure.subplots(1, len(stages))), stages, strict=True):
        _draw_stage(axes, stage, rows)


def _curves(curves: Mapping[str, Sequence[Mapping[str, float]]]) -> list[tuple[str, Sequence[Mapping[str, float]]]]:
    """The stages with curves; at most six."""
    return [(stage, rows) for stage, rows in curves.items() if rows and not is_by_label(rows)][:_MAX_PANELS]


def _draw_stage(axes: Axes, stage: str, rows: Sequence[Mapping[str, float]]) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    names = list(dict.fromkeys(name for row in rows for name in row))
    counter = next((name for name in _COUNTERS if all(name in row for row in rows)), "row")
    places = [row.get(counter, number) for number, row in enumerate(rows)]
    names = [name for name in names if name not in _COUNTERS]
    series = {name: [_number(row.get(name)) for row in rows] for name in names}
    names = [name for name in names if not np.isnan(series[name]).all()]
    shares = [name for name in names if "loss" not in name and _is_share(series[name])]
    others = [name for name in names if name not in shares]
    other_axes = axes.twinx() if shares and others else axes
    lines = []
    for index, name in enumerate(names):
        target = axes if name in shares else other_axes
        style = "-" if name in shares else "--"
        marker = "o" if len(rows) == 1 else None
        label = name.replace("_", " ")
        lines += target.plot(places, series[name], style, color=_GREYS[index % 6], label=label, marker=marker)
    axes.set_title(stage.replace("_", " "), loc="left", parse_math=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel(counter)
    if shares:
        axes.set_ylabel(", ".join(name.replace("_", " ") for name in shares))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    if others:
        other_axes.set_ylabel(shorten(", ".join(name.replace("_", " ") for name in others), 40))
    axes.legend(handles=lines, frameon=False, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)


def is_by_label(rows: Sequence[Mapping[str, float]]) -> bool:
    """Whether the rows are a table of the classes, one row each, and no curve."""
    return all("label" in row for row in rows)


def shorten(text: str, length: int = _LABEL_LENGTH) -> str:
    """A class name on one line, cut where it would run over its neighbour."""
    text = one_line(text)
    return text if len(text) <= length else text[: length - 1] + "\u2026"


def _draw_thumbnails(figure: Figure, record: RunRecord) -> None:
    verdicts = record.result.verdicts
    chosen = surest(verdicts.score, verdicts.poisoned, _THUMBNAILS).tolist()
    figure.suptitle("The surest poisoned pictures (their label \u2192 better label)", x=0.02, ha="left", fontsize=12)
    if not chosen:
        figure.text(0.02, 0.5, "None: no picture looks poisoned.")
        return
    names = record.image_set.class_names
    axes = figure.subplots()
    axes.axis("off")
    for place, index in enumerate(chosen):
        label = shorten(names[int(record.image_set.labels[index])], 10)
        suggestion = shorten(names[int(verdicts.suggested_label[index])], 10)
        row, column = divmod(place, _THUMBNAILS // 2)
        draw_tile(
            axes,
            record.image_set.images[index],
            row,
            column,
            f"{label}\n\u2192 {suggestion}" if suggestion != label else label,
        )
    frame_tiles(axes, rows=2, columns=_THUMBNAILS // 2)


def draw_tile(axes: Axes, image: Tensor, row: int, column: int, title: str, colour: str = "black") -> None:
    """One image of a grid inside ``axes`` with a line or two above it; far faster to lay out than axes for each."""
    left, top = column * TILE_WIDTH, row * TILE_HEIGHT
    axes.imshow(as_rgb(image), interpolation="nearest", extent=(left, left + 1, top + 1, top))
    axes.text(left + 0.5, top - 0.05, title, ha="center", va="bottom", fontsize=7, color=colour, parse_math=False)


def frame_tiles(axes: Axes, rows: int, columns: int) -> None:
    """Show the whole grid, also where it is not full."""
    axes.set_xlim(-0.35, columns * TILE_WIDTH)
    axes.set_ylim(rows * TILE_HEIGHT - 0.3, -0.45)


def _headline(record: RunRecord) -> str:
    poisoned, total = int(record.result.verdicts.poisoned.sum()), len(record.image_set)
    suspected = [shorten(record.image_set.class_names[label], 30) for label in record.result.suspected_classes]
    found = f"{poisoned:,} of {total:,} pictures look poisoned"
    return (found + (f"; suspected: {', '.join(suspected)}" if suspected else "; no class suspected")).replace(
        "$", r"\$"
    )


def make_figure(width: float, height: float) -> Figure:
    """A figure on its own canvas: no global state, no window."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=110)


def encode(figure: Figure, kind: str) -> bytes:
    import matplotlib

    for axes in figure.get_axes():
        axes.spines["top"].set_visible(False)
        axes.spines["right"].set_visible(axes.yaxis.get_ticks_position() == "right")
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "advrbd"}):  # one run, one file, to the byte
        figure.savefig(buffer, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def _number(value: float | None) -> float:
    value = finite(value)
    return float("nan") if value is None else float(value)


def _is_share(values: Sequence[float]) -> bool:
    known = [value for value in values if value == value]
    return bool(known) and all(0 <= value <= 1 for value in known)
