"""Universal perturbations: one set of parameters changes every image in the same way. (Ours.)"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# From images (N, C, H, W) float in pixel scale [0, 1] and parameters (N or 1, ...) to perturbed images of that shape.
Perturb = Callable[[Tensor, Tensor], Tensor]


def add_perturbation(images: Tensor, perturbations: Tensor) -> Tensor:
    """Add perturbations (N or 1, C, H, W) to images (N, C, H, W), pixel scale [0, 1]; clip the result to it."""
    return (images + perturbations).clamp(0, 1)


def unit(gradients: Tensor) -> Tensor:
    """Divide each of (N, C, H, W) gradients by its Euclidean norm."""
    return gradients / _norms(gradients)


def within_norm(perturbations: Tensor, radius: float) -> Tensor:
    """Project each of (N, C, H, W) perturbations onto the ball of Euclidean norm ``radius``."""
    return perturbations * (radius / _norms(perturbations)).clamp_max(1)


def _norms(values: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(values.flatten(1), dim=1)
    return norms.clamp_min(1e-12).view(-1, 1, 1, 1)
