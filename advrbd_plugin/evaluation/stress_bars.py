"""What a defense must reach on a set of the stress suite, and whether it did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from advrbd_plugin.evaluation.cell import UNDEFENDED, Cell
from advrbd_plugin.evaluation.result import Result
from advrbd_plugin.evaluation.stress_grid import REFERENCE
from advrbd_plugin.evaluation.stress_judge import LEARNED
from advrbd_plugin.evaluation.stress_suite import has_wrong_labels

MOST_ASR, MEAN_ASR = 0.05, 0.01
LEAST_TPR, LEAST_TPR_HIDDEN = 0.95, 0.90  # the lower one for clean-label and sample-specific triggers
MOST_FPR, MOST_FPR_CLEAN_SET = 0.01, 0.002
MOST_ACC_LOST, MOST_ACC_LOST_CLEAN_SET = 0.015, 0.01  # against training on the truly clean samples
MOST_WORSE = 0.01  # ASR or ACC after the defense against those before
FALSE_ALARMS = 0.05  # share of the clean sets in which a class may be suspected
BARS = ("ASR", "TPR", "FPR", "ACC", "labels", "not worse")


@dataclass(frozen=True)
class StressRow:
    """One set as a method left it.

    Attributes:
        defended: the method's cell, done.
        undefended: the cell of the same set without a defense, done.
        clean_training: the cell of the same training on the truly clean samples, where it is known.
    """

    defended: Result
    undefended: Result
    clean_training: Result | None

    @property
    def acc_clean_training(self) -> float | None:
        """Accuracy of the training on the truly clean samples."""
        return None if self.clean_training is None else self.clean_training.figure("acc")

    @property
    def asr_clean_training(self) -> float | None:
        """Its worst ASR on the learned triggers: pictures that a model without a backdoor takes for the target's."""
        if self.clean_training is None or not self.learned:
            return None
        triggers = zip(self.undefended.content["triggers"], self.clean_training.content["triggers"], strict=True)
        return max(float(own["asr"]) for before, own in triggers if before["asr"] >= LEARNED)

    @property
    def triggers(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Each trigger (before, after) the defense."""
        return list(zip(self.undefended.content["triggers"], self.defended.content["triggers"], strict=True))

    @property
    def learned(self) -> list[dict[str, Any]]:
        """The triggers that the undefended model learned, as they are after the defense."""
        return [after for before, after in self.triggers if before["asr"] >= LEARNED]

    @property
    def is_clean_set(self) -> bool:
        return not self.triggers

    def figure(self, name: str) -> float | None:
        """Of the defended cell."""
        return self.defended.figure(name)

    def verdicts(self, name: str) -> list[int]:
        """The labels ``suspected``, ``targets``, ``found`` or ``falsely_suspected``; none where nothing is detected."""
        labels: list[int] = self.defended.content.get("verdicts", {}).get(name, [])
        return labels


def bars_of(row: StressRow) -> dict[str, bool | None]:
    """For each name of :data:`BARS` whether the row reaches it; ``None`` where it does not apply or is not known.

    A set with several triggers is judged by the worst of those that the undefended model learned. One whose triggers
    were not learned must only not become worse.
    """
    bars: dict[str, bool | None] = dict.fromkeys(BARS)
    if row.learned:
        bars["ASR"] = all(each["asr"] <= MOST_ASR for each in row.learned)
        bars["TPR"] = _all([_reaches_tpr(each) for each in row.learned])
        bars["FPR"] = _at_most(row.figure("fpr"), MOST_FPR)
        bars["ACC"] = _keeps_acc(row, MOST_ACC_LOST)
        bars["labels"] = row.verdicts("found") == row.verdicts("targets") and not row.verdicts("falsely_suspected")
    elif row.is_clean_set:
        bars["FPR"] = _at_most(row.figure("fpr"), MOST_FPR_CLEAN_SET)
        bars["ACC"] = _keeps_acc(row, MOST_ACC_LOST_CLEAN_SET)
        bars["labels"] = not row.verdicts("suspected")
    if "verdicts" not in row.defended.content:  # it detects nothing
        bars["labels"] = None
    bars["not worse"] = _is_not_worse(row)
    return bars


def _reaches_tpr(trigger: dict[str, Any]) -> bool | None:
    least = LEAST_TPR_HIDDEN if trigger["clean_label"] or trigger["sample_specific"] else LEAST_TPR
    rate = trigger.get("tpr")
    return None if rate is None else bool(rate >= least)


def _keeps_acc(row: StressRow, most: float) -> bool | None:
    after = row.figure("acc")
    return None if row.acc_clean_training is None or after is None else row.acc_clean_training - after <= most


def _is_not_worse(row: StressRow) -> bool:
    """Neither ACC nor the ASR of any trigger, learned or not."""
    before, after = row.undefended.content["figures"]["acc"], row.defended.content["figures"]["acc"]
    asr_rose = any(after["asr"] - before["asr"] > MOST_WORSE for before, after in row.triggers)
    return bool(before - after <= MOST_WORSE and not asr_rose)


def _at_most(value: float | None, most: float) -> bool | None:
    return None if value is None else value <= most


def _all(marks: list[bool | None]) -> bool | None:
    return None if None in marks else all(marks)


def collect_rows(results: Mapping[Cell, Result]) -> list[StressRow]:
    """A row for each cell of a defense that has figures, as has its undefended cell; in the order of the seeds."""
    rows = []
    for cell, result in results.items():
        undefended = results.get(cell.prerequisite)
        if cell.method in (UNDEFENDED, REFERENCE) or undefended is None:
            continue
        if result.is_done and undefended.is_done and _is_same_set(undefended, result):
            reference = results.get(replace(cell.prerequisite, method=REFERENCE))
            rows.append(StressRow(result, undefended, _clean_training(undefended, reference)))
    return sorted(rows, key=lambda row: (row.defended.cell.seed, row.defended.cell.name))


def _clean_training(undefended: Result, reference: Result | None) -> Result | None:
    """Where nothing is poisoned or mislabelled, that is the undefended model's."""
    if not has_wrong_labels(undefended.cell.set_name):
        return undefended
    usable = reference is not None and reference.is_done and _is_same_set(undefended, reference)
    return reference if usable else None


def _is_same_set(one: Result, other: Result) -> bool:
    """The same pictures and labels, and as many epochs."""
    return all(one.content[key] == other.content[key] for key in ("data", "set"))
