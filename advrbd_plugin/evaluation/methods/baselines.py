"""CutMix and SCAnFT, which BackdoorBench lacks, from :mod:`advrbd_plugin.baselines`."""

from __future__ import annotations

from typing import Any

from advrbd_plugin.baselines import CutMixConfig, SCAnFTConfig, scanft, train_cutmix
from advrbd_plugin.evaluation.cell import Cell
from advrbd_plugin.evaluation.experiment import Experiment, Options, Outcome
from advrbd_plugin.evaluation.methods.base import Method
from advrbd_plugin.evaluation.scales import find_scale

_CLEAN_SHARE = 0.05


def _cutmix_config(cell: Cell) -> CutMixConfig:
    """The preset with the scale's epochs and batch size."""
    return CutMixConfig.preset("repair").replace(**find_scale(cell.scale).settings, seed=cell.seed)


def run_cutmix(experiment: Experiment) -> Outcome:
    """Continue the training of the backdoored model, as the paper's comparison does."""
    result = train_cutmix(
        experiment.train_set,
        attacked_model=experiment.backdoored,
        config=_cutmix_config(experiment.cell),
        device=experiment.device,
        work_dir=experiment.work,
    )
    return Outcome(model=result.model, curves={"cutmix": result.rows}, stage_seconds=result.seconds)


def _cutmix_configuration(cell: Cell, options: Options) -> dict[str, Any]:
    return _cutmix_config(cell).to_mapping()


def run_scanft(experiment: Experiment) -> Outcome:
    """SCAn gets 5% clean samples, the share that BackdoorBench gives the defenses that need some."""
    config = SCAnFTConfig().replace(seed=experiment.cell.seed)
    clean = experiment.draw_clean(_CLEAN_SHARE)
    result = scanft(experiment.backdoored, experiment.train_set, clean, config=config)
    return Outcome(
        model=result.model,
        flagged=result.verdicts.poisoned,
        score=result.verdicts.score,
        trusted=~result.verdicts.poisoned,
        curves=result.curves,
        stage_seconds=result.seconds,
        details={"suspected_classes": list(result.detection.suspected_classes), "clean_samples": len(clean)},
    )


def _scanft_configuration(cell: Cell, options: Options) -> dict[str, Any]:
    return SCAnFTConfig().replace(seed=cell.seed).to_mapping() | {"clean_share": _CLEAN_SHARE}


CUTMIX = Method("cutmix", "CutMix", run_cutmix, _cutmix_configuration)
SCANFT = Method("scanft", "SCAnFT", run_scanft, _scanft_configuration, cost=0.6)
