"""Argument checks shared by the reference and the fake implementations (csrc/checks.cpp says the same in C++)."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

MAX_MASKS = 4096  # the origins of one sample's masks fit in a CUDA block's shared memory
MAX_CHANNELS = 128  # per-channel values travel as kernel parameters
FLOAT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


class ChannelBounds(NamedTuple):
    """Step size and pixel bounds, each a list of length 1 (all channels) or C."""

    epsilon: list[float]
    low: list[float]
    high: list[float]


def check_patch(height: int, width: int, patch_size: int, num_masks: int) -> None:
    """Raise ValueError unless a patch of side ``patch_size`` fits in the image and ``num_masks`` is in range."""
    if height < 1 or width < 1 or height >= 2**31 or width >= 2**31:
        raise ValueError(f"image_size must be at least 1 in both directions, got ({height}, {width})")
    if patch_size < 1 or patch_size > min(height, width):
        raise ValueError(f"patch_size must be in [1, {min(height, width)}], got {patch_size}")
    if num_masks < 1 or num_masks > MAX_MASKS:
        raise ValueError(f"num_masks must be in [1, {MAX_MASKS}], got {num_masks}")


def check_sample_ids(sample_ids: Tensor) -> None:
    """Raise unless ``sample_ids`` is a one-dimensional int64 tensor."""
    check_id_dtype(sample_ids)
    if sample_ids.dim() != 1:
        raise ValueError(f"sample_ids must have 1 dimension, got {sample_ids.dim()}")


def check_high(high: int) -> None:
    """Raise ValueError unless ``high`` is in range."""
    if high < 1 or high >= 2**31:
        raise ValueError(f"high must be in [1, {2**31 - 1}], got {high}")


def check_dtypes(name: str, tensor: Tensor | None, other_name: str, other: Tensor | None) -> None:
    """Raise TypeError unless ``tensor`` has a dtype that the ops take, and ``other`` the same.

    The compiled ops can raise nothing but ValueError, so the public functions call this first.
    """
    if tensor is None or other is None:
        return
    if tensor.dtype not in FLOAT_DTYPES:
        raise TypeError(f"{name} must be float32, bfloat16 or float16, got {_name(tensor.dtype)}")
    if other.dtype != tensor.dtype:
        raise TypeError(f"{other_name} must have the dtype of {name} ({_name(tensor.dtype)}), got {_name(other.dtype)}")


def check_id_dtype(sample_ids: Tensor | None) -> None:
    """Raise TypeError unless ``sample_ids`` is an int64 tensor, or None."""
    if sample_ids is not None and sample_ids.dtype != torch.int64:
        raise TypeError(f"sample_ids must be int64, got {_name(sample_ids.dtype)}")


def check_perturb(
    images: Tensor,
    grad: Tensor,
    epsilon: Sequence[float] | float,
    patch_size: int,
    num_masks: int,
    sample_ids: Tensor | None,
    low: Sequence[float] | float,
    high: Sequence[float] | float,
) -> ChannelBounds:
    """Check the arguments of ``perturb`` and return its per-channel values."""
    check_dtypes("images", images, "grad", grad)
    _check_dimensions("images", images, 4)
    if grad.shape != images.shape:
        raise ValueError(f"grad must have the shape of images {tuple(images.shape)}, got {tuple(grad.shape)}")
    _check_device("grad", grad, "images", images)
    samples, channels, height, width = images.shape
    if channels < 1:
        raise ValueError("images must have at least 1 channel, got 0")
    check_patch(height, width, patch_size, num_masks)
    if sample_ids is not None:
        check_sample_ids(sample_ids)
        if sample_ids.shape[0] != samples:
            raise ValueError(f"sample_ids must have length {samples}, one per image, got {sample_ids.shape[0]}")
        _check_device("sample_ids", sample_ids, "images", images)
    return _channel_bounds(epsilon, low, high, channels)


def check_kl_divergence(logits: Tensor, perturbed_logits: Tensor) -> None:
    """Check the arguments of ``kl_divergence``."""
    check_dtypes("logits", logits, "perturbed_logits", perturbed_logits)
    _check_dimensions("logits", logits, 2)
    if perturbed_logits.dim() != 3:
        raise ValueError(
            f"perturbed_logits must have 3 dimensions (num_masks, N, classes), got {perturbed_logits.dim()}"
        )
    if perturbed_logits.shape[1:] != logits.shape:
        raise ValueError(
            f"perturbed_logits must have shape (num_masks, {logits.shape[0]}, {logits.shape[1]}) to match logits, "
            f"got {tuple(perturbed_logits.shape)}"
        )
    _check_device("perturbed_logits", perturbed_logits, "logits", logits)
    if logits.shape[1] < 1:
        raise ValueError("logits must have at least 1 class, got 0")


def check_halves(
    logits: Tensor | None, perturbed_logits: Tensor | None, images: Tensor | None, grad: Tensor | None
) -> None:
    """Raise unless each half of ``score_step`` is there in full or absent, and both are on one device."""
    if (logits is None) != (perturbed_logits is None):
        raise ValueError("logits and perturbed_logits must be given together or both be None")
    if (images is None) != (grad is None):
        raise ValueError("images and grad must be given together or both be None")
    if logits is None and images is None:
        raise ValueError("images and logits must not both be None: score_step has nothing to do")
    if logits is not None and images is not None:
        _check_device("images", images, "logits", logits)


def check_channel_tensor(name: str, value: Tensor) -> None:
    """Raise unless a tensor of values per channel holds numbers in at most one dimension."""
    if value.dtype.is_complex or value.dtype == torch.bool:
        raise TypeError(f"{name} must hold real numbers, got {_name(value.dtype)}")
    if value.dim() > 1:
        raise ValueError(f"{name} must be a number or one per channel, got {value.dim()} dimensions")


def is_channels_last(images: Tensor) -> bool:
    """True where the channels of a pixel are neighbours in memory, so that the output is channels_last too."""
    return images.shape[1] > 1 and images.stride(1) == 1 and images.stride(2) > 1 and images.stride(3) > 1


def _channel_bounds(
    epsilon: Sequence[float] | float, low: Sequence[float] | float, high: Sequence[float] | float, channels: int
) -> ChannelBounds:
    values = {}
    for name, value in (("epsilon", epsilon), ("low", low), ("high", high)):
        value = [float(value)] if isinstance(value, (int, float)) else [float(item) for item in value]
        if len(value) not in (1, channels):
            raise ValueError(f"{name} must be a number or one per channel ({channels}), got {len(value)} values")
        if len(value) > MAX_CHANNELS:
            raise ValueError(f"{name} must have at most {MAX_CHANNELS} values, got {len(value)}")
        values[name] = value
    for item in values["epsilon"]:
        if not (item >= 0 and math.isfinite(item)):
            raise ValueError(f"epsilon must be finite and at least 0, got {item:g}")
    lows, highs = values["low"], values["high"]
    for channel in range(max(len(lows), len(highs))):
        smallest, largest = lows[channel % len(lows)], highs[channel % len(highs)]
        if not smallest <= largest:
            raise ValueError(f"low must be at most high, got low {smallest:g} and high {largest:g}")
    return ChannelBounds(**values)


def _check_dimensions(name: str, tensor: Tensor, dimensions: int) -> None:
    if tensor.dim() != dimensions:
        meaning = {4: "(N, C, H, W)", 2: "(N, classes)"}[dimensions]
        raise ValueError(f"{name} must have {dimensions} dimensions {meaning}, got {tensor.dim()}")


def _check_device(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    if tensor.device != other.device:
        raise ValueError(f"{name} must be on the device of {other_name} ({other.device}), got {tensor.device}")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
