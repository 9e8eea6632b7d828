"""What the defense hands back."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from advrbd_plugin.defense.config import AdvrBDConfig
from advrbd_plugin.defense.detection import LabelEvidence
from advrbd_plugin.defense.identification import Verdicts

Rows = list[dict[str, float]]


@dataclass(frozen=True, eq=False)
class BackdooredModel:
    """What the first stage gives.

    Attributes:
        model: the model trained on everything, in eval mode, for images in pixel scale [0, 1].
        rows: one an epoch: ``epoch``, ``loss``, ``accuracy``.
        seconds: stage -> time; next to none where the model was found in ``work_dir``.
    """

    model: nn.Module
    rows: Rows
    seconds: dict[str, float]


@dataclass(frozen=True, eq=False)
class AdvrBDResult:
    """What a run found.

    Attributes:
        model: the clean model, in eval mode, for images in pixel scale [0, 1].
        backdoored_model: the model trained on everything, before the defense.
        verdicts: a verdict and a score for each sample, in the order of the set that was given.
        suspected_classes: classes found to be targets; empty where the set is called clean (always empty with
            ``detect_targets`` switched off).
        evidence: what spoke for or against each class; empty with ``detect_targets`` switched off.
        curves: stage -> rows, one a step.
        seconds: stage -> time, of this run alone where an earlier one was resumed.
        config: the settings.
    """

    model: nn.Module
    backdoored_model: nn.Module
    verdicts: Verdicts
    suspected_classes: tuple[int, ...]
    evidence: tuple[LabelEvidence, ...]
    curves: dict[str, Rows]
    seconds: dict[str, float]
    config: AdvrBDConfig

    @property
    def accused_labels(self) -> tuple[int, ...]:
        """The former name of ``suspected_classes``."""
        return self.suspected_classes
