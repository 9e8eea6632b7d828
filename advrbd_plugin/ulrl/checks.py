"""Checks of a repair's inputs: the model's weights and the clean samples."""

from __future__ import annotations

import torch
from torch import nn

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.errors import AdvrBDError

_NAMED_CLASSES = 5


def check_weights(model: nn.Module) -> None:
    """Raise AdvrBDError if a weight or buffer of the model is NaN or infinite; the message names it."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            broken = int((~torch.isfinite(tensor)).sum())
            raise AdvrBDError(
                f"the model's {name} holds {broken} values that are NaN or infinite: give a fully trained model"
            )


def check_clean_set(clean_set: ImageSet, num_outputs: int) -> None:
    """Raise AdvrBDError unless every class has a sample and the model has an output for each class."""
    if num_outputs != clean_set.num_classes:
        raise AdvrBDError(f"the model has {num_outputs} classes, the clean samples {clean_set.num_classes}")
    if len(clean_set) < clean_set.num_classes:
        raise AdvrBDError(
            f"a repair needs at least one clean sample of each of the {clean_set.num_classes} classes, got "
            f"{len(clean_set)} samples"
        )
    empty = (clean_set.class_counts() == 0).nonzero().flatten().tolist()
    if empty:
        names = ", ".join(repr(clean_set.class_names[label]) for label in empty[:_NAMED_CLASSES])
        more = f" and {len(empty) - _NAMED_CLASSES} more" if len(empty) > _NAMED_CLASSES else ""
        raise AdvrBDError(f"there is no clean sample of the class {names}{more}: give at least one of each class")
