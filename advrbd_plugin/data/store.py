"""A set's decoded pictures in a folder, made once, so that no later run decodes them and no run holds them in memory.

``pixels.u8`` holds the pictures one behind the other, ``samples.safetensors`` labels, ids and paths, ``store.json`` the
rest. Two ways fill it, neither of which holds the set: whatever reads files asks :func:`room_for` for the tensor that
it decodes into, and :func:`fill_store` takes any stream of pictures.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.data.stored_images import PictureFile, StoredImages, reserve
from advrbd_plugin.errors import AdvrBDError, OutOfMemory
from advrbd_plugin.files import explain_os_error, umask, workspace_for, write_bytes, write_json
from advrbd_plugin.plain import read_json

if TYPE_CHECKING:
    import mmap

    from advrbd_plugin.data.reading import LoadedImages

_PIXELS, _SAMPLES, _ABOUT = "pixels.u8", "samples.safetensors", "store.json"
_VERSION = 1
_WRITTEN_BYTES = 2**26


@dataclass(frozen=True, eq=False)
class Picture:
    """One decoded picture of a stream.

    Attributes:
        pixels: (C, H, W) uint8.
        label: in [0, number of classes).
        sample_id: not negative, of this picture alone.
        path: where it comes from.
    """

    pixels: Tensor
    label: int
    sample_id: int
    path: str | None = None


def fill_store(
    folder: str | os.PathLike[str], pictures: Iterable[Picture], class_names: Iterable[str], *, key: str = ""
) -> ImageSet:
    """Make a store of a stream of pictures, which may come in any order and from anywhere.

    Args:
        folder: the new store; nothing is there until it is whole.
        pictures: all of one shape.
        class_names: one for each label.
        key: names what the pictures were made of, for :func:`open_store`.

    Raises:
        AdvrBDError: pictures of two shapes, or none; labels or ids that :class:`ImageSet` refuses.
        StorageError: the disk is full or the place cannot be written.
    """
    labels: list[int] = []
    ids: list[int] = []
    paths: list[str | None] = []
    shape: tuple[int, ...] | None = None
    with workspace_for(folder) as work:
        with open(work / _PIXELS, "xb") as file:
            for picture in pictures:
                shape = shape or tuple(picture.pixels.shape)
                if picture.pixels.shape != shape or picture.pixels.dtype != torch.uint8:
                    raise AdvrBDError(
                        f"the pictures of a store must be uint8 of one shape, {shape}, got {picture.pixels.dtype} of "
                        f"{tuple(picture.pixels.shape)} for number {len(labels)}"
                    )
                file.write(picture.pixels.contiguous().numpy().data)
                labels.append(picture.label)
                ids.append(picture.sample_id)
                paths.append(picture.path)
        if shape is None:
            raise AdvrBDError("a store needs at least one picture, got none")
        images = StoredImages(PictureFile(work / _PIXELS, (len(labels), *shape)))
        known = [path for path in paths if path is not None]
        filled = ImageSet(
            images,
            torch.tensor(labels),
            tuple(class_names),
            torch.tensor(ids),
            tuple(known) if len(known) == len(paths) else None,
        )
        _describe(work, filled, key, {})
        _move_in(work, Path(folder))
    opened = open_store(folder, key)
    assert opened is not None
    return opened[0]


def open_store(folder: str | os.PathLike[str], key: str | None = None) -> tuple[ImageSet, Mapping[str, Any]] | None:
    """The set in a store, unread, and what was noted beside it; ``None`` where there is no store.

    Args:
        key: what it must have been made of; ``None`` takes any.

    Raises:
        AdvrBDError: a store of something else, or a damaged one.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    place = Path(folder)
    if not (place / _ABOUT).exists():
        return None
    about = read_json(place / _ABOUT)
    if not isinstance(about, dict) or about.get("version") != _VERSION:
        raise AdvrBDError(f"{place / _ABOUT} is no store of this version of advrbd: remove the folder or give another")
    if key is not None and about.get("key") != key:
        raise AdvrBDError(f"{place} holds other pictures than these: remove the folder or give another")
    try:
        tensors = load_file(place / _SAMPLES)
        labels, ids = tensors["labels"], tensors["sample_ids"]
        images = StoredImages(PictureFile(place / _PIXELS, (len(labels), *about["shape"])))
        names, paths = tuple(about["class_names"]), _unpacked(tensors["paths"])
        return ImageSet(images, labels, names, ids, paths), {**about["notes"]}
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise AdvrBDError(f"the store {place} is damaged: remove the folder or give another") from error


