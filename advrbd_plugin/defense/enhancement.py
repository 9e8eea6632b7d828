"""A model that keeps the backdoor and forgets the rest (paper, Section V-B3, Algorithm 2), in two forms."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from advrbd_plugin.defense.config import AdvrBDConfig
from advrbd_plugin.defense.paper import partition
from advrbd_plugin.defense.scoring import consistency_scores
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.nn.training import as_input, augment, autocast, predict, repeatable
from advrbd_plugin.progress import Progress, SilentProgress
from advrbd_plugin.randomness import derive_seed, shuffled

_CONFIDENT = 0.9
_TRUSTED_SHARE = 0.7
_BATCH_PART = 32
TRIGGER_BATCH_SIZE = 3 * _BATCH_PART  # poisoned, trusted of the same label, other labels
_REPORT_EVERY = 20


def unlearn_rounds(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    sample_ids: Tensor,
    config: AdvrBDConfig,
    *,
    progress: Progress | None = None,
) -> tuple[nn.Module, Tensor, list[dict[str, float]]]:
    """Algorithm 2: each round moves the least consistent ``alpha`` of the set into D_c, unlearns D_c, relearns D_u.

    Args:
        model: the backdoored model; it is not changed.
        images: (N, C, H, W) uint8.
        labels, sample_ids: (N,) int64.

    Returns:
        The enhanced model; (N,) bool D_c; one row a round: ``round``, ``clean_share`` (size of D_c),
        ``accuracy_on_clean`` and ``accuracy_on_suspect`` (agreement with the labels given, after the round).

    Raises:
        AdvrBDError: the losses stop being numbers.
    """
    progress = progress or SilentProgress()
    enhanced = copy.deepcopy(model)
    count = len(images)
    clean = torch.zeros(count, dtype=torch.bool)
    rows = []
    for number in range(1, config.rounds + 1):
        suspect = (~clean).nonzero().flatten()
        moved = min(round(config.alpha * count), len(suspect) - 1)
        if moved < 1:
            break
        scores = consistency_scores(
            enhanced,
            images[suspect],
            labels[suspect],
            epsilon=config.epsilon,
            patch_size=config.patch_size,
            num_masks=config.num_masks,
            reduction=config.reduction,
            seed=derive_seed(config.seed, "patches", number),
            sample_ids=sample_ids[suspect],
            mixed_precision=config.mixed_precision,
            on_batch=progress.advance,
        )
        clean[suspect[partition(scores, moved / len(suspect)).clean]] = True
        _unlearn_round(enhanced, images, labels, sample_ids, clean, config, number, progress)
        agrees = predict(enhanced, images, mixed_precision=config.mixed_precision).argmax(1) == labels
        rows.append(
            {
                "round": number,
                "clean_share": float(clean.float().mean()),
                "accuracy_on_clean": float(agrees[clean].float().mean()),
                "accuracy_on_suspect": float(agrees[~clean].float().mean()),
            }
        )
    return enhanced, clean, rows


def enhance_trigger(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    sample_ids: Tensor,
    poison_probability: Tensor,
    projection: Tensor,
    suspected_classes: tuple[int, ...],
    config: AdvrBDConfig,
    *,
    progress: Progress | None = None,
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Algorithm 2 where the suspected labels are known: D_u is their suspicious samples, D_c everything else.

    The model relearns that D_u is of its label and unlearns that anything in D_c is of a suspected label (weighted as
    -log(1 - p_label)), so that what is left of a suspected label is its trigger. Of a suspected label's own samples
    those in between, which may be either, are left out.

    Args:
        model: the backdoored model; it is not changed.
        images: (N, C, H, W) uint8.
        labels, sample_ids: (N,) int64.
        poison_probability, projection: of the :class:`advrbd_plugin.defense.detection.Detection`.
        suspected_classes: at least one.

    Returns:
        The enhanced model, and rows of ``step``, ``loss``.

    Raises:
        ValueError: no sample of a suspected label has a poison_probability above one half.
        AdvrBDError: the loss stops being a number.
    """
    progress = progress or SilentProgress()
    enhanced = copy.deepcopy(model)
    device = next(enhanced.parameters()).device
    groups = _trigger_groups(labels, poison_probability, projection, suspected_classes)
    if not len(groups["poisoned"]):
        raise ValueError(
            "no sample of a suspected label has a poison_probability above 0.5: there is no trigger to learn from"
        )
    streams = [
        _endless(group, sample_ids, _BATCH_PART, derive_seed(config.seed, "enhancement", name))
        for name, group in groups.items()
        if len(group)
    ]
    suspected = torch.tensor(suspected_classes, device=device)
    optimizer = torch.optim.SGD(
        enhanced.parameters(),
        lr=config.enhancement_learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.momentum > 0,
    )
    rows = []
    enhanced.train()
    with repeatable(device, derive_seed(config.seed, "enhancement noise")):
        for step in range(config.enhancement_steps):
            batches = [next(stream) for stream in streams]
            batch = torch.cat(batches)
            is_poison = (torch.arange(len(batch)) < len(batches[0])).to(device)
            with autocast(device, config.mixed_precision):
                logits = enhanced(as_input(images[batch], device))
            odds = torch.stack([log_odds(logits.float(), label.expand(len(batch))) for label in suspected], dim=1)
            wanted = (labels[batch].to(device)[:, None] == suspected) & is_poison[:, None]
            loss = functional.binary_cross_entropy_with_logits(odds, wanted.float())
            for group in optimizer.param_groups:
                group["lr"] = config.enhancement_learning_rate * (1 - step / config.enhancement_steps)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            _check(loss, "trigger", config)
            progress.advance(len(batch), loss=float(loss.detach()))
            if step % _REPORT_EVERY == 0 or step + 1 == config.enhancement_steps:
                rows.append({"step": step + 1, "loss": float(loss.detach())})
    enhanced.eval()
    return enhanced, rows


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """log(p / (1 - p)) of one class a row, exact where p rounds to 1.

    Args:
        logits: (N, num_classes) float.
        labels: (N,) int64, the class to look at in each row.

    Returns:
        (N,) like ``logits``.
    """
    others = logits.scatter(1, labels[:, None], -math.inf).logsumexp(dim=1)
    return logits.gather(1, labels[:, None])[:, 0] - others


