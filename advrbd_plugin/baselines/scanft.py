"""SCAnFT, the AdvrBD paper's baseline: SCAn finds poisoned samples, the model unlearns them and is fine-tuned.

The detection is Tang et al.'s (:mod:`advrbd_plugin.baselines.scan`). The AdvrBD paper says of the repair that the found
samples are unlearned; it is done here by gradient ascent, as Anti-Backdoor Learning does (Li et al., arXiv 2110.11571).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from advrbd_plugin.baselines.scan import ScanConfig, ScanResult, scan
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.defense.identification import Verdicts
from advrbd_plugin.nn.features import penultimate_features
from advrbd_plugin.nn.inference import check_outputs
from advrbd_plugin.nn.training import TrainingOptions, train
from advrbd_plugin.progress import Progress, SilentProgress, timed_stage
from advrbd_plugin.randomness import derive_seed
from advrbd_plugin.settings import MAX_SEED, between, one_of
from advrbd_plugin.ulrl.config import ULRLConfig
from advrbd_plugin.ulrl.unlearning import unlearn


@dataclass(frozen=True)
class SCAnFTConfig(ScanConfig):
    """The settings, beside SCAn's; docs/baselines.md says where they come from.

    Attributes:
        seed: everything random derives from (seed, sample id).
        unlearn_learning_rate: of the gradient ascent on the found samples.
        unlearn_epochs: passes over them at most; it ends where their accuracy is at most ``unlearn_accuracy``.
        unlearn_accuracy: see ``unlearn_epochs``.
        gradient_clip: largest gradient norm of the ascent.
        fine_tune_on: the ``clean`` samples that SCAn was given, or the ``rest`` of the training set, where the poison that
            SCAn missed brings the backdoor back.
        epochs: passes of the fine-tuning; 0 leaves it out.
        batch_size, learning_rate, momentum, weight_decay, crop_padding, flip, mixed_precision: of the fine-tuning, see
            :class:`advrbd_plugin.nn.training.TrainingOptions`.
    """

    seed: int = between(0, MAX_SEED, 0)
    unlearn_learning_rate: float = between(1e-8, 100.0, 5e-4)
    unlearn_epochs: int = between(0, 10_000, 20)
    unlearn_accuracy: float = between(0.0, 1.0, 0.01)
    gradient_clip: float = between(1e-6, 1e6, 20.0)
    fine_tune_on: str = one_of("clean", "rest", default="clean")
    epochs: int = between(0, 10_000, 10)
    batch_size: int = between(2, 65_536, 64)
    learning_rate: float = between(1e-8, 100.0, 0.01)
    momentum: float = between(0.0, 0.9999, 0.9)
    weight_decay: float = between(0.0, 1.0, 5e-4)
    crop_padding: int = between(0, 64, 4)
    flip: bool = True
    mixed_precision: bool = True

    preset_files: ClassVar[Mapping[str, str]] = {"paper": "baselines/scanft.yaml"}

    def fine_tuning(self) -> TrainingOptions:
        """The recipe of the fine-tuning."""
        return TrainingOptions.of(self, seed=derive_seed(self.seed, "scanft"))

    def unlearning(self) -> ULRLConfig:
        """The recipe of the gradient ascent."""
        return ULRLConfig(
            seed=self.seed,
            batch_size=self.batch_size,
            momentum=self.momentum,
            crop_padding=self.crop_padding,
            flip=self.flip,
            mixed_precision=self.mixed_precision,
            unlearn_epochs=self.unlearn_epochs,
            unlearn_accuracy=self.unlearn_accuracy,
            unlearn_learning_rate=self.unlearn_learning_rate,
            gradient_clip=self.gradient_clip,
        )


@dataclass(frozen=True, eq=False)
class SCAnFTResult:
    """Attributes:
    model: the defended model, in eval mode; the attacked one where no label is suspected.
    detection: what SCAn found.
    verdicts: the same as verdicts on the training samples; no other label is suggested for any of them.
    curves: stage -> rows, one an epoch.
    seconds: stage -> time.
    config: the settings.
    """

    model: nn.Module
    detection: ScanResult
    verdicts: Verdicts
    curves: dict[str, list[dict[str, float]]]
    seconds: dict[str, float]
    config: SCAnFTConfig


def scanft(
    attacked_model: nn.Module,
    train_set: ImageSet,
    clean_set: ImageSet,
    *,
    config: SCAnFTConfig | None = None,
    progress: Progress | None = None,
) -> SCAnFTResult:
    """Find poisoned samples, unlearn them, and fine-tune what is left.

    Args:
        attacked_model: from (N, C, H, W) float images in pixel scale [0, 1] to logits; worked on where it is, not
            changed.
        train_set: the poisoned training set, without the truth about it.
        clean_set: a few clean samples of every label.
        config: the settings.
        progress: told of every batch.

    Raises:
        AdvrBDError: there are too few clean samples, the model has not an output for each class, or a training diverges.
    """
    config, progress = config or SCAnFTConfig(), progress or SilentProgress()
    curves, seconds = {}, {}
    progress.plan({"detection": len(train_set), "unlearning": 0, "fine-tuning": config.epochs * len(clean_set)})
    check_outputs(attacked_model, train_set.images, train_set.num_classes)
    with timed_stage(progress, "detection", seconds):
        features, _ = penultimate_features(
            attacked_model, train_set.images, mixed_precision=False, on_batch=progress.advance
        )
        clean_features, _ = penultimate_features(attacked_model, clean_set.images, mixed_precision=False)
        found = scan(
            features,
            train_set.labels,
            clean_features,
            clean_set.labels,
            num_classes=train_set.num_classes,
            config=config,
        )
    model = attacked_model.eval()
    flagged = train_set.subset(found.poisoned)
    if len(flagged) and config.unlearn_epochs:
        with timed_stage(progress, "unlearning", seconds):
            unlearned = unlearn(model, flagged, config.unlearning(), progress=progress)
        model, curves["unlearning"] = unlearned.model, unlearned.rows
    if len(flagged) and config.epochs:
        model = copy.deepcopy(model)  # which may be the attacked one
        good = clean_set if config.fine_tune_on == "clean" else train_set.subset(~found.poisoned)
        with timed_stage(progress, "fine-tuning", seconds):
            curves["fine-tuning"] = train(
                model,
                good.images,
                good.labels,
                good.sample_ids,
                config.fine_tuning(),
                stage="fine-tuning",
                progress=progress,
            )
    verdicts = Verdicts(found.poisoned, found.score, train_set.labels.clone(), torch.zeros_like(found.poisoned))
    return SCAnFTResult(model, found, verdicts, curves, seconds, config)
