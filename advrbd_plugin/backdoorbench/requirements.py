"""The packages of the extra ``advrbd_plugin[backdoorbench]``, which BackdoorBench's scripts import."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager

from advrbd_plugin.errors import AdvrBDError

INSTALL_REQUIREMENTS = "pip install 'advrbd_plugin[backdoorbench]'"
IMPORTED = (
    "cv2",
    "imageio",
    "kornia",
    "numba",
    "pandas",
    "pytorch_wavelets",
    "pywt",
    "scipy",
    "skimage",
    "sklearn",
    "statsmodels",
    "tabulate",
    "tqdm",
)


def missing_requirements() -> list[str]:
    """The modules that BackdoorBench's scripts import and this installation lacks; nothing is imported."""
    return [name for name in IMPORTED if importlib.util.find_spec(name) is None]


@contextmanager
def explained_requirements() -> Iterator[None]:
    """Turn a failed import of such a module into an error that says how to install it. Also a decorator.

    A script that needs no missing module runs on.

    Raises:
        AdvrBDError: instead of a ModuleNotFoundError for a missing module.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = missing_requirements()
        if (error.name or "").partition(".")[0] not in missing:
            raise
        raise AdvrBDError(
            f"BackdoorBench's scripts import {', '.join(missing)}, which this installation lacks: "
            f"{INSTALL_REQUIREMENTS}"
        ) from error
