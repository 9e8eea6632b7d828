"""The ops as Python functions. The same ops are `torch.ops.advrbd.*`; their meaning is in `reference.py`."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .checks import check_dtypes, check_id_dtype
from .library import MISSING_CUDA, NAMESPACE

PerChannel = float | Sequence[float] | Tensor


class ScoreStep(NamedTuple):
    """What ``score_step`` gives; the part whose half was absent is None."""

    perturbed: Tensor | None  # (num_masks, N, C, H, W): this batch, ready for the forward pass
    divergence: Tensor | None  # (num_masks of the previous batch, N of the previous batch) float32


def patch_origins(
    sample_ids: Tensor, image_size: int | tuple[int, int], patch_size: int, num_masks: int = 1, seed: int = 0
) -> Tensor:
    """Top-left corners of the patches that ``perturb`` uses.

    Each is uniform over the positions where a square of side ``patch_size`` lies inside the image, and is derived by
    Philox4x32-10 from (seed, sample id, mask) alone: the same on every device, whatever the batch, its size and order.

    Args:
        sample_ids: (N,) int64.
        image_size: side of a square image, or (height, width), in pixels.
        patch_size: side of the patch in pixels, in [1, min(height, width)].
        num_masks: patches per sample, in [1, 4096].
        seed: any integer of 64 bits; all of them count.

    Returns:
        (num_masks, N, 2) int64, (row, column).

    Raises:
        TypeError, ValueError: naming the argument.

    Examples:
        >>> origins = patch_origins(torch.arange(5), image_size=32, patch_size=16, num_masks=2)
        >>> origins.shape, bool((origins <= 16).all())
        (torch.Size([2, 5, 2]), True)
        >>> torch.equal(patch_origins(torch.tensor([3]), 32, 16, 2)[:, 0], origins[:, 3])  # the batch plays no part
        True
    """
    check_id_dtype(sample_ids)
    height, width = (image_size, image_size) if isinstance(image_size, (int, torch.SymInt)) else image_size
    return torch.ops.advrbd.patch_origins(sample_ids, height, width, patch_size, num_masks, _signed(seed))


def philox_uniform(sample_ids: Tensor, high: int, seed: int = 0) -> Tensor:
    """Two independent integers in [0, high) for each sample.

    They derive by Philox4x32-10 from (seed, sample id) alone: the same on every device, whatever the batch and its
    order. Each value has a probability within 2^-32 of 1 / high.

    Args:
        sample_ids: (N,) int64.
        high: number of values, in [1, 2**31).
        seed: any integer of 64 bits; all of them count.

    Returns:
        (N, 2) int64.

    Raises:
        TypeError, ValueError: naming the argument.

    Examples:
        >>> numbers = philox_uniform(torch.arange(1000), high=10, seed=1)
        >>> numbers.shape, sorted(numbers.unique().tolist()) == list(range(10))
        (torch.Size([1000, 2]), True)
    """
    check_id_dtype(sample_ids)
    return torch.ops.advrbd.philox_uniform(sample_ids, high, _signed(seed))


def perturb(
    images: Tensor,
    grad: Tensor,
    *,
    epsilon: PerChannel,
    patch_size: int,
    num_masks: int = 1,
    seed: int = 0,
    sample_ids: Tensor | None = None,
    low: PerChannel = 0.0,
    high: PerChannel = 1.0,
) -> Tensor:
    """Step along the gradient's sign inside random patches (AdvrBD, Algorithm 1: x + m * epsilon * sign(grad)).

    For each sample and mask: clamp(image + epsilon * sign(grad), low, high) inside the patch at ``patch_origins``,
    the image unchanged outside. Computed in float32 and rounded once. sign(0) and sign(NaN) are 0; a NaN pixel stays
    NaN. The inputs are not changed.

    Args:
        images: (N, C, H, W) float32, bfloat16 or float16, any strides.
        grad: like ``images``: gradient of the loss with respect to them.
        epsilon, low, high: step and bounds in the units of ``images`` (pixel scale, or normalised); a number or one
            per channel, as a sequence or a tensor of at most one dimension. A tensor on a GPU is waited for.
        patch_size, num_masks, seed: as in ``patch_origins``.
        sample_ids: (N,) int64 on the same device; by default 0 to N - 1.

    Returns:
        (num_masks, N, C, H, W) of the images' dtype. Each [k] is channels_last where the images are, contiguous
        otherwise; so is ``.flatten(0, 1)``, which is a view.

    Raises:
        TypeError, ValueError: naming the argument.

    Examples:
        >>> images, gradient = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
        >>> moved = perturb(images, gradient, epsilon=0.1, patch_size=2, num_masks=3)
        >>> moved.shape, int((moved[0] > 0).sum())  # one patch of 2x2 pixels for each mask
        (torch.Size([3, 1, 1, 4, 4]), 4)
    """
    check_dtypes("images", images, "grad", grad)
    check_id_dtype(sample_ids)
    return torch.ops.advrbd.perturb(
        images,
        grad,
        patch_size=patch_size,
        num_masks=num_masks,
        seed=_signed(seed),
        sample_ids=sample_ids,
        **_bounds(epsilon, low, high),
    )


def kl_divergence(logits: Tensor, perturbed_logits: Tensor) -> Tensor:
    """KL(softmax(logits[n]) || softmax(perturbed_logits[k, n])): higher = less consistent under perturbation.

    Accurate also where it is tiny, in confident rows and in nearly identical ones, and for logits of +-1e4. A NaN in a
    row gives NaN for that row only. A class whose logit is more than 87 below the largest counts as impossible.

    Args:
        logits: (N, classes) float32, bfloat16 or float16.
        perturbed_logits: (num_masks, N, classes), same dtype and device.

    Returns:
        (num_masks, N) float32, at least 0.

    Raises:
        TypeError, ValueError: naming the argument.

    Examples:
        >>> logits = torch.tensor([[0.0, 0.0]])
        >>> kl_divergence(logits, torch.stack([logits, torch.tensor([[0.0, 1.0]])])).round(decimals=4)
        tensor([[0.0000],
                [0.1201]])
    """
    check_dtypes("logits", logits, "perturbed_logits", perturbed_logits)
    return torch.ops.advrbd.kl_divergence(logits, perturbed_logits)


def score_step(
    logits: Tensor | None,
    perturbed_logits: Tensor | None,
    images: Tensor | None,
    grad: Tensor | None,
    *,
    epsilon: PerChannel,
    patch_size: int,
    num_masks: int = 1,
    seed: int = 0,
    sample_ids: Tensor | None = None,
    low: PerChannel = 0.0,
    high: PerChannel = 1.0,
) -> ScoreStep:
    """Finish one batch and prepare the next, in one launch: the step of the pipelined scoring loop.

    ``logits`` and ``perturbed_logits`` belong to the batch that ends (``kl_divergence``), ``images``, ``grad`` and the
    keywords to the batch that begins (``perturb``). Either pair may be None, as in the first and the last step, or hold
    an empty batch; the results equal those of the two ops to the bit.

    Raises:
        TypeError, ValueError: naming the argument.

    Examples:
        >>> images = torch.zeros(2, 1, 4, 4)
        >>> step = score_step(None, None, images, torch.ones_like(images), epsilon=0.1, patch_size=2)  # the first step
        >>> step.perturbed.shape
        torch.Size([1, 2, 1, 4, 4])
    """
    check_dtypes("logits", logits, "perturbed_logits", perturbed_logits)
    check_dtypes("images", images, "grad", grad)
    check_id_dtype(sample_ids)
    perturbed, divergence = torch.ops.advrbd.score_step(
        logits,
        perturbed_logits,
        images,
        grad,
        patch_size=patch_size,
        num_masks=num_masks,
        seed=_signed(seed),
        sample_ids=sample_ids,
        **_bounds(epsilon, low, high),
    )
    return ScoreStep(None if images is None else perturbed, None if logits is None else divergence)


def backend(tensor: Tensor, op: str = "perturb") -> str:
    """Which implementation serves ``tensor``.

    "cpu", "cuda" (compiled kernels), "nvrtc" (the kernels of "cuda", compiled when they are first used) or "reference"
    (plain PyTorch).

    Examples:
        >>> backend(torch.zeros(1)) in ("cpu", "reference")
        True
    """
    key = {"cuda": "CUDA", "cpu": "CPU"}.get(tensor.device.type)
    if key and torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::{op}", key):
        return "nvrtc" if key == "CUDA" and MISSING_CUDA else tensor.device.type
    return "reference"


def _bounds(epsilon: PerChannel, low: PerChannel, high: PerChannel) -> dict[str, list[float] | Tensor]:
    """The three as lists of numbers, or as tensors for the overloads that take tensors.

    A compiled graph always gets tensors: they keep a number symbolic, where a list would compile the graph again for
    each new value.
    """
    bounds = {"epsilon": epsilon, "low": low, "high": high}
    if torch.compiler.is_compiling() or any(isinstance(value, Tensor) for value in bounds.values()):
        return {name: _tensor(value) for name, value in bounds.items()}
    return {name: _numbers(value) for name, value in bounds.items()}


def _tensor(value: PerChannel) -> Tensor:
    if isinstance(value, Tensor):
        return value
    items = value if isinstance(value, Sequence) else [value]
    zero = torch.zeros((), dtype=torch.float64, device="cpu")
    # A sum, because torch.compile keeps a number symbolic in arithmetic alone.
    return torch.stack([zero + item for item in items]) if items else zero.new_empty(0)


def _numbers(value: PerChannel) -> list[float]:
    try:
        return [float(item) for item in value]  # type: ignore[union-attr]
    except TypeError:  # a number, NumPy's too
        return [float(value)]  # type: ignore[arg-type]


def _signed(seed: int) -> int:
    """The int64 with the same 64 bits, since an op's schema knows no unsigned integer."""
    if seed < -(2**63) or seed >= 2**64:
        raise ValueError(f"seed must have at most 64 bits, got {seed}")
    return seed - 2**64 if seed >= 2**63 else seed
