"""Data sets of torchvision by name, from where they lie on the disk; nothing is downloaded."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

from advrbd_plugin.data.datasets import find_dataset
from advrbd_plugin.data.reading import LoadedImages
from advrbd_plugin.data.wrapped import load_dataset_object
from advrbd_plugin.errors import AdvrBDError, is_out_of_memory, out_of_memory
from advrbd_plugin.plain import brief, one_reason

PREFIX = "torchvision:"
_SPLITS = {"train": ("train",), "test": ("test", "val")}
# Read by our own readers, which unpickle nothing.
_OWN = {"cifar10": "cifar10", "cifar100": "cifar100", "gtsrb": "gtsrb", "imagenette": "imagenette"}


def load_torchvision(
    name: str, root: str | os.PathLike[str] | None, *, part: str = "train", **options: Any
) -> LoadedImages:
    """One part of a data set that torchvision knows.

    Args:
        name: of its class in ``torchvision.datasets``, such as ``CIFAR10``.
        root: the folder that torchvision calls ``root``; the current one by default.
        part: ``train`` or ``test``.
        options: as :func:`advrbd_plugin.data.reading.read_listing`, and ``class_names``.

    Raises:
        AdvrBDError: torchvision is not installed, has no such data set, or does not find it in ``root``.
    """
    root = Path(root) if root is not None else Path()
    own = find_dataset(_OWN[name.lower()], root) if name.lower() in _OWN else None
    if own is not None:
        return own.load(part, **options)
    dataset = _make(name, root, part)
    return load_dataset_object(dataset, where=f"{PREFIX}{name} in {root}", **options)


def _make(name: str, root: Path, part: str) -> Any:
    try:
        from torchvision import datasets
    except ImportError as error:
        raise AdvrBDError(
            f"{PREFIX}{name} needs torchvision, which cannot be imported ({one_reason(error)}): pip install torchvision"
        ) from error
    kind = getattr(datasets, name, None)
    base = getattr(datasets, "VisionDataset", object)
    if not inspect.isclass(kind) or not issubclass(kind, base) or kind is base:
        known = [each for each in dir(datasets) if each.lower() == name.lower()]
        hint = f"did you mean {known[0]}?" if known else "its names are those of torchvision.datasets, such as CIFAR10"
        raise AdvrBDError(f"torchvision has no data set {brief(name)}: {hint}")
    accepted = inspect.signature(kind).parameters
    given: dict[str, Any] = {"root": str(root)} if "root" in accepted else {}
    if "train" in accepted:
        ways = [given | {"train": part == "train"}]
    elif "split" in accepted:
        ways = [given | {"split": split} for split in _SPLITS[part]]
    else:
        ways = [given]
    return _first_that_works(kind, name, root, ways)


def _first_that_works(kind: Any, name: str, root: Path, ways: list[dict[str, Any]]) -> Any:
    """The data set; a split may be called ``test`` or ``val``."""
    failure: Exception | None = None
    for arguments in ways:
        try:
            return kind(**arguments)
        except Exception as error:  # torchvision's classes raise nearly anything
            if is_out_of_memory(error):
                raise out_of_memory(f"reading {root}") from error
            failure = failure or error
    reason = one_reason(failure or ValueError())
    raise AdvrBDError(
        f"torchvision cannot read {name} in {root} ({reason}): give --root the folder that you gave torchvision, with "
        "the set already downloaded"
    ) from failure