def _trigger_groups(
    labels: Tensor, poison_probability: Tensor, projection: Tensor, suspected_classes: tuple[int, ...]
) -> dict[str, Tensor]:
    """Indices of the confidently poisoned, the confidently clean of the suspected labels, and all other labels'."""
    suspected = torch.isin(labels, torch.tensor(suspected_classes))
    poisoned = suspected & (poison_probability > _CONFIDENT)
    trusted = torch.zeros_like(suspected)
    for label in suspected_classes:
        members = ((labels == label) & (poison_probability < 1 - _CONFIDENT)).nonzero().flatten()
        order = torch.argsort(projection[members], stable=True)
        trusted[members[order[: int(_TRUSTED_SHARE * len(members))]]] = True
    if not poisoned.any():
        poisoned = suspected & (poison_probability > 0.5)
    return {
        "poisoned": poisoned.nonzero().flatten(),
        "trusted": trusted.nonzero().flatten(),
        "other": (~suspected).nonzero().flatten(),
    }


def _unlearn_round(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    sample_ids: Tensor,
    clean: Tensor,
    config: AdvrBDConfig,
    number: int,
    progress: Progress,
) -> None:
    """One pass over D_u, each batch beside one of D_c."""
    device = next(model.parameters()).device
    options = config.training(derive_seed(config.seed, "unlearn", number))
    suspect = (~clean).nonzero().flatten()
    to_unlearn = _endless(
        clean.nonzero().flatten(), sample_ids, config.batch_size, derive_seed(config.seed, "unlearn order", number)
    )
    order = suspect[shuffled(sample_ids[suspect], derive_seed(config.seed, "relearn order", number))]
    optimizer = torch.optim.SGD(model.parameters(), lr=config.enhancement_learning_rate, momentum=config.momentum)
    model.train()
    with repeatable(device, derive_seed(config.seed, "unlearn noise", number)):
        for relearned in order.split(config.batch_size):
            unlearned = next(to_unlearn)
            batch = torch.cat([relearned, unlearned])
            targets = labels[batch].to(device)
            with autocast(device, config.mixed_precision):
                logits = model(as_input(augment(images[batch], sample_ids[batch], options, number), device))
            logits = logits.float()
            relearn_loss = functional.cross_entropy(logits[: len(relearned)], targets[: len(relearned)])
            unlearn_loss = _UNLEARN_LOSSES[config.unlearn_loss](logits[len(relearned) :], targets[len(relearned) :])
            loss = relearn_loss + config.unlearn_weight * unlearn_loss
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
            optimizer.step()
            _check(loss, "unlearn", config)
            progress.advance(len(batch), round=number, loss=float(loss.detach()))
    model.eval()


def _gradient_ascent(logits: Tensor, targets: Tensor) -> Tensor:
    return -functional.cross_entropy(logits, targets)


def _one_minus_probability(logits: Tensor, targets: Tensor) -> Tensor:
    """-log(1 - p_label), which has a floor at 0 where gradient ascent has none."""
    return functional.softplus(log_odds(logits, targets)).mean()


_UNLEARN_LOSSES = {"gradient_ascent": _gradient_ascent, "one_minus_probability": _one_minus_probability}


def _endless(indices: Tensor, sample_ids: Tensor, batch_size: int, seed: int) -> Iterator[Tensor]:
    """Batches of ``indices``, shuffled anew for each pass; a batch never exceeds the whole."""
    passes = 0
    while True:
        order = indices[shuffled(sample_ids[indices], derive_seed(seed, passes))]
        for batch in order.split(min(batch_size, len(order))):
            if len(batch) == min(batch_size, len(order)):
                yield batch
        passes += 1


def _check(loss: Tensor, enhancement: str, config: AdvrBDConfig) -> None:
    if not math.isfinite(float(loss.detach())):
        raise AdvrBDError(
            f"the enhancement {enhancement} diverged: its loss is not a finite number; use an "
            f"enhancement_learning_rate below {config.enhancement_learning_rate}"
        )
