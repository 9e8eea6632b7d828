"""Reading a PyTorch file from a stranger with the errors and the one exception that BackdoorBench's scripts need.

The reader itself is :mod:`advrbd_plugin.data.torch_file`, which runs nothing that a file names.
"""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advrbd_plugin.data.pickle_reader import UnreadablePickle
from advrbd_plugin.data.torch_file import read_torch
from advrbd_plugin.errors import AdvrBDError, is_out_of_memory, out_of_memory
from advrbd_plugin.plain import brief, one_reason

__all__ = ["load", "read_torch", "refused_type", "state_dict_of"]


def load(path: Path, *, trust: bool = False) -> Any:
    """Read ``path`` onto the CPU.

    Args:
        trust: build whatever the file says, which can run any code that its maker put there.

    Raises:
        AdvrBDError: the file is missing, is no PyTorch file, or holds a type outside the list.
        OutOfMemory: it does not fit in memory.
    """
    try:
        if trust:  # the user vouches for the file's maker, by --trust-record alone
            return torch.load(path, map_location="cpu", weights_only=False)
        return read_torch(path)
    except FileNotFoundError:
        raise AdvrBDError(f"{path} does not exist") from None
    except pickle.UnpicklingError as error:
        name = refused_type(error)
        if name is None:
            raise AdvrBDError(f"{path} is no file that torch.save wrote, or is damaged: {one_reason(error)}") from error
        raise AdvrBDError(
            f"{path} holds {name}, which BackdoorBench does not write and which may run code when it is loaded; "
            "only if you know who made the file, pass --trust-record"
        ) from error
    except AdvrBDError:
        raise
    except (OSError, MemoryError, RuntimeError, EOFError, ValueError, TypeError, LookupError, AttributeError) as error:
        if is_out_of_memory(error):
            raise out_of_memory(f"reading {path}") from error
        reason = getattr(error, "strerror", None) or one_reason(error)
        raise AdvrBDError(f"{path} is no file that torch.save wrote, or is cut short: {reason}") from error


def refused_type(error: pickle.UnpicklingError) -> str | None:
    """The type that a refusal names, ours or ``torch.load``'s; ``None`` if the file is broken in another way."""
    if isinstance(error, UnreadablePickle):
        return error.refused
    found = re.search(r"(?:GLOBAL|unrecognized function|but got) ([^\s,]+)", str(error))
    return found.group(1).rstrip(".") if found else None


def state_dict_of(content: Any, where: str) -> dict[str, Tensor]:
    """The weights of a model by name, without DataParallel's ``module.`` prefix.

    Raises:
        AdvrBDError: ``content`` is no state dict.
    """
    if not isinstance(content, dict) or not content:
        raise AdvrBDError(f"{where} is no model's state dict: it is {brief(content)}")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise AdvrBDError(f"{where} is no model's state dict: {brief(name)} is a {type(value).__name__}")
    return {name.removeprefix("module."): value for name, value in content.items()}
