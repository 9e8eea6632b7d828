"""Training a classifier on images held in memory, the same way every time for the same seed.

On a GPU this holds as far as PyTorch has deterministic kernels for the network's layers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.progress import Progress, SilentProgress
from advrbd_plugin.randomness import derive_seed, shuffled, uniform_integers

# From images (N, C, H, W) uint8, labels (N,) int64, sample ids (N,) int64 and the epoch to other images of that shape
# and their targets: labels again, or (N, num_classes) float32 probabilities.
Mix = Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]

# Raised whenever a training with the same settings would give another model, so that no old one is taken for a new one.
TRAINING_VERSION = 1
_WARM_UP_SHARE = 0.2
EVALUATION_BATCH_SIZE = 500


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


class TrainingCheckpoint:
    """Where an interrupted training goes on; this one keeps nothing."""

    def load(self) -> tuple[int, dict[str, Tensor]] | None:
        """The number of finished epochs and the tensors that :meth:`save` was given, or ``None``."""
        return None

    def save(self, epochs_done: int, tensors: dict[str, Tensor]) -> None:
        """Keep the state after ``epochs_done`` epochs."""


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
) -> list[dict[str, float]]:
    """Train ``model`` in place; it comes back in eval mode.

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

    Returns:
        One row an epoch: ``epoch``, ``loss`` (mean cross entropy), ``accuracy`` on the batches as trained on.

    Raises:
        AdvrBDError: the loss stops being a number.
    """
    if options.epochs < 1:
        raise ValueError(f"epochs must be at least 1, got {options.epochs}")
    progress = progress or SilentProgress()
    checkpoint = checkpoint or TrainingCheckpoint()
    device = next(model.parameters()).device
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=options.learning_rate,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
        nesterov=options.momentum > 0,
    )
    rows, start = _restore(model, optimizer, checkpoint)
    progress.advance(start * len(images), epoch=start)
    steps_per_epoch = count_batches(len(images), options.batch_size)
    for epoch in range(start, options.epochs):
        model.train()
        order = shuffled(sample_ids, derive_seed(options.seed, "order", epoch))
        total_loss, total_right = 0.0, 0
        with repeatable(device, derive_seed(options.seed, "noise", epoch)):
            for step, batch in enumerate(batches_of(order, options.batch_size)):
                _set_learning_rate(optimizer, options, epoch * steps_per_epoch + step, options.epochs * steps_per_epoch)
                inputs, targets = augment(images[batch], sample_ids[batch], options, epoch), labels[batch]
                if mix is not None:
                    inputs, targets = mix(inputs, targets, sample_ids[batch], epoch)
                targets = targets.to(device)
                with autocast(device, options.mixed_precision):
                    logits = model(as_input(inputs, device))
                loss = functional.cross_entropy(logits.float(), targets)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                total_loss += float(loss.detach()) * len(batch)
                total_right += int((logits.argmax(1).cpu() == labels[batch]).sum())
                progress.advance(len(batch), epoch=epoch + 1, loss=float(loss.detach()))
        if not math.isfinite(total_loss):
            raise AdvrBDError(
                f"{stage} diverged: the loss is not a finite number in epoch {epoch + 1}; "
                f"use a learning_rate below {options.learning_rate}"
            )
        rows.append({"epoch": epoch + 1, "loss": total_loss / len(images), "accuracy": total_right / len(images)})
        checkpoint.save(epoch + 1, _state(model, optimizer, rows))
    model.eval()
    return rows


def batches_of(order: Tensor, batch_size: int) -> list[Tensor]:
    """``order`` in batches; a sample that would be left alone joins the batch before, since batch normalisation has
    nothing to normalise one sample by.

    Args:
        order: (N,) int64.
    """
    batches = list(order.split(batch_size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def count_batches(samples: int, batch_size: int) -> int:
    """How many :func:`batches_of` makes of so many samples."""
    return len(batches_of(torch.arange(samples), batch_size))


@contextmanager
def repeatable(device: torch.device, seed: int) -> Iterator[None]:
    """Within this context whatever a network draws by itself (dropout, say) derives from ``seed``, and cuDNN takes
    deterministic kernels; the generators and the setting of before come back.
    """
    gpus = [device] if device.type == "cuda" else []
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    with torch.random.fork_rng(devices=gpus):
        torch.random.default_generator.manual_seed(seed)
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        try:
            yield
        finally:
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before


def describe_training(model: nn.Module, options: TrainingOptions) -> list[Any]:
    """What a training's result depends on beside the data and the weights that it begins with, ready for JSON.

    The text of the model tells networks apart whose weights are alike: by strides, activations, rates of dropout.
    """
    precision = options.mixed_precision and bfloat16_is_faster(next(model.parameters()).device)
    return [TRAINING_VERSION, asdict(options), precision, describe_network(model)]


def describe_network(model: nn.Module) -> str:
    """Its layers as text, without where in memory a function lies."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(model))


def check_outputs(model: nn.Module, images: Tensor, num_classes: int) -> None:
    """Raise AdvrBDError unless ``model`` has an output for each class.

    Args:
        model: put into eval mode.
        images: (N, C, H, W) uint8, of which the first is shown to it.
    """
    outputs = predict(model, images[:1]).shape[1]
    if outputs != num_classes:
        raise AdvrBDError(f"the model has {outputs} outputs, the training set {num_classes} classes")


