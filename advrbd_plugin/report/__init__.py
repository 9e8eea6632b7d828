"""What a run writes: the model, a verdict on every sample, tables, pictures and one page to read."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from advrbd_plugin.nn.description import ModelDescription
    from advrbd_plugin.nn.model_file import load_model, save_model
    from advrbd_plugin.report.output import OutputFolder
    from advrbd_plugin.report.record import RunRecord

# Name -> module; each is imported when first asked for, since report.text serves those who must not import torch.
_PUBLIC = {
    "ModelDescription": "advrbd_plugin.nn.description",
    "OutputFolder": "advrbd_plugin.report.output",
    "RunRecord": "advrbd_plugin.report.record",
    "load_model": "advrbd_plugin.nn.model_file",
    "save_model": "advrbd_plugin.nn.model_file",
}

__all__ = ["ModelDescription", "OutputFolder", "RunRecord", "load_model", "save_model"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
