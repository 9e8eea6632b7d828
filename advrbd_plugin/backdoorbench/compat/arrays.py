"""Patches of NumPy, pandas and scikit-image: names and arguments that newer versions dropped."""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

from advrbd_plugin.backdoorbench.compat.patch import Patch


def _old_numpy_names() -> dict[str, Any]:
    """The aliases of Python's types that NumPy 1.24 dropped, and the second names that 2.0 dropped."""
    import numpy

    infinity, not_a_number = float("inf"), float("nan")
    types_of_python = {"float": float, "int": int, "object": object}
    constants = {"infty": infinity, "Inf": infinity, "NaN": not_a_number}
    return types_of_python | constants | {"float_": numpy.float64, "round_": numpy.round}


def _numpy_lacks_old_names() -> bool:
    import numpy

    return any(name not in vars(numpy) for name in _old_numpy_names())


def _restore_numpy_names() -> None:
    import numpy

    for name, value in _old_numpy_names().items():
        vars(numpy).setdefault(name, value)


def _make_ragged_arrays_again() -> None:
    import numpy

    original: Any = numpy.asarray
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def asarray(content: Any, dtype: Any = None, *arguments: Any, **options: Any) -> Any:
        try:
            return original(content, dtype, *arguments, **options)
        except ValueError as error:
            if dtype is not None or "inhomogeneous" not in str(error):
                raise
            return original(content, object, *arguments, **options)

    vars(numpy)["asarray"] = asarray


def _numpy_lib_lacks_pad() -> bool:
    import numpy

    return not hasattr(numpy.lib, "pad")


def _restore_numpy_lib_pad() -> None:
    import numpy

    vars(numpy.lib)["pad"] = numpy.pad


def _pandas_lacks_append() -> bool:
    import pandas

    return not hasattr(pandas.DataFrame, "append")


def _restore_dataframe_append() -> None:
    import pandas

    def append(self: Any, other: Any, ignore_index: bool = False) -> Any:
        frame = other if isinstance(other, pandas.DataFrame) else pandas.DataFrame([other])
        return pandas.concat([self, frame], ignore_index=ignore_index)

    pandas.DataFrame.append = append  # type: ignore[attr-defined]  # no stub has it


def _has_skimage() -> bool:
    return importlib.util.find_spec("skimage") is not None


def _accept_multichannel_in_gaussian() -> None:
    from skimage import filters

    original: Any = filters.gaussian
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def gaussian(*arguments: Any, multichannel: bool | None = None, **options: Any) -> Any:
        if multichannel is not None:
            options["channel_axis"] = -1 if multichannel else None
        return original(*arguments, **options)

    filters.gaussian = gaussian


NUMPY_NAMES = Patch(
    name="numpy-names",
    broken_by="NumPy 1.24 and 2.0",
    symptom="np.float stops lf, trojannn, ftrojann; np.round_ bpp, np.float_ teco, np.infty clp's plots",
    apply=_restore_numpy_names,
    needed=_numpy_lacks_old_names,
)
RAGGED_ARRAYS = Patch(
    name="ragged-arrays",
    broken_by="NumPy 1.24",
    symptom="the defense ac passes lists of different lengths, one per class, to np.asarray",
    apply=_make_ragged_arrays_again,
)
NUMPY_LIB_PAD = Patch(
    name="numpy-lib-pad",
    broken_by="NumPy 2.0",
    symptom="refool stops at np.lib.pad",
    apply=_restore_numpy_lib_pad,
    needed=_numpy_lib_lacks_pad,
)
DATAFRAME_APPEND = Patch(
    name="dataframe-append",
    broken_by="pandas 2.0",
    symptom="DataFrame.append is gone, so dbd stops at its first log line",
    apply=_restore_dataframe_append,
    needed=_pandas_lacks_append,
)
GAUSSIAN_MULTICHANNEL = Patch(
    name="gaussian-multichannel",
    broken_by="scikit-image 0.21",
    symptom="gaussian(multichannel=...) is gone, so imagecorruptions' blurs, and with them teco, stop",
    apply=_accept_multichannel_in_gaussian,
    needed=_has_skimage,
    importer="imagecorruptions",
)
