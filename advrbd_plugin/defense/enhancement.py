"""A model that keeps the trigger of the suspected classes and forgets the rest (Algorithm 2 with known targets)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.defense.config import EnhancementConfig
from advrbd_plugin.defense.detection import Detection
from advrbd_plugin.nn.batches import endless_batches
from advrbd_plugin.nn.inference import as_input, autocast, log_odds, predict
from advrbd_plugin.nn.repeatable import repeatable
from advrbd_plugin.nn.training import TRAINING_WORK, check_loss
from advrbd_plugin.progress import Progress, ScaledProgress, SilentProgress
from advrbd_plugin.randomness import derive_seed

# Poison probability from which a sample teaches the trigger, and one minus this below which it teaches its class.
_CONFIDENT = 0.9
# Of those that teach their class, the share that the discriminant puts farthest from the poisoned cluster.
_TRUSTED_SHARE = 0.7
_BATCH_PART = 32
TRIGGER_BATCH_SIZE = 3 * _BATCH_PART  # poisoned, trusted of the same class, other classes
_REPORT_EVERY = 20


@dataclass(frozen=True, eq=False)
class Enhancement:
    """Attributes:
    logits: (N, num_classes) float32, the enhanced model's.
    rows: its training, with ``step`` and ``loss``.
    classes: whose triggers it was taught; ``None``: it speaks of all.
    """

    logits: Tensor
    rows: list[dict[str, float]]
    classes: tuple[int, ...] | None = None

    def to_stored(self) -> tuple[dict[str, Tensor], Any]:
        return {"logits": self.logits}, {"rows": self.rows, "classes": self.classes}

    @classmethod
    def from_stored(cls, tensors: dict[str, Tensor], rest: Any) -> Enhancement:
        classes = rest["classes"]
        return cls(tensors["logits"], rest["rows"], None if classes is None else tuple(classes))


def enhance(
    model: nn.Module,
    samples: ImageSet,
    detection: Detection,
    config: EnhancementConfig,
    *,
    progress: Progress | None = None,
) -> Enhancement:
    """Train the enhanced model and ask it about every sample; arguments and errors as for :func:`enhance_trigger`."""
    progress = progress or SilentProgress()
    training = ScaledProgress(progress, TRAINING_WORK)
    enhanced, rows = enhance_trigger(model, samples, detection, config, progress=training)
    logits = predict(enhanced, samples.images, mixed_precision=config.mixed_precision, on_batch=progress.advance)
    return Enhancement(logits, rows, detection.suspected_classes)


def enhance_trigger(
    model: nn.Module,
    samples: ImageSet,
    detection: Detection,
    config: EnhancementConfig,
    *,
    progress: Progress | None = None,
) -> tuple[nn.Module, list[dict[str, float]]]:
    """Algorithm 2 where the target classes are suspected: D_u is their poisoned samples, D_c everything else.

    The model relearns that D_u is of its class and unlearns that anything in D_c is of a suspected class (weighted as
    -log(1 - p_label)), so that what is left of a suspected class is its trigger. Samples of a suspected class that may
    be either are left out.

    Args:
        model: the backdoored model; it is not changed.
        samples: the set that it was trained on.
        detection: at least one class is suspected.
        config: the settings.
        progress: told of each batch.

    Returns:
        The enhanced model, and rows of ``step``, ``loss``.

    Raises:
        ValueError: no sample of a suspected class has a poison probability above one half.
        AdvrBDError: the loss is not a finite number.
    """
    progress = progress or SilentProgress()
    enhanced = copy.deepcopy(model)
    device = next(enhanced.parameters()).device
    groups = _groups(samples.labels, detection)
    streams = [
        endless_batches(group, samples.sample_ids, _BATCH_PART, derive_seed(config.seed, "enhancement", name))
        for name, group in groups.items()
        if len(group)
    ]
    targets = torch.tensor(detection.suspected_classes, device=device)
    optimizer = torch.optim.SGD(
        enhanced.parameters(),
        lr=config.enhancement_learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.momentum > 0,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / config.enhancement_steps)
    rows = []
    enhanced.train()
    with repeatable(device, derive_seed(config.seed, "enhancement noise")):
        for step in range(config.enhancement_steps):
            batches = [next(stream) for stream in streams]
            batch = torch.cat(batches)
            with autocast(device, config.mixed_precision):
                logits = enhanced(as_input(samples.images[batch], device))
            loss = _loss(logits.float(), samples.labels[batch].to(device), targets, poisoned=len(batches[0]))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            value = check_loss(
                loss, "the enhancement trigger", enhancement_learning_rate=config.enhancement_learning_rate
            )
            progress.advance(len(batch), loss=value)
            if step % _REPORT_EVERY == 0 or step + 1 == config.enhancement_steps:
                rows.append({"step": step + 1, "loss": value})
    enhanced.eval()
    return enhanced, rows


def _loss(logits: Tensor, labels: Tensor, targets: Tensor, *, poisoned: int) -> Tensor:
    """Each suspected class by itself: the first ``poisoned`` rows are of their class, no other row is of any."""
    odds = torch.stack([log_odds(logits, target.expand(len(logits))) for target in targets], dim=1)
    is_poisoned = torch.arange(len(logits), device=logits.device) < poisoned
    wanted = (labels[:, None] == targets) & is_poisoned[:, None]
    return functional.binary_cross_entropy_with_logits(odds, wanted.float())


def _groups(labels: Tensor, detection: Detection) -> dict[str, Tensor]:
    """Indices of the confidently poisoned, of the confidently clean of the suspected classes, of all other classes."""
    suspected = torch.isin(labels, torch.tensor(detection.suspected_classes, dtype=torch.int64))
    poisoned = suspected & (detection.poison_probability > _CONFIDENT)
    if not poisoned.any():
        poisoned = suspected & (detection.poison_probability > 0.5)
    if not poisoned.any():
        raise ValueError(
            "no sample of a suspected class has a poison probability above 0.5: there is no trigger to learn"
        )
    trusted = torch.zeros_like(suspected)
    for label in detection.suspected_classes:
        members = ((labels == label) & (detection.poison_probability < 1 - _CONFIDENT)).nonzero().flatten()
        order = torch.argsort(detection.projection[members], stable=True)
        trusted[members[order[: int(_TRUSTED_SHARE * len(members))]]] = True
    return {
        "poisoned": poisoned.nonzero().flatten(),
        "trusted": trusted.nonzero().flatten(),
        "other": (~suspected).nonzero().flatten(),
    }
