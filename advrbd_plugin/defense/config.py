"""Every setting of AdvrBD, validated once: a frozen dataclass for each stage, and all of them together.

The keys are flat, as in the YAML files, on the command line and in BackdoorBench. :meth:`Settings.part` cuts one
stage's settings out of the whole; its digest is a part of the stage's cache key.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.nn.training import TrainingOptions
from advrbd_plugin.settings import MAX_SEED, Settings, between, one_of

if TYPE_CHECKING:
    from typing import Self

PRESETS = ("robust", "paper")

# Where epochs is 0: a backdoor that was not learned cannot be seen, and a small set has few batches an epoch.
_EPOCHS, _MOST_EPOCHS = 20, 200
_BATCHES = 3000


@dataclass(frozen=True)
class StageConfig(Settings):
    """What all stages share.

    Attributes:
        seed: everything random derives from (seed, sample id).
        mixed_precision: bfloat16 where the device multiplies it in hardware.
    """

    seed: int = between(0, MAX_SEED, 0)
    mixed_precision: bool = True


@dataclass(frozen=True)
class TrainingConfig(StageConfig):
    """How each network is trained; see :class:`advrbd_plugin.nn.training.TrainingOptions`.

    Attributes:
        epochs: passes over the data; 0 takes 20, and for a small set as many as make 3,000 batches, up to 200.
        batch_size, learning_rate, momentum, weight_decay: of SGD.
        crop_padding, flip: random crops (padding in pixels) and horizontal flips.
    """

    epochs: int = between(0, 10_000, 0)
    batch_size: int = between(2, 65_536, 64)
    learning_rate: float = between(1e-8, 100.0, 0.1)
    momentum: float = between(0.0, 0.9999, 0.9)
    weight_decay: float = between(0.0, 1.0, 5e-4)
    crop_padding: int = between(0, 64, 4)
    flip: bool = True

    def for_samples(self, count: int) -> Self:
        """The settings with the epochs that a set of ``count`` samples gets, where ``epochs`` is 0."""
        if self.epochs:
            return self
        batches_of_an_epoch = max(1, math.ceil(count / self.batch_size))
        return self.replace(epochs=min(_MOST_EPOCHS, max(_EPOCHS, math.ceil(_BATCHES / batches_of_an_epoch))))

    def training(self, seed: int, **changes: Any) -> TrainingOptions:
        """The recipe of one training whose random numbers come from ``seed``."""
        return dataclasses.replace(TrainingOptions.of(self, seed=seed), **changes)


@dataclass(frozen=True)
class ScoringConfig(StageConfig):
    """Consistency scores (paper, Section V-B1, equation 3).

    Attributes:
        epsilon: perturbation step in pixel scale [0, 1].
        patch_size: side of the perturbed square in pixels; at most the image's side.
        num_patch_sizes: score with so many sizes, each half of the one before (the paper: 1).
        num_masks: patches per sample (the paper: 1).
        reduction: how a sample's KL divergences over the masks become one score.
    """

    epsilon: float = between(0.0, 1.0, 32 / 255)
    patch_size: int = between(1, 4096, 16)
    num_patch_sizes: int = between(1, 12, 3)
    num_masks: int = between(1, 4096, 4)
    reduction: str = one_of("median", "geometric_mean", "mean", default="median")


@dataclass(frozen=True)
class DetectionConfig(StageConfig):
    """Which classes are targets of an attack.

    Attributes:
        detection_gain: the clusters of a class stand apart where two Gaussians explain its samples better than one by
            this much (BIC per sample, in nats times two) and 30 in all, which few samples can reach by chance.
        strong_separation: a class of which nothing acts in other pictures is put to the confirmation where its clusters
            are this far apart, in standard deviations. Kinds of innocent content are nearer.
    """

    detection_gain: float = between(0.0, 100.0, 0.15)
    strong_separation: float = between(0.0, 1000.0, 4.0)


@dataclass(frozen=True)
class EnhancementConfig(TrainingConfig):
    """Attributes:
    enhancement_steps: batches of the enhancement ``trigger``.
    enhancement_learning_rate: of either enhancement.
    """

    enhancement_steps: int = between(1, 1_000_000, 200)
    enhancement_learning_rate: float = between(1e-8, 100.0, 0.02)


@dataclass(frozen=True)
class PaperConfig(EnhancementConfig, ScoringConfig):
    """Algorithms 1 and 2.

    Attributes:
        alpha: share of the samples that Algorithm 1 takes as clean, and that each round of Algorithm 2 adds.
        rounds: rounds of Algorithm 2.
        unlearn_loss: what is minimised on D_c: ``gradient_ascent`` (minus the cross entropy, equation 4) or
            ``one_minus_probability`` (-log(1 - p_label)).
        unlearn_weight: its weight against the cross entropy on D_u.
        gradient_clip: largest gradient norm.
    """

    alpha: float = between(0.001, 0.9, 0.05)
    rounds: int = between(1, 100, 10)
    unlearn_loss: str = one_of("one_minus_probability", "gradient_ascent", default="one_minus_probability")
    unlearn_weight: float = between(0.0, 1000.0, 1.0)
    gradient_clip: float = between(1e-6, 1e6, 5.0)


@dataclass(frozen=True)
class IdentificationConfig(StageConfig):
    """Attributes:
    abstain_threshold: a sample of a suspected class whose trigger log-odds exceed minus this is not called poisoned,
        but not trained on either.
    """

    abstain_threshold: float = between(0.0, 100.0, 3.0)


@dataclass(frozen=True)
class ConfirmationConfig(TrainingConfig):
    """Attributes:
    confirmation_share: epochs of the training that confirms a class whose clusters stand apart, as a share of
        ``epochs``.
    """

    confirmation_share: float = between(0.01, 1.0, 0.4)

    @property
    def confirming_epochs(self) -> int:
        """Of a training of ``epochs``."""
        return max(1, round(self.confirmation_share * self.epochs))


@dataclass(frozen=True)
class RetrainingConfig(TrainingConfig):
    """Attributes:
    examinations: how often a clean model is examined like the first one, and trained again without what was found.
    relearn_epochs, relearn_learning_rate: training on everything after relabelling; 0 epochs leaves it out.
    """

    examinations: int = between(0, 10, 2)
    relearn_epochs: int = between(0, 10_000, 6)
    relearn_learning_rate: float = between(1e-8, 100.0, 0.05)


@dataclass(frozen=True)
class AdvrBDConfig(PaperConfig, RetrainingConfig, ConfirmationConfig, IdentificationConfig, DetectionConfig):
    """The settings of one run; the defaults are the preset ``robust``. docs/choices.md gives the reason of each.

    Attributes:
        detect_targets: find the target classes first, and sort only the samples of those. Switched off, every sample
            is judged as in the paper; alpha, rounds and the unlearn settings play a part only then.
        enhancement: ``trigger`` teaches the backdoored model to keep nothing but the trigger of the suspected classes;
            ``unlearn`` is Algorithm 2; ``none`` leaves it out.

    The attributes of the stages are documented there: :class:`TrainingConfig`, :class:`ScoringConfig`,
    :class:`DetectionConfig`, :class:`ConfirmationConfig`, :class:`EnhancementConfig`, :class:`PaperConfig`,
    :class:`IdentificationConfig` and :class:`RetrainingConfig`.

    Examples:
        >>> config = AdvrBDConfig.preset("robust").replace(epochs=30, seed=1)
        >>> config.epochs, config.patch_size, config == AdvrBDConfig(epochs=30, seed=1)
        (30, 16, True)
        >>> AdvrBDConfig(epsilon=-1)
        Traceback (most recent call last):
        advrbd_plugin.errors.AdvrBDError: epsilon must be ...
    """

    detect_targets: bool = True
    enhancement: str = one_of("trigger", "unlearn", "none", default="trigger")

    preset_files: ClassVar[Mapping[str, str]] = {name: f"{name}.yaml" for name in PRESETS}
    renamed: ClassVar[Mapping[str, str]] = {
        "accuse_labels": "detect_targets",
        "accusation_gain": "detection_gain",
        "doubt": "abstain_threshold",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.detect_targets and self.enhancement == "unlearn":
            raise AdvrBDError(
                "enhancement must be trigger or none where detect_targets is true, got 'unlearn'; set detect_targets "
                "to false for the paper's Algorithm 2"
            )
        if not self.detect_targets and self.enhancement != "unlearn":
            raise AdvrBDError(f"enhancement must be unlearn where detect_targets is false, got {self.enhancement!r}")
