"""What `advrbd repair` writes beside the model: the suspicious neurons, one page and one picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.environment import commit, hardware, versions
from advrbd_plugin.files import finite
from advrbd_plugin.nn.description import ModelDescription
from advrbd_plugin.report.figures import CLEAN_COLOUR, POISONED_COLOUR, draw_curves, encode, make_figure, shorten
from advrbd_plugin.report.page import duration
from advrbd_plugin.report.pictures import data_uri
from advrbd_plugin.report.record import TOOL
from advrbd_plugin.report.template import render
from advrbd_plugin.report.text import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from advrbd_plugin.ulrl import ULRLResult

_LISTED_NEURONS = 50


@dataclass(frozen=True)
class RepairRecord:
    """One finished repair, with all that its page shows.

    Attributes:
        source: the model that was repaired, as the user named it.
        data: where the clean samples came from, as the user named it.
        from_poisoned: whether ``data`` was an untrusted training set.
        clean_set: the samples that were used as clean.
        result: what the repair found.
        model: how the model is built.
        left_out: (path, reason) of files that could not be read.
        notes: sentences on what was done.
    """

    source: str
    data: str
    from_poisoned: bool
    clean_set: ImageSet
    result: ULRLResult
    model: ModelDescription
    left_out: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def summarise_repair(record: RepairRecord) -> dict[str, Any]:
    """``summary.json`` of a repair."""
    result = record.result
    names = record.clean_set.class_names
    return {
        "tool": TOOL,
        "method": "ulrl",
        "source": record.source,
        "data": record.data,
        "clean_from_poisoned": record.from_poisoned,
        "clean_samples": len(record.clean_set),
        "verdict": result.verdict,
        "suspected_classes": [names[label] for label in result.attacked_labels],
        "evidence": {
            kind: dict(zip(names, finite(values.tolist()), strict=True)) for kind, values in result.evidence.items()
        },
        "suspicious_neurons": result.num_suspicious,
        "layers": {
            each.layer: {"neurons": len(each.change), "suspicious": list(each.suspicious)} for each in result.layers
        },
        "model": record.model.name,
        "seed": result.config.seed,
        "config": finite(result.config.to_mapping()),
        "seconds": {stage: round(seconds, 3) for stage, seconds in result.seconds.items()},
        "versions": versions(),
        "commit": commit(),
        "hardware": hardware(),
        "notes": list(record.notes),
        "left_out": [{"path": path, "reason": reason} for path, reason in record.left_out],
    }


def repair_files(record: RepairRecord, summary: Mapping[str, Any]) -> dict[str, bytes]:
    """Everything beside the model, the curves and the summary, by file name."""
    figure = make_figure(12, 4)
    _draw(figure, record)
    picture = encode(figure, "png")
    page = render(
        "repair.html",
        summary=printable(summary),
        neurons=[(layer, index, f"{z_score:.1f}") for layer, index, _, z_score in _suspicious(record)],
        limit=_LISTED_NEURONS,
        picture=data_uri(picture, "image/png"),
        seconds_total=duration(sum(summary["seconds"].values())),
    )
    return {"neurons.csv": neurons_csv(record).encode(), "report.png": picture, "report.html": page.encode()}


def neurons_csv(record: RepairRecord) -> str:
    """One row a neuron: layer, index, summed absolute weight change, z-score, whether it is suspicious."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("layer", "neuron", "change", "z_score", "suspicious"))
    for each in record.result.layers:
        chosen = set(each.suspicious)
        for index, (change, z_score) in enumerate(zip(each.change.tolist(), each.z_score.tolist(), strict=True)):
            writer.writerow((each.layer, index, f"{change:.7g}", f"{z_score:.4g}", int(index in chosen)))
    return buffer.getvalue()


def _suspicious(record: RepairRecord) -> list[tuple[str, int, float, float]]:
    """(layer, index, change, z-score) of the suspicious neurons, the highest score first."""
    rows = [
        (each.layer, index, float(each.change[index]), float(each.z_score[index]))
        for each in record.result.layers
        for index in each.suspicious
    ]
    return sorted(rows, key=lambda row: -row[3])


def _draw(figure: Figure, record: RepairRecord) -> None:
    result = record.result
    figure.suptitle(f"Repair: {result.verdict}", x=0.02, ha="left", fontsize=14, fontweight="bold")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 2), squeeze=False).ravel()
    axes = left.subplots()
    if result.evidence:
        names = [shorten(name) for name in record.clean_set.class_names]
        attacked = [label in result.attacked_labels for label in range(len(names))]
        places = np.arange(len(names))
        thresholds = result.config.thresholds
        parts = [values / max(thresholds[kind], 1e-6) for kind, values in result.evidence.items()]
        strongest = torch.stack(parts).amax(dim=0).clamp(0, 5)
        axes.axvline(1, color=POISONED_COLOUR)
        axes.barh(places, strongest.numpy(), color=[POISONED_COLOUR if bad else CLEAN_COLOUR for bad in attacked])
        axes.set_yticks(places, names, parse_math=False)
        axes.invert_yaxis()
        axes.set_title("Evidence against each class\n(from 1 on it is suspected)", loc="left")
    else:
        scores = [float(value) for each in result.layers for value in each.z_score]
        axes.hist(np.clip(scores, -10, 20), bins=60, color=CLEAN_COLOUR)
        axes.axvline(result.config.z_threshold, color=POISONED_COLOUR)
        axes.set_yscale("symlog", linthresh=10)
        axes.set_xlabel("z-score; suspicious beyond the red line")
        axes.set_ylabel("neurons")
        axes.set_title("z-scores of all neurons", loc="left")
    draw_curves(right, result.curves)
