"""CutMix (Yun et al., arXiv 1905.04899) as a defense against poisoned training sets (Borgnia et al., arXiv 2011.09527).

In every batch, a box of each image is replaced by the same box of another one, and their labels are mixed by area. The
trigger is often cut away or pasted under another label, so the model relies on it less.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy
import torch
from torch import Tensor, nn
from torch.nn import functional

from advrbd_plugin.cache import StageStore, digest
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.nn.checkpoints import StoredTraining, cached_training
from advrbd_plugin.nn.inference import check_outputs
from advrbd_plugin.nn.repeatable import repeatable
from advrbd_plugin.nn.training import TrainingOptions, describe_training, train
from advrbd_plugin.progress import Progress, SilentProgress, timed_stage
from advrbd_plugin.randomness import derive_seed, shuffled
from advrbd_plugin.settings import MAX_SEED, Settings, between, one_of


@dataclass(frozen=True)
class CutMixConfig(Settings):
    """The settings; the defaults are the preset ``repair``. docs/baselines.md gives their sources.

    Attributes:
        seed: everything random derives from (seed, sample id).
        start: fine-tune the ``attacked`` model, as in the AdvrBD paper's comparison, or train from ``scratch``, as
            Borgnia et al. do.
        probability: probability that a batch is mixed.
        beta: the share of an image that stays is drawn from Beta(beta, beta).
        epochs, batch_size, learning_rate, momentum, weight_decay, crop_padding, flip, mixed_precision: as in
            :class:`advrbd_plugin.nn.training.TrainingOptions`.
    """

    seed: int = between(0, MAX_SEED, 0)
    start: str = one_of("attacked", "scratch", default="attacked")
    probability: float = between(0.0, 1.0, 1.0)
    beta: float = between(1e-3, 1e3, 1.0)
    epochs: int = between(1, 10_000, 20)
    batch_size: int = between(2, 65_536, 64)
    learning_rate: float = between(1e-8, 100.0, 0.1)
    momentum: float = between(0.0, 0.9999, 0.9)
    weight_decay: float = between(0.0, 1.0, 5e-4)
    crop_padding: int = between(0, 64, 4)
    flip: bool = True
    mixed_precision: bool = True

    preset_files: ClassVar[Mapping[str, str]] = {
        "repair": "baselines/cutmix-repair.yaml",
        "scratch": "baselines/cutmix-scratch.yaml",
    }

    def training(self) -> TrainingOptions:
        """The options of the training."""
        return TrainingOptions.of(self, seed=derive_seed(self.seed, "cutmix"))


@dataclass(frozen=True, eq=False)
class CutMixResult:
    """Attributes:
    model: the defended model, in eval mode.
    rows: one an epoch: ``epoch``, ``loss``, ``accuracy`` of the mixed batches on the labels of the images that stay.
    seconds: stage -> time.
    config: the settings.
    """

    model: nn.Module
    rows: list[dict[str, float]]
    seconds: dict[str, float]
    config: CutMixConfig


def train_cutmix(
    train_set: ImageSet,
    *,
    make_model: Callable[[], nn.Module] | None = None,
    attacked_model: nn.Module | None = None,
    config: CutMixConfig | None = None,
    device: str | torch.device | None = None,
    work_dir: str | Path | None = None,
    progress: Progress | None = None,
) -> CutMixResult:
    """Train on the poisoned set with CutMix.

    Args:
        train_set: the poisoned training set, without its ground truth.
        make_model: makes an untrained model, from (N, C, H, W) float images in pixel scale [0, 1] to logits; needed for
            ``start: scratch``.
        attacked_model: the attacked model, of the same kind; needed for ``start: attacked``, not changed.
        config: the settings; the preset ``repair`` by default.
        device: where to work; a GPU if there is one, by default.
        work_dir: a folder for finished epochs; a run that was killed resumes from it.
        progress: told of every batch.

    Raises:
        AdvrBDError: the model that ``start`` needs is missing or has the wrong number of outputs, or training diverges.
    """
    config = config or CutMixConfig()
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model = _initial_model(config, make_model, attacked_model, device).to(device)
    check_outputs(model, train_set.images, train_set.num_classes)
    progress = progress or SilentProgress()
    seconds: dict[str, float] = {}
    progress.plan({"cutmix": config.epochs * len(train_set)})
    key = digest(
        train_set.images,
        train_set.labels,
        train_set.sample_ids,
        *model.state_dict().values(),
        config.to_mapping(),
        describe_training(model, config.training()),
    )

    def work(checkpoint: StoredTraining) -> list[dict[str, float]]:
        return train(
            model,
            train_set.images,
            train_set.labels,
            train_set.sample_ids,
            config.training(),
            stage="cutmix",
            progress=progress,
            checkpoint=checkpoint,
            mix=lambda images, labels, ids, epoch: mix_batch(
                images, labels, ids, epoch, config=config, num_classes=train_set.num_classes
            ),
        )

    with timed_stage(progress, "cutmix", seconds):
        rows = cached_training(StageStore(work_dir), "cutmix", key, model, work)
    return CutMixResult(model, rows, seconds, config)


def _initial_model(
    config: CutMixConfig,
    make_model: Callable[[], nn.Module] | None,
    attacked_model: nn.Module | None,
    device: torch.device,
) -> nn.Module:
    """A new model or a copy of the attacked one."""
    if config.start == "scratch":
        if make_model is None:
            raise AdvrBDError("CutMix with start: scratch needs make_model")
        with repeatable(device, derive_seed(config.seed, "weights", "cutmix")):
            return make_model()
    if attacked_model is None:
        raise AdvrBDError("CutMix with start: attacked needs the attacked model; without one set start to scratch")
    return copy.deepcopy(attacked_model)


def mix_batch(
    images: Tensor, labels: Tensor, sample_ids: Tensor, epoch: int, *, config: CutMixConfig, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Replace a box of every image by that of a partner in the batch (Yun et al., Section 3.1).

    Partners, box and whether the batch is mixed derive from (seed, epoch, sample ids of the batch).

    Args:
        images: (N, C, H, W) uint8.
        labels: (N,) int64.
        sample_ids: (N,) int64.
        epoch: number of the epoch.
        config: seed, probability and beta.
        num_classes: number of columns of the targets.

    Returns:
        (N, C, H, W) uint8 images and (N, num_classes) float32 targets: the share of the image that has each label.
    """
    seed = derive_seed(config.seed, "cutmix", epoch, int(sample_ids.min()), int(sample_ids.max()))
    generator = numpy.random.default_rng(seed)
    own = functional.one_hot(labels, num_classes).float()
    if generator.random() >= config.probability:
        return images, own
    height, width = images.shape[-2:]
    share = float(generator.beta(config.beta, config.beta))
    centre = int(generator.integers(height)), int(generator.integers(width))
    top, bottom, left, right = box(share, centre, height, width)
    partner = shuffled(sample_ids, seed)
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images[partner, :, top:bottom, left:right]
    pasted = (bottom - top) * (right - left) / (height * width)
    return mixed, (1 - pasted) * own + pasted * own[partner]


def box(share: float, centre: tuple[int, int], height: int, width: int) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of the box, clipped at the image's edges (Yun et al., equation 2).

    Args:
        share: share of the image outside the box before it is clipped, in [0, 1].
        centre: (row, column).
        height, width: of the image, in pixels.
    """
    side = (1 - share) ** 0.5
    (top, bottom), (left, right) = (
        (max(0, middle - int(length * side) // 2), min(length, middle + int(length * side) // 2))
        for middle, length in zip(centre, (height, width), strict=True)
    )
    return top, bottom, left, right
