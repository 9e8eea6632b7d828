"""The adversary of relearning: universal perturbations and warps towards the attacked labels. (Ours.)"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from advrbd_plugin.nn.inference import autocast
from advrbd_plugin.randomness import derive_seed
from advrbd_plugin.ulrl.config import ULRLConfig
from advrbd_plugin.ulrl.perturbations import Perturb, add_perturbation, unit, within_norm
from advrbd_plugin.ulrl.warps import field_norm, warp

# Perturbations are drawn afresh after so many batches, so that the search leaves what the model already resists.
_RESTART_EVERY = 10
_FIRST_SEARCH = 5  # times the usual steps


@dataclass(frozen=True, eq=False)
class Adversary:
    """What kind of perturbations relearning trains against.

    Attributes:
        labels: the attacked labels that perturbations aim at; if empty, they lead away from the true label.
        warped: warps of the image instead of added perturbations.
        known: (P, 1, H, W) float32 perturbations in pixel scale [0, 1], or (P, 2, points, points) float32 warps in
            pixels, found to lead to the labels; every second image gets one. The other images get searched ones.
    """

    labels: tuple[int, ...] = ()
    warped: bool = False
    known: Tensor | None = None


class PerturbationSearch:
    """An adversary at work: its searched perturbations follow the model from batch to batch.

    Args:
        adversary: what to search for.
        config: the ``adversary_*`` and ``warp_*`` settings.
        device: the model's.
    """

    def __init__(self, adversary: Adversary, config: ULRLConfig, device: torch.device) -> None:
        self._config, self._warped = config, adversary.warped
        self._labels = torch.tensor(adversary.labels, dtype=torch.int64, device=device)
        self._known = None if adversary.known is None else adversary.known.to(device)
        self._perturb: Perturb = warp if adversary.warped else add_perturbation
        self._radius = (
            field_norm(config.warp_radius, config.warp_points) if adversary.warped else config.adversary_radius
        )
        self._searched: Tensor | None = None

    def __call__(self, model: nn.Module, inputs: Tensor, targets: Tensor, step: int) -> Tensor:
        """Perturb (N, C, H, W) images: searched perturbations and, where there are any, known ones in turn.

        Args:
            model: in eval mode, its weights without gradients.
            inputs: pixel scale [0, 1].
            targets: (N,) int64, the true labels.
            step: number of the batch.
        """
        perturbations = self._search(model, inputs, targets, step)
        if self._known is not None:
            # Each image meets another known perturbation in the next batch.
            places = torch.arange(len(inputs), device=inputs.device)
            known = self._known[(places // 2 + step) % len(self._known)]
            perturbations = torch.where((places % 2 == 0).view(-1, 1, 1, 1), known, perturbations)
        return self._perturb(inputs, perturbations)

    def _search(self, model: nn.Module, inputs: Tensor, targets: Tensor, step: int) -> Tensor:
        """Update the universal perturbations by gradient steps; return one of them for each image."""
        config = self._config
        group = torch.arange(len(inputs), device=inputs.device) % config.adversary_count
        steps, direction, aim = config.adversary_steps, 1.0, targets
        if len(self._labels):
            direction, aim = -1.0, self._labels[group % len(self._labels)]
        searched = self._searched
        if searched is None or step % _RESTART_EVERY == 0:
            searched = self._random(inputs, step)
            steps *= _FIRST_SEARCH
        for _ in range(steps):
            current = searched.requires_grad_(True)
            with autocast(inputs.device, config.mixed_precision):
                logits = model(self._perturb(inputs, current[group]))
            (grad,) = torch.autograd.grad(functional.cross_entropy(logits.float(), aim), current)
            moved = current.detach() + direction * self._radius / 3 * unit(grad)
            searched = within_norm(moved, self._radius)
        self._searched = searched
        return searched[group]

    def _random(self, inputs: Tensor, step: int) -> Tensor:
        """Draw (adversary_count, ...) perturbations of 0.3 times the radius."""
        config = self._config
        shape = (2, config.warp_points, config.warp_points) if self._warped else inputs.shape[1:]
        generator = torch.Generator().manual_seed(derive_seed(config.seed, "adversary", step))
        fresh = torch.randn(config.adversary_count, *shape, generator=generator).to(inputs.device)
        return 0.3 * self._radius * unit(fresh)
