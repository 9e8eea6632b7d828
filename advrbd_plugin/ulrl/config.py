"""Every setting of ULRL, validated once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from advrbd_plugin.nn.training import TrainingOptions
from advrbd_plugin.settings import MAX_SEED, Settings, between, one_of


@dataclass(frozen=True)
class ULRLConfig(Settings):
    """The settings of one repair; the defaults are the preset ``robust``. docs/ulrl.md gives the reason of each.

    Attributes:
        seed: everything random derives from (seed, sample id).
        batch_size, momentum, crop_padding, flip, mixed_precision: as in
            :class:`advrbd_plugin.nn.training.TrainingOptions`.
        layers: look for suspicious neurons in ``all`` convolution and linear layers, or in the ``last`` linear one.
        unlearn_epochs: passes over the clean samples that unlearning may take.
        unlearn_accuracy: unlearning ends where the accuracy on the clean samples is at most this.
        unlearn_learning_rate, unlearn_weight_decay: of unlearning; the rate falls to a tenth after half of the epochs.
        gradient_clip: largest gradient norm of unlearning.
        z_threshold: a neuron is suspicious whose robust z-score exceeds this.
        max_neurons: at most so many suspicious neurons in a layer; 0 sets no limit.
        choose: which ones where there are more: those of the highest ``score``, or the first by ``index``.
        attraction: before any neuron is suspected, ask which label a small universal perturbation leads to most
            easily; without a label that stands out here or among the patterns the model looks clean and is left
            alone. With both switched off, the neurons alone decide.
        attraction_radius: largest Euclidean norm of that perturbation, pixel scale.
        attraction_steps: gradient steps to each perturbation.
        attraction_threshold: a label is attacked where its attraction exceeds the median of all labels by this.
        patterns: ask the same of stock patterns, waves of every frequency and squares at every place, laid over the
            images of each class and of all.
        pattern_waves: highest frequency of the waves, in waves over the width or height of the image.
        pattern_amplitude: of the waves, pixel scale.
        wave_threshold, square_threshold: a label is attacked where the excess of a wave, or of a square, is above this.
        warps: ask the same of smooth warps of the whole image.
        warp_points: control points of a warp in either direction.
        warp_radius: root mean square of its displacements at the control points, in pixels.
        warp_steps: gradient steps to each warp.
        warp_threshold: a label is attacked where its attraction by a warp exceeds the median of all labels by this.
        reinitialise: begin the suspicious neurons anew before relearning.
        relearn_epochs: passes over the clean samples in relearning.
        relearn_steps: relearning ends after so many batches at the latest; 0 sets no limit.
        relearn_learning_rate, relearn_weight_decay: of relearning; the rate falls along a cosine.
        relearn_warm_up: batches over which the rate rises first.
        relearn_gradient_clip: largest gradient norm of relearning; 0 sets no limit.
        freeze_statistics: keep the running statistics of batch normalisation in relearning, where few clean samples
            and perturbed ones would shift them.
        alpha: weight of the cosine similarity between the suspicious neurons' new and old weights.
        distillation: weight of the divergence from the old model's answer on clean samples and mixtures of them.
        adversary_weight: weight of the divergence from the old model's answer on clean samples where a universal
            perturbation (or warp, where a warp led there) that leads to an attacked label is put on them; 0 leaves it
            out, as suspicious samples do.
        adversary_radius: largest Euclidean norm of that perturbation, pixel scale; of a warp it is ``warp_radius``.
        adversary_count: perturbations kept at a time, beside the patterns found to lead to an attacked label.
        adversary_steps: gradient steps to the perturbations in each batch.
        forget_weight: weight of unlearning the label of samples known to be suspicious, where some are given.
    """

    seed: int = between(0, MAX_SEED, 0)
    batch_size: int = between(1, 65_536, 100)
    momentum: float = between(0.0, 0.9999, 0.9)
    crop_padding: int = between(0, 64, 4)
    flip: bool = True
    mixed_precision: bool = True
    layers: str = one_of("all", "last", default="all")
    unlearn_epochs: int = between(1, 10_000, 20)
    unlearn_accuracy: float = between(0.0, 1.0, 0.2)
    unlearn_learning_rate: float = between(1e-8, 100.0, 0.01)
    unlearn_weight_decay: float = between(0.0, 1.0, 5e-4)
    gradient_clip: float = between(1e-6, 1e6, 20.0)
    z_threshold: float = between(0.0, 1000.0, 3.5)
    max_neurons: int = between(0, 1_000_000, 0)
    choose: str = one_of("score", "index", default="score")
    attraction: bool = True
    attraction_radius: float = between(0.0, 1000.0, 1.0)
    attraction_steps: int = between(1, 1000, 12)
    attraction_threshold: float = between(0.0, 1.0, 0.2)
    patterns: bool = True
    pattern_waves: int = between(1, 1000, 8)
    pattern_amplitude: float = between(0.0, 1.0, 0.08)
    wave_threshold: float = between(0.0, 1.0, 0.4)
    square_threshold: float = between(0.0, 1.0, 0.18)
    warps: bool = True
    warp_points: int = between(2, 64, 6)
    warp_radius: float = between(0.0, 1000.0, 0.7)
    warp_steps: int = between(1, 1000, 8)
    warp_threshold: float = between(0.0, 1.0, 0.3)
    reinitialise: bool = False
    relearn_epochs: int = between(1, 100_000, 100)
    relearn_steps: int = between(0, 1_000_000, 70)
    relearn_learning_rate: float = between(1e-8, 100.0, 0.02)
    relearn_weight_decay: float = between(0.0, 1.0, 5e-4)
    relearn_warm_up: int = between(0, 100_000, 10)
    relearn_gradient_clip: float = between(0.0, 1e6, 1.0)
    freeze_statistics: bool = True
    alpha: float = between(0.0, 1000.0, 0.0)
    distillation: float = between(0.0, 1000.0, 1.0)
    adversary_weight: float = between(0.0, 1000.0, 1.0)
    adversary_radius: float = between(0.0, 1000.0, 2.0)
    adversary_count: int = between(1, 1000, 4)
    adversary_steps: int = between(1, 1000, 1)
    forget_weight: float = between(0.0, 1000.0, 1.0)

    preset_files: ClassVar[Mapping[str, str]] = {"robust": "ulrl-robust.yaml", "paper": "ulrl-paper.yaml"}

    @property
    def thresholds(self) -> dict[str, float]:
        """Kind of evidence (:attr:`ULRLResult.evidence`) -> from where on it speaks for an attack."""
        return {
            "attraction": self.attraction_threshold,
            "wave": self.wave_threshold,
            "square": self.square_threshold,
            "warp": self.warp_threshold,
        }

    def augmentation(self, seed: int) -> TrainingOptions:
        """What :func:`advrbd_plugin.nn.training.augment` needs, for random numbers from ``seed``."""
        return TrainingOptions(epochs=1, crop_padding=self.crop_padding, flip=self.flip, seed=seed)
