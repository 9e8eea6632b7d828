"""The ops in plain PyTorch: what they mean, and what serves where no compiled kernel does.

The C++ and CUDA kernels (csrc/arithmetic.h) are tested against these functions.
"""

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
    is_channels_last,
)

_MASK32 = 0xFFFFFFFF
_IMPOSSIBLE = -87.0
_PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_PHILOX_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)


def philox4x32_10(counter: list[Tensor], key: tuple[int, int]) -> list[Tensor]:
    """Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).

    ``counter`` holds four int64 tensors of 32-bit words, ``key`` two 32-bit words; so do the four outputs.
    """
    first, second, third, fourth = counter
    key_low, key_high = key
    for _ in range(10):
        # A 32x32-bit product may wrap in int64, but its 64 bits are the right ones.
        product_low = first * _PHILOX_MULTIPLIERS[0]
        product_high = third * _PHILOX_MULTIPLIERS[1]
        first, second, third, fourth = (
            ((product_high >> 32) & _MASK32) ^ second ^ key_low,
            product_high & _MASK32,
            ((product_low >> 32) & _MASK32) ^ fourth ^ key_high,
            product_low & _MASK32,
        )
        key_low = (key_low + _PHILOX_KEY_STEPS[0]) & _MASK32
        key_high = (key_high + _PHILOX_KEY_STEPS[1]) & _MASK32
    return [first, second, third, fourth]


def patch_origins(
    sample_ids: Tensor, height: int, width: int, patch_size: int, num_masks: int = 1, seed: int = 0
) -> Tensor:
    """Top-left corners (row, column) of the patches, (num_masks, N, 2) int64.

    Key: the 64 bits of the seed. Counter: the 64 bits of the sample id, then the mask, then 0. A 32-bit word w becomes
    a position among R by (w * R) >> 32, whose probabilities differ from 1/R by less than 2**-32.
    """
    check_sample_ids(sample_ids)
    check_patch(height, width, patch_size, num_masks)
    return _scaled_words(sample_ids, num_masks, height - patch_size + 1, width - patch_size + 1, seed)


def philox_uniform(sample_ids: Tensor, high: int, seed: int = 0) -> Tensor:
    """Two independent integers in [0, high) for each sample, (N, 2) int64: as ``patch_origins`` for mask 0."""
    check_sample_ids(sample_ids)
    check_high(high)
    return _scaled_words(sample_ids, 1, high, high, seed)[0]


@torch.no_grad()
def perturb(
    images: Tensor,
    grad: Tensor,
    *,
    epsilon: list[float],
    patch_size: int,
    num_masks: int = 1,
    seed: int = 0,
    sample_ids: Tensor | None = None,
    low: list[float] | float = 0.0,
    high: list[float] | float = 1.0,
) -> Tensor:
    """Sign step inside one random patch for each mask and sample, in float32, rounded once to the images' dtype.

    sign(0) = 0, and sign(NaN) = 0 as in ``torch.sign``; a NaN pixel stays NaN.
    """
    bounds = check_perturb(images, grad, epsilon, patch_size, num_masks, sample_ids, low, high)
    samples, _, height, width = images.shape
    if sample_ids is None:
        sample_ids = torch.arange(samples, device=images.device)
    origins = patch_origins(sample_ids, height, width, patch_size, num_masks, seed)
    step, smallest, largest = (
        torch.tensor(values, dtype=torch.float32, device=images.device)[:, None, None] for values in bounds
    )
    stepped = torch.clamp(images.float() + step * grad.float().sign(), smallest, largest).to(images.dtype)
    inside = _inside(origins[..., 0], height, patch_size)[..., :, None]
    inside = inside & _inside(origins[..., 1], width, patch_size)[..., None, :]
    perturbed = empty_perturbed(images, num_masks)
    torch.where(inside[:, :, None], stepped, images, out=perturbed)
    return perturbed


def perturb_tensor(
    images: Tensor, grad: Tensor, *, epsilon: Tensor, low: Tensor, high: Tensor, **options: Any
) -> Tensor:
    """``perturb`` with values from tensors of at most one dimension; serves every device."""
    return torch.ops.advrbd.perturb.default(images, grad, **_bounds_of(epsilon, low, high), **options)


