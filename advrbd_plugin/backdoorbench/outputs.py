"""The result files of a defense, under BackdoorBench's names and with its columns."""

from __future__ import annotations

import csv
import io
import json
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from advrbd_plugin.backdoorbench.datasets import TestSets
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.files import write_text
from advrbd_plugin.settings import Settings

DETECTION_COLUMNS = ("record", "TN", "FP", "FN", "TP", "TPR", "FPR", "target")
_JUDGED_AT_ONCE = 256
VERDICT_COLUMNS = ("index", "label", "score", "verdict", "suggested_label")


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a method found, as far as BackdoorBench's files hold it.

    Attributes:
        model: the defended model, from images in pixel scale [0, 1] to logits, in eval mode.
        backdoored_model: the attacked model, of the same kind.
        epochs: a row for each epoch of the training that made ``model``, with ``loss`` and ``accuracy``.
        seconds: stage -> time.
        config: the method's settings.
        verdicts: (N,) ``poisoned``, ``score`` and ``suggested_label`` of the training samples; ``None`` if the method
            gives none.
        suspected_classes: suspected target classes.
        notes: further entries of ``summary.json``, ready for JSON.
    """

    model: nn.Module
    backdoored_model: nn.Module
    epochs: list[dict[str, float]]
    seconds: dict[str, float]
    config: Settings
    verdicts: Any = None
    suspected_classes: tuple[int, ...] = ()
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DetectionCounts:
    """Counts of samples by verdict and truth; poisoned is positive."""

    true_negatives: int
    false_positives: int
    false_negatives: int
    true_positives: int

    @property
    def tpr(self) -> float:
        """Share of the poisoned samples that were flagged; 0 if there are none, as in the toolbox."""
        poisoned = self.true_positives + self.false_negatives
        return self.true_positives / poisoned if poisoned else 0.0

    @property
    def fpr(self) -> float:
        """Share of the clean samples that were flagged."""
        clean = self.false_positives + self.true_negatives
        return self.false_positives / clean if clean else 0.0

    def to_mapping(self) -> dict[str, float]:
        """The figures under the toolbox's column names."""
        counts = (self.true_negatives, self.false_positives, self.false_negatives, self.true_positives)
        return dict(zip(DETECTION_COLUMNS[1:7], (*counts, self.tpr, self.fpr), strict=True))


def count_detection(poisoned: Tensor, flagged: Tensor) -> DetectionCounts:
    """Compare verdicts ``flagged`` with the truth ``poisoned``, both (N,) bool."""
    poisoned, flagged = poisoned.cpu().bool(), flagged.cpu().bool()
    counts = [(~poisoned & ~flagged), (~poisoned & flagged), (poisoned & ~flagged), (poisoned & flagged)]
    return DetectionCounts(*(int(count.sum()) for count in counts))


def write_detection_info(folder: Path, record: str, counts: DetectionCounts, suspected: tuple[int, ...]) -> None:
    """Write ``detection_info.csv``: one header and this run's row (the siblings append both at every run)."""
    target = " ".join(str(int(label)) for label in suspected) or "None"
    row = {"record": record, **counts.to_mapping(), "target": target}
    write_text(folder / "detection_info.csv", _table(DETECTION_COLUMNS, [row]))


def write_verdicts(folder: Path, train_set: ImageSet, outcome: Outcome) -> None:
    """Write ``verdicts.csv``: a row for each training sample, by its index in the original dataset."""
    verdicts = outcome.verdicts
    names = ("clean", "poisoned")
    rows = zip(
        train_set.sample_ids.tolist(),
        train_set.labels.tolist(),
        verdicts.score.tolist(),
        (names[flag] for flag in verdicts.poisoned.tolist()),
        verdicts.suggested_label.tolist(),
        strict=True,
    )
    write_text(
        folder / "verdicts.csv", _table(VERDICT_COLUMNS, [dict(zip(VERDICT_COLUMNS, row, strict=True)) for row in rows])
    )


