"""How long a run will take and how much memory, from a few batches of the very network on the very images."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.defense.config import AdvrBDConfig
from advrbd_plugin.defense.planning import SCANNED_OUT, planned_work
from advrbd_plugin.nn.inference import as_input, autocast
from advrbd_plugin.nn.repeatable import repeatable
from advrbd_plugin.nn.training import TRAINING_WORK

_FEW = 16  # images of the first batch, which may be slow
_SECONDS = 0.5  # of measuring
_MOST_BATCHES = 4


@dataclass(frozen=True)
class Forecast:
    """Attributes:
    seconds: of the whole run; nothing is known of stages that were finished before.
    peak_bytes: of the process's memory at its largest, on a GPU of the GPU's.
    """

    seconds: float
    peak_bytes: int


def foretell(
    make_model: Callable[[], nn.Module],
    samples: ImageSet,
    config: AdvrBDConfig,
    *,
    device: torch.device,
    scan: bool = False,
    image_size: tuple[int, int] | None = None,
) -> Forecast:
    """Train a throw-away network for a moment, and scale by the work that is planned.

    Args:
        make_model: builds the network.
        samples: the training set.
        config: the settings.
        device: where it will be trained.
        scan: without the stages that train the clean model.
        image_size: (height, width): as if the images had this size.
    """
    before = _memory(device)
    images, labels = samples.images[: config.batch_size], samples.labels[: config.batch_size]
    if image_size is not None:
        images = functional.interpolate(images.float(), image_size).to(torch.uint8)
    with repeatable(device, config.seed):
        model = make_model().to(device).to(memory_format=torch.channels_last).train()
        seconds = _seconds_per_image(model, images, labels, config, device)
    work = planned_work(len(samples), samples.num_classes, config)
    total = sum(amount for stage, amount in work.items() if not (scan and stage in SCANNED_OUT))
    whole = samples.images.numel() if device.type == "cuda" else 0  # what is on the GPU beside the network
    return Forecast(seconds / TRAINING_WORK * total, max(before, _memory(device)) + whole)


def _seconds_per_image(
    model: nn.Module, images: Tensor, labels: Tensor, config: AdvrBDConfig, device: torch.device
) -> float:
    """Of training, in batches as large as they will be unless one takes longer than the whole measurement may."""
    _train_batch(model, images[:_FEW], labels[:_FEW], config, device)
    few = _timed(model, images[:_FEW], labels[:_FEW], config, device)
    if few * len(images) / len(images[:_FEW]) > 2 * _SECONDS:
        return few / len(images[:_FEW])
    _train_batch(model, images, labels, config, device)
    times: list[float] = []
    while len(times) < _MOST_BATCHES and sum(times) < _SECONDS:
        times.append(_timed(model, images, labels, config, device))
    return sorted(times)[len(times) // 2] / len(images)


def _timed(model: nn.Module, images: Tensor, labels: Tensor, config: AdvrBDConfig, device: torch.device) -> float:
    began = time.perf_counter()
    _train_batch(model, images, labels, config, device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def _train_batch(model: nn.Module, images: Tensor, labels: Tensor, config: AdvrBDConfig, device: torch.device) -> None:
    with autocast(device, config.mixed_precision):
        logits = model(as_input(images, device))
    functional.cross_entropy(logits.float(), labels.to(device)).backward()
    model.zero_grad(set_to_none=True)


def _memory(device: torch.device) -> int:
    """The most that was in use so far, in bytes; 0 where it is not known."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # not on every system
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def smaller_size(image_size: Sequence[int]) -> tuple[int, int] | None:
    """Half of (height, width), or less so that the longer side has 64 pixels; ``None`` for small images."""
    longest = max(image_size)
    if longest <= 48:
        return None
    scale = min(0.5, 64 / longest) if longest > 64 else 0.5
    return max(8, round(image_size[0] * scale)), max(8, round(image_size[1] * scale))
