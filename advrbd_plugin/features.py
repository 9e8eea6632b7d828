"""What a classifier sees in an image just before it decides."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.training import predict


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
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise AdvrBDError("the model has no linear layer, so there are no features to compare; use another model")
    caught: list[Tensor] = []
    hook = linear[-1].register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0].flatten(1).float().cpu()))
    try:
        logits = predict(model, images, mixed_precision=mixed_precision, on_batch=on_batch)
    finally:
        hook.remove()
    return torch.cat(caught) if caught else torch.empty(0, linear[-1].in_features), logits
