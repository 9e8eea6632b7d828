"""AdvrBD: a clean model and a list of poisoned samples, from a poisoned dataset alone.

>>> import torch
>>> from advrbd_plugin import AdvrBD, AdvrBDConfig, ImageSet, make_model
>>> images = torch.randint(256, (40, 3, 8, 8), dtype=torch.uint8)  # yours: uint8 (N, C, H, W)
>>> train_set = ImageSet(images, torch.arange(40) % 2, ("cat", "dog"))  # labels: int64 (N,)
>>> quick = AdvrBDConfig(epochs=1, patch_size=4, mixed_precision=False)  # or AdvrBDConfig.preset("robust")
>>> defense = AdvrBD(lambda: make_model("resnet_narrow", num_classes=2, image_size=8), quick)
>>> scan = defense.scan(train_set)  # or fit, which also trains a clean model
>>> len(scan.verdicts.poisoned), scan.table().columns[-2:].tolist()
(40, ['probability', 'suggested_label'])
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # as typing has it, whose import would put off the moment from which Ctrl-C is handled
if TYPE_CHECKING:
    from typing import Any

    from advrbd_plugin import ops as ops
    from advrbd_plugin.data.image_set import ImageSet as ImageSet
    from advrbd_plugin.defense.config import AdvrBDConfig as AdvrBDConfig
    from advrbd_plugin.defense.detector import PoisonDetector as PoisonDetector
    from advrbd_plugin.defense.paper import partition as partition
    from advrbd_plugin.defense.pipeline import AdvrBD as AdvrBD
    from advrbd_plugin.defense.result import AdvrBDResult as AdvrBDResult
    from advrbd_plugin.defense.result import AdvrBDScan as AdvrBDScan
    from advrbd_plugin.defense.result import BackdooredModel as BackdooredModel
    from advrbd_plugin.defense.scoring import consistency_scores as consistency_scores
    from advrbd_plugin.errors import AdvrBDError as AdvrBDError
    from advrbd_plugin.nn.classifier import ImageClassifier as ImageClassifier
    from advrbd_plugin.nn.model_file import load_model as load_model
    from advrbd_plugin.nn.models import make_model as make_model
    from advrbd_plugin.report.from_python import write_report as write_report
    from advrbd_plugin.ulrl import ULRL as ULRL
    from advrbd_plugin.ulrl import ULRLConfig as ULRLConfig

__version__ = "0.2.0"

# Name -> module; each is imported when first asked for, so that importing the package needs only torch and numpy.
_PUBLIC = {
    "AdvrBD": "advrbd_plugin.defense.pipeline",
    "AdvrBDConfig": "advrbd_plugin.defense.config",
    "AdvrBDError": "advrbd_plugin.errors",
    "AdvrBDResult": "advrbd_plugin.defense.result",
    "AdvrBDScan": "advrbd_plugin.defense.result",
    "BackdooredModel": "advrbd_plugin.defense.result",
    "ImageClassifier": "advrbd_plugin.nn.classifier",
    "ImageSet": "advrbd_plugin.data.image_set",
    "PoisonDetector": "advrbd_plugin.defense.detector",
    "ULRL": "advrbd_plugin.ulrl",
    "ULRLConfig": "advrbd_plugin.ulrl",
    "consistency_scores": "advrbd_plugin.defense.scoring",
    "load_model": "advrbd_plugin.nn.model_file",
    "make_model": "advrbd_plugin.nn.models",
    "partition": "advrbd_plugin.defense.paper",
    "ops": "advrbd_plugin.ops",
    "write_report": "advrbd_plugin.report.from_python",
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


class _OpsAfterTorch:
    """Registers ``torch.ops.advrbd`` as soon as torch is imported.

    Whoever imports this package has the ops without asking for them, and the command line, which imports it first of
    all, can show its help without loading torch.
    """

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "torch":
            return None
        from importlib import import_module
        from importlib.util import find_spec

        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_with_ops(module: Any) -> None:
                load(module)
                import_module("advrbd_plugin.ops")

            spec.loader.exec_module = load_with_ops  # type: ignore[method-assign]
        return spec


if "torch" in sys.modules:
    from advrbd_plugin import ops as _ops  # noqa: F401
else:
    sys.meta_path.insert(0, _OpsAfterTorch())
