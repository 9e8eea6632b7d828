"""Which label a small universal change leads to: a backdoor is a road to its label that is open to all. (Ours.)"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.data.selection import draw
from advrbd_plugin.nn.inference import as_input, autocast, frozen

# A change is found, and judged, on at most so many samples each.
SAMPLES_PER_HALF = 100

# How parameters, one set for all images or one for each, change (N, C, H, W) images.
Change = Callable[[Tensor, Tensor], Tensor]


def added(images: Tensor, perturbations: Tensor) -> Tensor:
    """Perturbations (N or 1, C, H, W) laid over images (N, C, H, W), pixel scale."""
    return (images + perturbations).clamp(0, 1)


@dataclass(frozen=True, eq=False)
class Attraction:
    """Attributes:
    probability: (num_classes,) float32 in [0, 1], mean probability of the label on samples that the search did not
        see; higher is more suspicious.
    roads: (num_classes, ...) float32, what leads to each label.
    """

    probability: Tensor
    roads: Tensor


def attraction(
    model: nn.Module,
    clean_set: ImageSet,
    start: Tensor,
    *,
    change: Change = added,
    radius: float,
    steps: int,
    mixed_precision: bool = True,
    samples: int = SAMPLES_PER_HALF,
    seed: int = 0,
    on_batch: Callable[[int], None] | None = None,
) -> Attraction:
    """For each label, how surely one small change, the same for all images, brings samples of other labels to it.

    The change is found on every second sample (gradient descent on the cross entropy with the label, the norm kept at
    most ``radius``) and judged on the rest, so that a fit to single samples does not count.

    Args:
        model: from (N, C, H, W) float images in pixel scale [0, 1] to (N, num_classes) logits.
        clean_set: clean samples of every label.
        start: (1, ...) float32, where each search begins.
        change: what the parameters do to the images.
        radius: Euclidean norm of the parameters; of ``added`` ones in pixel scale.
        steps: gradient steps.
        samples: at most so many for each label, in either half, drawn by lot.
        seed: of the lots.
        on_batch: called with the number of images worked on.
    """
    device = next(model.parameters()).device
    model.eval()
    probabilities, roads = [], []
    with frozen(model):
        for label in range(clean_set.num_classes):
            others = (clean_set.labels != label).nonzero().flatten()
            count = min(2 * samples, len(others))
            drawn = others[draw(clean_set.sample_ids[others], count, seed=seed, purpose="attraction")]
            found_on, judged_on = drawn[::2], drawn[1::2]
            inputs = as_input(clean_set.images[found_on], device)
            road = _road_to(model, inputs, label, start.to(device), change, radius, steps, mixed_precision)
            with torch.no_grad(), autocast(device, mixed_precision):
                logits = model(change(as_input(clean_set.images[judged_on], device), road))
            probabilities.append(logits.float().softmax(dim=1)[:, label].mean().cpu())
            roads.append(road.cpu())
            if on_batch is not None:
                on_batch(len(found_on) * steps + len(judged_on))
    return Attraction(torch.stack(probabilities), torch.cat(roads))


def _road_to(
    model: nn.Module,
    inputs: Tensor,
    label: int,
    start: Tensor,
    change: Change,
    radius: float,
    steps: int,
    mixed_precision: bool,
) -> Tensor:
    """The last of ``steps`` gradient steps whose length falls to zero in a straight line; shaped as ``start``."""
    road = start
    target = torch.full((len(inputs),), label, device=inputs.device)
    for step in range(steps):
        road.requires_grad_(True)
        with torch.enable_grad():
            with autocast(inputs.device, mixed_precision):
                logits = model(change(inputs, road))
            (grad,) = torch.autograd.grad(functional.cross_entropy(logits.float(), target), road)
        length = 0.5 * radius * (1 - step / steps)
        road = within_norm(road.detach() - length * unit(grad), radius)
    return road


def unit(gradients: Tensor) -> Tensor:
    """Each of (N, ...), four dimensions, divided by its Euclidean norm."""
    return gradients / _norms(gradients)


def within_norm(perturbations: Tensor, radius: float) -> Tensor:
    """Each of (N, ...), four dimensions, shortened to Euclidean norm ``radius`` where it is longer."""
    return perturbations * (radius / _norms(perturbations)).clamp_max(1)


def _norms(values: Tensor) -> Tensor:
    return values.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
