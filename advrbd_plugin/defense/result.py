"""What the defense hands back."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from advrbd_plugin.defense.config import AdvrBDConfig
from advrbd_plugin.defense.detection import LabelEvidence
from advrbd_plugin.defense.findings import ClassFinding
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


@dataclass(frozen=True, eq=False, kw_only=True)
class AdvrBDScan:
    """What is known of a set before a clean model is trained.

    Attributes:
        backdoored_model: the model trained on everything, in eval mode, for images in pixel scale [0, 1].
        verdicts: a verdict and a score for each sample, in the order of the set that was given.
        suspected_classes: classes found to be targets; empty where the set is called clean (always empty with
            ``detect_targets`` switched off).
        findings: one for each class, in their order; empty with ``detect_targets`` switched off.
        evidence: how the samples of each class fall into two clusters; empty with ``detect_targets`` switched off.
        fit: share of the training set that ``backdoored_model`` gives its labels.
        trained_enough: whether that is far enough from chance for a verdict; if not, nothing is suspected.
        curves: stage -> rows, one a step.
        seconds: stage -> time, of this run alone where an earlier one was resumed.
        config: the settings.
    """

    backdoored_model: nn.Module
    verdicts: Verdicts
    suspected_classes: tuple[int, ...]
    findings: tuple[ClassFinding, ...]
    evidence: tuple[LabelEvidence, ...]
    fit: float
    trained_enough: bool
    curves: dict[str, Rows]
    seconds: dict[str, float]
    config: AdvrBDConfig

    @property
    def accused_labels(self) -> tuple[int, ...]:
        """The former name of ``suspected_classes``."""
        return self.suspected_classes


@dataclass(frozen=True, eq=False, kw_only=True)
class AdvrBDResult(AdvrBDScan):
    """What a run found, and the clean model.

    Attributes:
        model: in eval mode, for images in pixel scale [0, 1].
        is_retrained: whether ``model`` was trained without the poisoned samples; if not, it is ``backdoored_model``.
        rounds: how many models were examined, the one trained on everything included.
        remark: one sentence: which model is returned and why.
    """

    model: nn.Module
    is_retrained: bool
    rounds: int
    remark: str
