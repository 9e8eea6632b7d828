"""From a method's outcome to the figures of a cell of the stress suite. Uses the truth, as :mod:`.judge` does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from advrbd_plugin.evaluation.experiment import Outcome
from advrbd_plugin.evaluation.judge import samples_of
from advrbd_plugin.evaluation.metrics import evaluate, judge_detection
from advrbd_plugin.evaluation.result import read_result
from advrbd_plugin.evaluation.stress_experiment import StressExperiment, set_of
from advrbd_plugin.evaluation.stress_sets import StressSet, Trigger
from advrbd_plugin.nn.inference import predict

LEARNED = 0.2  # from this ASR of the undefended model on, a backdoor is there to be found
_FEWEST_OF_A_TARGET = 12  # a label with fewer poisoned samples of a trigger is no target of it
_SAMPLE_SPECIFIC = ("sample_noise",)


def judge_stress(experiment: StressExperiment, outcome: Outcome) -> dict[str, Any]:
    """``set``, ``figures``, ``triggers``, ``samples``, and but for the undefended cell ``undefended`` and ``verdicts``.

    ``figures`` holds ACC, ASR and RA of the worst trigger, TPR over all triggers, and FPR: the share of the truly clean
    samples (covers among them) that are called poisoned. Mislabelled samples are counted apart.
    """
    stress, cell = experiment.stress, experiment.cell
    acc = evaluate(outcome.model, stress.test).acc
    triggers = [_judge_trigger(each, stress, outcome, acc) for each in stress.triggers]
    worst = max(triggers, key=lambda each: float(each["asr"]), default={"asr": None, "ra": None})
    judged = {
        "set": set_of(cell, experiment.options, len(stress.train)),
        "figures": {"acc": acc, "asr": worst["asr"], "ra": worst["ra"], **rates_of(stress, outcome)},
        "triggers": triggers,
        "samples": samples_of(experiment, outcome),
    }
    if cell.is_prerequisite:
        return judged
    before = read_result(experiment.options.out, cell.prerequisite)
    undefended = before.content if before is not None and before.is_done else {"figures": {}, "triggers": []}
    judged["undefended"] = {
        "acc": undefended["figures"].get("acc"),
        "asr": undefended["figures"].get("asr"),
        "triggers": [{key: each[key] for key in ("name", "asr", "ra")} for each in undefended["triggers"]],
    }
    if outcome.flagged is not None:
        judged["verdicts"] = verdicts_of(stress, outcome, outcome.flagged, [e["asr"] for e in undefended["triggers"]])
    return judged


def _judge_trigger(trigger: Trigger, stress: StressSet, outcome: Outcome, acc: float) -> dict[str, Any]:
    """One attacker's test.

    Where any wrong label will do, ``asr`` is the share of wrong labels beyond those that the same model gives without
    a trigger, so that a model without a backdoor has none.
    """
    predicted = predict(outcome.model, trigger.triggered.images, mixed_precision=False).argmax(1)
    success, poisoned = trigger.success(predicted), trigger.poisoned
    judged = {
        "name": trigger.name,
        "asr": success if trigger.goals is not None else max(0.0, success - (1 - acc)),
        "ra": _share(predicted == trigger.triggered.labels),
        "targeted": trigger.goals is not None,
        "clean_label": bool((stress.train.labels == stress.true_labels)[poisoned].all()),
        "sample_specific": trigger.name in _SAMPLE_SPECIFIC,
        "poisoned": int(poisoned.sum()),
        "labels": labels_of(trigger, stress),
    }
    return judged if outcome.flagged is None else judged | {"tpr": _share(outcome.flagged[poisoned])}


def rates_of(stress: StressSet, outcome: Outcome) -> dict[str, float | None]:
    """TPR, FPR and AUROC of the verdicts, mislabelled samples aside, and the share of poison in what is trusted."""
    rates: dict[str, float | None] = dict.fromkeys(("tpr", "fpr", "auroc", "poison_in_trusted"))
    judged = ~stress.mislabelled
    if outcome.flagged is not None:
        score = outcome.flagged.float() if outcome.score is None else outcome.score
        found = judge_detection(stress.poisoned[judged], outcome.flagged[judged], score[judged])
        rates |= {"tpr": found.tpr, "fpr": found.fpr, "auroc": None if outcome.score is None else found.auroc}
    if outcome.trusted is not None:
        rates["poison_in_trusted"] = _share(stress.poisoned[outcome.trusted])
    return rates


def verdicts_of(stress: StressSet, outcome: Outcome, flagged: Tensor, undefended_asr: list[float]) -> dict[str, Any]:
    """Which labels were suspected, and what became of the mislabelled samples.

    A label of a trigger that was not learned need not be found, and suspecting it is not false.
    """
    suspected = {int(label) for label in outcome.details.get("suspected_classes", ())}
    labels = [labels_of(each, stress) for each in stress.triggers]
    # Without the undefended model's figures every trigger counts as learned.
    learned = [asr >= LEARNED for asr in undefended_asr] or [True] * len(labels)
    targets = {label for own, is_learned in zip(labels, learned, strict=True) if is_learned for label in own}
    return {
        "suspected": sorted(suspected),
        "targets": sorted(targets),
        "found": sorted(suspected & targets),
        "falsely_suspected": sorted(suspected.difference(*labels)),
        "mislabelled": _mislabelled(stress, outcome, flagged),
    }


def _mislabelled(stress: StressSet, outcome: Outcome, flagged: Tensor) -> dict[str, int]:
    """``true``: how many there are; ``found``: how many samples are said to be; ``right``: how many of those are.

    ``relabelled``: how many of these get their true label back; ``called_poisoned``: truly mislabelled ones.
    """
    true = stress.mislabelled
    found = torch.zeros_like(true) if outcome.mislabelled is None else outcome.mislabelled
    right = found & true
    suggested = stress.train.labels if outcome.suggested_label is None else outcome.suggested_label
    counts = {
        "true": true,
        "found": found,
        "right": right,
        "relabelled": right & (suggested == stress.true_labels),
        "called_poisoned": flagged & true,
    }
    return {name: int(mask.sum()) for name, mask in counts.items()}


def labels_of(trigger: Trigger, stress: StressSet) -> list[int]:
    """The labels that a number of the trigger's samples worth speaking of carry: its targets."""
    counts = torch.bincount(stress.train.labels[trigger.poisoned], minlength=stress.train.num_classes)
    return (counts >= min(_FEWEST_OF_A_TARGET, int(counts.max()))).nonzero().flatten().tolist() if counts.any() else []


def _share(flags: Tensor) -> float | None:
    return float(flags.double().mean()) if len(flags) else None
