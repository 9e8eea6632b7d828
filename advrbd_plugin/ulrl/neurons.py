"""A model's neurons: the output channels of its convolution, linear and attention layers, found by layer type."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.randomness import derive_seed
from advrbd_plugin.statistics import median_and_deviation

_MEAN_DEVIATION_TO_STANDARD_DEVIATION = 1.2533


@dataclass(frozen=True, eq=False)
class LayerChange:
    """How unlearning changed the neurons of one layer.

    Attributes:
        layer: the module's name in the model.
        change: (num_neurons,) float32, summed absolute change of each neuron's weights.
        z_score: (num_neurons,) float32, robust z-score of ``change`` within the layer; higher is more suspicious.
        suspicious: indices of the suspicious neurons, in the order of choice.
    """

    layer: str
    change: Tensor
    z_score: Tensor
    suspicious: tuple[int, ...]


def neuron_layers(model: nn.Module, which: str = "all") -> dict[str, nn.Module]:
    """Find every convolution, linear and attention layer, or the last linear one alone.

    The neurons of an ``nn.MultiheadAttention`` are the rows of its packed query, key and value weight.

    Args:
        which: ``all`` or ``last``.

    Returns:
        Module name -> layer, in the model's order.

    Raises:
        AdvrBDError: the model has no such layer.
    """
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear) if which == "all" else (nn.Linear,)
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, kinds) or (which == "all" and _is_packed_attention(module))
    }
    if not layers:
        wanted = "convolution or linear layer" if which == "all" else "linear layer"
        raise AdvrBDError(f"the model has no {wanted}, so it has no neurons to check; use another model")
    return layers if which == "all" else dict([list(layers.items())[-1]])


def neuron_weight(layer: nn.Module) -> Tensor:
    """The weight of a layer of :func:`neuron_layers`; each row (first dimension) is one neuron."""
    weight = layer.in_proj_weight if isinstance(layer, nn.MultiheadAttention) else layer.weight
    assert isinstance(weight, Tensor)
    return weight


def _neuron_bias(layer: nn.Module) -> Tensor | None:
    bias = layer.in_proj_bias if isinstance(layer, nn.MultiheadAttention) else layer.bias
    assert bias is None or isinstance(bias, Tensor)
    return bias


def _is_packed_attention(module: nn.Module) -> bool:
    # With keys or values of another size, PyTorch keeps three weights and no packed one.
    return isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None


def robust_z_scores(values: Tensor) -> Tensor:
    """Robust z-scores: the distance from the median over 1.4826 median absolute deviations.

    Where the median absolute deviation is 0 the mean absolute deviation, times 1.2533, replaces it (Iglewicz and
    Hoaglin, 1993); where all values are equal every score is 0.

    Args:
        values: (N,) float.

    Returns:
        (N,) float, signed.
    """
    median, scale = median_and_deviation(values)
    distance = values - median
    if scale == 0:
        scale = _MEAN_DEVIATION_TO_STANDARD_DEVIATION * distance.abs().mean()
    return distance / scale if scale > 0 else torch.zeros_like(values)


def identify(
    before: nn.Module,
    after: nn.Module,
    *,
    which: str = "all",
    threshold: float = 3.5,
    max_neurons: int = 0,
    choose: str = "score",
) -> tuple[LayerChange, ...]:
    """Find the neurons that unlearning changed far more than the others of their layer (arXiv 2405.14781).

    Args:
        before, after: the model before and after unlearning.
        which: the layers to check, ``all`` or ``last``.
        threshold: a neuron is suspicious above this z-score.
        max_neurons: largest number of suspicious neurons in a layer; 0 for no limit.
        choose: where there are more, take those of the highest ``score`` or the first by ``index``.

    Returns:
        One entry per layer, in the model's order.

    Raises:
        AdvrBDError: the model has no such layer.
    """
    originals = neuron_layers(before, which)
    found = []
    for name, layer in neuron_layers(after, which).items():
        new, old = (neuron_weight(each).detach().float().cpu() for each in (layer, originals[name]))
        change = (new - old).abs().flatten(1).sum(dim=1)
        z_score = robust_z_scores(change)
        suspicious = (z_score > threshold).nonzero().flatten()
        if choose == "score":
            suspicious = suspicious[torch.argsort(z_score[suspicious], descending=True, stable=True)]
        if max_neurons:
            suspicious = suspicious[:max_neurons]
        found.append(LayerChange(name, change, z_score, tuple(suspicious.tolist())))
    return tuple(found)


@torch.no_grad()
def reinitialise(model: nn.Module, changes: tuple[LayerChange, ...], seed: int) -> None:
    """Reinitialise every suspicious neuron in place: weights uniform in +-sqrt(2 / fan_in), bias 0.

    The new weights of a neuron depend on (seed, layer name, index) alone.
    """
    layers = dict(model.named_modules())
    for each in changes:
        layer_weight, layer_bias = neuron_weight(layers[each.layer]), _neuron_bias(layers[each.layer])
        for index in each.suspicious:
            weight = layer_weight[index]
            bound = math.sqrt(2 / weight.numel())
            generator = torch.Generator().manual_seed(derive_seed(seed, "neuron", each.layer, index))
            fresh = torch.empty(weight.shape).uniform_(-bound, bound, generator=generator)
            weight.copy_(fresh)
            if layer_bias is not None:
                layer_bias[index] = 0
