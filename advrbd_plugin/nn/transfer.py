"""Images to a device and results back, without making the device wait.

A GPU runs out of work whenever the host waits for a copy. Here uploads are queued from pinned memory, and results stay
on the device until there are many of them. On the CPU nothing is copied.
"""

from __future__ import annotations

import torch
from torch import Tensor

# A whole set lies on a GPU where it takes at most this share of the memory that is free there.
_RESIDENT_SHARE = 0.25
# Results that take more than this on a device are moved to the host.
_RESULT_BYTES = 2**28
# Results on the CPU are copied into blocks of this size.
_BLOCK_BYTES = 2**20


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` on ``device``; the host goes on while it is copied."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        # PyTorch uses pinned memory again only after the copy from it has ended.
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class ImageSource:
    """The images of a set that batches are taken from again and again.

    A GPU holds the whole set where that takes at most a quarter of its free memory. A larger set, or one in a file,
    stays where it is: each batch is gathered on the host while the GPU computes the one before.

    Args:
        images: (N, C, H, W) uint8 on the CPU.
        device: where the batches are needed.
    """

    def __init__(self, images: Tensor, device: torch.device) -> None:
        self._device, self._resident = device, _fits(images, device)
        self._images = images.to(device) if self._resident else images

    def take(self, batch: Tensor, rows: Tensor) -> Tensor:
        """(B, C, H, W) uint8 on the device.

        Args:
            batch: (B,) int64 on the CPU, the places of the images in the set.
            rows: the same on the device.
        """
        return self._images[rows] if self._resident else upload(self._images[batch], self._device)


class Results:
    """The results of one batch after another, which stay on the device until they are many.

    On the CPU each part is copied into a block at once: small tensors that lived on among a batch's freed ones
    would cut the C library's free memory into pieces that no later batch fits in.

    Args:
        dim: along which they are put together.
    """

    def __init__(self, dim: int = 0) -> None:
        self._dim = dim
        self._parts: list[Tensor] = []
        self._moved: list[Tensor] = []  # on the CPU
        self._bytes = 0  # of the parts on a device
        self._block, self._used = torch.empty(0), 0  # on the CPU: what holds the newest parts, and how far

    def add(self, part: Tensor) -> None:
        """The results of the next batch."""
        if part.device.type == "cpu":
            self._parts.append(self._kept(part))
            return
        self._parts.append(part)
        self._bytes += part.numel() * part.element_size()
        if self._bytes > _RESULT_BYTES:
            self._move()

    def whole(self) -> Tensor:
        """All of them, on the CPU; there is at least one."""
        if self._parts:
            self._move()
        return self._moved[0] if len(self._moved) == 1 else torch.cat(self._moved, self._dim)

    def _kept(self, part: Tensor) -> Tensor:
        """A copy of a part that lies in the block."""
        if self._block.dtype != part.dtype or self._used + part.numel() > len(self._block):
            size = max(part.numel(), _BLOCK_BYTES // part.element_size())
            self._block, self._used = torch.empty(size, dtype=part.dtype), 0
        kept = self._block[self._used : self._used + part.numel()].view(part.shape)
        self._used += part.numel()
        return kept.copy_(part)

    def _move(self) -> None:
        self._moved.append(torch.cat(self._parts, self._dim).cpu())
        self._parts, self._bytes = [], 0
        self._block, self._used = torch.empty(0), 0

    def __bool__(self) -> bool:
        return bool(self._parts or self._moved)


def _fits(images: Tensor, device: torch.device) -> bool:
    """Whether the device should hold them all; images in a file are a class of their own."""
    if device.type != "cuda" or type(images) is not Tensor:
        return False
    free, _ = torch.cuda.mem_get_info(device)
    return images.numel() * images.element_size() <= _RESIDENT_SHARE * free
