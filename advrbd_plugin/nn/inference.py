"""From images held in memory to a network's logits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.nn.transfer import Results, upload
from advrbd_plugin.processes import current

EVALUATION_BATCH_SIZE = 500


def as_input(images: Tensor, device: torch.device) -> Tensor:
    """(N, C, H, W) uint8 to float32 in pixel scale [0, 1], channels_last, on ``device``."""
    return upload(images, device).float().div_(255).contiguous(memory_format=torch.channels_last)


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

    Several processes share the samples out (:mod:`advrbd_plugin.processes`), and all of them get all logits.

    Args:
        model: as in :func:`train`; put into eval mode. All processes take the weights of rank 0.
        images: (N, C, H, W) uint8.
        on_batch: called with the size of each batch that is done.

    Returns:
        (N, num_classes) float32 on the CPU.

    Raises:
        AdvrBDError: a logit is not a finite number.
    """
    device = next(model.parameters()).device
    model.eval()
    current().equalise(model)
    share = current().share(len(images), batch_size)
    on_batch = share.scaled(on_batch)
    outputs = Results()
    for start in range(share.own.start, share.own.stop, batch_size):
        batch = images[start : min(start + batch_size, share.own.stop)]
        with autocast(device, mixed_precision):
            outputs.add(model(as_input(batch, device)).float())
        if on_batch is not None:
            on_batch(len(batch))
    logits = share.merge(outputs.whole() if outputs else torch.empty(0, 0))
    check_finite(logits)
    return logits


Logits = Callable[[Tensor], Tensor]
"""From (N, C, H, W) float pictures in [0, 1] to (N, num_classes) float32 on the CPU."""


def logits_of(model: nn.Module, *, mixed_precision: bool = True) -> Logits:
    """``model``, put into eval mode, as a function of float pictures, which it is shown in batches."""
    device = next(model.parameters()).device
    model.eval()

    @torch.no_grad()
    def say(pictures: Tensor) -> Tensor:
        if not len(pictures):
            return torch.empty(0, 0)
        logits = []
        for batch in pictures.split(EVALUATION_BATCH_SIZE):
            batch = batch.to(device).contiguous(memory_format=torch.channels_last)
            with autocast(device, mixed_precision):
                logits.append(model(batch).float().cpu())
        return torch.cat(logits)

    return say


def check_finite(logits: Tensor) -> None:
    """Raise AdvrBDError if a row of ``logits`` (N, num_classes) holds NaN or infinity."""
    refuse_broken(broken_rows(logits) if logits.numel() else torch.zeros(0, dtype=torch.bool))


def broken_rows(logits: Tensor) -> Tensor:
    """(..., N) bool on the device of ``logits`` (..., N, num_classes): which rows hold NaN or infinity."""
    return ~torch.isfinite(logits).all(dim=-1)


def refuse_broken(broken: Tensor) -> None:
    """Raise AdvrBDError if any of a set's images, flagged in (N,) bool on the CPU, has an output that is no number."""
    if broken.any():
        raise AdvrBDError(
            f"the model's output is NaN or infinite for {int(broken.sum())} of {len(broken)} images (first: image "
            f"{int(broken.nonzero()[0])}): check its weights, or train with a lower learning_rate"
        )


def accuracy(model: nn.Module, images: Tensor, labels: Tensor, *, mixed_precision: bool) -> float:
    """Share of images (N, C, H, W), as for :func:`predict`, that ``model`` gives their ``labels`` (N,); 0 for none."""
    if not len(images):
        return 0.0
    predicted = predict(model, images, mixed_precision=mixed_precision).argmax(dim=1)
    return float((predicted == labels).double().mean())


def check_outputs(model: nn.Module, images: Tensor, num_classes: int) -> None:
    """Raise AdvrBDError unless ``model`` has an output for each class.

    Args:
        model: put into eval mode.
        images: (N, C, H, W) uint8, of which the first is shown to it.
    """
    check_shape(predict(model, images[:1]), num_classes, type(model).__name__)


def check_shape(logits: Tensor, num_classes: int, kind: str) -> None:
    """Raise AdvrBDError unless ``logits``, which a network of class ``kind`` gave for one picture, suit the classes."""
    if logits.shape != (1, num_classes):
        raise AdvrBDError(
            f"the network ({kind}) gives outputs of shape {tuple(logits.shape)} for one picture; "
            f"{num_classes} classes need (1, {num_classes})"
        )


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Within this context the weights take no gradient, which would cost as much again as the input's."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


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


def runner_up_classes(logits: Tensor, labels: Tensor) -> Tensor:
    """(N,) int64: the class, other than its label, that each sample is most likely to be of.

    Args:
        logits: (N, num_classes) float32.
        labels: (N,) int64.
    """
    return logits.scatter(1, labels[:, None], -torch.inf).argmax(dim=1)
