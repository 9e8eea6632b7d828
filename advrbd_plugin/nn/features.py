"""What a classifier sees in an image: just before it decides, and on the way there."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.nn.inference import EVALUATION_BATCH_SIZE, predict
from advrbd_plugin.nn.transfer import Results
from advrbd_plugin.processes import current

_EARLIER_MAPS = 2


def penultimate_features(
    model: nn.Module, images: Tensor, *, mixed_precision: bool = True, on_batch: Callable[[int], None] | None = None
) -> tuple[Tensor, Tensor]:
    """The input of the model's last linear layer, whatever the architecture calls it.

    Args:
        model: from (N, C, H, W) float images in pixel scale [0, 1] to (N, num_classes) logits.
        images: (N, C, H, W) uint8.
        on_batch: called with the size of each batch that is done.

    Returns:
        (N, num_features) float32 features and (N, num_classes) float32 logits, both on the CPU.

    Raises:
        AdvrBDError: the model has no linear layer, or a logit is not finite.
    """
    features, logits = _own_penultimate_features(model, images, mixed_precision, on_batch)
    return _merge(features, len(images)), logits


def _own_penultimate_features(
    model: nn.Module, images: Tensor, mixed_precision: bool, on_batch: Callable[[int], None] | None
) -> tuple[Tensor, Tensor]:
    """The features of this process's share of the images, and the logits of all."""
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise AdvrBDError("the model has no linear layer, so there are no features to compare; use another model")
    caught = Results()
    hook = linear[-1].register_forward_pre_hook(lambda _, inputs: caught.add(inputs[0].flatten(1).float()))
    try:
        logits = predict(model, images, mixed_precision=mixed_precision, on_batch=on_batch)
    finally:
        hook.remove()
    return caught.whole() if caught else torch.empty(0, linear[-1].in_features), logits


def layered_features(
    model: nn.Module, images: Tensor, *, mixed_precision: bool = True, on_batch: Callable[[int], None] | None = None
) -> tuple[Tensor, Tensor]:
    """The penultimate features beside the last feature maps at the two resolutions before.

    A trigger that the last layers have mixed with the label's own features can still stand apart earlier. Feature maps
    are averaged over their positions, and each layer is scaled to a mean standard deviation of 1, so that none drowns
    the others. A model whose modules give no feature maps (a transformer) has its penultimate features alone.

    Args, raises: as :func:`penultimate_features`.

    Returns:
        (N, num_features) float32 features and (N, num_classes) float32 logits, both on the CPU.
    """
    maps: dict[tuple[int, int], Tensor] = {}
    layers: list[Results] = []

    def keep(_module: nn.Module, _inputs: tuple[Tensor, ...], output: object) -> None:
        if isinstance(output, Tensor) and output.dim() == 4:
            size = (output.shape[2], output.shape[3])
            maps.pop(size, None)  # the last one of a size counts, and stands where it was met
            maps[size] = output.detach().float().mean(dim=(2, 3))

    def end_of_batch(_module: nn.Module, _inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        # The last map but one of those larger than a pixel: the last is averaged into the penultimate features.
        earlier = [pooled for size, pooled in maps.items() if size != (1, 1)][-_EARLIER_MAPS - 1 : -1]
        maps.clear()
        layers.extend(Results() for _ in earlier[len(layers) :])
        for layer, pooled in zip(layers, earlier):
            layer.add(pooled)

    leaves = [module for module in model.modules() if not list(module.children())]
    hooks = [module.register_forward_hook(keep) for module in leaves]
    hooks.append(model.register_forward_hook(end_of_batch))
    try:
        features, logits = _own_penultimate_features(model, images, mixed_precision, on_batch)
    finally:
        for hook in hooks:
            hook.remove()
    own = [*(layer.whole() for layer in layers), features]
    own_widths = [layer.shape[1] for layer in own]
    joined = torch.cat(own, dim=1)
    layers.clear()
    del own, features  # of a large set they take as much memory again
    whole, widths = _merge(joined, len(images)), current().receive(lambda: own_widths)
    for layer in whole.split(widths, dim=1):
        _scale_to_unit_spread(layer)
    return whole, logits


def _merge(own: Tensor, count: int) -> Tensor:
    """The features of all ``count`` images from those of each process's share."""
    return current().share(count, EVALUATION_BATCH_SIZE).merge(own)


def _scale_to_unit_spread(layer: Tensor) -> None:
    """Change (N, F) features in place to mean 0 and, on the average of all, standard deviation 1."""
    spread = layer.std(dim=0, correction=0).mean() if len(layer) else layer.new_ones(())
    layer.sub_(layer.mean(dim=0)).div_(spread.clamp_min(1e-12))
