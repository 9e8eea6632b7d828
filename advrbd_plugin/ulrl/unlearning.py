"""Unlearning: lose the clean samples on purpose, so that the neurons that react most give themselves away."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.nn.augmentation import augment
from advrbd_plugin.nn.batches import batches_of
from advrbd_plugin.nn.inference import as_input, autocast
from advrbd_plugin.nn.repeatable import repeatable
from advrbd_plugin.progress import Progress, SilentProgress
from advrbd_plugin.randomness import derive_seed, shuffled
from advrbd_plugin.ulrl.config import ULRLConfig

_LATER_RATE = 0.1


@dataclass(frozen=True, eq=False)
class Unlearned:
    """Attributes:
    model: a copy of the model that has lost the clean samples, in eval mode.
    rows: one an epoch: ``epoch``, ``loss`` (cross entropy, rising), ``accuracy`` on the batches as they went by.
    """

    model: nn.Module
    rows: list[dict[str, float]]


def unlearn(
    model: nn.Module, clean_set: ImageSet, config: ULRLConfig, *, progress: Progress | None = None
) -> Unlearned:
    """Maximise the cross entropy on the clean samples until their accuracy is low enough (arXiv 2405.14781).

    Args:
        model: from (N, C, H, W) float images in pixel scale [0, 1] to logits; it is not changed.
        clean_set: the clean samples.

    Raises:
        AdvrBDError: the loss stops being a number.
    """
    progress = progress or SilentProgress()
    unlearned = copy.deepcopy(model)
    device = next(unlearned.parameters()).device
    optimizer = torch.optim.SGD(
        unlearned.parameters(),
        lr=config.unlearn_learning_rate,
        momentum=config.momentum,
        weight_decay=config.unlearn_weight_decay,
    )
    augmentation = config.augmentation(derive_seed(config.seed, "unlearning crops"))
    rows: list[dict[str, float]] = []
    unlearned.train()
    with repeatable(device, derive_seed(config.seed, "unlearning noise")):
        for epoch in range(config.unlearn_epochs):
            if config.unlearn_epochs > 1 and epoch == config.unlearn_epochs // 2:
                for group in optimizer.param_groups:
                    group["lr"] = _LATER_RATE * config.unlearn_learning_rate
            total_loss, right = 0.0, 0
            order = shuffled(clean_set.sample_ids, derive_seed(config.seed, "unlearning", epoch))
            for batch in batches_of(order, config.batch_size):
                inputs = augment(clean_set.images[batch], clean_set.sample_ids[batch], augmentation, epoch)
                targets = clean_set.labels[batch].to(device)
                with autocast(device, config.mixed_precision):
                    logits = unlearned(as_input(inputs, device))
                loss = functional.cross_entropy(logits.float(), targets)
                optimizer.zero_grad(set_to_none=True)
                (-loss).backward()
                norm = nn.utils.clip_grad_norm_(unlearned.parameters(), config.gradient_clip)
                check_finite_loss(
                    "unlearning", "unlearn_learning_rate", config.unlearn_learning_rate, loss.detach(), norm
                )
                optimizer.step()
                total_loss += float(loss.detach()) * len(batch)
                right += int((logits.argmax(1) == targets).sum())
                progress.advance(len(batch), epoch=epoch + 1, loss=float(loss.detach()))
            accuracy = right / len(clean_set)
            rows.append({"epoch": epoch + 1, "loss": total_loss / len(clean_set), "accuracy": accuracy})
            if accuracy <= config.unlearn_accuracy:
                break
    unlearned.eval()
    return Unlearned(unlearned, rows)


def check_finite_loss(stage: str, key: str, value: float, *figures: torch.Tensor) -> None:
    """Raise AdvrBDError if one of ``figures`` is NaN or infinite; ``key`` is the learning rate to lower."""
    if not all(bool(torch.isfinite(figure)) for figure in figures):
        raise AdvrBDError(f"{stage} diverged: its loss is not a finite number; use a {key} below {value}")
