"""What a backdoored model gives away about the set that it was trained on: ranks, and with them suspected labels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.defense.config import AdvrBDConfig
from advrbd_plugin.defense.detection import Detection, detect
from advrbd_plugin.defense.paper import ranks
from advrbd_plugin.defense.scoring import consistency_scores
from advrbd_plugin.nn.features import layered_features
from advrbd_plugin.randomness import derive_seed


def patch_sizes(config: AdvrBDConfig) -> list[int]:
    """The sides of the patches in pixels: ``patch_size``, half of it, and so on, none below 1 or twice the same."""
    sizes = [config.patch_size // 2**halvings for halvings in range(config.num_patch_sizes)]
    return list(dict.fromkeys(max(1, size) for size in sizes))


def scoring_work(config: AdvrBDConfig) -> int:
    """Passes over the set that :func:`consistency_ranks` costs."""
    return 2 + len(patch_sizes(config)) * config.num_masks


def consistency_ranks(
    model: nn.Module, samples: ImageSet, config: AdvrBDConfig, *, on_batch: Callable[[int], None] | None = None
) -> Tensor:
    """The ranks of Algorithm 1, once for each patch size.

    Args:
        model: takes images in pixel scale [0, 1].
        samples: the training set.
        config: the settings.
        on_batch: told of the work done, see :func:`scoring_work`.

    Returns:
        (num_patch_sizes, N) float32 in [0, 1], higher is more consistent, hence more suspicious.

    Raises:
        AdvrBDError: a logit is not finite.
    """
    scores = consistency_scores(
        model,
        samples.images,
        samples.labels,
        epsilon=config.epsilon,
        patch_size=patch_sizes(config),
        num_masks=config.num_masks,
        reduction=config.reduction,
        seed=derive_seed(config.seed, "patches"),
        sample_ids=samples.sample_ids,
        batch_size=_batch_size(samples.image_size),
        mixed_precision=config.mixed_precision,
        on_batch=None if on_batch is None else lambda done: on_batch(scoring_work(config) * done),
    )
    return torch.stack([ranks(each) for each in scores])


def _batch_size(image_size: tuple[int, int]) -> int:
    """500 images up to 64 x 64 pixels, fewer of larger ones: the backward pass keeps every layer's output of a batch."""
    height, width = image_size
    return max(16, min(500, 500 * 64 * 64 // (height * width)))


def detect_targets(
    model: nn.Module,
    samples: ImageSet,
    ranks: Tensor,
    config: AdvrBDConfig,
    *,
    on_batch: Callable[[int], None] | None = None,
) -> Detection:
    """Which labels are attacked, by the model's features and the ``ranks`` of :func:`consistency_ranks`."""
    features, logits = layered_features(
        model, samples.images, mixed_precision=config.mixed_precision, on_batch=on_batch
    )
    return detect(features, logits, samples.labels, ranks, gain=config.detection_gain)
