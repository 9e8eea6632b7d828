"""ULRL: the backdoored model repaired, from 1% clean samples or from the poisoned set alone."""

from __future__ import annotations

from typing import Any

from advrbd_plugin.evaluation.cell import Cell
from advrbd_plugin.evaluation.experiment import Experiment, Options, Outcome
from advrbd_plugin.evaluation.methods.base import Method
from advrbd_plugin.ulrl import ULRL, ULRLConfig, ULRLResult, clean_from_poisoned
from advrbd_plugin.ulrl.clean_samples import picking_config

_CLEAN_SHARE = 0.01


def _config(cell: Cell) -> ULRLConfig:
    return ULRLConfig.preset("robust").replace(seed=cell.seed)


def _defense(experiment: Experiment) -> ULRL:
    return ULRL(_config(experiment.cell), device=experiment.device, work_dir=experiment.work)


def run_with_clean_samples(experiment: Experiment) -> Outcome:
    clean = experiment.draw_clean(_CLEAN_SHARE)
    return _outcome(_defense(experiment).repair(experiment.backdoored, clean), len(clean))


def run_without(experiment: Experiment) -> Outcome:
    """AdvrBD's poison probabilities pick the samples from the poisoned set."""
    cell = experiment.cell
    picked = clean_from_poisoned(experiment.backdoored, experiment.train_set, seed=cell.seed)
    result = _defense(experiment).repair(
        experiment.backdoored,
        picked.clean_set,
        suspect_set=picked.suspect_set,
        attacked_labels=picked.suspected_classes,
    )
    return _outcome(result, len(picked.clean_set))


def _outcome(result: ULRLResult, clean_samples: int) -> Outcome:
    return Outcome(
        model=result.model,
        curves=result.curves,
        stage_seconds=result.seconds,
        details={
            "verdict": result.verdict,
            "attacked_labels": list(result.attacked_labels),
            "suspicious_neurons": result.num_suspicious,
            "clean_samples": clean_samples,
        },
    )


def _configuration_with(cell: Cell, options: Options) -> dict[str, Any]:
    return _config(cell).to_mapping() | {"clean_share": _CLEAN_SHARE}


def _configuration_without(cell: Cell, options: Options) -> dict[str, Any]:
    return _config(cell).to_mapping() | {"picking": picking_config(cell.seed).to_mapping()}


WITH_CLEAN_SAMPLES = Method(
    "ulrl-clean", "ULRL, 1% clean samples", run_with_clean_samples, _configuration_with, cost=0.3
)
WITHOUT = Method("ulrl", "ULRL, poisoned data only", run_without, _configuration_without, cost=0.4, uses_algorithm=True)
