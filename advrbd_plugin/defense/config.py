"""Every setting of AdvrBD, validated once."""

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

# Trainings whose epochs are left to the set: a backdoor that is not learned cannot be seen, and a small set teaches it
# in few batches an epoch.
_EPOCHS, _MOST_EPOCHS = 20, 200
_BATCHES = 3000


@dataclass(frozen=True)
class AdvrBDConfig(Settings):
    """The settings of one run; the defaults are the preset ``robust``. docs/choices.md gives the reason of each.

    Attributes:
        seed: everything random derives from (seed, sample id).
        epochs: passes of each training over the data; 0 takes 20, and for a small set as many as make 3,000 batches
            of the whole set, up to 200.
        batch_size, learning_rate, momentum, weight_decay, crop_padding, flip, mixed_precision: training, see
            :class:`advrbd_plugin.nn.training.TrainingOptions`.
        epsilon: perturbation step in pixel scale [0, 1].
        patch_size: side of the perturbed square in pixels; at most the image's side.
        num_patch_sizes: with ``detect_targets``, score with so many sizes, each half of the one before.
        num_masks: patches per sample (the paper: 1).
        reduction: how a sample's KL divergences over the masks become one score.
        alpha: share of the samples that Algorithm 1 takes as clean, and that each round of Algorithm 2 adds; plays no
            part with ``detect_targets``, which goes by the ranks alone.
        rounds: rounds of Algorithm 2 (enhancement ``unlearn``).
        detect_targets: ask each label whether it is attacked, and only sort the samples of those that are. Switched
            off, every sample is judged as the paper does it.
        detection_gain: a label is suspected where two Gaussians explain its samples better than one by this much (BIC
            per sample, in nats times two) and 30 in all, which few samples can reach by chance.
        strong_evidence: below this gain an detection is rejected if the clean model, which was trained without the
            label's suspicious samples, gives most of them that label all the same.
        enhancement: ``trigger`` teaches the backdoored model to keep nothing but the trigger of the suspected labels;
            ``unlearn`` is Algorithm 2; ``none`` leaves it out.
        enhancement_steps: batches of the enhancement ``trigger``.
        enhancement_learning_rate: of either enhancement.
        unlearn_loss: what is minimised on D_c in ``unlearn``: ``gradient_ascent`` (minus the cross entropy, equation
            4) or ``one_minus_probability`` (-log(1 - p_label)).
        unlearn_weight: its weight against the cross entropy on D_u.
        gradient_clip: largest gradient norm of the enhancement.
        abstain_threshold: samples of a suspected label whose trigger log-odds exceed minus this are not called poisoned, but not
            trained on either.
        relearn_epochs, relearn_learning_rate: training on everything after relabelling; 0 epochs leaves it out.
    """

    seed: int = between(0, MAX_SEED, 0)
    epochs: int = between(0, 10_000, 0)
    batch_size: int = between(2, 65_536, 64)
    learning_rate: float = between(1e-8, 100.0, 0.1)
    momentum: float = between(0.0, 0.9999, 0.9)
    weight_decay: float = between(0.0, 1.0, 5e-4)
    crop_padding: int = between(0, 64, 4)
    flip: bool = True
    mixed_precision: bool = True
    epsilon: float = between(0.0, 1.0, 32 / 255)
    patch_size: int = between(1, 4096, 16)
    num_patch_sizes: int = between(1, 12, 3)
    num_masks: int = between(1, 4096, 4)
    reduction: str = one_of("median", "geometric_mean", "mean", default="median")
    alpha: float = between(0.001, 0.9, 0.05)
    rounds: int = between(1, 100, 10)
    detect_targets: bool = True
    detection_gain: float = between(0.0, 100.0, 0.15)
    strong_evidence: float = between(0.0, 100.0, 1.0)
    enhancement: str = one_of("trigger", "unlearn", "none", default="trigger")
    enhancement_steps: int = between(1, 1_000_000, 200)
    enhancement_learning_rate: float = between(1e-8, 100.0, 0.02)
    unlearn_loss: str = one_of("one_minus_probability", "gradient_ascent", default="one_minus_probability")
    unlearn_weight: float = between(0.0, 1000.0, 1.0)
    gradient_clip: float = between(1e-6, 1e6, 5.0)
    abstain_threshold: float = between(0.0, 100.0, 3.0)
    relearn_epochs: int = between(0, 10_000, 6)
    relearn_learning_rate: float = between(1e-8, 100.0, 0.05)

    preset_files: ClassVar[Mapping[str, str]] = {name: f"{name}.yaml" for name in PRESETS}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.detect_targets and self.enhancement == "unlearn":
            raise AdvrBDError(
                "enhancement must be trigger or none where detect_targets is true, got 'unlearn'; set detect_targets to "
                "false for the paper's Algorithm 2"
            )
        if not self.detect_targets and self.enhancement != "unlearn":
            raise AdvrBDError(f"enhancement must be unlearn where detect_targets is false, got {self.enhancement!r}")

    def for_samples(self, count: int) -> Self:
        """The settings with the epochs that a set of ``count`` samples gets, where they are left to it."""
        if self.epochs:
            return self
        batches_of_an_epoch = max(1, math.ceil(count / self.batch_size))
        return self.replace(epochs=min(_MOST_EPOCHS, max(_EPOCHS, math.ceil(_BATCHES / batches_of_an_epoch))))

    def training(self, seed: int, **changes: Any) -> TrainingOptions:
        """The recipe of one training whose random numbers come from ``seed``."""
        return dataclasses.replace(TrainingOptions.of(self, seed=seed), **changes)
