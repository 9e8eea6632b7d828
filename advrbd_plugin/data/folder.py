"""An ImageFolder (one sub-folder a class), as a directory or a zip of one, to an :class:`ImageSet`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import torch

from advrbd_plugin.data.reading import Listing, LoadedImages, path_id, read_listing
from advrbd_plugin.data.sources import Source, open_source
from advrbd_plugin.errors import AdvrBDError

_SPLIT_NAMES = {"train", "training", "test", "testing", "val", "valid", "validation"}


def load_folder(
    path: str | os.PathLike[str],
    *,
    image_size: tuple[int, int] | None = None,
    class_names: Sequence[str] | None = None,
    samples: int | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> LoadedImages:
    """Read an ImageFolder: each sub-folder is a class, classes are numbered in the order of their sorted names.

    Sample ids derive from the path below the class folders, not from its rank: adding or losing one picture leaves
    every other picture's random draws (subset, patch positions, poison) as they were.

    Args:
        path: a directory or a zip. Wrapping folders around the class folders (``train/cat/1.png``) are looked through.
        image_size: (height, width) for all. By default the most common size, or a 64x64 square if that is larger.
        class_names: the classes of a model that is to be judged; folders are matched by name, some may be missing.
        samples: how many images to take, each class in proportion, drawn by (seed, sample id); all if there are fewer.
        seed: for that draw.
        on_progress: called with (files done, files in all).

    Raises:
        AdvrBDError: nothing there, no class folders, one class only, a class with no (readable) image, unknown class.
    """
    with open_source(path) as source:
        return read_listing(
            source,
            _list_classes(source, class_names),
            image_size=image_size,
            samples=samples,
            seed=seed,
            on_progress=on_progress,
            must_be_complete=class_names is None,
        )


def _list_classes(source: Source, class_names: Sequence[str] | None) -> Listing:
    """The image files with their labels, or a clear line on what is wrong with the folder."""
    prefix = _wrapper(source, class_names or ())
    files = [path for path in source.files if path.startswith(prefix)]
    found = sorted({path[len(prefix) :].split("/")[0] for path in source.folders if path.startswith(prefix)})
    where = f"{source.root}" + (f" ({prefix.rstrip('/')})" if prefix else "")
    if not found:
        advice = "sort the images into one sub-folder for each class" if files else "nothing to read"
        raise AdvrBDError(f"{where} holds no class folders: {advice}")
    inside = [path for path in files if "/" in path[len(prefix) :]]
    classes_of = [path[len(prefix) :].split("/")[0] for path in inside]
    if class_names is None:
        _check_classes(source, where, prefix, found, classes_of)
        class_names = found
    else:
        unknown = sorted(set(found) - set(class_names))
        if unknown:
            raise AdvrBDError(
                f"{where} holds a class folder that the model does not know, {unknown[0]!r}: "
                f"it knows {', '.join(class_names[:20])}"
            )
        if not inside:
            raise AdvrBDError(f"{where} holds no files in its class folders")
    index = {name: label for label, name in enumerate(class_names)}
    return Listing(
        paths=inside,
        labels=torch.tensor([index[name] for name in classes_of], dtype=torch.int64),
        sample_ids=torch.tensor([path_id(path[len(prefix) :]) for path in inside], dtype=torch.int64),
        class_names=tuple(class_names),
    )


def _check_classes(source: Source, where: str, prefix: str, found: list[str], classes_of: list[str]) -> None:
    """A training set needs at least two classes, none of them empty, and must not be a train/test pair."""
    if {name.lower() for name in found} <= _SPLIT_NAMES and len(found) > 1:
        raise AdvrBDError(f"{where} holds {' and '.join(found)}, not class folders: give {source.root}/{found[-1]}")
    if len(found) == 1:
        raise AdvrBDError(f"{where} holds one class only ({found[0]!r}): a classifier needs at least two")
    empty = sorted(set(found) - set(classes_of))
    if empty:
        raise AdvrBDError(f"{where} holds a class with no image: {', '.join(map(repr, empty[:5]))}")


def _wrapper(source: Source, class_names: Sequence[str]) -> str:
    """The path of the folders that only wrap the class folders, ``""`` or ending in ``/``."""
    prefix = ""
    while True:
        children = {path[len(prefix) :].split("/")[0] for path in source.folders if path.startswith(prefix)}
        if len(children) != 1 or children <= set(class_names):
            return prefix
        inner = f"{prefix}{children.pop()}/"
        grandchildren = {path[len(inner) :].split("/")[0] for path in source.folders if path.startswith(inner)}
        files_inside = any(path.startswith(inner) and "/" not in path[len(inner) :] for path in source.files)
        if files_inside or not grandchildren:
            return prefix
        prefix = inner
