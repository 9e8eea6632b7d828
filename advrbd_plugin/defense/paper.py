"""Algorithms 1 and 2 of the paper (arXiv 2405.12719): partition a set by its scores, then unlearn and relearn."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.defense.config import PaperConfig
from advrbd_plugin.defense.scoring import consistency_ranks, least_consistent_first, score_shared_out
from advrbd_plugin.nn.augmentation import augment
from advrbd_plugin.nn.batches import endless_batches
from advrbd_plugin.nn.inference import as_input, autocast, log_odds, predict
from advrbd_plugin.nn.repeatable import repeatable
from advrbd_plugin.nn.training import check_loss
from advrbd_plugin.progress import Progress, SilentProgress
from advrbd_plugin.randomness import derive_seed, shuffled


@dataclass(frozen=True, eq=False)
class Partition:
    """Attributes:
    clean: (N,) bool, D_c: the least consistent samples, taken as clean.
    consistency: (N,) float32 in [0, 1], the rank of each sample: 1 is the most consistent, hence most suspicious.
    """

    clean: Tensor
    consistency: Tensor

    @property
    def suspect(self) -> Tensor:
        """(N,) bool, D_u: the rest, which still holds the poison."""
        return ~self.clean


def partition(scores: Tensor, alpha: float) -> Partition:
    """Split a set by its consistency scores (paper, Algorithm 1).

    Args:
        scores: (N,) float, from :func:`advrbd_plugin.defense.scoring.consistency_scores`: higher is more likely clean.
        alpha: share of the samples that is taken as clean, in (0, 1).

    Raises:
        ValueError: ``alpha`` is out of range, or a score is NaN.

    Examples:
        >>> parts = partition(torch.tensor([0.1, 3.0, 0.2, 2.0]), alpha=0.5)
        >>> parts.clean
        tensor([False,  True, False,  True])
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be in (0, 1), got {alpha}")
    clean = torch.zeros(len(scores), dtype=torch.bool)
    clean[least_consistent_first(scores)[: round(alpha * len(scores))]] = True
    return Partition(clean, consistency_ranks(scores))


def unlearn_rounds(
    model: nn.Module, samples: ImageSet, config: PaperConfig, *, progress: Progress | None = None
) -> tuple[nn.Module, Tensor, list[dict[str, float]]]:
    """Algorithm 2: each round moves the least consistent ``alpha`` of the set into D_c, unlearns D_c, relearns D_u.

    Args:
        model: the backdoored model; it is not changed.
        samples: the set that it was trained on.
        config: the settings.
        progress: told of every batch.

    Returns:
        The enhanced model; (N,) bool D_c; one row a round: ``round``, ``clean_share`` (size of D_c),
        ``accuracy_on_clean`` and ``accuracy_on_suspect`` (agreement with the labels given, after the round).

    Raises:
        AdvrBDError: the loss is not a finite number.
    """
    progress = progress or SilentProgress()
    enhanced = copy.deepcopy(model)
    clean = torch.zeros(len(samples), dtype=torch.bool)
    rows = []
    for number in range(1, config.rounds + 1):
        suspect = (~clean).nonzero().flatten()
        moved = min(round(config.alpha * len(samples)), len(suspect) - 1)
        if moved < 1:
            break
        scores = _score(enhanced, samples.subset(suspect), config, number, progress)
        clean[suspect[partition(scores, moved / len(suspect)).clean]] = True
        _unlearn_round(enhanced, samples, clean, config, number, progress)
        rows.append(_row(enhanced, samples, clean, config, number))
    return enhanced, clean, rows


def _score(model: nn.Module, suspects: ImageSet, config: PaperConfig, number: int, progress: Progress) -> Tensor:
    return score_shared_out(
        model,
        suspects,
        epsilon=config.epsilon,
        patch_size=config.patch_size,
        num_masks=config.num_masks,
        reduction=config.reduction,
        seed=derive_seed(config.seed, "patches", number),
        mixed_precision=config.mixed_precision,
        on_batch=progress.advance,
    )


def _unlearn_round(
    model: nn.Module, samples: ImageSet, clean: Tensor, config: PaperConfig, number: int, progress: Progress
) -> None:
    """One pass over D_u, each batch beside one of D_c."""
    device = next(model.parameters()).device
    options = config.training(derive_seed(config.seed, "unlearn", number))
    ids, suspect = samples.sample_ids, (~clean).nonzero().flatten()
    order = suspect[shuffled(ids[suspect], derive_seed(config.seed, "relearn order", number))]
    to_unlearn = endless_batches(
        clean.nonzero().flatten(), ids, config.batch_size, derive_seed(config.seed, "unlearn order", number)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=config.enhancement_learning_rate, momentum=config.momentum)
    model.train()
    with repeatable(device, derive_seed(config.seed, "unlearn noise", number)):
        for relearned in order.split(config.batch_size):
            batch = torch.cat([relearned, next(to_unlearn)])
            inputs = as_input(augment(samples.images[batch], ids[batch], options, number), device)
            with autocast(device, config.mixed_precision):
                logits = model(inputs)
            loss = _loss(logits.float(), samples.labels[batch].to(device), len(relearned), config)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
            optimizer.step()
            value = check_loss(
                loss, "the enhancement unlearn", enhancement_learning_rate=config.enhancement_learning_rate
            )
            progress.advance(len(batch), round=number, loss=value)
    model.eval()


def _loss(logits: Tensor, targets: Tensor, relearned: int, config: PaperConfig) -> Tensor:
    """Cross entropy of the first ``relearned`` rows, and the unlearning loss of the rest."""
    relearn = functional.cross_entropy(logits[:relearned], targets[:relearned])
    return relearn + config.unlearn_weight * _UNLEARN_LOSSES[config.unlearn_loss](
        logits[relearned:], targets[relearned:]
    )


def _row(model: nn.Module, samples: ImageSet, clean: Tensor, config: PaperConfig, number: int) -> dict[str, float]:
    predicted = predict(model, samples.images, mixed_precision=config.mixed_precision).argmax(1)
    agrees = (predicted == samples.labels).float()
    return {
        "round": number,
        "clean_share": float(clean.float().mean()),
        "accuracy_on_clean": float(agrees[clean].mean()),
        "accuracy_on_suspect": float(agrees[~clean].mean()),
    }


def _gradient_ascent(logits: Tensor, targets: Tensor) -> Tensor:
    return -functional.cross_entropy(logits, targets)


def _one_minus_probability(logits: Tensor, targets: Tensor) -> Tensor:
    """-log(1 - p_label), which has a floor at 0 where gradient ascent has none."""
    return functional.softplus(log_odds(logits, targets)).mean()


_UNLEARN_LOSSES = {"gradient_ascent": _gradient_ascent, "one_minus_probability": _one_minus_probability}
