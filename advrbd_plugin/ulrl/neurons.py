"""A model's neurons: the output channels of its convolution, linear and attention layers, whatever the architecture calls them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.randomness import derive_seed

_MAD_TO_STANDARD_DEVIATION = 1.4826
_MEAN_DEVIATION_TO_STANDARD_DEVIATION = 1.2533


@dataclass(frozen=True, eq=False)
class LayerSuspicion:
    """What unlearning did to one layer.

    Attributes:
        layer: the module's name in the model.
        change: (num_neurons,) float32, summed absolute change of each neuron's weights.
        z_score: (num_neurons,) float32, robust; higher is more suspicious.
        suspicious: indices of the suspicious neurons, in the order in which they were chosen.
    """

    layer: str
    change: Tensor
    z_score: Tensor
    suspicious: tuple[int, ...]


def neuron_layers(model: nn.Module, which: str = "all") -> dict[str, nn.Module]:
    """Name -> layer of every convolution and linear layer, or of the last linear one alone.

    An ``nn.MultiheadAttention`` is one too: its queries, keys and values are rows of one packed weight.

    Args:
        which: ``all`` or ``last``.

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
        raise AdvrBDError(f"the model has no {wanted}, so there are no neurons to look at; use another model")
    return layers if which == "all" else dict([list(layers.items())[-1]])


def neuron_weight(layer: nn.Module) -> Tensor:
    """The weight of a layer of :func:`neuron_layers`, of which each row (first dimension) is a neuron."""
    return layer.in_proj_weight if isinstance(layer, nn.MultiheadAttention) else layer.weight


def _neuron_bias(layer: nn.Module) -> Tensor | None:
    return layer.in_proj_bias if isinstance(layer, nn.MultiheadAttention) else layer.bias


def _is_packed_attention(module: nn.Module) -> bool:
    # With keys or values of another size the three weights lie apart, and there is no packed one.
    return isinstance(module, nn.MultiheadAttention) and module.in_proj_weight is not None


def robust_z_scores(values: Tensor) -> Tensor:
    """Distance from the median in standard deviations, these estimated from the median absolute deviation.

    Where half of the values are equal (median absolute deviation 0) the mean absolute deviation takes its place
    (Iglewicz and Hoaglin, 1993); where all are equal every score is 0.

    Args:
        values: (N,) float.

    Returns:
        (N,) float, signed.
    """
    distance = values - values.quantile(0.5)
    scale = _MAD_TO_STANDARD_DEVIATION * distance.abs().quantile(0.5)
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
) -> tuple[LayerSuspicion, ...]:
    """The neurons whose weights unlearning changed far more than those of their layer's others.

    Args:
        before, after: the model as it was, and unlearned.
        which: the layers to look at, ``all`` or ``last``.
        threshold: a neuron is suspicious above this z-score.
        max_neurons: largest number of suspicious neurons in a layer; 0 for no limit.
        choose: where there are more, take the highest ``score`` or the first by ``index``.

    Returns:
        One entry for each layer, in the model's order.

    Raises:
        AdvrBDError: there is no such layer.
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
        found.append(LayerSuspicion(name, change, z_score, tuple(suspicious.tolist())))
    return tuple(found)


@torch.no_grad()
def reinitialise(model: nn.Module, suspicions: tuple[LayerSuspicion, ...], seed: int) -> None:
    """Give every suspicious neuron fresh weights in place: uniform in +-sqrt(2 / fan_in), bias 0.

    What a neuron gets depends on (seed, its layer's name, its index) alone.
    """
    layers = dict(model.named_modules())
    for each in suspicions:
        layer_weight, layer_bias = neuron_weight(layers[each.layer]), _neuron_bias(layers[each.layer])
        for index in each.suspicious:
            weight = layer_weight[index]
            bound = math.sqrt(2 / weight.numel())
            generator = torch.Generator().manual_seed(derive_seed(seed, "neuron", each.layer, index))
            fresh = torch.empty(weight.shape).uniform_(-bound, bound, generator=generator)
            weight.copy_(fresh)
            if layer_bias is not None:
                layer_bias[index] = 0
