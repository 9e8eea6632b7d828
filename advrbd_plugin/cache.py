"""Finished and half-finished stages of a long run, kept on disk so that a killed run goes on to the same result.

Only tensors (safetensors) and JSON are written and read, so an unfinished run that came from elsewhere can at worst be
wrong, never run code.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advrbd_plugin.errors import StorageError
from advrbd_plugin.files import atomic_file

_META_KEY = "advrbd"


def digest(*parts: Tensor | Any) -> str:
    """A fingerprint of tensors (dtype, shape and bytes) and of JSON-ready values."""
    hasher = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            hasher.update(f"{part.dtype}{tuple(part.shape)}".encode())
            flat = part.detach().cpu().reshape(-1).clone(memory_format=torch.contiguous_format)
            hasher.update(flat.view(torch.uint8).numpy())
        else:
            hasher.update(json.dumps(part, sort_keys=True).encode())
    return hasher.hexdigest()


class StageStore:
    """One file for each stage, named after the fingerprint of all that its result depends on.

    Args:
        root: a folder, made when first written to; ``None`` keeps nothing.
    """

    def __init__(self, root: str | Path | None) -> None:
        self._root = None if root is None else Path(root)

    def load(self, stage: str, key: str) -> tuple[dict[str, Tensor], Any] | None:
        """Tensors and JSON-ready rest of a stage, or ``None`` where it is not there or is no whole stage.

        Raises:
            StorageError: the file is there but the system does not let it be read.
        """
        if self._root is None:
            return None
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self._path(stage, key), framework="pt") as handle:
                tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (no mapping)
                return tensors, json.loads(handle.metadata()[_META_KEY])
        except (FileNotFoundError, SafetensorError, KeyError, TypeError, ValueError):
            return None
        except OSError as error:
            raise StorageError(f"cannot read {self._path(stage, key)}: {error.strerror or error}") from error

    def save(self, stage: str, key: str, tensors: dict[str, Tensor], rest: Any = None) -> None:
        """Keep a stage.

        Raises:
            StorageError: the disk is full or the folder cannot be written.
        """
        if self._root is None:
            return
        from safetensors.torch import save

        content = {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
        }
        with atomic_file(self._path(stage, key)) as handle:
            handle.write(save(content, metadata={_META_KEY: json.dumps(rest)}))

    def remove(self, stage: str, key: str) -> None:
        """Forget a stage, if it is there."""
        if self._root is not None:
            self._path(stage, key).unlink(missing_ok=True)

    def _path(self, stage: str, key: str) -> Path:
        assert self._root is not None
        return self._root / f"{stage}-{key[:16]}.safetensors"