def summarise(
    record: str,
    model: str,
    outcome: Outcome,
    counts: DetectionCounts | None,
    figures: dict[str, dict[str, float]],
    device: torch.device,
) -> dict[str, Any]:
    """The content of ``summary.json``.

    Args:
        record, model: their names.
        outcome: what the method found.
        counts: of the detection, or ``None``.
        figures: of :func:`write_metrics`.
        device: where the method ran.
    """
    summary = {
        "record": record,
        "model": model,
        "suspected_classes": [int(label) for label in outcome.suspected_classes],
        "defended": figures["defended"],
        "undefended": figures["undefended"],
        "detection": None if counts is None else counts.to_mapping(),
        "seconds": {stage: float(seconds) for stage, seconds in outcome.seconds.items()},
        "config": outcome.config.to_mapping(),
        "device": str(device),
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        **outcome.notes,
    }
    found: dict[str, Any] = json.loads(json.dumps(summary, default=str))
    return found


def write_metrics(
    folder: Path, name: str, outcome: Outcome, tests: TestSets, device: torch.device
) -> dict[str, dict[str, float]]:
    """Write ``NAME_df.csv``, ``NAME_df_summary.csv`` and both plots with the toolbox's own functions.

    One row is one epoch of the final training. Only the last row has test figures, since our methods see no test set
    while they work.

    Returns:
        test_acc, test_asr, test_ra and the losses of the ``defended`` and the ``undefended`` model.
    """
    from utils.trainer_cls import Metric_Aggregator

    defended = judge(outcome.model, tests, _JUDGED_AT_ONCE, device)
    undefended = judge(outcome.backdoored_model, tests, _JUDGED_AT_ONCE, device)
    names = {"loss": "train_epoch_loss_avg_over_batch", "accuracy": "train_acc"}
    epochs = [{names[key]: value for key, value in row.items() if key in names} for row in outcome.epochs] or [{}]
    table = Metric_Aggregator()
    for number, row in enumerate(epochs):
        last = defended if number == len(epochs) - 1 else {}
        table({"epoch": number, "batch": 0, **row, **last})
    table.to_dataframe().to_csv(folder / f"{name}_df.csv")
    table.summary().to_csv(folder / f"{name}_df_summary.csv")
    _plot(epochs, defended, folder)
    return {"defended": defended, "undefended": undefended}


def _plot(epochs: list[dict[str, float]], defended: dict[str, float], folder: Path) -> None:
    """Draw both metric plots: the training curves, and the final model's test figures at the last epoch."""
    from utils.trainer_cls import plot_acc_like_metric_pure, plot_loss

    def curve(name: str) -> list[float | None]:
        return [row.get(name) for row in epochs]

    def end(name: str) -> list[float]:
        return [float("nan")] * (len(epochs) - 1) + [defended[name]]

    loss = curve("train_epoch_loss_avg_over_batch")
    plot_loss(loss, end("clean_test_loss_avg_over_batch"), end("bd_test_loss_avg_over_batch"), folder)
    plot_acc_like_metric_pure(curve("train_acc"), end("test_acc"), end("test_asr"), end("test_ra"), folder)


@torch.no_grad()
def judge(model: nn.Module, tests: TestSets, batch_size: int, device: torch.device) -> dict[str, float]:
    """Evaluate a model for pixel-scale images as the toolbox's trainer does, under its column names."""
    model = model.to(device).eval()
    clean_loss, clean_labels = _losses_and_labels(model, tests.clean_images, tests.clean_labels, batch_size, device)
    bd_loss, bd_labels = _losses_and_labels(model, tests.triggered_images, tests.attack_labels, batch_size, device)
    return {
        "clean_test_loss_avg_over_batch": clean_loss,
        "bd_test_loss_avg_over_batch": bd_loss,
        "test_acc": _share(clean_labels == tests.clean_labels),
        "test_asr": _share(bd_labels == tests.attack_labels),
        "test_ra": _share(bd_labels == tests.original_labels),
    }


def _losses_and_labels(
    model: nn.Module, images: Tensor, labels: Tensor, batch_size: int, device: torch.device
) -> tuple[float, Tensor]:
    losses, predicted = [], []
    for start in range(0, len(images), batch_size):
        rows = slice(start, start + batch_size)
        logits = model(images[rows].to(device).float() / 255).float()
        losses.append(float(functional.cross_entropy(logits, labels[rows].to(device))))
        predicted.append(logits.argmax(dim=1).cpu())
    return sum(losses) / len(losses), torch.cat(predicted)


def _share(flags: Tensor) -> float:
    return float(flags.double().mean())


def _table(columns: tuple[str, ...], rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
