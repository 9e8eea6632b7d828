"""Finished and half-finished stages of a long run, cached on disk so that a killed run goes on to the same result.

Only tensors (safetensors) and JSON are written and read, so a stage file from elsewhere can at worst hold wrong
numbers, never run code. Each file carries a checksum: a damaged stage is computed again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advrbd_plugin.errors import StorageError
from advrbd_plugin.files import atomic_file
from advrbd_plugin.processes import Processes, current

_LOG = logging.getLogger(__name__)
_PIECE_BYTES = 2**20
_META_KEY = "advrbd"
_CHECKSUM_KEY = "sha256"


def digest(*parts: Tensor | Any) -> str:
    """A fingerprint of tensors (dtype, shape and bytes) and of JSON-ready values."""
    hasher = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            hasher.update(f"{part.dtype}{tuple(part.shape)}".encode())
            for rows in _in_pieces(part.detach()):
                flat = rows.cpu().reshape(-1).clone(memory_format=torch.contiguous_format)
                hasher.update(flat.view(torch.uint8).numpy().data)
        else:
            hasher.update(json.dumps(part, sort_keys=True).encode())
    return hasher.hexdigest()


def _in_pieces(tensor: Tensor) -> Iterable[Tensor]:
    """The tensor in rows of a megabyte, so that a set larger than memory has a fingerprint, too."""
    if not tensor.dim() or not tensor.numel():
        return (tensor,)
    return tensor.split(max(1, _PIECE_BYTES * len(tensor) // (tensor.numel() * tensor.element_size())))


class StageStore:
    """One file for each stage, named after the fingerprint of all that its result depends on.

    The safetensors metadata of a file holds the JSON-ready rest and a SHA-256 over key, tensors and rest.

    Args:
        root: a folder, made when first written to; ``None`` stores nothing.
    """

    def __init__(self, root: str | Path | None) -> None:
        self._root = None if root is None else Path(root)

    def load(self, stage: str, key: str) -> tuple[dict[str, Tensor], Any] | None:
        """Tensors and JSON-ready rest of a stage, or ``None`` where it is missing or damaged.

        A damaged file (flipped bytes, cut off, of another stage) is named in a warning.

        Raises:
            StorageError: the file is there but the system does not let it be read.
        """
        if self._root is None:
            return None
        from safetensors import SafetensorError, safe_open

        path = self._path(stage, key)
        try:
            with safe_open(path, framework="pt") as handle:
                tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (no mapping)
                metadata = handle.metadata() or {}
            rest = json.loads(metadata[_META_KEY])
            if metadata[_CHECKSUM_KEY] == _checksum(stage, key, tensors, metadata[_META_KEY]):
                _LOG.info("%s: found in %s, not computed again.", stage.replace("-", " "), self._root)
                return tensors, rest
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError):  # whatever damage may look like
            pass
        self.report_damage(stage, key)
        return None

    def save(self, stage: str, key: str, tensors: Mapping[str, Tensor], rest: Any = None) -> None:
        """Store a stage.

        Args:
            stage: a name for people; it begins the file's name.
            key: a :func:`digest` of all that the result depends on.
            tensors: of any dtype and shape, by name.
            rest: ready for JSON.

        Raises:
            StorageError: the disk is full or the folder cannot be written.
        """
        if self._root is None:
            return
        from safetensors.torch import save

        content = {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
        }
        text = json.dumps(rest)
        metadata = {_META_KEY: text, _CHECKSUM_KEY: _checksum(stage, key, content, text)}
        with atomic_file(self._path(stage, key)) as handle:
            handle.write(save(content, metadata=metadata))

    def report_damage(self, stage: str, key: str) -> None:
        """Warn that a stage's file is damaged; a store without a folder has no files."""
        if self._root is not None:
            path = self._path(stage, key)
            warnings.warn(
                f"the stored stage {path} is damaged or of an earlier version: it is computed again", stacklevel=3
            )

    def remove(self, stage: str, key: str) -> None:
        """Forget a stage, if it is there."""
        if self._root is not None:
            self._path(stage, key).unlink(missing_ok=True)

    def _path(self, stage: str, key: str) -> Path:
        assert self._root is not None
        return self._root / f"{stage}-{key[:16]}.safetensors"


class SharedStageStore(StageStore):
    """One folder for several processes: rank 0 alone reads and writes it, and the others get what it read.

    Args:
        root: as for :class:`StageStore`; that of rank 0 counts.
        processes: those that take part, each of which must make the same calls in the same order.
    """

    def __init__(self, root: str | Path | None, processes: Processes) -> None:
        super().__init__(root if processes.leads else None)
        self._processes = processes

    def load(self, stage: str, key: str) -> tuple[dict[str, Tensor], Any] | None:
        found = super().load(stage, key)
        known = self._processes.receive(lambda: None if found is None else [found[1]])
        if known is None:
            return None
        return self._processes.receive_tensors(lambda: found[0] if found is not None else {}), known[0]


def open_stages(root: str | Path | None) -> StageStore:
    """The stages in a folder, for the processes that share the work at this moment."""
    return StageStore(root) if current().count == 1 else SharedStageStore(root, current())


def _checksum(stage: str, key: str, tensors: Mapping[str, Tensor], rest: str) -> str:
    """Over all that a file says; the whole key too, of which its name holds only the beginning."""
    names = sorted(tensors)
    return digest([stage, key, names, rest], *(tensors[name] for name in names))
