"""A clean model from what was identified as clean, then relabelling and relearning (paper, Section V-B4)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from advrbd_plugin.defense.config import AdvrBDConfig
from advrbd_plugin.defense.identification import Verdicts
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.nn.training import TrainingCheckpoint, TrainingOptions, predict, train
from advrbd_plugin.progress import Progress
from advrbd_plugin.randomness import derive_seed


def trusted_samples(verdicts: Verdicts) -> Tensor:
    """(M,) int64 indices of the samples to train the clean model on.

    Raises:
        AdvrBDError: fewer than two are left.
    """
    trusted = (~verdicts.poisoned & ~verdicts.uncertain).nonzero().flatten()
    if len(trusted) < 2:
        raise AdvrBDError(
            f"{len(verdicts.poisoned) - len(trusted)} of {len(verdicts.poisoned)} samples were called poisoned or "
            "uncertain, so none are left to train on: raise detection_gain or, with detect_targets: false, rounds or "
            "unlearn_weight"
        )
    return trusted


def rejected_classes(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    verdicts: Verdicts,
    doubted_labels: Sequence[int],
    *,
    mixed_precision: bool = True,
) -> tuple[int, ...]:
    """Labels most of whose poisoned samples the clean model, which never saw them, gives that very label.

    A label whose samples come in two kinds by nature looks like this. So does a clean-label attack with a weak trigger,
    which is why only labels with weak evidence should be asked about.

    Args:
        model: the clean model.
        images: (N, C, H, W) uint8.
        labels: (N,) int64.
        doubted_labels: the labels to ask about.
    """
    rejected = []
    for label in doubted_labels:
        poisoned = (verdicts.poisoned & (labels == label)).nonzero().flatten()
        if not len(poisoned):
            continue
        answers = predict(model, images[poisoned], mixed_precision=mixed_precision).argmax(1)
        if (answers == label).float().mean() >= 0.5:
            rejected.append(label)
    return tuple(rejected)


def doubt_disagreement(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    verdicts: Verdicts,
    suspected: Tensor,
    *,
    mixed_precision: bool = True,
) -> Tensor:
    """Samples of a suspected label that the clean model, although trained on them, takes for something else.

    Among the last few poisoned samples in a suspected label most are such: their trigger went unnoticed, and what the
    picture shows is another class.

    Args:
        model: the clean model.
        images: (N, C, H, W) uint8.
        labels: (N,) int64.
        suspected: (N,) bool, the samples whose label is suspected.

    Returns:
        (N,) bool: ``verdicts.uncertain`` and these.
    """
    unsure = verdicts.uncertain.clone()
    asked = (suspected & ~verdicts.poisoned & ~verdicts.uncertain).nonzero().flatten()
    if len(asked):
        answers = predict(model, images[asked], mixed_precision=mixed_precision).argmax(1)
        unsure[asked] = answers != labels[asked]
    return unsure


def relabel(
    model: nn.Module, images: Tensor, labels: Tensor, verdicts: Verdicts, *, mixed_precision: bool = True
) -> Verdicts:
    """Give each poisoned sample the clean model's label (paper, equation 5).

    Where the clean model disagrees with most of a suspected label's poisoned samples, their labels were changed by the
    attack, and the old one is out of the question for the rest of them too. Where it agrees with most, the attack is a
    clean-label one and the labels may stand.

    Args:
        model: the clean model.
        images: (N, C, H, W) uint8.
        labels: (N,) int64.

    Returns:
        The verdicts with ``suggested_label`` filled.
    """
    poisoned = verdicts.poisoned.nonzero().flatten()
    suggested = verdicts.suggested_label.clone()
    if len(poisoned):
        logits = predict(model, images[poisoned], mixed_precision=mixed_precision)
        given = labels[poisoned]
        for label in given.unique().tolist():
            members = given == label
            agrees = logits[members].argmax(1) == label
            if agrees.float().mean() < 0.5:
                logits[members, label] = -torch.inf
        suggested[poisoned] = logits.argmax(1)
    return dataclasses.replace(verdicts, suggested_label=suggested)


def relearning_options(config: AdvrBDConfig) -> TrainingOptions:
    """The recipe of :func:`relearn`."""
    return config.training(
        derive_seed(config.seed, "relearning"),
        epochs=config.relearn_epochs,
        learning_rate=config.relearn_learning_rate,
    )


def relearn(
    model: nn.Module,
    images: Tensor,
    sample_ids: Tensor,
    verdicts: Verdicts,
    config: AdvrBDConfig,
    *,
    progress: Progress | None = None,
    checkpoint: TrainingCheckpoint | None = None,
) -> list[dict[str, float]]:
    """Train the clean model, in place, on everything that is not uncertain, with the suggested labels.

    Returns:
        The rows of :func:`advrbd_plugin.nn.training.train`.
    """
    used = (~verdicts.uncertain).nonzero().flatten()
    return train(
        model,
        images[used],
        verdicts.suggested_label[used],
        sample_ids[used],
        relearning_options(config),
        stage="relearning",
        progress=progress,
        checkpoint=checkpoint,
    )
