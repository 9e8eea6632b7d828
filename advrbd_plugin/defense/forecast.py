"""How long a run will take and how much memory, from a few batches of the very network on the very images."""

from __future__ import annotations

import os
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
from advrbd_plugin.defense.scoring import scoring_batch_size
from advrbd_plugin.defense.transplant import at_once
from advrbd_plugin.nn.features import layered_features
from advrbd_plugin.nn.inference import as_input, autocast, frozen
from advrbd_plugin.nn.repeatable import repeatable
from advrbd_plugin.nn.training import TRAINING_WORK

_FEW = 16  # images of the first batch, which may be slow
_SECONDS = 0.5  # of measuring
_MOST_BATCHES = 4
_COUNTED = 4  # images; what a network keeps for its backward pass is counted for these and for twice as many
_COPIES_OF_IMAGES = 2  # in a training: the batch and its augmentation; in scoring, the batch and its gradient
_COPIES_OF_FEATURES = 3  # of a set: as they came, joined, and in the discriminants' frame
# Of each value of a piece while the detection reads the set: floats, their blur, Fourier coefficients, squares.
_BYTES_OF_A_PIECE = 40
_COPIES_OF_WEIGHTS = 3  # a gradient and a momentum for each, and the model that is kept while the next is trained


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
    images, labels = samples.images[: config.batch_size], samples.labels[: config.batch_size]
    if image_size is not None:
        images = functional.interpolate(images.float(), image_size).to(torch.uint8)
    with repeatable(device, config.seed):
        model = make_model().to(device).to(memory_format=torch.channels_last).train()
        seconds = _seconds_per_image(model, images, labels, config, device)
        growth = memory_of_stages(model, images, labels, len(samples), config, device)
    work = planned_work(len(samples), samples.num_classes, config)
    total = sum(amount for stage, amount in work.items() if not (scan and stage in SCANNED_OUT))
    whole = samples.images.numel() if device.type == "cuda" else 0  # what is on the GPU beside the network
    peak = max(_most_so_far(device), _in_use(device) + growth) + whole if _in_use(device) else 0
    return Forecast(seconds / TRAINING_WORK * total, peak)


def memory_of_stages(
    model: nn.Module, images: Tensor, labels: Tensor, count: int, config: AdvrBDConfig, device: torch.device
) -> int:
    """Bytes that the hungriest stage of a run takes beside what is in use before it: training, scoring or detection.

    What the network keeps for a backward pass is counted and not measured: it depends on the processor only by the
    type that the network works in.

    Args:
        model: on the device.
        images, labels: a batch or less of the training set.
        count: samples of the whole set.
    """
    weights = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    one = images[:1].numel() * 4
    model.train()
    training = config.batch_size * (_kept_per_image(model, images, labels, config, device) + _COPIES_OF_IMAGES * one)
    model.eval()
    with frozen(model):
        kept = _kept_per_image(model, images, labels, config, device)
    scored = min(count, scoring_batch_size((images.shape[-2], images.shape[-1]), device))
    scoring = scored * (kept + (_COPIES_OF_IMAGES + config.num_masks) * one)
    features, logits = layered_features(model, images[:2], mixed_precision=config.mixed_precision)
    of_set = count * 4 * (_COPIES_OF_FEATURES * features.shape[1] + logits.shape[1])
    pieces = min(count, at_once(images)) * images[0].numel() * _BYTES_OF_A_PIECE
    return max(training, scoring, of_set + pieces) + _COPIES_OF_WEIGHTS * weights


def _kept_per_image(
    model: nn.Module, images: Tensor, labels: Tensor, config: AdvrBDConfig, device: torch.device
) -> int:
    """Bytes that the network keeps of each image until its gradient is known."""
    few, twice = (_kept(model, images, labels, number, config, device) for number in (_COUNTED, 2 * _COUNTED))
    return max(0, twice - few) // _COUNTED


def _kept(
    model: nn.Module, images: Tensor, labels: Tensor, number: int, config: AdvrBDConfig, device: torch.device
) -> int:
    """Bytes of the tensors that a forward pass over ``number`` images keeps, weights left out."""
    places = torch.arange(number) % len(images)
    weights = {weight.untyped_storage().data_ptr() for weight in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    inputs = as_input(images[places], device).requires_grad_(True)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with autocast(device, config.mixed_precision):
            logits = model(inputs)
        loss = functional.cross_entropy(logits.float(), labels[places].to(device))
    del loss  # until here all that is kept has an address of its own
    return sum(kept.values())


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


def _in_use(device: torch.device) -> int:
    """Bytes of memory that the process holds now; the most that it ever held where the system tells no more."""
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return _most_so_far(device)


def _most_so_far(device: torch.device) -> int:
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
