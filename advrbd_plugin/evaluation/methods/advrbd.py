"""AdvrBD: this project's configuration, the same without relabelling and relearning, and the paper's algorithms."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

from advrbd_plugin.defense.pipeline import AdvrBD
from advrbd_plugin.evaluation.cell import Cell
from advrbd_plugin.evaluation.experiment import Experiment, Options, Outcome, advrbd_config
from advrbd_plugin.evaluation.methods.base import Method


def run(experiment: Experiment, preset: str, **changes: Any) -> Outcome:
    config = advrbd_config(experiment.cell, experiment.options, preset, **changes)
    defense = AdvrBD(experiment.make_model, config, device=experiment.options.device, work_dir=experiment.work)
    result = defense.fit(experiment.train_set)
    verdicts = result.verdicts
    return Outcome(
        model=result.model,
        flagged=verdicts.poisoned,
        score=verdicts.score,
        trusted=verdicts.trusted,
        mislabelled=verdicts.mislabelled,
        suggested_label=verdicts.suggested_label,
        curves=result.curves,
        stage_seconds=result.seconds,
        details={
            "suspected_classes": list(result.suspected_classes),
            "evidence": [asdict(each) for each in result.evidence],
            "findings": [each.to_json() for each in result.findings],
            "rounds": result.rounds,
            "is_retrained": result.is_retrained,
            "remark": result.remark,
            "trained_enough": result.trained_enough,
        },
    )


def _method(name: str, title: str, cost: float, preset: str, **changes: Any) -> Method:
    def configuration(cell: Cell, options: Options) -> dict[str, Any]:
        return advrbd_config(cell, options, preset, **changes).to_mapping()

    return Method(name, title, partial(run, preset=preset, **changes), configuration, cost=cost, uses_algorithm=True)


ROBUST = _method("advrbd", "AdvrBD", 2.0, "robust")
WITHOUT_RELEARNING = _method("advrbd-no-relearning", "AdvrBD without relearning", 1.6, "robust", relearn_epochs=0)
PAPER = _method("advrbd-paper", "AdvrBD, paper's algorithms", 2.5, "paper")
