"""Patches of smaller packages: setuptools' pkg_resources, grad-cam and bchlib."""

from __future__ import annotations

import importlib.util
import sys
import types
from typing import Any

from advrbd_plugin.backdoorbench.compat.patch import Patch


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _lacks_pkg_resources() -> bool:
    return "pkg_resources" not in sys.modules and not _has("pkg_resources")


def _stand_in_for_pkg_resources() -> None:
    """Offer the two functions that the toolbox's dependencies use, on top of importlib.resources."""
    from importlib.resources import files

    def package_of(name: str) -> str:
        spec = importlib.util.find_spec(name)
        return name if spec is None or spec.submodule_search_locations else name.rpartition(".")[0]

    module: Any = types.ModuleType("pkg_resources", "advrbd_plugin's stand-in for setuptools' pkg_resources")
    module.resource_stream = lambda package, name: files(package_of(package)).joinpath(name).open("rb")
    module.resource_filename = lambda package, name: str(files(package_of(package)).joinpath(name))
    sys.modules["pkg_resources"] = module


def _has_grad_cam() -> bool:
    return _has("pytorch_grad_cam")


def _accept_use_cuda_in_grad_cam() -> None:
    from pytorch_grad_cam.base_cam import BaseCAM
    from pytorch_grad_cam.grad_cam import GradCAM

    if "use_cuda" in GradCAM.__init__.__code__.co_varnames:
        return

    def with_use_cuda(self: Any, model: Any, target_layers: Any, use_cuda: Any = None, **options: Any) -> None:
        BaseCAM.__init__(self, model, target_layers, **options)

    GradCAM.__init__ = with_use_cuda


def _bchlib_lacks_decode_inplace() -> bool:
    if not _has("bchlib"):
        return False
    import bchlib

    return not hasattr(bchlib.BCH, "decode_inplace")


def _restore_old_bchlib() -> None:
    import bchlib

    class BCH(bchlib.BCH):  # type: ignore[misc]  # bchlib has no types
        """Takes (polynomial, t) in the old order and decodes in place."""

        def __init__(self, polynomial: int, t: int) -> None:
            super().__init__(t, polynomial)

        def decode_inplace(self, data: bytearray, ecc: bytearray) -> int:
            errors = int(self.decode(data, ecc))
            if errors > 0:
                self.correct(data, ecc)
            return max(errors, -1)

    if _bchlib_lacks_decode_inplace():
        bchlib.BCH = BCH


PKG_RESOURCES = Patch(
    name="pkg-resources",
    broken_by="setuptools 81",
    symptom="pytorch_wavelets imports pkg_resources, so every attack script stops at import",
    apply=_stand_in_for_pkg_resources,
    needed=_lacks_pkg_resources,
)
GRAD_CAM_USE_CUDA = Patch(
    name="grad-cam-use-cuda",
    broken_by="grad-cam 1.5",
    symptom="GradCAM(use_cuda=...) is gone, so sentinet stops",
    apply=_accept_use_cuda_in_grad_cam,
    needed=_has_grad_cam,
    importer="pytorch_grad_cam",
)
OLD_BCHLIB = Patch(
    name="old-bchlib",
    broken_by="bchlib 1.0",
    symptom="BCH(polynomial, t) changed its order and lost decode_inplace, so resource/ssba stops",
    apply=_restore_old_bchlib,
    needed=_bchlib_lacks_decode_inplace,
    importer="generate_fingerprints",
)
