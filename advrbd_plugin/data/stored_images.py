"""Pictures in a file, read where they are asked for: a set larger than memory.

:class:`StoredImages` takes the place of the tensor ``ImageSet.images``. Choosing among its pictures by a slice or with
:meth:`StoredImages.pick` reads nothing; indexing with a tensor or a number reads those pictures. Any other operation
reads them all, as a tensor in memory would hold them all.

The file is read at the places of the pictures and not mapped into memory: a mapped page costs a page fault whenever it
is needed again (ten microseconds a picture were measured, in a set larger than the processor's caches), counts as the
process's memory, and ends the process where the disk fails. What was read stays in the system's cache in either case.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.files import explain_os_error


class PictureFile:
    """(N, C, H, W) uint8 pictures, one behind the other in a file.

    Args:
        path: the file.
        shape: (N, C, H, W).

    Raises:
        AdvrBDError: the file cannot be read, or is not of this size.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self.path, self.shape = path, tuple(shape)
        self._picture_bytes = int(torch.Size(shape[1:]).numel())
        size = shape[0] * self._picture_bytes
        try:
            self._file = open(path, "rb", buffering=0)  # noqa: SIM115 (open as long as the pictures are in use)
            found = os.fstat(self._file.fileno()).st_size
        except OSError as error:
            raise AdvrBDError(f"cannot read {path}: {error.strerror or error}") from error
        if found != size or not size:
            raise AdvrBDError(f"{path} is damaged: {found} bytes in place of {size}; remove its folder")

    def read(self, rows: Tensor) -> Tensor:
        """(M, C, H, W) uint8, the pictures at ``rows`` (M,) int64.

        Raises:
            AdvrBDError: the disk fails, or the file was cut off.
        """
        pictures = torch.empty(len(rows), *self.shape[1:], dtype=torch.uint8)
        if not len(rows):
            return pictures
        room, size, number = memoryview(pictures.numpy().data).cast("B"), self._picture_bytes, self._file.fileno()
        try:
            for place, row in enumerate(rows.tolist()):
                if os.preadv(number, [room[place * size : (place + 1) * size]], row * size) != size:
                    raise AdvrBDError(f"{self.path} was cut off while it was in use: remove its folder")
        except OSError as error:
            raise AdvrBDError(f"cannot read {self.path}: {error.strerror or error}") from error
        return pictures


class StoredImages(Tensor):
    """Pictures of a :class:`PictureFile`, chosen by their rows; shape, dtype and device as of any tensor.

    Attributes:
        file: where they are.
        rows: (N,) int64, the place of each in the file.
    """

    file: PictureFile
    rows: Tensor

    @staticmethod
    def __new__(cls, file: PictureFile, rows: Tensor | None = None) -> StoredImages:
        rows = torch.arange(file.shape[0]) if rows is None else rows
        made: StoredImages = Tensor._make_wrapper_subclass(cls, (len(rows), *file.shape[1:]), dtype=torch.uint8)
        made.file, made.rows = file, rows
        return made

    def __init__(self, file: PictureFile, rows: Tensor | None = None) -> None:
        pass

    def pick(self, indices: Tensor) -> StoredImages:
        """The pictures at ``indices`` (M,) int64, unread."""
        return StoredImages(self.file, self.rows[indices])

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"StoredImages({str(self.file.path)!r}, shape={tuple(self.shape)})"

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        aten = torch.ops.aten
        first, rest = args[0] if args else None, args[1:]
        if isinstance(first, StoredImages) and not kwargs:
            if func in (aten.detach.default, aten.alias.default):
                return StoredImages(first.file, first.rows)
            if func is aten.slice.Tensor and (not rest or rest[0] == 0):
                return StoredImages(first.file, func(first.rows, *rest))
            if func is aten.split.Tensor and rest[1:] in ((), (0,)):
                return [StoredImages(first.file, rows) for rows in first.rows.split(rest[0])]
            if func is aten.select.int and rest[0] == 0:
                return first.file.read(first.rows[rest[1]].view(1))[0]
            if func is aten.index.Tensor and len(rest[0]) == 1:
                return first.file.read(first.rows[rest[0][0]])
        return func(*tree_map(_in_memory, args), **tree_map(_in_memory, kwargs or {}))


def _in_memory(value: Any) -> Any:
    return value.file.read(value.rows) if isinstance(value, StoredImages) else value


def reserve(path: Path, size: int) -> mmap.mmap:
    """A new file of ``size`` bytes, mapped to be written; its place on the disk is taken now.

    Raises:
        StorageError: the disk has too little room, or the file cannot be made.
    """
    try:
        with open(path, "xb+") as file:
            os.ftruncate(file.fileno(), size)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            return mmap.mmap(file.fileno(), size)
    except OSError as error:
        raise explain_os_error(error, path) from error
