"""Which label a small universal perturbation leads to: a backdoor is a road to its label that is open to all. (Ours.)"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.scoring import frozen
from advrbd_plugin.training import as_input, autocast


def attraction(
    model: nn.Module,
    clean_set: ImageSet,
    *,
    radius: float,
    steps: int,
    mixed_precision: bool = True,
    samples: int = 100,
    on_batch: Callable[[int], None] | None = None,
) -> Tensor:
    """For each label, how surely one perturbation of small norm brings clean samples of other labels to it.

    The perturbation is found on every second sample (gradient descent on the cross entropy with the label, the norm
    kept at most ``radius``) and judged on the rest, so that a fit to single samples does not count.

    Args:
        model: from (N, C, H, W) float images in pixel scale [0, 1] to (N, num_classes) logits.
        clean_set: clean samples of every label.
        radius: Euclidean norm, pixel scale.
        steps: gradient steps.
        samples: at most so many for each label, in either half.
        on_batch: called with the number of images worked on.

    Returns:
        (num_classes,) float32 in [0, 1], mean probability of the label; higher is more suspicious.
    """
    device = next(model.parameters()).device
    model.eval()
    shares = []
    with frozen(model):
        for label in range(clean_set.num_classes):
            others = (clean_set.labels != label).nonzero().flatten()
            found_on, judged_on = others[::2][:samples], others[1::2][:samples]
            perturbation = _perturbation_towards(
                model, as_input(clean_set.images[found_on], device), label, radius, steps, mixed_precision
            )
            with torch.no_grad(), autocast(device, mixed_precision):
                logits = model((as_input(clean_set.images[judged_on], device) + perturbation).clamp(0, 1))
            shares.append(logits.float().softmax(dim=1)[:, label].mean().cpu())
            if on_batch is not None:
                on_batch(len(found_on) * steps + len(judged_on))
    return torch.stack(shares)


def _perturbation_towards(
    model: nn.Module, inputs: Tensor, label: int, radius: float, steps: int, mixed_precision: bool
) -> Tensor:
    """(1, C, H, W): the last of ``steps`` gradient steps whose length falls to zero in a straight line."""
    perturbation = torch.zeros_like(inputs[:1])
    target = torch.full((len(inputs),), label, device=inputs.device)
    for step in range(steps):
        perturbation.requires_grad_(True)
        with torch.enable_grad():
            with autocast(inputs.device, mixed_precision):
                logits = model((inputs + perturbation).clamp(0, 1))
            loss = functional.cross_entropy(logits.float(), target)
            (grad,) = torch.autograd.grad(loss, perturbation)
        length = 0.5 * radius * (1 - step / steps)
        perturbation = within_norm(perturbation.detach() - length * unit(grad), radius)
    return perturbation


def unit(gradients: Tensor) -> Tensor:
    """Each of (N, C, H, W) divided by its Euclidean norm."""
    return gradients / _norms(gradients)


def within_norm(perturbations: Tensor, radius: float) -> Tensor:
    """Each of (N, C, H, W) shortened to Euclidean norm ``radius`` where it is longer."""
    return perturbations * (radius / _norms(perturbations)).clamp_max(1)


def _norms(values: Tensor) -> Tensor:
    return values.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
