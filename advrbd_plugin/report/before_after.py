"""What the models make of the user's own pictures, before and after the defense."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from advrbd_plugin.report.record import RunRecord

if TYPE_CHECKING:
    from torch import nn

    from advrbd_plugin.data.image_set import ImageSet

_ASKED = 2000  # pictures of each kind: enough for a per cent or two


def before_and_after(record: RunRecord) -> dict[str, Any]:
    """Shares of the user's own pictures that each model gives their label; ready for JSON.

    The pictures are those that the models were trained on. At most 2,000 of each kind are asked, evenly spread.

    Returns:
        ``trusted_images`` and ``poisoned_images`` (how many were asked), and for ``before`` (trained on everything)
        and ``after`` (the final model; missing for a scan) the shares ``trusted_accuracy`` and
        ``poisoned_given_label``, each ``None`` where there is no such picture.
    """
    verdicts, defended = record.result.verdicts, record.defended
    trusted, poisoned = _spread(verdicts.trusted), _spread(verdicts.poisoned)
    models = {"before": record.result.backdoored_model}
    if defended is not None and defended.is_retrained:
        models["after"] = defended.model
    figures: dict[str, Any] = {"trusted_images": len(trusted), "poisoned_images": len(poisoned)}
    for name, model in models.items():
        figures[name] = {
            "trusted_accuracy": _share(model, record.image_set, trusted),
            "poisoned_given_label": _share(model, record.image_set, poisoned),
        }
    return figures


def _spread(flags: Tensor) -> Tensor:
    """Positions of at most 2,000 of the flagged samples, evenly spread."""
    found = flags.nonzero().flatten()
    if len(found) <= _ASKED:
        return found
    return found[torch.linspace(0, len(found) - 1, _ASKED, dtype=torch.float64).round().long()]


def _share(model: nn.Module, images: ImageSet, positions: Tensor) -> float | None:
    from advrbd_plugin.nn.inference import accuracy

    if not len(positions):
        return None
    return accuracy(model, images.images[positions], images.labels[positions], mixed_precision=False)
