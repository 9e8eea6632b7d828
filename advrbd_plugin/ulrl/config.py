"""The settings of ULRL, validated once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from advrbd_plugin.nn.training import TrainingOptions
from advrbd_plugin.settings import MAX_SEED, Settings, between, one_of


@dataclass(frozen=True)
class ULRLConfig(Settings):
    """The settings of one repair; the defaults are the preset ``robust``. docs/ulrl.md gives the reason for each.

    Attributes:
        seed: everything random derives from (seed, sample id).
        batch_size, momentum, crop_padding, flip, mixed_precision: as in
            :class:`advrbd_plugin.nn.training.TrainingOptions`.
        layers: check the neurons of ``all`` convolution, linear and attention layers, or of the ``last`` linear one.
        unlearn_epochs: largest number of passes of unlearning over the clean samples.
        unlearn_accuracy: unlearning ends once the accuracy on the clean samples is at most this.
        unlearn_learning_rate, unlearn_weight_decay: of unlearning; the rate falls to a tenth after half of the epochs.
        gradient_clip: largest gradient norm of unlearning.
        z_threshold: a neuron is suspicious whose robust z-score exceeds this.
        max_neurons: largest number of suspicious neurons in a layer; 0 sets no limit.
        choose: where there are more, take those of the highest ``score`` or the first by ``index``.
        attraction: first search for attacked labels with universal perturbations. Where this search, ``patterns`` and
            ``warps`` find none, the model looks clean and stays unchanged. If all three are off, the neurons decide.
        attraction_radius: largest Euclidean norm of a perturbation, pixel scale [0, 1].
        attraction_steps: gradient steps for each perturbation.
        attraction_threshold: a label looks attacked if its attraction exceeds the median of all labels by this.
        patterns: search for attacked labels with stock patterns: waves of all frequencies, small squares at all places.
        pattern_waves: highest frequency of the waves, in periods over the width or height of the image.
        pattern_amplitude: amplitude of the waves, pixel scale [0, 1].
        wave_threshold, square_threshold: a label looks attacked if its excess by a wave, or by a square, is above this.
        warps: search for attacked labels with smooth warps of the whole image.
        warp_points: control points of a warp in either direction.
        warp_radius: root mean square of a warp's displacements at the control points, in pixels.
        warp_steps: gradient steps for each warp.
        warp_threshold: a label looks attacked if its attraction by a warp exceeds the median of all labels by this.
        reinitialise: reinitialise the suspicious neurons before relearning.
        relearn_epochs: passes of relearning over the clean samples.
        relearn_steps: largest number of batches of relearning; 0 sets no limit.
        relearn_learning_rate, relearn_weight_decay: of relearning; the rate falls along a cosine.
        relearn_warm_up: batches over which the rate first rises linearly.
        relearn_gradient_clip: largest gradient norm of relearning; 0 sets no limit.
        freeze_statistics: keep the running statistics of batch normalisation in relearning, since few and perturbed
            samples would shift them.
        alpha: weight of the cosine similarity between the suspicious neurons' new and old weights.
        distillation: weight of the divergence from the old model's outputs on clean samples and on mixtures of two.
        adversary_weight: weight of the divergence from the old model's outputs on clean samples under universal
            perturbations (or warps) towards an attacked label; without effect where suspicious samples are given.
        adversary_radius: largest Euclidean norm of such a perturbation, pixel scale [0, 1]; warps use ``warp_radius``.
        adversary_count: number of searched perturbations, beside the patterns found for an attacked label.
        adversary_steps: gradient steps for the perturbations in each batch.
        forget_weight: weight of unlearning the labels of suspicious samples, where some are given.

    Examples:
        >>> ULRLConfig.preset("robust").replace(relearn_steps=10).relearn_steps
        10
        >>> ULRLConfig() == ULRLConfig.preset("robust")
        True
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
        """Kind of evidence (:attr:`ULRLResult.evidence`) -> value above which a label looks attacked."""
        return {
            "attraction": self.attraction_threshold,
            "wave": self.wave_threshold,
            "square": self.square_threshold,
            "warp": self.warp_threshold,
        }

    def augmentation(self, seed: int) -> TrainingOptions:
        """The options of :func:`advrbd_plugin.nn.training.augment`; crops and flips derive from ``seed``."""
        return TrainingOptions(epochs=1, crop_padding=self.crop_padding, flip=self.flip, seed=seed)
