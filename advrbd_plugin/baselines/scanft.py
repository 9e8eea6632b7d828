"""SCAnFT, a baseline of the AdvrBD paper: SCAn finds poisoned samples, the model unlearns them and is fine-tuned.

The detection is Tang et al.'s (:mod:`advrbd_plugin.baselines.scan`). The AdvrBD paper says that the found samples are
unlearned; here gradient ascent does that, as in Anti-Backdoor Learning (Li et al., arXiv 2110.11571).
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
    """The settings beside SCAn's; docs/baselines.md gives their sources.

    Attributes:
        seed: everything random derives from (seed, sample id).
        unlearn_learning_rate: of the gradient ascent on the found samples.
        unlearn_epochs: largest number of passes over them; 0 leaves unlearning out.
        unlearn_accuracy: unlearning ends once their accuracy is at most this.
        gradient_clip: largest gradient norm of the ascent.
        fine_tune_on: the ``clean`` samples of SCAn, or the ``rest`` of the training set; poison in the rest that SCAn
            missed restores the backdoor.
        epochs: passes of the fine-tuning; 0 leaves it out.
        batch_size, learning_rate, momentum, weight_decay, crop_padding, flip, mixed_precision: of fine-tuning, as in
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
        """The options of the fine-tuning."""
        return TrainingOptions.of(self, seed=derive_seed(self.seed, "scanft"))

    def unlearning(self) -> ULRLConfig:
        """The settings of the gradient ascent."""
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
    model: the defended model, in eval mode; the attacked one if no label is suspected.
    detection: SCAn's result.
    verdicts: the same as verdicts on the training samples; SCAn suggests no other labels.
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
    """Find poisoned samples with SCAn, unlearn them, and fine-tune.

    Args:
        attacked_model: from (N, C, H, W) float images in pixel scale [0, 1] to logits; its device is used, it is not
            changed.
        train_set: the poisoned training set, without its ground truth.
        clean_set: a few clean samples of every label.
        config: the settings.
        progress: told of every batch.

    Raises:
        AdvrBDError: there are too few clean samples, the model has the wrong number of outputs, or training diverges.
    """
    config, progress = config or SCAnFTConfig(), progress or SilentProgress()
    curves: dict[str, list[dict[str, float]]] = {}
    seconds: dict[str, float] = {}
    progress.plan({"detection": len(train_set), "unlearning": 0, "fine-tuning": config.epochs * len(clean_set)})
    check_outputs(attacked_model, train_set.images, train_set.num_classes)
    with timed_stage(progress, "detection", seconds):
        found = _detect(attacked_model, train_set, clean_set, config, progress)
    model = attacked_model.eval()
    flagged = train_set.subset(found.poisoned)
    if len(flagged) and config.unlearn_epochs:
        with timed_stage(progress, "unlearning", seconds):
            unlearned = unlearn(model, flagged, config.unlearning(), progress=progress)
        model, curves["unlearning"] = unlearned.model, unlearned.rows
    if len(flagged) and config.epochs:
        model = copy.deepcopy(model)  # it may be the attacked one
        samples = clean_set if config.fine_tune_on == "clean" else train_set.subset(~found.poisoned)
        with timed_stage(progress, "fine-tuning", seconds):
            curves["fine-tuning"] = _fine_tune(model, samples, config, progress)
    verdicts = Verdicts.without_errors(
        found.poisoned, found.score, train_set.labels.clone(), torch.zeros_like(found.poisoned)
    )
    return SCAnFTResult(model, found, verdicts, curves, seconds, config)


def _detect(
    model: nn.Module, train_set: ImageSet, clean_set: ImageSet, config: SCAnFTConfig, progress: Progress
) -> ScanResult:
    features, _ = penultimate_features(model, train_set.images, mixed_precision=False, on_batch=progress.advance)
    clean_features, _ = penultimate_features(model, clean_set.images, mixed_precision=False)
    return scan(
        features,
        train_set.labels,
        clean_features,
        clean_set.labels,
        num_classes=train_set.num_classes,
        config=config,
    )


def _fine_tune(model: nn.Module, samples: ImageSet, config: SCAnFTConfig, progress: Progress) -> list[dict[str, float]]:
    """Train ``model`` in place; return the curve."""
    return train(
        model,
        samples.images,
        samples.labels,
        samples.sample_ids,
        config.fine_tuning(),
        stage="fine-tuning",
        progress=progress,
    )
