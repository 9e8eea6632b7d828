"""Adaptive-Blend: Blend by parts of the picture (Qi et al., "Revisiting the assumption of latent separability for
backdoor defenses", ICLR 2023, Adap-Blend)."""

from __future__ import annotations

from dataclasses import dataclass
from math import isqrt

import torch
from torch import Tensor

from advrbd_plugin.attacks.base import CoverAttack
from advrbd_plugin.attacks.blend import Blend
from advrbd_plugin.attacks.patch import check_size
from advrbd_plugin.attacks.picture import overlay
from advrbd_plugin.attacks.sampling import uniform
from advrbd_plugin.errors import AdvrBDError


@dataclass(frozen=True, kw_only=True)
class AdaptiveBlend(CoverAttack, Blend):
    """Each training sample shows a random part of the pieces of a picture; a triggered test image shows all pieces.

    Covers show as many pieces and keep their label. No poisoned sample carries the whole trigger, so the model relies
    on it less strongly than on Blend's.

    Attributes:
        pieces: number of pieces, a square number (16 cuts the picture 4x4).
        mask_rate: share of the pieces that a training sample does not show.
        test_alpha: alpha of the whole picture at test time; ``None`` takes ``alpha``. The paper's code trains with
            0.15 and tests with 0.2.
    """

    name = "adaptive_blend"

    pieces: int = 16
    mask_rate: float = 0.5
    test_alpha: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pieces < 1 or isqrt(self.pieces) ** 2 != self.pieces:
            raise AdvrBDError(f"pieces must be a square number such as 4, 9 or 16, got {self.pieces}")
        if not 0 <= self.mask_rate < 1 or self._shown < 1:
            raise AdvrBDError(f"mask_rate must be in [0, 1) and leave at least one piece, got {self.mask_rate}")
        if self.test_alpha is not None and not 0 < self.test_alpha <= 1:
            raise AdvrBDError(f"test_alpha must be in (0, 1], got {self.test_alpha}")

    def trigger(self, images: Tensor) -> Tensor:
        alpha = self.alpha if self.test_alpha is None else self.test_alpha
        return overlay(images, self._picture_for(images), alpha)

    def training_trigger(self, images: Tensor, sample_ids: Tensor, *, seed: int) -> Tensor:
        height, width = images.shape[-2:]
        side = isqrt(self.pieces)
        check_size(images, side, self.name)
        keys = uniform(sample_ids, self.pieces, seed=seed, purpose="adaptive_blend/pieces")
        shown = torch.zeros_like(keys).scatter_(1, keys.argsort(dim=1, stable=True)[:, : self._shown], 1.0)
        rows, columns = (torch.arange(length) * side // length for length in (height, width))
        mask = shown.reshape(-1, 1, side, side)[:, :, rows][:, :, :, columns]
        return overlay(images, self._picture_for(images), self.alpha * mask)

    @property
    def _shown(self) -> int:
        """Number of pieces that a training sample shows."""
        return self.pieces - round(self.mask_rate * self.pieces)
