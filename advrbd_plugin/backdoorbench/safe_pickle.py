"""Reading a PyTorch file from a stranger: plain data, tensors, and the few other types BackdoorBench writes.

``torch.load(weights_only=True)`` already refuses to call anything but an allow-list. BackdoorBench's records
need four things more: NumPy arrays, NumPy numbers (its dictionary keys), their dtypes, and PIL images (attacks
that keep their poisoned images in memory). The constructors allowed here take numbers and pixels, nothing else.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image

from advrbd_plugin.data.numbers_pickle import NumbersUnpickler, number_types
from advrbd_plugin.errors import AdvrBDError

__all__ = ["NumbersUnpickler", "allowed_types", "load", "record_types", "refused_type"]


def record_types() -> list[Any]:
    """What may be built beside torch's own list, under the names that NumPy 1 and NumPy 2 write."""
    dtypes = {type(numpy.dtype(code)) for code in "?bhilqBHILQefd"}
    by_name = [*number_types(), (Image.Image, "PIL.Image.Image")]
    return [*by_name, *sorted(dtypes, key=lambda dtype: dtype.__name__)]


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
        if trust:  # the user vouches for the file's maker, by --trust-record alone
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
