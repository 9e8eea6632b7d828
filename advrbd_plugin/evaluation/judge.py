"""From a method's outcome to the figures of its cell. Only this module uses the truth about the poison."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from advrbd_plugin.evaluation.cell import TARGET_LABEL
from advrbd_plugin.evaluation.experiment import Experiment, Outcome
from advrbd_plugin.evaluation.metrics import evaluate, judge_detection
from advrbd_plugin.nn.inference import predict

_BINS = 40


def figures_of(experiment: Experiment, outcome: Outcome) -> dict[str, Any]:
    """ACC, ASR and RA; TPR, FPR and AUROC where the method detects; the share of poison among what it trusts (D_c)."""
    performance = evaluate(outcome.model, experiment.test, experiment.triggered, TARGET_LABEL)
    figures = asdict(performance) | {"tpr": outcome.tpr, "fpr": outcome.fpr, "auroc": None, "poison_in_trusted": None}
    truth = experiment.poisoned.poisoned
    if outcome.flagged is not None:
        score = outcome.flagged.float() if outcome.score is None else outcome.score
        figures |= asdict(judge_detection(truth, outcome.flagged, score))
        if outcome.score is None:
            figures["auroc"] = None
    if outcome.trusted is not None and bool(outcome.trusted.any()):
        figures["poison_in_trusted"] = float(truth[outcome.trusted].double().mean())
    return figures


def samples_of(experiment: Experiment, outcome: Outcome) -> dict[str, Any]:
    """Counts of the samples flagged and trusted, and histograms of their scores, by what they are in truth."""
    kinds = experiment.kinds
    found = {kind: {"all": int(members.sum())} for kind, members in kinds.items()}
    for name in ("flagged", "trusted"):
        chosen = getattr(outcome, name)
        if chosen is not None:
            for kind, members in kinds.items():
                found[kind][name] = int((chosen & members).sum())
    return {"counts": found} | ({} if outcome.score is None else {"scores": _histogram(outcome.score, kinds)})


def poison_learned(experiment: Experiment) -> float | None:
    """The share of the poisoned training samples that the backdoored model gives the target label."""
    poisoned = experiment.poisoned.poisoned.nonzero().flatten()
    if not len(poisoned):
        return None
    predicted = predict(experiment.backdoored, experiment.train_set.images[poisoned]).argmax(1)
    return float((predicted == TARGET_LABEL).double().mean())


def _histogram(score: Tensor, kinds: dict[str, Tensor]) -> dict[str, list[float]]:
    """How many samples of each kind have a score in each of equal bins."""
    usable = torch.isfinite(score)
    low, high = float(score[usable].min()), float(score[usable].max())
    edges = torch.linspace(low, high if high > low else low + 1, _BINS + 1, dtype=torch.float64)
    counts = {
        kind: torch.histogram(score[usable & members].double(), bins=edges).hist.int().tolist()
        for kind, members in kinds.items()
    }
    return {"edges": [round(edge, 6) for edge in edges.tolist()], **counts}
