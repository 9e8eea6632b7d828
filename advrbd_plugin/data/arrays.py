"""Arrays of pictures and labels, in memory or in an ``.npz`` file, to an :class:`ImageSet`."""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advrbd_plugin import limits
from advrbd_plugin.data.fitting import DEFAULT_FIT, check_fit, fit_pixels
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.data.labels import MAX_CLASSES, check_distinct, number_labels
from advrbd_plugin.data.originals import hand_over
from advrbd_plugin.data.reading import LoadedImages, Visit, common_size, describe_sizes
from advrbd_plugin.data.selection import draw_images
from advrbd_plugin.data.sources import DAMAGE, open_zip, read_entry
from advrbd_plugin.errors import AdvrBDError, OutOfMemory, is_out_of_memory, out_of_memory
from advrbd_plugin.plain import brief, one_reason

IMAGE_KEYS = ("images", "image", "x", "x_train", "data", "train_images", "arr_0")
LABEL_KEYS = ("labels", "label", "y", "y_train", "targets", "train_labels", "arr_1")
NAME_KEYS = ("class_names", "classes", "names")
_PARTS = {"x_train": "x_test", "y_train": "y_test", "train_images": "test_images", "train_labels": "test_labels"}
_WANTED = "(N, H, W), (N, H, W, 1 or 3) or (N, 1 or 3, H, W)"


def images_from_array(values: Any, where: str = "images") -> Tensor:
    """(N, C, H, W) uint8 of an array or tensor of pictures.

    Args:
        values: of shape (N, H, W), (N, H, W, 1 or 3) or (N, 1 or 3, H, W); uint8, other whole numbers in [0, 255], or
            fractions in [0, 1].
        where: begins the line of an error.

    Raises:
        AdvrBDError: another shape or type, or a value out of range.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as error:
        raise AdvrBDError(f"{where} must be one array of {_WANTED}: {one_reason(error)}") from error
    if array.dtype == object or array.dtype.kind not in "uif":
        raise AdvrBDError(
            f"{where} must be one array of numbers of shape {_WANTED}, got the type {array.dtype}; "
            "ImageSet.from_dataset takes a list of (picture, label) of different sizes"
        )
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[3] in (1, 3) and not (array.shape[1] in (1, 3) and array.shape[2] > 3):
        array = np.moveaxis(array, 3, 1)
    if array.ndim != 4 or array.shape[1] not in (1, 3) or 0 in array.shape:
        raise AdvrBDError(f"{where} must have the shape {_WANTED}, got {array.shape}")
    pixels = np.ascontiguousarray(_to_bytes(array, where))
    return torch.from_numpy(pixels if pixels.flags.writeable else pixels.copy())


def _to_bytes(array: np.ndarray, where: str) -> np.ndarray:
    """uint8, picture by picture, so that no second copy as wide as the first is made."""
    if array.dtype == np.uint8:
        return array
    low, high = array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise AdvrBDError(f"{where} must be finite numbers, got NaN or infinity")
    if low < 0 or high > 255:
        raise AdvrBDError(
            f"{where} must be in [0, 255], or fractions in [0, 1], got values from {low:g} to {high:g}: undo their "
            "normalisation first"
        )
    fractions = array.dtype.kind == "f" and high <= 1
    result = np.empty(array.shape, np.uint8)
    for place, picture in enumerate(array):
        scaled = picture.astype(np.float64) * 255 if fractions else picture
        result[place] = np.rint(scaled)
        if not fractions and array.dtype.kind == "f" and not np.array_equal(result[place], picture):
            raise AdvrBDError(f"{where} must be whole numbers in [0, 255] or fractions in [0, 1], got up to {high:g}")
    return result


def label_values(values: Any, count: int, where: str = "labels") -> list[int | str]:
    """The ``count`` labels, whole numbers or texts, of a one-dimensional array, tensor or list.

    Raises:
        AdvrBDError: another shape, count or type.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as error:
        raise AdvrBDError(f"{where} must be one number or name for each picture: {one_reason(error)}") from error
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.shape != (count,):
        hint = "; take labels.argmax(axis=1)" if array.ndim == 2 else ""
        raise AdvrBDError(f"{where} must have the shape ({count},), one for each picture, got {array.shape}{hint}")
    if array.dtype.kind == "f" and np.isfinite(array).all() and (array == np.rint(array)).all():
        array = array.astype(np.int64)
    if array.dtype.kind not in "iuUS":
        raise AdvrBDError(f"{where} must be whole numbers or names, got the type {array.dtype}")
    if array.dtype.kind == "S":
        return [each.decode("utf-8", "replace") for each in array.tolist()]
    return list(array.tolist())


def from_arrays(
    images: Any,
    labels: Any,
    class_names: Sequence[str] | None = None,
    *,
    image_size: tuple[int, int] | None = None,
    fit: str = DEFAULT_FIT,
) -> ImageSet:
    """The set of an array of pictures with their labels; see :meth:`ImageSet.from_numpy`."""
    check_fit(fit)
    pixels = images_from_array(images)
    values = label_values(labels, len(pixels))
    names: Sequence[str] | None = class_names
    if names is None and all(isinstance(value, int) for value in values):
        names = _numbered_names(values)
    numbers, known = number_labels(values, lambda index: f"labels (position {index})", names=names)
    return ImageSet(resized(pixels, image_size, fit), numbers, known)


def _numbered_names(values: Sequence[Any]) -> list[str]:
    low, high = min(values), max(values)
    if low < 0 or high >= MAX_CLASSES:
        value = low if low < 0 else high
        raise AdvrBDError(
            f"labels must be in [0, {MAX_CLASSES - 1}], got {brief(value)} at position {values.index(value)}"
        )
    return [str(label) for label in range(max(high + 1, 2))]


