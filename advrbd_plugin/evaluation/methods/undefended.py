"""No defense: the model trained on everything, which all other methods start from."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from advrbd_plugin.evaluation.cell import UNDEFENDED, Cell
from advrbd_plugin.evaluation.experiment import Experiment, Options, Outcome, advrbd_config
from advrbd_plugin.evaluation.methods.base import Method


def training_configuration(cell: Cell, options: Options) -> dict[str, Any]:
    """The settings of every training of the grid."""
    return asdict(advrbd_config(cell, options).training(cell.seed))


def run(experiment: Experiment) -> Outcome:
    stage = experiment.first_stage
    return Outcome(model=stage.model, curves={"training": stage.rows}, stage_seconds=stage.seconds)


METHOD = Method(UNDEFENDED, "No defense", run, training_configuration)
