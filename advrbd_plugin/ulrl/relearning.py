"""Relearning: fine-tune the backdoored model on the clean samples without its backdoor."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.nn.batches import batches_of, count_batches
from advrbd_plugin.nn.repeatable import repeatable
from advrbd_plugin.progress import Progress, SilentProgress
from advrbd_plugin.randomness import derive_seed, shuffled
from advrbd_plugin.ulrl.adversary import Adversary
from advrbd_plugin.ulrl.config import ULRLConfig
from advrbd_plugin.ulrl.neurons import LayerChange, reinitialise
from advrbd_plugin.ulrl.objective import RelearningObjective
from advrbd_plugin.ulrl.optimisation import Descent, EpochMeans


@dataclass(frozen=True, eq=False)
class Relearned:
    """Attributes:
    model: the repaired model, in eval mode.
    rows: one an epoch: ``epoch``, ``loss`` (the whole objective), ``accuracy`` on the clean training batches.
    """

    model: nn.Module
    rows: list[dict[str, float]]


def relearn(
    model: nn.Module,
    clean_set: ImageSet,
    changes: tuple[LayerChange, ...],
    config: ULRLConfig,
    *,
    suspect_set: ImageSet | None = None,
    adversaries: tuple[Adversary, ...] = (),
    progress: Progress | None = None,
) -> Relearned:
    """Fine-tune a copy of the model on the clean samples.

    The objective is v1's (arXiv 2405.14781): cross entropy plus ``alpha`` times the cosine similarity of the suspicious
    neurons' new and old weights. Where their weights are above 0, three terms of ours join it: the divergence from the
    old model's outputs on clean samples and on mixtures of two (so that the model forgets little); the same divergence
    under universal perturbations or warps towards the attacked labels (so that these stop working); and, instead of
    the latter, the unlearning of suspicious samples where some are given.

    Args:
        model: the backdoored model; it is not changed.
        clean_set: clean samples.
        changes: of :func:`advrbd_plugin.ulrl.neurons.identify`.
        config: the ``relearn_*`` settings and the weights of the objective.
        suspect_set: samples that are likely poisoned, with the labels they came with; may be ``None``.
        adversaries: what to train against; without one, perturbations lead away from the true label.
        progress: told of every batch.

    Raises:
        AdvrBDError: the loss or a gradient becomes NaN or infinite.
    """
    progress = progress or SilentProgress()
    repaired = copy.deepcopy(model)
    if config.reinitialise:
        reinitialise(repaired, changes, derive_seed(config.seed, "neurons"))
    batches_per_epoch = count_batches(len(clean_set), config.batch_size)
    steps = planned_steps(len(clean_set), config)
    descent = _descent(repaired, config)
    rate = LambdaLR(descent.optimizer, lambda step: _rate(step, steps, config.relearn_warm_up))
    objective = RelearningObjective(model, repaired, changes, config, clean_set, suspect_set, adversaries)
    rows: list[dict[str, float]] = []
    with repeatable(next(repaired.parameters()).device, derive_seed(config.seed, "relearning noise")):
        for epoch in range(math.ceil(steps / batches_per_epoch)):
            means, first = EpochMeans(), epoch * batches_per_epoch
            order = shuffled(clean_set.sample_ids, derive_seed(config.seed, "relearning", epoch))
            for step, batch in enumerate(batches_of(order, config.batch_size)[: steps - first], start=first):
                loss, right = objective(batch, epoch, step)
                descent.step(loss)
                rate.step()
                means.add(float(loss.detach()), right, len(batch))
                progress.advance(len(batch), epoch=epoch + 1, loss=float(loss.detach()))
            rows.append(means.row(epoch + 1))
    for parameter in repaired.parameters():
        parameter.grad = None
    return Relearned(repaired.eval(), rows)


def planned_steps(count: int, config: ULRLConfig) -> int:
    """Number of batches of relearning with ``count`` clean samples."""
    steps = config.relearn_epochs * count_batches(count, config.batch_size)
    return min(steps, config.relearn_steps) if config.relearn_steps else steps


def _descent(model: nn.Module, config: ULRLConfig) -> Descent:
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=config.relearn_learning_rate,
        momentum=config.momentum,
        weight_decay=config.relearn_weight_decay,
    )
    clip, key = config.relearn_gradient_clip or math.inf, "relearn_learning_rate"
    return Descent("relearning", model, optimizer, clip, key, config.relearn_learning_rate)


def _rate(step: int, steps: int, warm_up: int) -> float:
    """Share of the learning rate: a linear rise over ``warm_up`` batches times half a cosine down to zero."""
    return min(1.0, (step + 1) / (warm_up + 1)) * (1 + math.cos(math.pi * step / steps)) / 2
