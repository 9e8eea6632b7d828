"""A clean model from the verdicts, and whether it is one: retrain, relabel, relearn, examine, compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from advrbd_plugin.cache import digest
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.defense.config import AdvrBDConfig, RetrainingConfig
from advrbd_plugin.defense.detection import Detection, examine
from advrbd_plugin.defense.findings import ClassFinding, trigger_patterns
from advrbd_plugin.defense.identification import Verdicts
from advrbd_plugin.defense.result import Rows
from advrbd_plugin.defense.retraining import (
    abstain_on_disagreement,
    relabel,
    relearn,
    relearned_samples,
    relearning_options,
    trusted_samples,
)
from advrbd_plugin.defense.stage_runner import StageRunner
from advrbd_plugin.defense.version import ALGORITHM_VERSION
from advrbd_plugin.nn.checkpoints import StoredTraining
from advrbd_plugin.nn.inference import accuracy
from advrbd_plugin.nn.training import TRAINING_WORK
from advrbd_plugin.progress import ScaledProgress
from advrbd_plugin.randomness import derive_seed

_WORSE = 0.01  # of accuracy on trusted samples


@dataclass(frozen=True, eq=False)
class CleanModel:
    """Attributes:
    model: trained on what is trusted, then on what is certain.
    verdicts: with suggested labels, and with samples that it made uncertain.
    curves: of its trainings.
    """

    model: nn.Module
    verdicts: Verdicts
    curves: dict[str, Rows]


def clean_model(
    run: StageRunner,
    samples: ImageSet,
    verdicts: Verdicts,
    suspected: Sequence[int],
    key: str,
    config: AdvrBDConfig,
    *,
    slow: Sequence[int] = (),
) -> CleanModel:
    """Train on what is trusted, relabel what is poisoned, and train on everything that is certain (Section V-B4).

    Args:
        suspected: attacked classes; ``slow``: those of them whose triggers change slowly from place to place.
    """
    retraining = config.part(RetrainingConfig).for_samples(len(samples))
    trusted = trusted_samples(verdicts)
    options = retraining.training(derive_seed(config.seed, "retraining"))
    model, rows, _ = run.train("retraining", samples.subset(trusted), options, config.seed, digest(key, trusted))
    precision = retraining.mixed_precision
    verdicts = abstain_on_disagreement(model, samples, verdicts, suspected, mixed_precision=precision)
    patterns = None
    if config.detect_targets:
        patterns = trigger_patterns(samples, verdicts.poisoned, suspected, slow=slow)
    verdicts = relabel(model, samples, verdicts, patterns=patterns, mixed_precision=precision)
    curves = {"retraining": rows}
    if retraining.relearn_epochs:
        options = relearning_options(retraining)
        key = digest(key, verdicts.poisoned, verdicts.suggested_label, verdicts.uncertain, ALGORITHM_VERSION)
        progress = ScaledProgress(run.progress, TRAINING_WORK)
        used = relearned_samples(samples.labels, verdicts, poison_that_keeps_its_label=not config.detect_targets)

        def work(checkpoint: StoredTraining) -> Rows:
            return relearn(
                model,
                samples.subset(used),
                verdicts.suggested_label[used],
                options,
                patterns=patterns,
                progress=progress,
                checkpoint=checkpoint,
            )

        curves["relearning"] = run.train_on("relearning", model, options, key, work)
    return CleanModel(model.eval(), verdicts, curves)


def examine_again(
    run: StageRunner, samples: ImageSet, cleaned: CleanModel, key: str, config: AdvrBDConfig
) -> tuple[Detection, Tensor]:
    """Put the clean model to the transplants, on the samples that are trusted.

    Poison that was relabelled carries its trigger into every class, where nobody shall take it for another attack; and
    poison that was found need not be found again.

    Returns:
        What was found, and (M,) int64, the positions in ``samples`` of those that it speaks of.
    """
    verdicts = cleaned.verdicts
    used = verdicts.trusted.nonzero().flatten()
    kept = samples.subset(used)
    key = digest(key, "examination", kept.labels, used, *cleaned.model.state_dict().values(), ALGORITHM_VERSION)
    found = run.cached(
        Detection,
        "examination",
        key,
        lambda: examine(
            cleaned.model,
            kept,
            seed=config.seed,
            mixed_precision=config.mixed_precision,
            on_batch=run.progress.advance,
        ),
    )
    return found, used


def with_found(verdicts: Verdicts, found: Detection, used: Tensor) -> Verdicts:
    """The verdicts, with what the examination of a clean model called poisoned."""
    score, poisoned = verdicts.score.clone(), verdicts.poisoned.clone()
    score[used] = torch.maximum(score[used], found.poison_probability)
    poisoned[used] |= found.poison_probability > 0.5
    return replace(
        verdicts,
        poisoned=poisoned,
        score=score,
        uncertain=verdicts.uncertain & ~poisoned,
        mislabelled=verdicts.mislabelled & ~poisoned,
    )


def with_findings(findings: Sequence[ClassFinding], found: Detection, round_: int) -> tuple[ClassFinding, ...]:
    """The findings, with those of the classes that the model of ``round_`` gave away."""
    later = {each.label: replace(each, round=round_) for each in found.findings if each.suspected}
    return tuple(each if each.suspected else later.get(each.label, each) for each in findings)


def accuracy_on_trusted(model: nn.Module, samples: ImageSet, verdicts: Verdicts, *, mixed_precision: bool) -> float:
    """Share of the trusted samples that a model gives their labels."""
    trusted = samples.subset(verdicts.trusted.nonzero().flatten())
    return accuracy(model, trusted.images, trusted.labels, mixed_precision=mixed_precision)


def is_worse(after: float, before: float) -> bool:
    """Whether an accuracy on trusted samples fell by more than a point."""
    return after < before - _WORSE
