"""Unlearning: maximise the loss on the clean samples, so that the backdoor's neurons change most (arXiv 2405.14781)."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.nn.augmentation import augment
from advrbd_plugin.nn.batches import batches_of
from advrbd_plugin.nn.inference import as_input, autocast
from advrbd_plugin.nn.repeatable import repeatable
from advrbd_plugin.progress import Progress, SilentProgress
from advrbd_plugin.randomness import derive_seed, shuffled
from advrbd_plugin.ulrl.config import ULRLConfig
from advrbd_plugin.ulrl.optimisation import Descent, EpochMeans

_LATER_RATE = 0.1


@dataclass(frozen=True, eq=False)
class Unlearned:
    """Attributes:
    model: a copy of the model after unlearning, in eval mode.
    rows: one an epoch: ``epoch``, ``loss`` (cross entropy, rising), ``accuracy`` on the training batches.
    """

    model: nn.Module
    rows: list[dict[str, float]]


def unlearn(
    model: nn.Module, clean_set: ImageSet, config: ULRLConfig, *, progress: Progress | None = None
) -> Unlearned:
    """Maximise the cross entropy on the samples until their accuracy is at most ``config.unlearn_accuracy``.

    Args:
        model: from (N, C, H, W) float images in pixel scale [0, 1] to logits; it is not changed.
        clean_set: the samples to unlearn.
        config: the ``unlearn_*`` settings, batch size, momentum and augmentation.
        progress: told of every batch.

    Raises:
        AdvrBDError: the loss or a gradient becomes NaN or infinite.
    """
    progress = progress or SilentProgress()
    unlearned = copy.deepcopy(model)
    device = next(unlearned.parameters()).device
    descent = _descent(unlearned, config)
    half = config.unlearn_epochs // 2
    rate = LambdaLR(descent.optimizer, lambda epoch: _LATER_RATE if half and epoch >= half else 1.0)
    augmentation = config.augmentation(derive_seed(config.seed, "unlearning crops"))
    rows: list[dict[str, float]] = []
    unlearned.train()
    with repeatable(device, derive_seed(config.seed, "unlearning noise")):
        for epoch in range(config.unlearn_epochs):
            means = EpochMeans()
            order = shuffled(clean_set.sample_ids, derive_seed(config.seed, "unlearning", epoch))
            for batch in batches_of(order, config.batch_size):
                inputs = augment(clean_set.images[batch], clean_set.sample_ids[batch], augmentation, epoch)
                loss, right = _loss(unlearned, as_input(inputs, device), clean_set.labels[batch].to(device), config)
                descent.step(-loss)
                means.add(float(loss.detach()), right, len(batch))
                progress.advance(len(batch), epoch=epoch + 1, loss=float(loss.detach()))
            rate.step()
            rows.append(means.row(epoch + 1))
            if rows[-1]["accuracy"] <= config.unlearn_accuracy:
                break
    return Unlearned(unlearned.eval(), rows)


def _descent(model: nn.Module, config: ULRLConfig) -> Descent:
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=config.unlearn_learning_rate,
        momentum=config.momentum,
        weight_decay=config.unlearn_weight_decay,
    )
    key = "unlearn_learning_rate"
    return Descent("unlearning", model, optimizer, config.gradient_clip, key, config.unlearn_learning_rate)


def _loss(model: nn.Module, inputs: Tensor, targets: Tensor, config: ULRLConfig) -> tuple[Tensor, int]:
    """Mean cross entropy of a batch, and how many of its samples the model classifies right."""
    with autocast(inputs.device, config.mixed_precision):
        logits = model(inputs)
    loss = functional.cross_entropy(logits.float(), targets)
    return loss, int((logits.argmax(1) == targets).sum())
