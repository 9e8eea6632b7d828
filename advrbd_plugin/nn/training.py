"""Training a classifier on images held in memory, the same way every time for the same seed.

On a GPU this holds as far as PyTorch has deterministic kernels for the network's layers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR

from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.nn.augmentation import augment
from advrbd_plugin.nn.batches import batches_of, count_batches
from advrbd_plugin.nn.checkpoints import TrainingCheckpoint
from advrbd_plugin.nn.distributed import Replica
from advrbd_plugin.nn.inference import as_input, autocast, bfloat16_is_faster
from advrbd_plugin.nn.repeatable import repeatable
from advrbd_plugin.nn.trajectory import Trajectory
from advrbd_plugin.nn.transfer import ImageSource, upload
from advrbd_plugin.progress import Progress, SilentProgress
from advrbd_plugin.randomness import derive_seed, shuffled

# From images (N, C, H, W) uint8 and labels (N,) int64 on the model's device, sample ids (N,) int64 on the CPU and the
# epoch to other images of that shape and their targets: labels again, or (N, num_classes) float32 probabilities.
Mix = Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]

# Raised whenever a training with the same settings would give another model, so that no old one is taken for a new one.
TRAINING_VERSION = 1
# Training on an image costs about three times as much as asking for its logits.
TRAINING_WORK = 3
_WARM_UP_SHARE = 0.2
# The loss on show is renewed this often, in steps: a GPU has to be waited for.
_REPORT_EVERY = 20


@dataclass(frozen=True)
class TrainingOptions:
    """How a network is trained: SGD with Nesterov momentum, learning rate rising for a fifth of the steps, then
    falling to zero in a straight line.

    Attributes:
        epochs: passes over the data, at least 1.
        batch_size, learning_rate, momentum, weight_decay: of SGD.
        crop_padding: each side is padded with this many black pixels and a random crop of the old size is taken; 0
            switches it off.
        flip: mirror half of the images.
        mixed_precision: bfloat16 where autocast has it (see :func:`bfloat16_is_faster`).
        seed: orders the samples and draws crops and flips.
    """

    epochs: int
    batch_size: int = 64
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    crop_padding: int = 4
    flip: bool = True
    mixed_precision: bool = True
    seed: int = 0

    @classmethod
    def of(cls, settings: Any, *, seed: int) -> TrainingOptions:
        """The recipe that a method's settings describe in fields of the same names."""
        names = [each.name for each in fields(cls) if each.name != "seed"]
        return cls(**{name: getattr(settings, name) for name in names}, seed=seed)


def train(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    sample_ids: Tensor,
    options: TrainingOptions,
    *,
    stage: str = "training",
    progress: Progress | None = None,
    checkpoint: TrainingCheckpoint | None = None,
    mix: Mix | None = None,
    trajectory: Trajectory | None = None,
) -> list[dict[str, float]]:
    """Train ``model`` in place; it comes back in eval mode.

    Where several processes share the work (:mod:`advrbd_plugin.processes`), each takes a part of every batch.

    Args:
        model: takes (N, C, H, W) float images in pixel scale [0, 1], gives (N, num_classes) logits.
        images: (N, C, H, W) uint8.
        labels: (N,) int64.
        sample_ids: (N,) int64, distinct.
        options: the recipe.
        stage: named in errors.
        progress: told of every batch.
        checkpoint: asked for an earlier state first, and given one after each epoch.
        mix: what is made of each batch after its crops and flips.
        trajectory: filled with what the network says of each sample while it learns; of N samples and these epochs.

    Returns:
        One row an epoch: ``epoch``, ``loss`` (mean cross entropy), ``accuracy`` on the batches as trained on.

    Raises:
        AdvrBDError: the loss stops being a number.
    """
    if options.epochs < 1:
        raise ValueError(f"epochs must be at least 1, got {options.epochs}")
    progress, checkpoint = progress or SilentProgress(), checkpoint or TrainingCheckpoint()
    model.to(memory_format=torch.channels_last)
    optimizer = _optimizer(model, options)
    rows, start = _restore(model, optimizer, checkpoint, trajectory)
    replica = Replica(model)
    scheduler = _learning_rates(optimizer, options, len(images), start)
    progress.advance(start * len(images), epoch=start)
    data = _TrainingData(images, labels, sample_ids, next(model.parameters()).device)
    for epoch in range(start, options.epochs):
        row = _train_epoch(model, replica, data, options, epoch, optimizer, scheduler, progress, mix, trajectory)
        check_loss(row["loss"], f"{stage} (epoch {epoch + 1})", learning_rate=options.learning_rate)
        rows.append(row)
        checkpoint.save(epoch + 1, _state(model, optimizer, rows, trajectory))
    model.eval()
    if trajectory is not None:
        trajectory.finish()
    return rows


