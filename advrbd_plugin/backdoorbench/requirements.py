"""What BackdoorBench's scripts import and the extra ``advrbd_plugin[backdoorbench]`` brings: what of it is missing."""

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
    """The modules that BackdoorBench's scripts import and this installation lacks. Nothing is imported to see it."""
    return [name for name in IMPORTED if importlib.util.find_spec(name) is None]


@contextmanager
def explained_requirements() -> Iterator[None]:
    """Turn the failed import of such a module into the line that says how to install them. Also a decorator.

    A script that needs none of what is missing is not held up.

    Raises:
        AdvrBDError: in place of a ModuleNotFoundError for one of the missing modules.
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