@torch.no_grad()
def kl_divergence(logits: Tensor, perturbed_logits: Tensor) -> Tensor:
    """KL(softmax(logits[n]) || softmax(perturbed_logits[k, n])), (num_masks, N) float32, never below 0.

    A class whose logit is more than 87 below the largest counts as impossible (its probability is under 1e-37).
    """
    check_kl_divergence(logits, perturbed_logits)
    # Twice the precision: the scores that matter are those of confident rows, where the divergence is tiny.
    wide = torch.float32 if logits.device.type == "mps" else torch.float64
    log_p = logits.to(wide).log_softmax(-1)
    log_q = perturbed_logits.to(wide).log_softmax(-1)
    p, q, d = log_p.exp(), log_q.exp(), log_q - log_p
    # sum(q - p) = 0 is added to the usual -p d, so that no term is negative and nothing cancels where p and q are
    # nearly equal.
    terms = torch.where(d.abs() < 1, p * (d.expm1() - d), (q - p) - p * d)
    impossible = logits.to(wide) - logits.to(wide).amax(-1, keepdim=True) < _IMPOSSIBLE
    terms = torch.where(impossible, q, terms)
    return terms.sum(-1).clamp(min=0).float()


@torch.no_grad()
def score_step(
    logits: Tensor | None,
    perturbed_logits: Tensor | None,
    images: Tensor | None,
    grad: Tensor | None,
    *,
    epsilon: list[float],
    patch_size: int,
    num_masks: int = 1,
    seed: int = 0,
    sample_ids: Tensor | None = None,
    low: list[float] | float = 0.0,
    high: list[float] | float = 1.0,
) -> tuple[Tensor, Tensor]:
    """(``perturb`` of one batch, ``kl_divergence`` of another); an absent half gives an empty tensor."""
    check_halves(logits, perturbed_logits, images, grad)
    given = logits if images is None else images
    assert given is not None  # check_halves has refused a call without either half
    device = given.device
    perturbed = torch.empty(0, device=device)
    divergence = torch.empty(0, device=device)
    if logits is not None and perturbed_logits is not None:
        divergence = kl_divergence(logits, perturbed_logits)
    if images is not None and grad is not None:
        perturbed = perturb(
            images,
            grad,
            epsilon=epsilon,
            patch_size=patch_size,
            num_masks=num_masks,
            seed=seed,
            sample_ids=sample_ids,
            low=low,
            high=high,
        )
    return perturbed, divergence


def score_step_tensor(
    logits: Tensor | None,
    perturbed_logits: Tensor | None,
    images: Tensor | None,
    grad: Tensor | None,
    *,
    epsilon: Tensor,
    low: Tensor,
    high: Tensor,
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """``score_step`` with values from tensors of at most one dimension; serves every device."""
    return torch.ops.advrbd.score_step.default(
        logits, perturbed_logits, images, grad, **_bounds_of(epsilon, low, high), **options
    )


def empty_perturbed(images: Tensor, num_masks: int) -> Tensor:
    """Uninitialised (num_masks, N, C, H, W), each [k] channels_last where the images are, contiguous otherwise."""
    samples, channels, height, width = images.shape
    if is_channels_last(images):
        return images.new_empty(num_masks, samples, height, width, channels).permute(0, 1, 4, 2, 3)
    return images.new_empty(num_masks, samples, channels, height, width)


def _bounds_of(epsilon: Tensor, low: Tensor, high: Tensor) -> dict[str, list[float]]:
    bounds = {"epsilon": epsilon, "low": low, "high": high}
    for name, value in bounds.items():
        check_channel_tensor(name, value)
    return {name: value.double().reshape(-1).tolist() for name, value in bounds.items()}


def _scaled_words(sample_ids: Tensor, num_masks: int, first_range: int, second_range: int, seed: int) -> Tensor:
    """The first two words of each mask and sample, scaled to their ranges: (num_masks, N, 2) int64."""
    shape = (num_masks, sample_ids.shape[0])
    masks = torch.arange(num_masks, device=sample_ids.device)[:, None].expand(shape)
    counter = [
        (sample_ids & _MASK32).expand(shape),
        ((sample_ids >> 32) & _MASK32).expand(shape),
        masks,
        torch.zeros_like(masks),
    ]
    first, second, _, _ = philox4x32_10(counter, (seed & _MASK32, (seed >> 32) & _MASK32))
    return torch.stack(((first * first_range) >> 32, (second * second_range) >> 32), dim=-1)


def _inside(origin: Tensor, length: int, patch_size: int) -> Tensor:
    position = torch.arange(length, device=origin.device)
    return (position >= origin[..., None]) & (position < origin[..., None] + patch_size)