def resized(images: Tensor, image_size: tuple[int, int] | None, fit: str) -> Tensor:
    """(N, C, H, W) uint8 at another (height, width); as they are for ``None``."""
    if image_size is None or image_size == tuple(images.shape[2:]):
        return images
    try:
        result = torch.empty((*images.shape[:2], *image_size), dtype=torch.uint8)
    except RuntimeError as error:
        raise OutOfMemory(f"{len(images)} images of {image_size[0]}x{image_size[1]} do not fit in memory") from error
    for place, picture in enumerate(images):
        pixels = fit_pixels(picture.permute(1, 2, 0).numpy(), image_size, fit)
        result[place] = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
    return result


def finish_arrays(
    where: str,
    images: Any,
    labels: Any,
    *,
    names: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    image_size: tuple[int, int] | None = None,
    fit: str = DEFAULT_FIT,
    samples: int | None = None,
    seed: int = 0,
    visit: Visit | None = None,
) -> LoadedImages:
    """A set from a file's arrays, as :func:`advrbd_plugin.data.reading.read_listing` makes it from pictures.

    Args:
        where: the file, for errors.
        names: of the labels, where the file has them.
        class_names, image_size, fit, samples, seed, visit: as there. Grey pictures become RGB, as there.
    """
    check_fit(fit)
    pixels = images_from_array(images, f"{where}: images")
    values = label_values(labels, len(pixels), f"{where}: labels")
    numbers, known = number_labels(
        values, lambda index: f"{where}, picture {index}", names=names, class_names=class_names
    )
    whole = ImageSet(pixels, numbers, known)
    if visit is not None:
        return hand_over(visit, where, whole)
    chosen = draw_images(whole, samples, seed=seed)
    own = chosen.image_size
    # What is smaller than the default keeps its size, as files do.
    size, notes = (image_size, []) if image_size is not None else common_size(Counter({own: len(chosen)}))
    notes = notes + describe_sizes([own] * len(chosen), size, fit)
    pixels = resized(chosen.images, size, fit)
    if pixels.shape[1] == 1:
        pixels = pixels.expand(-1, 3, -1, -1).contiguous()
        notes.append(f"{len(chosen)} of {len(chosen)} images were converted to RGB ({len(chosen)} L).")
    image_set = ImageSet(pixels, chosen.labels, known, chosen.sample_ids)
    return LoadedImages(image_set, (), tuple(notes))


def load_npz(path: str | os.PathLike[str], *, part: str = "train", **options: Any) -> LoadedImages:
    """The arrays of an ``.npz`` file: pictures, labels and perhaps class names, under usual keys.

    Args:
        path: the file. Its arrays are numbers or texts; an array of Python objects, a pickle, is not read.
        part: ``train``, or ``test`` where the file has both (``x_train``, ``x_test``).
        options: as :func:`finish_arrays`.

    Raises:
        AdvrBDError: it is damaged, lacks the pictures or labels, or they do not fit.
    """
    path = Path(path)
    with open_zip(path) as archive:
        entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}

        def named(keys: Sequence[str], what: str) -> Any:
            keys = [_PARTS[key] for key in keys if key in _PARTS] * (part == "test") + list(keys)
            lower = {name.lower(): name for name in entries}
            key = next((lower[key] for key in keys if key in lower), None)
            if key is None and what:
                held = ", ".join(map(brief, list(entries)[:8]))
                raise AdvrBDError(f"{path} holds no {what}: name the array {keys[0]} (it has {held})")
            return None if key is None else _read_array(path, archive, entries[key])

        images, labels = named(IMAGE_KEYS, "pictures"), named(LABEL_KEYS, "labels")
        names = named(NAME_KEYS, "")
    if names is not None:
        names = check_distinct([str(name) for name in np.asarray(names).ravel().tolist()], f"{path}: class_names")
    return finish_arrays(str(path), images, labels, names=names, **options)


def _read_array(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    """One array, its size checked against the file's before memory is asked for."""
    most = limits.READING_MEMORY + 200 * entry.compress_size
    if entry.file_size > most:
        raise AdvrBDError(
            f"{path}: {brief(entry.filename)} swells to {entry.file_size} bytes: it was not made to be trusted"
        )
    try:
        return _array_of(read_entry(archive, entry))
    except (*DAMAGE, OSError, ValueError, TypeError, SyntaxError, MemoryError) as error:
        if is_out_of_memory(error):
            raise out_of_memory(f"reading {path}") from error
        raise AdvrBDError(f"{path}: {brief(entry.filename)} cannot be read: {one_reason(error)}") from error


def _array_of(content: bytes) -> np.ndarray:
    """An array in NumPy's format; what its header claims is held against the bytes that are there.

    Raises:
        ValueError: it is none, or holds Python objects, which are pickles.
    """
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"version {version} of NumPy's format")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read_header(stream)
    if dtype.hasobject or dtype.names is not None:
        raise ValueError("it holds Python objects, not numbers or texts")
    count = math.prod(shape)
    if count * dtype.itemsize != len(content) - stream.tell():
        raise ValueError(f"it says {count} values and holds {len(content) - stream.tell()} bytes")
    if not count:
        return np.empty(shape, dtype)
    return np.frombuffer(content, dtype, count, stream.tell()).reshape(shape, order="F" if fortran else "C")


def no_labels(path: Path) -> AdvrBDError:
    """What is said of a file of one array."""
    return AdvrBDError(
        f"{path} holds one array, and a set needs pictures and labels: np.savez(FILE, images=images, labels=labels) "
        "writes both"
    )
