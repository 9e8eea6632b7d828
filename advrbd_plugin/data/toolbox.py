"""Poisoned sets of vtu81/backdoor-toolbox: ``poisoned_train_set/DATASET/ATTACK/`` with ``imgs`` and ``labels``.

Which samples are poisoned (``poison_indices``) is not read: a defender does not know it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from advrbd_plugin.data.arrays import finish_arrays, label_values
from advrbd_plugin.data.manifest import load_named_files
from advrbd_plugin.data.pickle_reader import UnreadablePickle
from advrbd_plugin.data.reading import LoadedImages
from advrbd_plugin.data.torch_file import read_torch
from advrbd_plugin.errors import AdvrBDError, is_out_of_memory, out_of_memory
from advrbd_plugin.plain import brief, one_reason

_IMAGES = ("imgs", "imgs.pt")
_LABELS = ("labels", "labels.pt")
_OLD_FOLDER = "data"  # until 2022 each picture was a file of its own


def find_poisoned_set(folder: Path) -> tuple[Path, Path] | None:
    """(pictures, labels) of a poisoned set; ``None`` for any other folder."""
    labels = next((folder / name for name in _LABELS if (folder / name).is_file()), None)
    images = next((folder / name for name in _IMAGES if (folder / name).is_file()), None)
    if labels is None:
        return None
    if images is None and (folder / _OLD_FOLDER / "0.png").is_file():
        images = folder / _OLD_FOLDER
    return None if images is None else (images, labels)


def load_poisoned_set(images: Path, labels: Path, **options: Any) -> LoadedImages:
    """A poisoned set of backdoor-toolbox; its classes are called by their numbers.

    Args:
        images: the file ``imgs``, a tensor (N, 3, H, W) in [0, 1]; or the folder of ``0.png``, ``1.png``, ...
        labels: the file ``labels``, a tensor (N,) of whole numbers.
        options: as :func:`advrbd_plugin.data.arrays.finish_arrays`.

    Raises:
        AdvrBDError: a file is damaged, holds another type, or they do not fit.
    """
    numbers = _tensor(labels)
    if not images.is_dir():
        pictures = _tensor(images)
        where = str(images.parent)
        return finish_arrays(where, pictures, numbers, names=_names(where, numbers), **options)
    values = label_values(numbers, len(numbers), str(labels))
    names: Sequence[str] = _names(str(labels), numbers)
    paths = [f"{index}.png" for index in range(len(values))]
    return load_named_files(str(labels), images, paths, values, range(len(values)), names=names, **options)


def _names(where: str, labels: Tensor) -> list[str]:
    if labels.ndim != 1 or not len(labels) or labels.is_floating_point():
        raise AdvrBDError(f"{where}: labels must be a row of whole numbers, got {labels.dtype} {tuple(labels.shape)}")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= 65_536:
        raise AdvrBDError(f"{where}: the label {low if low < 0 else high} is out of range: it must be in [0, 65535]")
    return [str(label) for label in range(max(2, high + 1))]


def _tensor(path: Path) -> Tensor:
    try:
        content = read_torch(path)
    except AdvrBDError:
        raise
    except UnreadablePickle as error:
        if error.refused is not None:
            raise AdvrBDError(f"{path} holds {error.refused}, not a tensor: it was not made to be trusted") from error
        raise AdvrBDError(f"{path} is no file that torch.save wrote, or is damaged: {one_reason(error)}") from error
    except (OSError, ValueError, RuntimeError, MemoryError, EOFError) as error:
        if is_out_of_memory(error):
            raise out_of_memory(f"reading {path}") from error
        raise AdvrBDError(f"{path} cannot be read: {getattr(error, 'strerror', None) or one_reason(error)}") from error
    if not isinstance(content, Tensor) or content.is_complex():
        raise AdvrBDError(f"{path} must hold a tensor, as backdoor-toolbox writes it, got {brief(content)}")
    return content.detach()