class _TrainingData:
    """A training set as the steps want it: everything but the images lies on the device, and those where they fit."""

    def __init__(self, images: Tensor, labels: Tensor, sample_ids: Tensor, device: torch.device) -> None:
        self.sample_ids, self.device = sample_ids, device
        self._images = ImageSource(images, device)
        self._labels, self._ids_on_device = upload(labels, device), upload(sample_ids, device)

    def __len__(self) -> int:
        return len(self.sample_ids)

    def take(self, batch: Tensor, rows: Tensor, options: TrainingOptions, epoch: int) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) uint8 with their crops and flips, and labels (B,) int64, on the device.

        Args:
            batch: (B,) int64 on the CPU, places in the set.
            rows: the same on the device.
        """
        images = augment(self._images.take(batch, rows), self._ids_on_device[rows], options, epoch)
        return images, self._labels[rows]


def _train_epoch(
    model: nn.Module,
    replica: Replica,
    data: _TrainingData,
    options: TrainingOptions,
    epoch: int,
    optimizer: torch.optim.SGD,
    scheduler: LambdaLR,
    progress: Progress,
    mix: Mix | None,
    trajectory: Trajectory | None,
) -> dict[str, float]:
    """One pass over the data. No step waits for the device, but for those that renew the loss on show."""
    order = shuffled(data.sample_ids, derive_seed(options.seed, "order", epoch))
    batches = batches_of(order, options.batch_size), batches_of(upload(order, data.device), options.batch_size)
    sums, shown = _Sums(data.device), math.nan
    model.train()
    with repeatable(data.device, derive_seed(options.seed, "noise", epoch)):
        for step, (batch, on_device) in enumerate(zip(*batches)):
            part, rows = replica.part_of(batch), replica.part_of(on_device)
            inputs, labels = data.take(part, rows, options, epoch)
            targets = labels
            if mix is not None:
                inputs, targets = mix(inputs, labels, data.sample_ids[part], epoch)
            with replica.step(batch) as network:
                with autocast(data.device, options.mixed_precision):
                    logits = network(as_input(inputs, data.device))
                loss = functional.cross_entropy(logits.float(), targets)
                optimizer.zero_grad(set_to_none=True)
                (loss * replica.share_of_loss(batch)).backward()
            optimizer.step()
            scheduler.step()
            counted = len(part) if replica.counts(batch) else 0
            sums.add(loss.detach(), logits.detach()[:counted], labels[:counted])
            if trajectory is not None:
                trajectory.add(epoch, rows[:counted], logits[:counted])
            if step % _REPORT_EVERY == 0:
                shown = float(loss.detach())
            progress.advance(len(batch), epoch=epoch + 1, loss=shown)
    loss_of_all, right_of_all = replica.sums(*sums.read())
    if trajectory is not None:
        trajectory.merge()
    return {"epoch": epoch + 1, "loss": loss_of_all / len(data), "accuracy": right_of_all / len(data)}


class _Sums:
    """Loss and right answers of an epoch, added up on the device."""

    def __init__(self, device: torch.device) -> None:
        exact = torch.float32 if device.type == "mps" else torch.float64  # which Apple's GPUs do not have
        self._loss = torch.zeros((), dtype=exact, device=device)
        self._right = torch.zeros((), dtype=torch.int64, device=device)

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """One batch: its mean loss, (B, num_classes) logits, (B,) int64 labels."""
        self._loss += loss.to(self._loss.dtype) * len(labels)
        self._right += (logits.argmax(1) == labels).sum()

    def read(self) -> tuple[float, int]:
        """The sums; the device is waited for."""
        return float(self._loss), int(self._right)


def _optimizer(model: nn.Module, options: TrainingOptions) -> torch.optim.SGD:
    parameters = list(model.parameters())
    return torch.optim.SGD(
        parameters,
        lr=options.learning_rate,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
        nesterov=options.momentum > 0,
        # One launch a step. The CPU keeps the plain kernel, so that its models stay the same bits.
        fused=True if all(each.is_cuda and each.is_floating_point() for each in parameters) else None,
    )


def check_loss(loss: Tensor | float, what: str, **learning_rate: float) -> float:
    """``loss`` as a number.

    Args:
        loss: of a batch, or the mean of several.
        what: the training, named in the error.
        learning_rate: its one key and value.

    Raises:
        AdvrBDError: it is not finite.
    """
    value = float(loss.detach()) if isinstance(loss, Tensor) else loss
    if not math.isfinite(value):
        ((key, rate),) = learning_rate.items()
        raise AdvrBDError(f"{what} diverged: the loss is not a finite number; use a {key} below {rate}")
    return value


def describe_training(model: nn.Module, options: TrainingOptions) -> list[Any]:
    """What a training's result depends on beside the data and the weights that it begins with, ready for JSON.

    The text of the model tells networks apart whose weights are alike: by strides, activations, rates of dropout.
    """
    precision = options.mixed_precision and bfloat16_is_faster(next(model.parameters()).device)
    return [TRAINING_VERSION, asdict(options), precision, describe_network(model)]


def describe_network(model: nn.Module) -> str:
    """Its layers as text, without where in memory a function lies."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(model))


