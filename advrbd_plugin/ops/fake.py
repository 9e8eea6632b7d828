"""The fake implementations, with which torch.compile traces the ops: checks, and outputs without values."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .checks import (
    check_channel_tensor,
    check_halves,
    check_high,
    check_kl_divergence,
    check_patch,
    check_perturb,
    check_sample_ids,
)
from .reference import empty_perturbed


def patch_origins(
    sample_ids: Tensor, height: int, width: int, patch_size: int, num_masks: int = 1, seed: int = 0
) -> Tensor:
    check_sample_ids(sample_ids)
    check_patch(height, width, patch_size, num_masks)
    return sample_ids.new_empty(num_masks, sample_ids.shape[0], 2)


def philox_uniform(sample_ids: Tensor, high: int, seed: int = 0) -> Tensor:
    check_sample_ids(sample_ids)
    check_high(high)
    return sample_ids.new_empty(sample_ids.shape[0], 2)


def perturb(
    images: Tensor,
    grad: Tensor,
    *,
    epsilon: list[float] | float,
    patch_size: int,
    num_masks: int = 1,
    seed: int = 0,
    sample_ids: Tensor | None = None,
    low: list[float] | float = 0.0,
    high: list[float] | float = 1.0,
) -> Tensor:
    check_perturb(images, grad, epsilon, patch_size, num_masks, sample_ids, low, high)
    return empty_perturbed(images, num_masks)


def perturb_tensor(
    images: Tensor, grad: Tensor, *, epsilon: Tensor, low: Tensor, high: Tensor, **options: Any
) -> Tensor:
    for name, value in (("epsilon", epsilon), ("low", low), ("high", high)):
        check_channel_tensor(name, value)
    return perturb(images, grad, epsilon=0.0, **options)  # the values are checked when the op runs


def kl_divergence(logits: Tensor, perturbed_logits: Tensor) -> Tensor:
    check_kl_divergence(logits, perturbed_logits)
    return logits.new_empty(perturbed_logits.shape[:2], dtype=torch.float32)


def score_step(
    logits: Tensor | None, perturbed_logits: Tensor | None, images: Tensor | None, grad: Tensor | None, **options: Any
) -> tuple[Tensor, Tensor]:
    return _score_step(perturb, logits, perturbed_logits, images, grad, **options)


def score_step_tensor(
    logits: Tensor | None, perturbed_logits: Tensor | None, images: Tensor | None, grad: Tensor | None, **options: Any
) -> tuple[Tensor, Tensor]:
    return _score_step(perturb_tensor, logits, perturbed_logits, images, grad, **options)


def _score_step(
    perturbs: Callable[..., Tensor],
    logits: Tensor | None,
    perturbed_logits: Tensor | None,
    images: Tensor | None,
    grad: Tensor | None,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    check_halves(logits, perturbed_logits, images, grad)
    given = logits if images is None else images
    assert given is not None  # check_halves has refused a call without either half
    nothing = given.new_empty(0, dtype=torch.float32)
    perturbed = nothing if images is None else perturbs(images, grad, **options)
    divergence = (
        nothing.clone() if logits is None or perturbed_logits is None else kl_divergence(logits, perturbed_logits)
    )
    return perturbed, divergence