def read_through_store(
    load: Callable[[], LoadedImages], folder: str | os.PathLike[str], key: str, *, above: int = 0
) -> LoadedImages:
    """What ``load`` reads, with its pictures in a store; from the store where it was made before.

    Args:
        load: decodes the set into :func:`room_for`.
        folder: of the store.
        key: names all that the pictures depend on.
        above: a set of no more bytes than this stays in memory and leaves no store.

    Raises:
        AdvrBDError: as ``load``, :func:`open_store` and :func:`fill_store`.
    """
    from advrbd_plugin.data.reading import LoadedImages

    stored = open_store(folder, key)
    if stored is None:
        with workspace_for(folder) as work:
            room = _Room(work / _PIXELS, above)
            with _decoded_into(room):
                loaded = load()
            if not room.keep(loaded.image_set.images):
                return loaded
            said = {"notes": list(loaded.notes), "left_out": [list(each) for each in loaded.left_out]}
            _describe(work, loaded.image_set, key, said)
            _move_in(work, Path(folder))
        stored = open_store(folder, key)
        assert stored is not None
    images, notes = stored
    left_out = tuple((path, reason) for path, reason in notes.get("left_out", ()))
    return LoadedImages(images, left_out, tuple(notes.get("notes", ())))


def room_for(shape: tuple[int, ...]) -> Tensor:
    """An empty uint8 tensor for decoded pictures: in memory, or in the store that is being made.

    Args:
        shape: (N, C, H, W); of the pictures, the first ones may be all that is used in the end.

    Raises:
        OutOfMemory: there is too little memory.
        StorageError: there is too little room on the disk.
    """
    room = _room.get()
    size = int(torch.Size(shape).numel())
    if room is not None and size > room.above:
        return room.make(shape)
    try:
        return torch.empty(shape, dtype=torch.uint8)
    except RuntimeError as error:
        raise OutOfMemory(
            f"{shape[0]} images of {shape[2]}x{shape[3]} need {size / 1e9:.1f} GB: use --image-size, or --store for a "
            "folder to keep them in"
        ) from error


def release_room() -> None:
    """Let the system have what was decoded so far; called now and then by what decodes."""
    room = _room.get()
    if room is not None:
        room.release()


class _Room:
    """The file that a set is decoded into, if it is large enough for one."""

    def __init__(self, path: Path, above: int) -> None:
        self._path, self.above = path, above
        self._map: mmap.mmap | None = None
        self._pixels: Tensor | None = None

    def make(self, shape: tuple[int, ...]) -> Tensor:
        self._path.unlink(missing_ok=True)
        self._map = reserve(self._path, int(torch.Size(shape).numel()))
        self._pixels = torch.frombuffer(self._map, dtype=torch.uint8).view(shape)
        return self._pixels

    def release(self) -> None:
        import mmap

        if self._map is not None:
            self._map.flush()
            if hasattr(mmap, "MADV_DONTNEED"):
                self._map.madvise(mmap.MADV_DONTNEED)

    def keep(self, images: Tensor) -> bool:
        """Have the file hold these (N, C, H, W) pictures alone; ``False`` where they are few enough for memory."""
        if self._pixels is not None and self._pixels.data_ptr() == images.data_ptr():
            self.release()
            with open(self._path, "rb+") as file:
                file.truncate(images.numel())
                os.fsync(file.fileno())
            return True
        if images.numel() <= self.above:
            return False
        with open(self._path, "wb") as file:  # of a source that is not decoded picture by picture
            for chunk in images.flatten().split(_WRITTEN_BYTES):
                file.write(chunk.numpy().data)
            file.flush()
            os.fsync(file.fileno())
        return True


_room: ContextVar[_Room | None] = ContextVar("room", default=None)


@contextmanager
def _decoded_into(room: _Room) -> Iterator[None]:
    token = _room.set(room)
    try:
        yield
    finally:
        _room.reset(token)


def _describe(work: Path, images: ImageSet, key: str, notes: Mapping[str, Any]) -> None:
    """Write all but the pixels."""
    from safetensors.torch import save

    tensors = {"labels": images.labels, "sample_ids": images.sample_ids, "paths": _packed(images.paths)}
    write_bytes(work / _SAMPLES, save({name: tensor.contiguous() for name, tensor in tensors.items()}))
    about = {
        "version": _VERSION,
        "key": key,
        "shape": list(images.images.shape[1:]),
        "class_names": list(images.class_names),
        "notes": dict(notes),
    }
    write_json(work / _ABOUT, about)


def _move_in(work: Path, folder: Path) -> None:
    try:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        if folder.exists():
            raise AdvrBDError(f"{folder} holds files that are no store: give a new or empty folder")
        shutil.copymode(work / _ABOUT, work / _PIXELS)
        work.chmod(0o777 & ~umask())  # a workspace is private; a result is an ordinary folder
        work.rename(folder)
    except OSError as error:
        raise explain_os_error(error, folder) from error


def _packed(paths: tuple[str, ...] | None) -> Tensor:
    """Paths as bytes between null bytes, which no path holds; without any, nothing."""
    text = b"" if paths is None else b"".join(path.encode("utf-8", "surrogateescape") + b"\0" for path in paths)
    return torch.frombuffer(bytearray(text), dtype=torch.uint8) if text else torch.empty(0, dtype=torch.uint8)


def _unpacked(packed: Tensor) -> tuple[str, ...] | None:
    text = packed.numpy().tobytes()
    return tuple(path.decode("utf-8", "surrogateescape") for path in text.split(b"\0")[:-1]) if text else None
