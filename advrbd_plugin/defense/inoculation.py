"""What found poison shows of a trigger, put into clean pictures that keep their labels. (Ours.)

A clean model has never seen the trigger, and gives some pictures that carry it the attacker's label by mistake: the
trigger spoils them, or looks like something of that class. Here it learns that the trigger means nothing. The trigger
need not be known well: a pattern that is not one is a slight disturbance.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from advrbd_plugin.randomness import derive_seed, uniform_integers

_SHARE = 0.1  # of the pictures, in each epoch
_STEPS = 1000  # of the lot that says which


class Inoculation:
    """What :func:`advrbd_plugin.nn.training.train` makes of each batch: a tenth of the pictures get a trigger.

    Which ones, and which trigger, depends on (seed, sample id, epoch) alone, and not on the label: a trigger that the
    attacked class never carries would mean something, too.

    Args:
        patterns: attacked class -> (C, H, W) float32 in pixel scale (:func:`.findings.trigger_patterns`), at least one.
        seed: of the run.
        device: where the batches lie.
    """

    def __init__(self, patterns: Mapping[int, Tensor], seed: int, device: torch.device) -> None:
        self._patterns = torch.stack([255 * patterns[label] for label in sorted(patterns)]).to(device)
        self._seed = seed

    def __call__(self, images: Tensor, labels: Tensor, sample_ids: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) uint8 and (B,) int64 on the device, and (B,) int64 on the CPU to the first two of these."""
        lot = uniform_integers(sample_ids, _STEPS, derive_seed(self._seed, "inoculation", epoch))[:, 0]
        choice = uniform_integers(sample_ids, len(self._patterns), derive_seed(self._seed, "trigger", epoch))[:, 0]
        chosen = (lot < _SHARE * _STEPS).to(images.device)
        added = self._patterns[choice.to(images.device)] * chosen[:, None, None, None]
        return (images + added).round().clamp(0, 255).to(torch.uint8), labels
