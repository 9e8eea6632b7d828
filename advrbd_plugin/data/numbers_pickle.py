"""Reading an ordinary pickle from a stranger: plain data and NumPy's numbers (CIFAR's batches are such), nothing else.

The constructors allowed here take numbers and pixels; anything else stops before it is called.
"""

from __future__ import annotations

import codecs
import pickle
from typing import Any

import numpy

_NUMERIC_KINDS = frozenset("biuf")  # bool, int, unsigned int, float: never object, text or records


def numeric_dtype(*arguments: Any) -> numpy.dtype:
    """``numpy.dtype(*arguments)`` if it is one of numbers; raises UnpicklingError otherwise."""
    dtype = numpy.dtype(*arguments)
    if dtype.kind not in _NUMERIC_KINDS:
        raise pickle.UnpicklingError(f"Unsupported global: GLOBAL numpy.dtype({dtype.str}) holds no numbers")
    return dtype


def _number(dtype: numpy.dtype, content: bytes) -> numpy.generic:
    return numpy.frombuffer(content, dtype=numeric_dtype(dtype), count=1)[0]


def _empty_array(kind: type, shape: tuple[int, ...], dtype: Any) -> numpy.ndarray:
    if kind is not numpy.ndarray:
        raise pickle.UnpicklingError(f"Unsupported global: GLOBAL {kind!r} is no NumPy array")
    return numpy.empty((0,), dtype=numpy.int8)  # its shape, dtype and numbers come with its state


def number_types() -> list[tuple[Any, str]]:
    """(what stands for it, its name in the file) of all that may be built, as NumPy 1 and NumPy 2 write them."""
    return [
        (numeric_dtype, "numpy.dtype"),
        (numpy.ndarray, "numpy.ndarray"),
        *((_number, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
        *((_empty_array, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    ]


class NumbersUnpickler(pickle.Unpickler):
    """A pickle's reader that builds plain data and NumPy's numbers only."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for ``module.name``; raises UnpicklingError outside the allow-list."""
        if (module, name) == ("_codecs", "encode"):
            return codecs.encode
        for stands_for, written in number_types():
            if written == f"{module}.{name}":
                return stands_for
        raise pickle.UnpicklingError(f"Unsupported global: GLOBAL {module}.{name}")
