"""A clean model from what was identified as clean, then relabelling and relearning (paper, Section V-B4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.defense.config import RetrainingConfig
from advrbd_plugin.defense.identification import Verdicts
from advrbd_plugin.defense.inoculation import Inoculation
from advrbd_plugin.defense.transplant import at_once
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.nn.checkpoints import TrainingCheckpoint
from advrbd_plugin.nn.inference import predict
from advrbd_plugin.nn.training import TrainingOptions, train
from advrbd_plugin.progress import Progress
from advrbd_plugin.randomness import derive_seed

_MAJORITY = 0.5


def trusted_samples(verdicts: Verdicts) -> Tensor:
    """(M,) int64 indices of the samples to train the clean model on.

    Raises:
        AdvrBDError: fewer than two are left.
    """
    trusted = verdicts.trusted.nonzero().flatten()
    if len(trusted) < 2:
        raise AdvrBDError(
            f"{len(verdicts.poisoned) - len(trusted)} of {len(verdicts.poisoned)} samples were called poisoned or "
            "uncertain, so none are left to train on: raise detection_gain or, with detect_targets: false, rounds or "
            "unlearn_weight"
        )
    return trusted


def abstain_on_disagreement(
    model: nn.Module, samples: ImageSet, verdicts: Verdicts, suspected: Sequence[int], *, mixed_precision: bool = True
) -> Verdicts:
    """Call samples of a suspected class uncertain that the clean model, although trained on them, predicts otherwise.

    Most of the last few poisoned samples of a suspected class are such: their trigger went unnoticed, and the picture
    shows another class.

    Args:
        model: the clean model.
        samples: the training set.
        verdicts: on it.
        suspected: the suspected classes.
    """
    uncertain = verdicts.uncertain.clone()
    of_suspected = torch.isin(samples.labels, torch.tensor(list(suspected), dtype=torch.int64))
    asked = (of_suspected & verdicts.trusted).nonzero().flatten()
    if len(asked):
        predicted = predict(model, samples.subset(asked).images, mixed_precision=mixed_precision).argmax(1)
        uncertain[asked] = predicted != samples.labels[asked]
    return replace(verdicts, uncertain=uncertain)


def relabel(
    model: nn.Module,
    samples: ImageSet,
    verdicts: Verdicts,
    *,
    patterns: Mapping[int, Tensor] | None = None,
    mixed_precision: bool = True,
) -> Verdicts:
    """Give each poisoned sample the clean model's label (paper, equation 5).

    The model has never seen the trigger, and some triggers spoil the picture for it. So the trigger is taken out of the
    picture first, where it is known what it looks like (ours).

    Where the clean model disagrees with most of a suspected class's poisoned samples, the attack changed their labels,
    and none of them may keep its label. Where it agrees with most, the attack is a clean-label one and the labels may
    stand.

    Args:
        model: the clean model.
        samples: the training set.
        verdicts: on it.
        patterns: label -> (C, H, W) float32 in pixel scale, what its poisoned pictures have in common
            (:func:`.findings.trigger_patterns`).

    Returns:
        The verdicts with ``suggested_label`` filled.
    """
    suggested = verdicts.suggested_label.clone()
    for label in samples.labels[verdicts.poisoned].unique().tolist():
        members = (verdicts.poisoned & (samples.labels == label)).nonzero().flatten()
        pattern = None if patterns is None else patterns.get(label)
        parts = []
        for some in members.split(at_once(samples.images)):  # a set may be larger than memory
            pictures = samples.subset(some).images
            pictures = pictures if pattern is None else without_pattern(pictures, pattern)
            parts.append(predict(model, pictures, mixed_precision=mixed_precision))
        logits = torch.cat(parts)
        if (logits.argmax(1) == label).float().mean() < _MAJORITY:
            logits[:, label] = -torch.inf
        suggested[members] = logits.argmax(1)
    return replace(verdicts, suggested_label=suggested)


def without_pattern(images: Tensor, pattern: Tensor) -> Tensor:
    """(M, C, H, W) uint8 images less a (C, H, W) float32 pattern in pixel scale."""
    return (images[torch.arange(len(images))] - 255 * pattern).round().clamp(0, 255).to(torch.uint8)


def relearning_options(config: RetrainingConfig) -> TrainingOptions:
    """The recipe of :func:`relearn`."""
    return config.training(
        derive_seed(config.seed, "relearning"),
        epochs=config.relearn_epochs,
        learning_rate=config.relearn_learning_rate,
    )


def relearned_samples(labels: Tensor, verdicts: Verdicts, *, poison_that_keeps_its_label: bool) -> Tensor:
    """(M,) int64: the samples that are not uncertain.

    Args:
        labels: (N,) int64, as they came.
        verdicts: with suggested labels.
        poison_that_keeps_its_label: whether poisoned samples under their own label are among them, as in the paper.
            They teach the trigger again where an attack kept the labels.
    """
    used = ~verdicts.uncertain
    if not poison_that_keeps_its_label:
        used &= ~(verdicts.poisoned & (verdicts.suggested_label == labels))
    return used.nonzero().flatten()


def relearn(
    model: nn.Module,
    samples: ImageSet,
    labels: Tensor,
    options: TrainingOptions,
    *,
    patterns: Mapping[int, Tensor] | None = None,
    progress: Progress | None = None,
    checkpoint: TrainingCheckpoint | None = None,
) -> list[dict[str, float]]:
    """Train the clean model, in place, on everything that is certain, with the suggested labels.

    Args:
        model: the clean model.
        samples: those of :func:`relearned_samples`.
        labels: (N,) int64, the labels that they are to be given.
        options: the recipe.
        patterns: of the triggers, as for :func:`relabel`; some pictures get one (:mod:`.inoculation`).

    Returns:
        The rows of :func:`advrbd_plugin.nn.training.train`.
    """
    return train(
        model,
        samples.images,
        labels,
        samples.sample_ids,
        options,
        stage="relearning",
        progress=progress,
        checkpoint=checkpoint,
        mix=Inoculation(patterns, options.seed, next(model.parameters()).device) if patterns else None,
    )