def _learning_rates(
    optimizer: torch.optim.Optimizer, options: TrainingOptions, samples: int, epochs_done: int
) -> LambdaLR:
    """The learning rate of each step: a rise over the first fifth, then a straight line to zero."""
    steps_per_epoch = count_batches(samples, options.batch_size)
    steps, done = options.epochs * steps_per_epoch, epochs_done * steps_per_epoch
    warm_up = max(1, int(_WARM_UP_SHARE * steps))

    def share(steps_since: int) -> float:
        step = done + steps_since
        return (step + 1) / warm_up if step < warm_up else (steps - step) / max(1, steps - warm_up)

    return LambdaLR(optimizer, share)


def _state(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    rows: list[dict[str, float]],
    trajectory: Trajectory | None,
) -> dict[str, Tensor]:
    """All that a training goes on with, as tensors."""
    tensors = {f"model.{name}": value.detach().cpu() for name, value in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        if state.get("momentum_buffer") is not None:
            tensors[f"momentum.{index}"] = state["momentum_buffer"].cpu()
    tensors["rows"] = torch.tensor(
        [[row["epoch"], row["loss"], row["accuracy"]] for row in rows], dtype=torch.float64
    ).view(-1, 3)
    return tensors if trajectory is None else tensors | trajectory.state()


def _restore(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    checkpoint: TrainingCheckpoint,
    trajectory: Trajectory | None,
) -> tuple[list[dict[str, float]], int]:
    """Put back what :func:`_state` gave, and return its rows and the number of finished epochs."""
    saved = checkpoint.load()
    if saved is None:
        return [], 0
    epochs_done, tensors = saved
    device = next(model.parameters()).device
    if trajectory is not None and not trajectory.restore(epochs_done, tensors, device):
        return [], 0
    model.load_state_dict(_named(tensors, "model."))
    momentum = {
        int(index): {"momentum_buffer": buffer.contiguous(memory_format=_layout(buffer))}
        for index, buffer in _named(tensors, "momentum.").items()
    }
    optimizer.load_state_dict({**optimizer.state_dict(), "state": momentum})
    rows = [{"epoch": int(row[0]), "loss": row[1], "accuracy": row[2]} for row in tensors["rows"].tolist()]
    return rows, epochs_done


def _named(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _layout(tensor: Tensor) -> torch.memory_format:
    """That of the parameters, which :func:`train` lays out channels_last."""
    return torch.channels_last if tensor.ndim == 4 else torch.contiguous_format
