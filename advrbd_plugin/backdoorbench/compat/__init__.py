"""Patches that let BackdoorBench's scripts, written for torch 1.11 and NumPy 1.19, run on today's libraries.

They change this process alone; the checkout stays as it is. ``advrbd backdoorbench run`` applies the patches that a
script needs and then runs it as Python would.
"""

from __future__ import annotations

from collections.abc import Collection

from advrbd_plugin.backdoorbench.compat import arrays, loading, packages, torch_devices
from advrbd_plugin.backdoorbench.compat.loading import trust_every_pickle, use_local_data
from advrbd_plugin.backdoorbench.compat.patch import Patch

__all__ = [
    "PATCHES",
    "PATCH_OF",
    "Patch",
    "apply_patches",
    "apply_patches_for_modules",
    "trust_every_pickle",
    "use_local_data",
]

PATCHES: tuple[Patch, ...] = (
    loading.RECORD_TYPES,
    arrays.NUMPY_NAMES,
    arrays.RAGGED_ARRAYS,
    arrays.NUMPY_LIB_PAD,
    packages.PKG_RESOURCES,
    arrays.DATAFRAME_APPEND,
    packages.GRAD_CAM_USE_CUDA,
    arrays.GAUSSIAN_MULTICHANNEL,
    packages.OLD_BCHLIB,
    loading.FLOAT_NUM_WORKERS,
    torch_devices.CUDA_ON_CPU,
    torch_devices.QUIET_AMP,
)
PATCH_OF = {patch.name: patch for patch in PATCHES}


def apply_patches(source: str = "", *, leave_out: Collection[str] = ()) -> list[Patch]:
    """Apply the patches that this installation and a script with this ``source`` need; return them.

    Args:
        source: the script's text; patches for modules that it does not import are left out.
        leave_out: names of patches that are not wanted.
    """
    wanted = [patch for patch in PATCHES if patch.name not in leave_out and patch.importer in source]
    applied = [patch for patch in wanted if patch.needed()]
    for patch in applied:
        patch.apply()
    return applied


def apply_patches_for_modules() -> None:
    """Apply the patches that the toolbox's modules need when this package calls them.

    This package chooses devices by itself, so the patch that redirects CUDA calls would only cost time.
    """
    apply_patches(leave_out=(torch_devices.CUDA_ON_CPU.name,))
