"""AdvrBD: a clean model and a list of poisoned samples, from a poisoned dataset alone.

>>> from advrbd_plugin import AdvrBD, AdvrBDConfig, ImageSet, make_model
>>> train_set = ImageSet(images, labels, class_names)          # uint8 (N, C, H, W), int64 (N,)
>>> defense = AdvrBD(lambda: make_model("resnet_narrow", num_classes=10), AdvrBDConfig.preset("robust"))
>>> result = defense.fit(train_set)
>>> result.model, result.verdicts.poisoned, result.suspected_classes
"""

from __future__ import annotations

TYPE_CHECKING = False  # as typing has it, whose import would put off the moment from which Ctrl-C is handled
if TYPE_CHECKING:
    from typing import Any

__version__ = "0.2.0"

# Name -> module; each is imported when first asked for, so that importing the package needs only torch and numpy.
_PUBLIC = {
    "AdvrBD": "advrbd_plugin.defense.pipeline",
    "AdvrBDConfig": "advrbd_plugin.defense.config",
    "AdvrBDError": "advrbd_plugin.errors",
    "AdvrBDResult": "advrbd_plugin.defense.result",
    "BackdooredModel": "advrbd_plugin.defense.result",
    "ImageSet": "advrbd_plugin.data.image_set",
    "ULRL": "advrbd_plugin.ulrl",
    "ULRLConfig": "advrbd_plugin.ulrl",
    "consistency_scores": "advrbd_plugin.defense.scoring",
    "make_model": "advrbd_plugin.nn.models",
    "partition": "advrbd_plugin.defense.paper",
    "ops": "advrbd_plugin.ops",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    module = import_module(_PUBLIC[name])
    return module if _PUBLIC[name] == f"{__name__}.{name}" and name == "ops" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