def augment(images: Tensor, sample_ids: Tensor, options: TrainingOptions, epoch: int) -> Tensor:
    """Crop and mirror a batch as (seed, sample id, epoch) say: the same image gets the same treatment in any batch.

    Args:
        images: (N, C, H, W) uint8.
        sample_ids: (N,) int64.

    Returns:
        (N, C, H, W) uint8.
    """
    height, width = images.shape[-2:]
    flipped = torch.zeros(len(images), dtype=torch.bool)
    if options.flip:
        flipped = uniform_integers(sample_ids, 2, derive_seed(options.seed, "flip", epoch))[:, 0] == 1
    padding = options.crop_padding
    offsets = torch.zeros(len(images), 2, dtype=torch.int64)
    if padding:
        offsets = uniform_integers(sample_ids, 2 * padding + 1, derive_seed(options.seed, "crop", epoch))
        images = functional.pad(images, (padding, padding, padding, padding))
    rows = offsets[:, :1] + torch.arange(height)
    columns = torch.arange(width).expand(len(images), width)
    columns = offsets[:, 1:] + torch.where(flipped[:, None], columns.flip(1), columns)
    channels_last = images.permute(0, 2, 3, 1)
    sample = torch.arange(len(images))[:, None, None]
    return channels_last[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def as_input(images: Tensor, device: torch.device) -> Tensor:
    """(N, C, H, W) uint8 to float32 in pixel scale [0, 1], channels_last, on ``device``."""
    return images.to(device).float().div_(255).contiguous(memory_format=torch.channels_last)


def bfloat16_is_faster(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware, so that mixed precision pays."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()


@contextmanager
def autocast(device: torch.device, mixed_precision: bool) -> Iterator[None]:
    """bfloat16 autocast where it was asked for and pays, nothing otherwise."""
    with torch.autocast(device.type, torch.bfloat16, enabled=mixed_precision and bfloat16_is_faster(device)):
        yield


@torch.no_grad()
def predict(
    model: nn.Module,
    images: Tensor,
    *,
    mixed_precision: bool = True,
    batch_size: int = EVALUATION_BATCH_SIZE,
    on_batch: Callable[[int], None] | None = None,
) -> Tensor:
    """Logits of a whole set.

    Args:
        model: as in :func:`train`; put into eval mode.
        images: (N, C, H, W) uint8.
        on_batch: called with the size of each batch that is done.

    Returns:
        (N, num_classes) float32 on the CPU.

    Raises:
        AdvrBDError: a logit is not a finite number.
    """
    device = next(model.parameters()).device
    model.eval()
    outputs = []
    for batch in images.split(batch_size):
        with autocast(device, mixed_precision):
            outputs.append(model(as_input(batch, device)).float().cpu())
        if on_batch is not None:
            on_batch(len(batch))
    logits = torch.cat(outputs) if outputs else torch.empty(0, 0)
    check_finite(logits)
    return logits


def check_finite(logits: Tensor) -> None:
    """Raise AdvrBDError if a row of ``logits`` (N, num_classes) holds NaN or infinity."""
    broken = ~torch.isfinite(logits).all(dim=1) if logits.numel() else torch.zeros(0, dtype=torch.bool)
    if broken.any():
        raise AdvrBDError(
            f"the model's output is NaN or infinite for {int(broken.sum())} of {len(logits)} images (first: image "
            f"{int(broken.nonzero()[0])}): check its weights, or train with a lower learning_rate"
        )


def _set_learning_rate(optimizer: torch.optim.Optimizer, options: TrainingOptions, step: int, steps: int) -> None:
    warm_up = max(1, int(_WARM_UP_SHARE * steps))
    share = (step + 1) / warm_up if step < warm_up else (steps - step) / max(1, steps - warm_up)
    for group in optimizer.param_groups:
        group["lr"] = options.learning_rate * share


def _state(model: nn.Module, optimizer: torch.optim.SGD, rows: list[dict[str, float]]) -> dict[str, Tensor]:
    tensors = {f"model.{name}": value.detach().cpu() for name, value in model.state_dict().items()}
    for index, parameter in enumerate(model.parameters()):
        buffer = optimizer.state[parameter].get("momentum_buffer")
        if buffer is not None:
            tensors[f"momentum.{index}"] = buffer.cpu()
    tensors["rows"] = torch.tensor(
        [[row["epoch"], row["loss"], row["accuracy"]] for row in rows], dtype=torch.float64
    ).view(-1, 3)
    return tensors


def _restore(
    model: nn.Module, optimizer: torch.optim.SGD, checkpoint: TrainingCheckpoint
) -> tuple[list[dict[str, float]], int]:
    saved = checkpoint.load()
    if saved is None:
        return [], 0
    epochs_done, tensors = saved
    prefix = "model."
    model.load_state_dict({name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)})
    for index, parameter in enumerate(model.parameters()):
        buffer = tensors.get(f"momentum.{index}")
        if buffer is not None:
            optimizer.state[parameter]["momentum_buffer"] = buffer.to(parameter).contiguous(
                memory_format=torch.channels_last if buffer.ndim == 4 else torch.contiguous_format
            )
    return [
        {"epoch": int(epoch), "loss": loss, "accuracy": accuracy} for epoch, loss, accuracy in tensors["rows"].tolist()
    ], epochs_done
