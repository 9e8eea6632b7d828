"""Attraction: how well one small universal perturbation brings images of other classes to a label. (Ours.)

A backdoor trigger works on images of many classes, so in a backdoored model a small perturbation with the same effect
exists for the target class and for no other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.data.selection import draw
from advrbd_plugin.nn.inference import as_input, autocast, frozen
from advrbd_plugin.ulrl.perturbations import Perturb, add_perturbation, unit, within_norm

# A perturbation is found on at most so many samples, and judged on at most so many others.
SAMPLES_PER_HALF = 100


@dataclass(frozen=True, eq=False)
class Attraction:
    """Attributes:
    probability: (num_classes,) float32 in [0, 1], mean probability of each label on perturbed samples that the search
        did not see; higher is more suspicious.
    perturbations: (num_classes, ...) float32, the parameters found for each label.
    """

    probability: Tensor
    perturbations: Tensor

    @property
    def excess(self) -> Tensor:
        """(num_classes,) float32 in [-1, 1], ``probability`` less its median over all labels."""
        return self.probability - self.probability.quantile(0.5)


def attraction(
    model: nn.Module,
    clean_set: ImageSet,
    start: Tensor,
    *,
    perturb: Perturb = add_perturbation,
    radius: float,
    steps: int,
    mixed_precision: bool = True,
    samples: int = SAMPLES_PER_HALF,
    seed: int = 0,
    on_batch: Callable[[int], None] | None = None,
) -> Attraction:
    """Search one universal perturbation for each label and measure its effect on held-out samples.

    Gradient descent on the cross entropy with the label finds the perturbation on half of the samples; the other half
    judges it, so that a fit to single samples does not count.

    Args:
        model: from (N, C, H, W) float images in pixel scale [0, 1] to (N, num_classes) logits; put into eval mode.
        clean_set: clean samples of every label.
        start: (1, ...) float32, the initial parameters of each search.
        perturb: applies the parameters to images.
        radius: largest Euclidean norm of the parameters; in pixel scale for ``add_perturbation``.
        steps: gradient steps.
        mixed_precision: as in :class:`advrbd_plugin.nn.training.TrainingOptions`.
        samples: largest number of samples in either half, for each label.
        seed: draws the samples.
        on_batch: called with the number of images processed.
    """
    device = next(model.parameters()).device
    model.eval()
    probabilities, perturbations = [], []
    with frozen(model):
        for label in range(clean_set.num_classes):
            search_on, judge_on = _halves_of_other_labels(clean_set, label, samples, seed)
            inputs = as_input(clean_set.images[search_on], device)
            found = _search(model, inputs, label, start.to(device), perturb, radius, steps, mixed_precision)
            with torch.no_grad(), autocast(device, mixed_precision):
                logits = model(perturb(as_input(clean_set.images[judge_on], device), found))
            probabilities.append(logits.float().softmax(dim=1)[:, label].mean().cpu())
            perturbations.append(found.cpu())
            if on_batch is not None:
                on_batch(len(search_on) * steps + len(judge_on))
    return Attraction(torch.stack(probabilities), torch.cat(perturbations))


def _halves_of_other_labels(clean_set: ImageSet, label: int, samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Positions of two disjoint random halves of the samples that do not have ``label``."""
    others = (clean_set.labels != label).nonzero().flatten()
    count = min(2 * samples, len(others))
    drawn = others[draw(clean_set.sample_ids[others], count, seed=seed, purpose="attraction")]
    return drawn[::2], drawn[1::2]


def _search(
    model: nn.Module,
    inputs: Tensor,
    label: int,
    start: Tensor,
    perturb: Perturb,
    radius: float,
    steps: int,
    mixed_precision: bool,
) -> Tensor:
    """Descend from ``start`` towards ``label``; the step size falls linearly to zero. Returns ``start``'s shape."""
    perturbation = start
    target = torch.full((len(inputs),), label, device=inputs.device)
    for step in range(steps):
        perturbation.requires_grad_(True)
        with torch.enable_grad():
            with autocast(inputs.device, mixed_precision):
                logits = model(perturb(inputs, perturbation))
            (grad,) = torch.autograd.grad(functional.cross_entropy(logits.float(), target), perturbation)
        step_size = 0.5 * radius * (1 - step / steps)
        perturbation = within_norm(perturbation.detach() - step_size * unit(grad), radius)
    return perturbation
