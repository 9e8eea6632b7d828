"""Reading a PyTorch file from a stranger: plain data, tensors, and the few other types BackdoorBench writes.

``torch.load(weights_only=True)`` already refuses to call anything but an allow-list. BackdoorBench's records
need four things more: NumPy arrays, NumPy numbers (its dictionary keys), their dtypes, and PIL images (attacks
that keep their poisoned images in memory). The constructors allowed here take numbers and pixels, nothing else.
"""

from __future__ import annotations

import codecs
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image

from advrbd_plugin.errors import AdvrBDError

_NUMERIC_KINDS = frozenset("biuf")  # bool, int, unsigned int, float: never object, text or records


def _numeric_dtype(*arguments: Any) -> numpy.dtype:
    dtype = numpy.dtype(*arguments)
    if dtype.kind not in _NUMERIC_KINDS:
        raise pickle.UnpicklingError(f"Unsupported global: GLOBAL numpy.dtype({dtype.str}) holds no numbers")
    return dtype


def _number(dtype: numpy.dtype, content: bytes) -> numpy.generic:
    return numpy.frombuffer(content, dtype=_numeric_dtype(dtype), count=1)[0]


def _empty_array(kind: type, shape: tuple[int, ...], dtype: Any) -> numpy.ndarray:
    if kind is not numpy.ndarray:
        raise pickle.UnpicklingError(f"Unsupported global: GLOBAL {kind!r} is no NumPy array")
    return numpy.empty((0,), dtype=numpy.int8)  # its shape, dtype and numbers come with its state


def record_types() -> list[Any]:
    """What may be built beside torch's own list, under the names that NumPy 1 and NumPy 2 write."""
    dtypes = {type(numpy.dtype(code)) for code in "?bhilqBHILQefd"}
    by_name = [
        (_numeric_dtype, "numpy.dtype"),
        (numpy.ndarray, "numpy.ndarray"),
        *((_number, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
        *((_empty_array, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
        (Image.Image, "PIL.Image.Image"),
    ]
    return [*by_name, *sorted(dtypes, key=lambda dtype: dtype.__name__)]


class NumbersUnpickler(pickle.Unpickler):
    """An ordinary pickle's reader that builds plain data and NumPy's numbers only (CIFAR's batches are such)."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for ``module.name``; raises UnpicklingError outside the allow-list."""
        if (module, name) == ("_codecs", "encode"):
            return codecs.encode
        for entry in record_types():
            if isinstance(entry, tuple) and entry[1] == f"{module}.{name}":
                return entry[0]
        raise pickle.UnpicklingError(f"Unsupported global: GLOBAL {module}.{name}")


@contextmanager
def allowed_types() -> Iterator[None]:
    """Within this context ``torch.load(weights_only=True)`` also builds what BackdoorBench's records hold."""
    with torch.serialization.safe_globals(record_types()):
        yield


def refused_type(error: pickle.UnpicklingError) -> str | None:
    """The type that a refusal of ``torch.load`` names, or ``None`` if the file is broken in another way."""
    found = re.search(r"(?:GLOBAL|unrecognized function|but got) ([^\s,]+)", str(error))
    return found.group(1).rstrip(".") if found else None


def load(path: Path, *, trust: bool = False) -> Any:
    """Read ``path`` onto the CPU.

    Args:
        trust: build whatever the file says, which can run any code that its maker put there.

    Raises:
        AdvrBDError: the file is missing, is no PyTorch file, or holds a type outside the allow-list.
    """
    try:
        if trust:
            return torch.load(path, map_location="cpu", weights_only=False)
        with allowed_types():
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise AdvrBDError(f"{path} does not exist") from None
    except pickle.UnpicklingError as error:
        name = refused_type(error)
        if name is None:
            raise AdvrBDError(f"{path} is no file that torch.save wrote") from error
        raise AdvrBDError(
            f"{path} holds {name}, which BackdoorBench does not write and which may run code when it is loaded; "
            "only if you know who made the file, pass --trust-record"
        ) from error
    except (RuntimeError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise AdvrBDError(f"{path} is no file that torch.save wrote, or is cut short") from error
