"""CIFAR-10 and CIFAR-100 as their authors and torchvision keep them: Python pickles, read without running them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.data.pickle_reader import UnreadablePickle, read_pickle
from advrbd_plugin.data.reading import LoadedImages
from advrbd_plugin.data.selection import draw_images
from advrbd_plugin.data.sources import read_regular_file
from advrbd_plugin.errors import AdvrBDError, out_of_memory
from advrbd_plugin.plain import one_reason

CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_ADVICE = "unpack the original archive again"
_MOST_BYTES = 512 * 2**20  # the largest original file has 155 MB


@dataclass(frozen=True)
class CifarFormat:
    """Attributes:
    folder: what the archive unpacks to.
    parts: the files of ``train`` and ``test``.
    meta, names_key: the file and the key of the class names.
    labels_key: the key of a batch's labels.
    """

    folder: str
    parts: dict[str, tuple[str, ...]]
    meta: str
    names_key: str
    labels_key: str


CIFAR10 = CifarFormat(
    "cifar-10-batches-py",
    {"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)},
    "batches.meta",
    "label_names",
    "labels",
)
CIFAR100 = CifarFormat(
    "cifar-100-python", {"train": ("train",), "test": ("test",)}, "meta", "fine_label_names", "fine_labels"
)


def load_cifar(
    root: Path, layout: CifarFormat, part: str, *, samples: int | None = None, seed: int = 0
) -> LoadedImages:
    """One part of a CIFAR data set; a sample's id is its place in the part.

    Args:
        root: the folder that holds ``layout.folder``.
        layout: :data:`CIFAR10` or :data:`CIFAR100` (its 100 fine labels).
        part: ``train`` or ``test``.
        samples: how many images to take, each class in proportion, drawn by (seed, sample id); all if there are fewer.
        seed: for that draw.

    Raises:
        AdvrBDError: a file is missing, damaged, holds another type than plain data and numbers, or does not fit.
    """
    folder = root / layout.folder
    names = _read(folder / layout.meta).get(layout.names_key)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise AdvrBDError(f"{folder / layout.meta} holds no list {layout.names_key}: {_ADVICE}")
    batches = [_read_batch(folder / name, layout.labels_key, len(names)) for name in layout.parts[part]]
    image_set = ImageSet(
        images=torch.from_numpy(np.concatenate([pixels for pixels, _ in batches])),
        labels=torch.from_numpy(np.concatenate([labels for _, labels in batches])),
        class_names=tuple(names),
    )
    return LoadedImages(draw_images(image_set, samples, seed=seed))


def _read_batch(path: Path, labels_key: str, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3, 32, 32) uint8 and (N,) int64."""
    content = _read(path)
    pixels, labels = content.get("data"), content.get(labels_key)
    is_array = isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.shape[1:] == (3072,)
    if pixels is None or not is_array or not isinstance(labels, list) or len(labels) != len(pixels):
        raise AdvrBDError(f"{path} holds no data of (N, 3072) uint8 with N {labels_key}: {_ADVICE}")
    if not all(isinstance(label, int) and 0 <= label < num_classes for label in labels):
        raise AdvrBDError(f"{path} holds a label outside [0, {num_classes - 1}]: {_ADVICE}")
    return pixels.reshape(-1, 3, 32, 32), np.array(labels, dtype=np.int64)


def _read(path: Path) -> dict[str, Any]:
    """A batch or the class names. Python 2 wrote the originals, so their texts are read as latin1."""
    try:
        content, _ = read_pickle(read_regular_file(path, limit=_MOST_BYTES))
    except FileNotFoundError:
        raise AdvrBDError(f"{path} is missing: {_ADVICE}") from None
    except (OSError, ValueError) as error:
        raise AdvrBDError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except UnreadablePickle as error:
        if error.refused is not None:
            raise AdvrBDError(f"{path} holds more than numbers ({error}): it was not made to be trusted") from error
        raise AdvrBDError(f"{path} is damaged ({one_reason(error)}): {_ADVICE}") from error
    except MemoryError as error:
        raise out_of_memory(f"reading {path}") from error
    if not isinstance(content, dict):
        raise AdvrBDError(f"{path} holds no dictionary: {_ADVICE}")
    return content
